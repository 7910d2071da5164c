"""The process that fetches shards ahead: `python -m yt8m.storage.fetch_ahead`, started by `Fetcher`.

It reads JSON lines: the shards, then orders and how far the batches have got; and writes what it has downloaded.
"""

import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from yt8m.errors import YT8MError
from yt8m.storage import usage
from yt8m.storage.cache import BusyError, Cache
from yt8m.storage.shard import RemoteShard

DOWNLOADS = 8  # shards at once


class Order:
    """Which shard to fetch next: in order, and as far ahead as the cache has room."""

    def __init__(self, sizes: list[int], limit: int):
        self._sizes, self._limit = sizes, limit
        self._changed = threading.Condition()
        self._order: list[int] = []
        self._ends = [0]
        self._next = self._front = self._room = 0

    def begin(self, order: list[int], window: int) -> None:
        """Fetch in this order from now on."""
        with self._changed:
            self._order, self._next, self._front = order, 0, 0
            self._ends = [0, *itertools.accumulate(self._sizes[shard] for shard in order)]
            # The readers still hold the window before, and validation may need two shards.
            largest = sorted(self._sizes, reverse=True)[: window + 2]
            self._room = max(self._limit - sum(largest), 1)
            self._changed.notify_all()

    def advance(self, front: int) -> None:
        """The batches that are drawn now need only the shards from this position of the order on.

        Those before it are fetched nevertheless: batches that were drawn earlier may still wait for them.
        """
        with self._changed:
            self._front = front
            self._changed.notify_all()

    def next(self) -> int:
        """The next shard; waits for one."""
        with self._changed:
            while not self._may_go_on():
                self._changed.wait()
            self._next += 1
            return self._order[self._next - 1]

    def _may_go_on(self) -> bool:
        if self._next >= len(self._order):
            return False
        return self._ends[self._next + 1] - self._ends[self._front] <= self._room


def fetch_forever(order: Order, shards: list[RemoteShard]) -> None:
    """Fetch shard after shard; what fails is left to the reader that needs it."""
    while True:
        with contextlib.suppress(BusyError, YT8MError, OSError):
            shards[order.next()].fetch()
            _report()


_reported = dict.fromkeys(usage.NAMES, 0.0)
_lock = threading.Lock()


def _report() -> None:
    with _lock:
        now = usage.totals()
        new = {name: now[name] - _reported[name] for name in ("download_bytes", "download_seconds")}
        _reported.update(now)
        if any(new.values()):
            print(json.dumps(new), flush=True)


def main() -> None:
    # The parent decides when to stop: its end of the pipe closes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    setup: dict[str, Any] = json.loads(sys.stdin.readline() or "{}")
    if not setup:
        return
    cache = Cache(Path(setup["folder"]), setup["limit"])
    shards = [RemoteShard(**{**fields, "cache": cache}) for fields in setup["shards"]]
    order = Order([shard.size for shard in shards], cache.limit)
    for _ in range(DOWNLOADS):
        threading.Thread(target=fetch_forever, args=(order, shards), daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        if "order" in message:
            order.begin(message["order"], message["window"])
        else:
            order.advance(message["front"])
    os._exit(0)  # in the middle of downloads: the cache takes no part for whole


if __name__ == "__main__":
    main()
