"""Reader processes that fill buffers made once, and a consumer that gets their batches in order.

Fresh memory, not parsing, is what costs time in building a batch: a new buffer of 40 MB takes ten thousand
page faults. So the buffers (slots) are made once, in memory that parent and readers share, and only slot
numbers and the small parts of a batch travel through pipes.

A slot is free again when nothing refers to its batch's features any more. The life of the array under the
tensor tells, so a kept batch, view or slice never changes; a consumer that keeps more batches than a reader
has slots gets copies. The shared memory has no name, and the readers end when their pipe does: however the
processes end, nothing stays behind.
"""

import mmap
import multiprocessing
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yt8m.datamodules.dataset import Batch, ShardDataset
from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ChangedError, DataError, ReaderError

SLOTS = 4  # per reader: one that it fills, one ready, two with the consumer, which works on one and holds the next


class Loader:
    """Iterates over the batches of an epoch in the sampler's order, whatever the number of readers.

    One iteration at a time: a new one ends the one before it. Readers start with the first and live until
    `close`, or until the loader is gone.

    Args:
        dataset: what reads records into a buffer.
        batch_sampler: whose lists of record numbers become batches.
        num_workers: reader processes; 0 reads in this process.
    """

    def __init__(self, dataset: ShardDataset, batch_sampler: BatchSampler, num_workers: int):
        self.dataset, self.batch_sampler, self.num_workers = dataset, batch_sampler, num_workers
        # A batch can have one record more than asked for (see BatchSampler).
        rows = (batch_sampler.batch_size + 1) * (1 if dataset.level == "video" else dataset.max_frames)
        self._slots = _Slots(max(num_workers, 1), rows, dataset)
        self._readers: _Readers | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that an iterator that is made and dropped starts nothing.
        if self.num_workers == 0:
            yield from self._batches_read_here()
            return
        if self._readers is None:
            self._readers = _Readers(self.dataset, self._slots, self.num_workers)
        yield from self._readers.batches(self.batch_sampler)

    def close(self) -> None:
        """End the readers; iterating starts new ones."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None

    def _batches_read_here(self) -> Iterator[Batch]:
        tasks = iter(self.batch_sampler)
        upcoming = next(tasks, None)
        while upcoming is not None:
            numbers, upcoming = upcoming, next(tasks, None)
            # The disk reads the next batch while this one is worked on.
            self.dataset.prefetch(upcoming or [])
            yield self._read_here(numbers)

    def _read_here(self, numbers: list[int]) -> Batch:
        free = self._slots.free[0]
        if not free or self.dataset.max_rows(numbers) > self._slots.rows:
            return self.dataset.read_into(numbers)
        return self.dataset.read_into(numbers, self._slots.lend(0, free.popleft()))


class _Slots:
    """Shared buffers `[rows, D]`, `SLOTS` for each reader, and which of them are free."""

    def __init__(self, readers: int, rows: int, dataset: ShardDataset):
        self.rows, self.columns = rows, dataset.feature_size
        self.dtype = np.dtype(np.float32 if dataset.level == "video" else np.uint8)
        size = rows * self.columns * self.dtype.itemsize
        # Anonymous and shared with forked children; pages come into being when they are first written.
        self.memory = [[mmap.mmap(-1, size) for _ in range(SLOTS)] for _ in range(readers)]
        self.free = [deque(range(SLOTS)) for _ in range(readers)]

    def lend(self, reader: int, slot: int) -> Tensor:
        """The buffer of a slot, which becomes free when the tensor and all views of it are gone."""
        array = self.array(reader, slot)
        weakref.finalize(array, self.free[reader].append, slot).atexit = False
        return torch.from_numpy(array)

    def array(self, reader: int, slot: int) -> np.ndarray:
        return np.ndarray((self.rows, self.columns), self.dtype, self.memory[reader][slot])

    def pin(self) -> None:
        """Lock the buffers' pages, so that a GPU copies from them without a detour; slower without."""
        for array in (self.array(r, s) for r, slots in enumerate(self.memory) for s in range(len(slots))):
            torch.cuda.cudart().cudaHostRegister(array.ctypes.data, array.nbytes, 0)


