"""Reader processes that fill reusable buffers, and a consumer that gets their batches in order.

Allocating memory, not parsing, is what makes building a batch slow: a new 40 MB buffer costs ten thousand page
faults. So the buffers (slots) are allocated once, in memory that the parent shares with its readers. Only record
numbers and the small parts of a batch travel through pipes.

A slot becomes free when nothing refers to its batch's features any more. That is tied to the lifetime of the array
under the tensor, so a batch, view, or slice that is kept never changes; a consumer that keeps more batches than a
reader has slots gets copies. The shared memory has no name, and readers exit when their pipe closes, so nothing is
left behind however the processes end.
"""

import copyreg
import io
import logging
import multiprocessing
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.buffers import SLOTS, Slots
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ChangedError, ReaderError, YT8MError

log = logging.getLogger(__name__)

_IDLE = 5.0  # seconds without a task, after which a reader releases its shards


class Loader:
    """Iterates over the batches of an epoch in the sampler's order, whatever the number of readers.

    Only one iteration at a time: a new one ends the previous one. Readers start with the first iteration and live
    until `close`, or until the loader is garbage-collected.

    Args:
        dataset: reads records into a buffer.
        batch_sampler: yields the lists of record numbers that become batches.
        num_workers: reader processes; 0 reads in this process.
        name: what the log calls the data, such as the partition's name.
        reduce: what a reader makes of each of its batches, such as the means of the frames, so that this work, too, is
            spread over the processes; None: nothing.

    Raises:
        ConfigError: the buffers do not fit into memory.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        batch_sampler: BatchSampler,
        num_workers: int,
        name: str = "data",
        reduce: Callable[[Batch], Batch] | None = None,
    ):
        self.dataset, self.batch_sampler, self.num_workers = dataset, batch_sampler, num_workers
        self.name, self.reduce = name, reduce
        #: The most records of one iteration that the careful reader had to parse.
        self.slow_records = 0
        #: The most records of one iteration that were left out because none of their segments is rated.
        self.unrated = 0
        # A batch can have one record more than `batch_size` (see BatchSampler).
        records = batch_sampler.batch_size + 1
        if not dataset.remote:
            records = min(records, max(len(dataset), 1))
        rows = records * (1 if dataset.level == "video" else dataset.max_frames)
        self._slots = Slots(max(num_workers, 1), rows, dataset)
        self._readers: _Readers | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that an iterator that is created and dropped starts nothing.
        if self.num_workers == 0:
            self._slots.pin_for_gpu()
            batches = self._batches_read_here()
        else:
            if self._readers is None:
                self._readers = _Readers(self.dataset, self._slots, self.num_workers, self.reduce)
            batches = self._readers.batches(self.dataset.follow(self.batch_sampler))
        records, slow, unrated = [0], [0], [0]

        def counted(batch: Batch) -> Batch:
            records[0] += len(batch)
            slow[0] += batch.slow_records
            unrated[0] += batch.unrated
            return batch

        try:
            # No frame here may hold a batch: its slot would stay taken.
            yield from map(counted, batches)
        finally:
            batches.close()
            self._report_slow_records(slow[0], records[0])
            self._report_unrated(unrated[0])

    def close(self) -> None:
        """Stop the readers; iterating starts new ones."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        self.dataset.close()

    def _batches_read_here(self) -> Generator[Batch, None, None]:
        tasks = self.dataset.follow(self.batch_sampler)
        upcoming = next(tasks, None)
        while upcoming is not None:
            numbers, upcoming = upcoming, next(tasks, None)
            # The disk reads the next batch while this one is used.
            self.dataset.prefetch(upcoming or [])
            yield self._read_here(numbers)

    def _read_here(self, numbers: list[int]) -> Batch:
        free = self._slots.free[0]
        # Without a free slot the batch gets memory of its own.
        batch = self.dataset.read_into(numbers, self._slots.lend(0, free.popleft()) if free else None)
        return self.reduce(batch) if self.reduce else batch

    def _report_slow_records(self, slow: int, records: int) -> None:
        if slow > self.slow_records:
            log.info(
                "%s: %s of %s rows came from records of an unusual layout, which are parsed one at a time and "
                "therefore slowly",
                self.name,
                f"{slow:,}",
                f"{records:,}",
            )
            self.slow_records = slow

    def _report_unrated(self, unrated: int) -> None:
        if unrated > self.unrated:
            log.info("%s: left out %s videos, of which no segment is rated", self.name, f"{unrated:,}")
            self.unrated = unrated


