"""Buffers under an asynchronous copy, and page-locked memory, with CUDA replaced by a recorder."""

import ctypes
import gc
import logging
import mmap
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yt8m.datamodules import buffers
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.loader import DeviceCopies, Loader
from yt8m.datamodules.sampler import BatchSampler

CUDA = torch.device("cuda")


@pytest.fixture
def cuda(monkeypatch):
    """A fake CUDA: `queued` holds (stream, what) in order, `events` those made; one is done when it says so."""
    fake = SimpleNamespace(queued=[], events=[], streams=["computing"], made=0)

    class Event:
        def __init__(self):
            self.done = False
            fake.events.append(self)

        def record(self):
            fake.queued.append((fake.streams[-1], "record", self))

        def query(self):
            return self.done

    class Computing:
        def wait_event(self, event):
            fake.queued.append(("computing", "wait", event))

    class Moved:
        def tensors(self):
            return {"features": SimpleNamespace(record_stream=lambda _: fake.queued.append("kept"))}

    @contextmanager
    def entered(stream):
        fake.streams.append(stream)
        yield
        fake.streams.pop()

    def stream_of(device):
        fake.made += 1
        return f"copies to {device}"

    def to(self, device, non_blocking=False):
        fake.queued.append((fake.streams[-1], "copy", non_blocking))
        return Moved()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", stream_of)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Computing())
    monkeypatch.setattr(Batch, "to", to)
    return fake


def make(alive: list) -> Batch:
    class Array(np.ndarray):
        def __del__(self):
            alive.remove(1)

    alive.append(1)
    array = np.zeros((2, 3), np.uint8).view(Array)
    return Batch(["a"], torch.from_numpy(array), torch.tensor([2]))


def test_a_copy_waits_for_no_step_and_its_step_waits_for_it(cuda):
    copies = DeviceCopies()
    for _ in range(2):
        cuda.queued.clear()
        copies.move(make([]), CUDA)
        event = cuda.events[-1]
        assert cuda.queued == [
            ("copies to cuda", "copy", True),
            ("copies to cuda", "record", event),
            ("computing", "wait", event),
            "kept",
        ]
    assert cuda.made == 1


def test_a_source_lives_until_its_copy_is_done(cuda):
    copies, alive = DeviceCopies(), []
    copies.move(make(alive), CUDA)
    gc.collect()
    assert alive == [1]  # the caller dropped the batch, the copy has not run
    copies.move(make(alive), CUDA)
    assert len(alive) == 2
    cuda.events[0].done = True
    copies.move(make(alive), CUDA)
    assert len(alive) == 2  # the first is gone, two copies are under way
    for event in cuda.events:
        event.done = True
    copies.move(make(alive), CUDA)
    assert len(alive) == 1  # copies finish in order, and the last has just begun


def test_nothing_is_kept_for_a_copy_that_waits(cuda):
    copies, alive = DeviceCopies(), []
    copies.move(make(alive), torch.device("cpu"))
    assert not alive
    assert cuda.queued == [("computing", "copy", False)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_what_was_sent():
    """Fifty batches, whose memory on the GPU is used again while steps may still read it."""
    copies, device = DeviceCopies(), torch.device("cuda", 0)
    sums, expected = [], []
    for number in range(50):
        source = torch.full((1 << 20, 4), number % 256, dtype=torch.uint8).pin_memory()
        moved = copies.move(Batch(["a"], source, torch.tensor([4])), device)
        sums.append(moved.features.sum())
        expected.append(4 * (1 << 20) * number)
        del moved
    assert torch.stack(sums).tolist() == expected


@pytest.fixture
def cudart(monkeypatch):
    """A fake CUDA runtime: `calls` it got, the `code` it returns."""
    fake = SimpleNamespace(calls=[], code=0)

    def register(address, size, flags):
        fake.calls.append(("register", address, size, flags))
        return fake.code

    def unregister(address):
        fake.calls.append(("unregister", address))
        return 0

    fake.cudaHostRegister, fake.cudaHostUnregister = register, unregister

    def check_error(code):
        if code:
            raise RuntimeError(f"CUDA error {code}")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch.cuda, "check_error", check_error)
    return fake


def test_locked_memory_is_unlocked_before_it_is_freed(cudart):
    memory = buffers.Memory(-1, 8192)
    assert memory.pin()
    address = np.frombuffer(memory, np.uint8).ctypes.data
    kept = np.ndarray(8192, np.uint8, memory)  # a batch that outlives its loader
    del memory
    gc.collect()
    assert cudart.calls == [("register", address, 8192, 0)]
    freed = []
    cudart.cudaHostUnregister = lambda at: freed.append((at, ctypes.string_at(at, 8)))
    del kept
    gc.collect()
    assert freed == [(address, bytes(8))]  # still mapped: reading it does not fault