class _Readers:
    """The processes; batch number i of an iteration is read by reader i modulo their number."""

    def __init__(self, dataset: ShardDataset, slots: _Slots, number: int):
        # Forked, so that they start at once and share the index; they never touch CUDA.
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(number)]
        self.pipes = [ours for ours, _ in pipes]
        self.dataset, self.slots = dataset, slots
        self.pending: list[deque[int]] = [deque() for _ in range(number)]  # slots being filled, in order
        self.iteration = 0
        self.processes = []
        for reader, (_, theirs) in enumerate(pipes):
            process = context.Process(
                target=_serve,
                args=(theirs, self.pipes, dataset, slots, reader),
                name=f"reader-{reader}",
                daemon=True,
            )
            process.start()
            self.processes.append(process)
        for _, theirs in pipes:
            theirs.close()
        # After the fork, for locked pages are not inherited.
        if torch.cuda.is_available():
            slots.pin()
        # With a priority, for multiprocessing waits at exit for the children that no finalizer has ended.
        self.close = Finalize(self, _end, (self.pipes, self.processes), exitpriority=10)

    def batches(self, sampler: BatchSampler) -> Iterator[Batch]:
        self.iteration += 1
        mine = self.iteration
        self._drain()
        tasks = enumerate(sampler)
        waiting = next(tasks, None)
        try:
            for number in count():
                # Filling slots goes on in order: a reader without a free one is waited for.
                while waiting and self.slots.free[waiting[0] % len(self.pipes)]:
                    self._send(waiting[0] % len(self.pipes), waiting[1])
                    waiting = next(tasks, None)
                reader = number % len(self.pipes)
                if not self.pending[reader]:
                    return
                # Yielded without a name: this frame must not keep the batch alive.
                yield self._receive(reader)
                if self.iteration != mine:
                    raise RuntimeError("a later iteration over the same loader has ended this one")
        finally:
            if self.iteration == mine:
                self._drain()

    def _send(self, reader: int, numbers: Sequence[int]) -> None:
        slot = self.slots.free[reader].popleft()
        self.pending[reader].append(slot)
        try:
            self.pipes[reader].send((slot, numbers))
        except (BrokenPipeError, ConnectionResetError):
            self._died(reader)

    def _receive(self, reader: int) -> Batch:
        reply = self._reply(reader)
        slot = self.pending[reader].popleft()
        if isinstance(reply, Exception):
            self.slots.free[reader].append(slot)
            raise reply
        rows, features, ids, num_frames, label_index, label_mask, faults = reply
        buffer = self.slots.lend(reader, slot)  # from here on, the slot is freed by losing it
        if features is not None:
            view = torch.from_numpy(features)
        else:
            # With the last slot lent out the reader would stand still until the consumer lets one go.
            dry = not self.slots.free[reader] and not self.pending[reader]
            view = buffer[:rows].clone() if dry else buffer[:rows]
        return Batch(
            ids,
            view,
            *(None if a is None else torch.from_numpy(a) for a in (num_frames, label_index, label_mask)),
            faults,
        )

    def _reply(self, reader: int) -> Any:
        pipe, process = self.pipes[reader], self.processes[reader]
        wait([pipe, process.sentinel])
        try:
            if pipe.poll():
                return pipe.recv()
        except (EOFError, ConnectionResetError):
            pass
        return self._died(reader)

    def _died(self, reader: int) -> Any:
        process = self.processes[reader]
        process.join(1)
        code = process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self.close()
        remedy = "if memory ran out, lower dataset.num_workers or dataset.batch_size"
        if code == -signal.SIGBUS:  # the bytes of a mapped shard were not there
            if changed := self.dataset.changed():
                raise ChangedError(changed)
            remedy = "check the disk or the network mount"
        raise ReaderError(f"dataset.num_workers: reader process {reader} ended by {how}; {remedy}")

    def _drain(self) -> None:
        """Take back what an iteration that was not finished has left with the readers."""
        for reader, pending in enumerate(self.pending):
            while pending:
                if self.processes[reader].is_alive():
                    self._reply(reader)
                self.slots.free[reader].append(pending.popleft())


def _end(pipes: list[Connection], processes: list[Any]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(1)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(
    pipe: Connection, parents: list[Connection], dataset: ShardDataset, slots: _Slots, reader: int
) -> None:
    """A reader's life: fill slots until the pipe ends."""
    # A forked process has none of the parent's OpenMP threads, and would wait for them for ever.
    torch.set_num_threads(1)
    # The parent decides when to stop, also at Ctrl-C and when a cluster sends SIGTERM to all processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for parent in parents:  # else this process itself would keep the pipes open when the parent dies
        parent.close()
    buffers = [torch.from_numpy(slots.array(reader, slot)) for slot in range(SLOTS)]
    tasks: deque[tuple[int, Sequence[int]]] = deque()
    try:
        while True:
            # The disk reads for all batches that are waited for, while the first of them is put together.
            while not tasks or pipe.poll():
                tasks.append(pipe.recv())
                dataset.prefetch(tasks[-1][1])
            slot, numbers = tasks.popleft()
            try:
                fits = dataset.max_rows(numbers) <= slots.rows
                batch = dataset.read_into(numbers, buffers[slot] if fits else None)
                arrays = (
                    None if t is None else t.numpy()
                    for t in (batch.num_frames, batch.label_index, batch.label_mask)
                )
                features = None if fits else batch.features.numpy()
                reply: Any = (len(batch.features), features, batch.ids, *arrays, batch.faults)
            except DataError as error:
                reply = error
            except Exception:
                reply = ReaderError(f"reader process {reader} failed\n{traceback.format_exc()}")
            pipe.send(reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