class DeviceCopies:
    """Moves batches to a device, beside the computations there, and keeps each source alive until its copy is done.

    Without that, a batch that the caller drops would free its slot, and a reader would overwrite the bytes that the
    GPU is about to copy.
    """

    def __init__(self) -> None:
        self._in_flight: deque[tuple[torch.cuda.Event, Batch]] = deque()
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def move(self, batch: Batch, device: torch.device) -> Batch:
        """The batch on ``device``; does not wait for the copy, nor does the copy wait for the step before it.

        A CUDA device copies on a stream of its own, and its computing stream waits for that. So the copy of a batch
        overlaps with the step on the one before, which is still being computed when the next batch is asked for.
        """
        if device.type != "cuda":
            return batch.to(device)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        with torch.cuda.stream(self._streams[device]):
            moved = batch.to(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in moved.tensors().values():
            # Without this the next copy could take its memory while a step still reads it.
            tensor.record_stream(computing)
        self._in_flight.append((copied, batch))
        while self._in_flight and self._in_flight[0][0].query():
            self._in_flight.popleft()
        return moved


class _Readers:
    """The processes; reader i % N reads batch i of an iteration."""

    def __init__(
        self, dataset: ShardDataset, slots: Slots, number: int, reduce: Callable[[Batch], Batch] | None
    ):
        # Forked, so that they start at once and share the index. They never touch CUDA.
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
                args=(theirs, self.pipes, dataset, slots, reader, reduce),
                name=f"reader-{reader}",
                daemon=True,
            )
            process.start()
            self.processes.append(process)
        for _, theirs in pipes:
            theirs.close()
        slots.pin_for_gpu()  # after the fork: page locks are not inherited
        # With a priority: at exit, multiprocessing waits for children that no finalizer has stopped.
        self.close = Finalize(self, _end, (self.pipes, self.processes), exitpriority=10)

    def batches(self, numbers: Iterator[list[int]]) -> Generator[Batch, None, None]:
        self.iteration += 1
        mine = self.iteration
        self._drain()
        tasks = enumerate(numbers)
        waiting = next(tasks, None)
        try:
            for number in count():
                # Slots are filled in order: a reader without a free one holds up the others.
                while waiting and self.slots.free[waiting[0] % len(self.pipes)]:
                    self._send(waiting[0] % len(self.pipes), waiting[1])
                    waiting = next(tasks, None)
                reader = number % len(self.pipes)
                if not self.pending[reader]:
                    return
                # Yielded without a name: this frame must not keep the batch alive.
                yield self._receive(reader)
                if self.iteration != mine:
                    raise RuntimeError("a later iteration over the same loader ended this one")
        finally:
            if self.iteration == mine:
                self._drain()
            if isinstance(numbers, Generator):
                numbers.close()

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
        rows, batch = reply
        buffer = self.slots.lend(reader, slot)  # from here on, dropping it frees the slot
        if rows is not None:
            batch.features = buffer[:rows]
            if not self.slots.free[reader] and not self.pending[reader]:
                # No free slot: copy, so that the reader does not stall until the consumer drops a batch.
                batch.features = batch.features.clone()
        return batch

    def _reply(self, reader: int) -> Any:
        pipe, process = self.pipes[reader], self.processes[reader]
        wait([pipe, process.sentinel])
        try:
            if pipe.poll():
                return pickle.loads(pipe.recv_bytes())
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
        if code == -signal.SIGBUS:  # the bytes of a mapped shard are gone
            if changed := self.dataset.changed():
                raise ChangedError(changed)
            remedy = "check the disk or the network mount"
        raise ReaderError(f"dataset.num_workers: reader process {reader} ended by {how}; {remedy}")

    def _drain(self) -> None:
        """Take back what an unfinished iteration left with the readers."""
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


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays: torch would open shared memory for each, which takes longer than reading a batch."""

    dispatch_table = {**copyreg.dispatch_table, Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),))}  # noqa: RUF012


def _dumps(reply: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(reply)
    return stream.getvalue()


def _serve(
    pipe: Connection,
    parents: list[Connection],
    dataset: ShardDataset,
    slots: Slots,
    reader: int,
    reduce: Callable[[Batch], Batch] | None,
) -> None:
    """Reader main loop."""
    # A forked process inherits none of the parent's OpenMP threads and would wait for them forever.
    torch.set_num_threads(1)
    # The parent decides when to stop, also on Ctrl-C and when a cluster sends SIGTERM to all processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for parent in parents:  # otherwise this process would keep the pipes open when the parent dies
        parent.close()
    buffers = [torch.from_numpy(slots.array(reader, slot)) for slot in range(SLOTS)]
    tasks: deque[tuple[int, Sequence[int]]] = deque()
    try:
        while True:
            # The disk reads for all pending batches while the first of them is built.
            while not tasks or pipe.poll():
                if not tasks and not pipe.poll(_IDLE):
                    dataset.release()
                tasks.append(pipe.recv())
                dataset.prefetch(tasks[-1][1])
            slot, numbers = tasks.popleft()
            try:
                batch = dataset.read_into(numbers, buffers[slot])
                if reduce:
                    batch = reduce(batch)
                rows: int | None = None
                if batch.features.data_ptr() == buffers[slot].data_ptr():
                    # The parent sees the slot: only the number of rows has to travel.
                    rows, batch.features = len(batch.features), batch.features[:0]
                reply: Any = (rows, batch)
            except YT8MError as error:
                reply = error
            except Exception:
                reply = ReaderError(f"reader process {reader} failed\n{traceback.format_exc()}")
            pipe.send_bytes(_dumps(reply))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
