"""Parts of a network on CUDA streams of their own, with CUDA replaced by a recorder."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from yt8m.layers import streams
from yt8m.layers.streams import at_once, cuda_streams, set_cuda_streams
from yt8m.models.stream_lstm import StreamLSTM
from yt8m.train.session import lightning_session, make_trainer


@pytest.fixture(autouse=True)
def as_before():
    yield
    set_cuda_streams(False)
    streams._side_stream.cache_clear()


@pytest.fixture
def cuda(monkeypatch):
    """A fake CUDA: `queued` holds (stream, what) in order, `current` the streams entered, `made` those created."""
    fake = SimpleNamespace(queued=[], made=[])

    class Stream:
        def __init__(self, device):
            self.name = f"side {len(fake.made) + 1}"
            fake.made.append(device)

        def wait_stream(self, other):
            fake.queued.append((self.name, "waits for", other.name))

    main = Stream.__new__(Stream)
    main.name = "main"
    fake.current = [main]

    @contextmanager
    def entered(stream):
        fake.current.append(stream)
        yield
        fake.current.pop()

    def tensor(name):
        def record_stream(stream):
            fake.queued.append((stream.name, "keeps", name))

        return SimpleNamespace(device=torch.device("cuda", 0), record_stream=record_stream)

    def part(name):
        def call():
            fake.queued.append((fake.current[-1].name, "computes", name))
            return tensor(name)

        return call

    fake.tensor, fake.part = tensor, part
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: fake.current[-1])
    return fake


def test_each_part_runs_on_a_stream_of_its_own_between_two_waits(cuda):
    set_cuda_streams(True)
    for _ in range(2):
        cuda.queued.clear()
        at_once([cuda.part("rgb"), cuda.part("audio"), cuda.part("flow")], [cuda.tensor("x")])
        assert cuda.queued == [
            ("side 1", "waits for", "main"),
            ("side 2", "waits for", "main"),
            ("main", "computes", "rgb"),
            ("side 1", "computes", "audio"),
            ("side 2", "computes", "flow"),
            ("main", "waits for", "side 1"),
            ("main", "keeps", "audio"),
            ("side 1", "keeps", "x"),
            ("main", "waits for", "side 2"),
            ("main", "keeps", "flow"),
            ("side 2", "keeps", "x"),
        ]
    assert len(cuda.made) == 2  # the second step uses the first one's


def test_one_part_and_what_is_not_asked_for_run_on_the_current_stream(cuda):
    at_once([cuda.part("rgb"), cuda.part("audio")], [cuda.tensor("x")])
    set_cuda_streams(True)
    at_once([cuda.part("rgb")], [cuda.tensor("x")])
    assert cuda.queued == [("main", "computes", name) for name in ("rgb", "audio", "rgb")]
    assert not cuda.made


def test_a_cpu_knows_no_streams(cuda):
    set_cuda_streams(True)
    x = torch.ones(2)
    results = at_once([lambda: x + 1, lambda: x + 2], [x])
    assert [result.tolist() for result in results] == [[2, 2], [3, 3]]
    assert not cuda.queued


@pytest.mark.parametrize(("devices", "used"), [(1, True), (2, False)])
def test_a_trainer_of_one_process_turns_them_on_for_its_session(devices, used, caplog):
    trainer = {
        "_target_": "pytorch_lightning.Trainer",
        "accelerator": "cpu",
        "devices": devices,
        "logger": False,
    }
    with lightning_session(), caplog.at_level(logging.WARNING):
        make_trainer({"trainer": {**trainer, "cuda_streams": True}}, [], [])
        assert cuda_streams() == used
    assert not cuda_streams()
    assert ("cuda_streams has no effect on 2 processes" in caplog.text) != used


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same_with_them():
    """Twenty steps, whose memory is used again while the other stream may still read it."""

    def losses(wanted):
        set_cuda_streams(wanted)
        torch.manual_seed(0)
        network = StreamLSTM(num_classes=50, width=0.125).cuda()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        found = []
        for length in (30, 40, 50, 60) * 5:
            frames = torch.randn(16, length, 1152, device="cuda")
            loss = network(None, frames, torch.full((16,), length, device="cuda")).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    torch.testing.assert_close(losses(True), losses(False))
