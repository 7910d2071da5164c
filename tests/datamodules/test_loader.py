"""Readers hand over every batch, in order and unchanged, and leave nothing behind."""

import faulthandler
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from yt8m.datamodules import tfrecord
from yt8m.datamodules.buffers import SLOTS
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.loader import Loader
from yt8m.datamodules.sample import write_sample
from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import DataError, ReaderError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    write_sample(
        root / "s", train_videos=90, validate_videos=4, test_videos=4, min_frames=10, max_frames=14, shards=3
    )
    return sorted((root / "s" / "train").glob("*.tfrecord"))


def make(shards, num_workers, batch_size=8, shuffle=True, reduce=None):
    dataset = ShardDataset(shards, {"rgb": 1024, "audio": 128}, 40, max_frames=12)
    sampler = BatchSampler(dataset.shard_sizes, batch_size, shuffle=shuffle, seed=1)
    return Loader(dataset, sampler, num_workers, reduce=reduce)


@pytest.fixture
def loader(shards):
    made = []

    def build(*args, **kwargs):
        made.append(make(shards, *args, **kwargs))
        return made[-1]

    yield build
    for one in made:
        one.close()


def content(batch):
    return batch.ids, batch.features.numpy().tobytes(), batch.num_frames.tolist(), batch.label_index.tolist()


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_batches_equal_direct_reading(loader, num_workers):
    made = loader(num_workers)
    for epoch in range(3):
        made.batch_sampler.set_epoch(epoch)
        expected = [content(made.dataset.__getitems__(numbers)) for numbers in made.batch_sampler]
        assert [content(batch) for batch in made] == expected
        assert len(expected) == len(made) == 12


def of_first_frames(batch):
    """A part of the slot from its first row on, with the process that made it among the messages."""
    return replace(batch, features=batch.features[:3], errors=[str(os.getpid())])


def in_new_memory(batch):
    return replace(batch, features=batch.features[1::2].float(), errors=[str(os.getpid())])


@pytest.mark.parametrize("reduce", [of_first_frames, in_new_memory])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_readers_reduce_their_batches(loader, num_workers, reduce):
    made = loader(num_workers, reduce=reduce)
    whole = [made.dataset.__getitems__(numbers) for numbers in made.batch_sampler]
    found = list(made)
    assert [content(batch) for batch in found] == [content(reduce(batch)) for batch in whole]
    places = {message for batch in found for message in batch.errors}
    assert len(places) == max(num_workers, 1)
    assert (str(os.getpid()) in places) == (num_workers == 0)


def bytes_of(part) -> bytes:
    part = getattr(part, "features", part)
    return np.ascontiguousarray(part.numpy() if isinstance(part, torch.Tensor) else part).tobytes()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("keep", ["batch", "slice", "array"])
def test_what_is_kept_never_changes(loader, num_workers, keep):
    made = loader(num_workers, batch_size=4)
    kept, before = [], []
    for batch in made:
        array = batch.features.numpy()
        part = {"batch": batch, "slice": batch.features[1:3], "array": array[::2]}[keep]
        kept.append(part)
        before.append(bytes_of(part))
        del array, batch, part
    assert len(kept) > SLOTS * max(num_workers, 1)
    for part, then in zip(kept, before, strict=True):
        assert bytes_of(part) == then


