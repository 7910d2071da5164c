"""Batch buffers: memory shared with the readers, page-locked for a GPU, and kept for the next loader."""

import contextlib
import logging
import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from yt8m.datamodules.dataset import ShardDataset
from yt8m.errors import ConfigError

log = logging.getLogger(__name__)

# Per reader: one being filled, one ready, and two with the consumer, which uses one and prefetches one.
SLOTS = 4


class Memory(mmap.mmap):
    """Anonymous memory shared with forked processes, page-locked for a GPU on request."""

    _address = 0  # while it is registered with CUDA,
    _owner = 0  # by this process

    def pin(self) -> bool:
        """Lock the pages, so that the GPU copies from them directly; False if the driver refuses."""
        if self._address:
            return True
        address = np.frombuffer(self, np.uint8).ctypes.data
        try:
            torch.cuda.check_error(int(torch.cuda.cudart().cudaHostRegister(address, len(self), 0)))
        except RuntimeError as error:
            log.warning(
                "could not page-lock %s MB for copies to the GPU (%s); they will be slower. Raise `ulimit -l`, or "
                "lower dataset.batch_size or dataset.num_workers",
                f"{len(self) / 1e6:,.0f}",
                error,
            )
            _clear_cuda_error()
            return False
        self._address, self._owner = address, os.getpid()
        return True

    def __del__(self, exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # Runs before the mapping is freed. Otherwise CUDA would take later memory at this address for locked. While the
        # interpreter exits, no memory follows, and this module's globals may be gone: hence the default argument.
        if not self._address or exiting() or os.getpid() != self._owner:  # a reader has a copy of this object
            return
        with contextlib.suppress(Exception):
            try:
                torch.cuda.check_error(int(torch.cuda.cudart().cudaHostUnregister(self._address)))
            except RuntimeError as error:
                log.warning("could not unlock %s MB of batch buffers (%s)", f"{len(self) / 1e6:,.0f}", error)
                _clear_cuda_error()


def _clear_cuda_error() -> None:
    # CUDA also keeps the error for the next kernel launch to report: let that be this one.
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device="cuda")


class Pool:
    """The process's buffers: what one loader no longer uses, the next fit or the next job of a sweep takes over.

    Allocating a buffer's pages and locking them takes longer than filling it. A buffer of a new size replaces the one
    that has been idle the longest.
    """

    def __init__(self) -> None:
        self._idle: deque[Memory] = deque()

    def take(self, size: int) -> tuple[Memory, np.ndarray]:
        """A buffer and all of its bytes, uint8 `[size]`: it is idle again when that array and all views are gone."""
        memory = next((one for one in self._idle if len(one) == size), None)
        if memory is not None:
            self._idle.remove(memory)
        else:
            if self._idle:
                self._idle.popleft()
            memory = Memory(-1, size)
        whole = np.frombuffer(memory, np.uint8)
        weakref.finalize(whole, self._idle.append, memory).atexit = False
        return memory, whole

    def clear(self) -> None:
        """Free what is idle."""
        self._idle.clear()


POOL = Pool()


class Slots:
    """Shared buffers `[rows, D]`, `SLOTS` for each reader, and which of them are free."""

    def __init__(self, readers: int, rows: int, dataset: ShardDataset):
        self.rows, self.columns = rows, dataset.feature_size
        self.dtype = torch.empty(0, dtype=dataset.dtype).numpy().dtype
        size = rows * self.columns * self.dtype.itemsize
        try:
            # Pages are allocated when they are first written.
            self.memory = [[POOL.take(size) for _ in range(SLOTS)] for _ in range(readers)]
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"dataset.batch_size: expected buffers that fit into memory, found {readers * SLOTS} of "
                f"{size / 1e9:,.1f} GB ({error}); lower dataset.batch_size or dataset.num_workers"
            ) from None
        self.free = [deque(range(SLOTS)) for _ in range(readers)]

    def lend(self, reader: int, slot: int) -> Tensor:
        """The buffer of a slot, which becomes free when the tensor and all views of it are gone."""
        array = self.array(reader, slot)
        weakref.finalize(array, self.free[reader].append, slot).atexit = False
        return torch.from_numpy(array)

    def array(self, reader: int, slot: int) -> np.ndarray:
        return np.ndarray((self.rows, self.columns), self.dtype, self.memory[reader][slot][1])

    def pin_for_gpu(self) -> None:
        """Page-lock the buffers if this process uses CUDA, up to the first that the driver refuses."""
        if torch.cuda.is_initialized():  # it would start for this alone, and take memory of a GPU
            all(memory.pin() for memories in self.memory for memory, _ in memories)
