"""What is fetched ahead, and when."""

from pathlib import Path

import pytest

from yt8m.datamodules import remote as remote_module
from yt8m.datamodules.remote import RemoteShards
from yt8m.datamodules.streaming import StreamingSampler
from yt8m.storage.cache import Cache
from yt8m.storage.fetch_ahead import Order
from yt8m.storage.shard import RemoteShard

SHARDS, RECORDS = 6, 10


def test_the_order_is_fetched_as_far_as_there_is_room():
    order = Order([10] * SHARDS, limit=80)  # 40 of it for the window before, and for validation
    order.begin([5, 4, 3, 2, 1, 0], window=2)
    assert [order.next() for _ in range(4)] == [5, 4, 3, 2]
    assert not order._may_go_on()
    order.advance(2)
    assert [order.next() for _ in range(2)] == [1, 0]
    order.begin([0, 1], window=2)
    order.advance(2)  # its batches are drawn, but those before them may still wait for both shards
    assert [order.next() for _ in range(2)] == [0, 1]


class Messages:
    """In place of the fetching process."""

    def __init__(self, shards):
        self.sent = []

    def begin(self, order, window):
        self.sent.append(("begin", list(order), window))

    def advance(self, front):
        self.sent.append(("advance", front))

    def end(self):
        self.sent.append(("end",))


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draw batches of an epoch that starts after some records; what the fetching process is told."""
    monkeypatch.setattr(remote_module, "Fetcher", Messages)
    cache = Cache(tmp_path, 1000)
    sources = [RemoteShard(f"s3://b/{n}", 100, "ETag=x", cache, RECORDS) for n in range(SHARDS)]

    def run(batches: int | None = None, start: int = 0) -> tuple[list[int], list[tuple]]:
        shards = RemoteShards(sources, "raise", 2)
        sampler = StreamingSampler(
            shards.sizes, 5, shuffle=True, window=2, starts=shards.starts, count=shards.count
        )
        sampler.start_at(0, start)
        drawn = shards.follow(sampler)
        for _ in range(batches or len(sampler) - start // 5):
            next(drawn)
        if batches is None:
            assert list(drawn) == []
        drawn.close()
        return sampler.shard_order().tolist(), shards._fetcher.sent

    return run


def test_an_epoch_is_fetched_to_its_end_though_its_last_batch_is_drawn(follow):
    order, sent = follow()
    assert sent == [("begin", order, 2), ("advance", 2), ("advance", 4)]


def test_an_epoch_that_is_left_is_not_fetched_to_its_end(follow):
    order, sent = follow(batches=1)
    assert sent == [("begin", order, 2), ("end",)]


def test_a_resumed_epoch_is_fetched_from_where_it_resumes(follow):
    order, sent = follow(start=25)
    assert sent == [("begin", order[2:], 2), ("advance", 2)]