@pytest.mark.parametrize("num_workers", [0, 2])
def test_buffers_are_used_again(loader, num_workers):
    made = loader(num_workers, batch_size=4)
    addresses = set()
    for batch in made:
        addresses.add(batch.features.data_ptr())
        del batch
    assert len(made) > 20
    assert len(addresses) <= SLOTS * max(num_workers, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unfinished_iterations_leave_nothing_behind(loader, num_workers):
    made = loader(num_workers)
    whole = [content(batch) for batch in made]
    for stop in (1, 3, 5):
        for number, batch in enumerate(made):
            assert content(batch) == whole[number]
            if number == stop:
                break
    assert [content(batch) for batch in made] == whole


def test_a_later_iteration_ends_the_earlier(loader):
    made = loader(2)
    first, second = iter(made), iter(made)
    next(first)
    batch = next(second)
    with pytest.raises(RuntimeError, match="a later iteration"):
        next(first)
    assert batch.ids
    assert len(list(second)) == len(made) - 1


def test_starts_at_a_position(loader):
    made = loader(2)
    whole = [content(batch) for batch in made]
    made.batch_sampler.start_at(0, 7 * made.batch_sampler.batch_size)
    assert [content(batch) for batch in made] == whole[7:]


def test_a_batch_larger_than_a_slot_arrives(loader, monkeypatch):
    for num_workers in (0, 1):
        made = loader(num_workers)
        whole = [content(batch) for batch in made]
        made.close()
        made._slots.rows = 20
        assert [content(batch) for batch in made] == whole


def test_damaged_data_is_reported_as_without_readers(tmp_path, shards):
    data = bytearray(shards[0].read_bytes())
    data[len(data) // 2] ^= 1
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(data)
    made = make([broken], 2, shuffle=False)
    try:
        with pytest.raises(DataError, match=r"broken\.tfrecord @ byte \d+: expected payload CRC"):
            list(made)
    finally:
        made.close()


def test_a_dead_reader_is_reported(loader):
    made = loader(2)
    batches = iter(made)
    next(batches)
    victim = made._readers.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(ReaderError, match="reader process 1 ended by signal SIGKILL"):
        list(batches)
    assert not any(psutil.pid_exists(p.pid) and p.is_alive() for p in made._readers.processes)


def test_a_shard_that_is_cut_while_it_is_read_is_reported(tmp_path, shards, monkeypatch):
    path = shutil.copy(shards[0], tmp_path / "cut.tfrecord")
    opened = tfrecord.File.map

    def without_looking_again(file):
        """The map, as if the file were cut right after its size was looked at."""
        faulthandler.disable()  # of this reader, whose end is expected
        return file._map or opened(file)

    monkeypatch.setattr(tfrecord.File, "map", without_looking_again)
    made = make([path], 1, batch_size=1, shuffle=False)
    assert len(made) > 2 * SLOTS  # so that most are still to be read after the first
    try:
        batches = iter(made)
        next(batches)
        os.truncate(path, 100)
        with pytest.raises(DataError, match=r"cut\.tfrecord @ byte 0: .* found it changed or gone since"):
            list(batches)
    finally:
        made.close()


def test_an_error_of_the_code_brings_its_traceback(loader, monkeypatch):
    made = loader(1)
    monkeypatch.setattr(made.dataset, "read_into", lambda *_: 1 / 0)
    with pytest.raises(ReaderError, match=r"(?s)reader process 0 failed.*ZeroDivisionError"):
        list(made)


def test_readers_end_with_their_loader(shards):
    made = make(shards, 2)
    next(iter(made))
    processes = made._readers.processes
    del made
    gc.collect()
    assert not any(process.is_alive() for process in processes)


SCRIPT = """
    import sys, time
    from yt8m.datamodules.dataset import ShardDataset
    from yt8m.datamodules.loader import Loader
    from yt8m.datamodules.sampler import BatchSampler
    dataset = ShardDataset(sys.argv[2:], {"rgb": 1024, "audio": 128}, 40)
    loader = Loader(dataset, BatchSampler(dataset.shard_sizes, 8, shuffle=True), 2)
    batches = iter(loader)
    next(batches)
    print(*(process.pid for process in loader._readers.processes), flush=True)
    if sys.argv[1] == "leave":
        sys.exit(0)
    if sys.argv[1] == "fail":
        raise ValueError("as any program may")
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["leave", "fail", "SIGKILL", "SIGINT", "SIGTERM"])
def test_nothing_outlives_the_program(shards, end):
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), end, *map(str, shards)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    readers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(readers) == 2
    # No shared memory with a name, which could stay behind.
    for pid in (program.pid, *readers):
        maps = Path(f"/proc/{pid}/maps")
        assert not maps.exists() or "/dev/shm/" not in maps.read_text()
    if end.startswith("SIG"):
        program.send_signal(getattr(signal, end))
    program.wait(20)
    deadline = time.monotonic() + 20
    while any(map(psutil.pid_exists, readers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, readers))
    program.stdout.close()


def test_readers_never_wait_for_threads_of_the_parent(loader, monkeypatch):
    made = loader(1)
    read_into = made.dataset.read_into

    def busy(*arguments):
        torch.ones(1 << 20).sum()
        return read_into(*arguments)

    monkeypatch.setattr(made.dataset, "read_into", busy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 20).sum()  # the parent's threads start
        assert len(list(made)) == len(made)
    finally:
        torch.set_num_threads(before)


def test_video_level(shared_data):
    paths = sorted((shared_data / "yt8m/2/video/validate").glob("*.tfrecord"))[:2]
    dataset = ShardDataset(paths, {"mean_rgb": 1024, "mean_audio": 128}, 3862, level="video")
    made = Loader(dataset, BatchSampler(dataset.shard_sizes, 64, shuffle=True), 2)
    try:
        for batch, numbers in zip(made, made.batch_sampler, strict=True):
            expected = dataset.__getitems__(numbers)
            assert torch.equal(batch.features, expected.features)
            assert batch.ids == expected.ids
    finally:
        made.close()