def test_nothing_is_unlocked_while_the_interpreter_exits(cudart, monkeypatch):
    """The module's globals may be None by then."""
    memory = buffers.Memory(-1, 8192)
    assert memory.pin()
    with monkeypatch.context() as end:
        for name in ("contextlib", "os", "torch", "log"):
            end.setattr(buffers, name, None)
        memory.__del__(exiting=lambda: True)
    assert buffers.Memory.__del__.__defaults__ == (sys.is_finalizing,)
    assert [call[0] for call in cudart.calls] == ["register"]


def test_only_the_process_that_locked_memory_unlocks_it(cudart, monkeypatch):
    memory = buffers.Memory(-1, 8192)
    assert memory.pin()
    with monkeypatch.context() as reader:
        reader.setattr(os, "getpid", lambda: memory._owner + 1)
        memory.__del__()
    assert [call[0] for call in cudart.calls] == ["register"]


def test_a_process_that_does_not_use_cuda_locks_nothing(cudart, monkeypatch):
    """For a page-lock, CUDA would take memory of a GPU."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    buffers.Slots(1, 16, SimpleNamespace(feature_size=8, dtype=torch.uint8)).pin_for_gpu()
    assert not cudart.calls


def test_a_driver_that_refuses_is_reported_once_and_nothing_is_unlocked(cudart, caplog, monkeypatch):
    cudart.code = 2
    kernels = []

    def kernel(*arguments, **options):
        kernels.append(options)
        raise RuntimeError("the error that the driver kept")

    monkeypatch.setattr(torch, "ones", kernel)
    slots = object.__new__(buffers.Slots)
    slots.memory = [
        [(buffers.Memory(-1, mmap.PAGESIZE), None) for _ in range(buffers.SLOTS)] for _ in range(2)
    ]
    with caplog.at_level(logging.WARNING):
        slots.pin_for_gpu()
    (record,) = caplog.records
    assert "could not page-lock" in record.message
    assert "CUDA error 2" in record.message
    assert "ulimit -l" in record.message
    assert kernels == [{"device": "cuda"}]  # took the error that a later kernel would have reported
    del slots
    gc.collect()
    assert [call[0] for call in cudart.calls] == ["register"]


def test_buffers_stay_locked_from_one_loader_to_the_next(cudart, monkeypatch, caplog):
    """Every address is registered once, and unregistered once, however many loaders used it."""
    monkeypatch.setattr(buffers, "POOL", buffers.Pool())
    dataset = SimpleNamespace(feature_size=8, dtype=torch.uint8)

    def registered():
        return [call[1] for call in cudart.calls if call[0] == "register"]

    slots = buffers.Slots(2, 1024, dataset)
    slots.pin_for_gpu()
    first = registered()
    assert len(set(first)) == 2 * buffers.SLOTS
    kept = slots.lend(0, slots.free[0].popleft())[3:5]  # a view of a batch outlives its loader
    kept[:] = 7
    del slots
    gc.collect()
    later = buffers.Slots(2, 1024, dataset)
    later.pin_for_gpu()
    assert len(registered()) == len(first) + 1  # in place of the one that is still in use
    for reader in range(2):
        for slot in range(buffers.SLOTS):
            later.array(reader, slot)[:] = 9
    assert (kept == 7).all()
    del kept, later
    gc.collect()
    cudart.cudaHostUnregister = lambda address: cudart.calls.append(("unregister", address)) or 4
    with caplog.at_level(logging.WARNING):
        buffers.POOL.clear()
        gc.collect()
    freed = [call[1] for call in cudart.calls if call[0] == "unregister"]
    assert sorted(freed) == sorted(registered())
    assert "could not unlock" in caplog.text
    assert "CUDA error 4" in caplog.text


def test_a_buffer_of_another_size_replaces_an_idle_one():
    pool = buffers.Pool()
    memory, whole = pool.take(4096)
    del whole
    again, whole = pool.take(4096)
    assert again is memory
    del whole
    other, _ = pool.take(8192)
    assert other is not memory
    assert memory not in pool._idle


class Zeros:
    """A data set of two records."""

    level, feature_size, dtype, max_frames, remote = "video", 8, torch.uint8, 1, None

    def __len__(self):
        return 2

    def follow(self, sampler):
        return iter(sampler)

    def prefetch(self, numbers):
        pass

    def read_into(self, numbers, buffer):
        return Batch(["a"] * len(numbers), buffer[: len(numbers)], torch.ones(len(numbers)))


def test_without_readers_buffers_are_locked_too(cudart, monkeypatch):
    monkeypatch.setattr(buffers, "POOL", buffers.Pool())
    loader = Loader(Zeros(), BatchSampler(np.array([2]), 1, shuffle=False, seed=0), 0)
    for _ in range(2):
        assert len(list(loader)) == 2
    assert [call[0] for call in cudart.calls] == ["register"] * buffers.SLOTS
