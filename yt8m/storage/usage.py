"""What a run spent on its storage: counters that this process shares with the readers it forks."""

import mmap
import os
import threading
from typing import Any, Final

import numpy as np

NAMES: Final = ("cache_hits", "cache_misses", "cache_wait_seconds", "download_bytes", "download_seconds")

# A row for each process, so that no lock has to be shared. A row is used again long after its process has ended.
_ROWS = 4096
_counters: Any = np.frombuffer(mmap.mmap(-1, _ROWS * len(NAMES) * 8), np.float64).reshape(_ROWS, len(NAMES))
_row = _last_row = 0
_lock = threading.Lock()


def add(**amounts: float) -> None:
    """Add to the counters of these names."""
    with _lock:
        for name, amount in amounts.items():
            _counters[_row, NAMES.index(name)] += amount


def totals() -> dict[str, float]:
    """The sums since the program started, over this process, its readers, and its fetcher.

    ``cache_hits`` and ``cache_misses`` count shards that were or were not there when a batch needed them,
    ``cache_wait_seconds`` how long readers waited for them; ``download_seconds`` adds up the time of downloads, several
    of which run at once.
    """
    return dict(zip(NAMES, _counters.sum(axis=0).tolist(), strict=True))


def _before_fork() -> None:
    global _last_row
    _last_row = (_last_row + 1) % _ROWS


def _in_child() -> None:
    global _row, _lock
    _row, _lock = _last_row, threading.Lock()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
