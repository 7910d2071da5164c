"""Fetches shards ahead of the batches, in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import IO, Any

from yt8m.interpreter import start
from yt8m.storage import transport, usage
from yt8m.storage.shard import RemoteShard


class Fetcher:
    """The parent's end: says in which order to fetch, and how far the batches have got.

    A fresh interpreter, because transport keeps a core busy with Python, and because sessions do not survive a fork. It
    starts when there is something to fetch, and ends with this process, however that ends. What it cannot fetch it
    leaves to the reader, which reports the error.
    """

    def __init__(self, shards: Sequence[RemoteShard]):
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()  # a forked reader leaves it alone
        self._shards = shards
        # A process of its own would not see what this one has in memory.
        self._can_start = transport.protocol_of(shards[0].address) != "memory"

    def begin(self, order: Iterable[int], window: int) -> None:
        """Fetch these shards, in this order; the batches read `window` of them at once."""
        numbers = [int(shard) for shard in order]
        if self._can_start and not all(self._shards[shard].is_here() for shard in numbers):
            self._can_start = False
            self._start()
        self._send({"order": numbers, "window": window})

    def advance(self, front: int) -> None:
        """The batches need only the shards from position `front` of the order on."""
        self._send({"front": front})

    def end(self) -> None:
        """Fetch no more of this order."""
        self._send({"order": [], "window": 1})

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process and process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            self._accounts.join()

    def __del__(self) -> None:
        if not sys.is_finalizing() and self._owner == os.getpid():
            self.close()

    def _start(self) -> None:
        self._process = start(
            "yt8m.storage.fetch_ahead", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._accounts = threading.Thread(
            target=_account, args=(self._process.stdout,), name="fetcher", daemon=True
        )
        self._accounts.start()
        cache = self._shards[0].cache
        fields = [asdict(replace(shard, cache=None)) for shard in self._shards]  # type: ignore[arg-type]
        self._send({"folder": str(cache.folder), "limit": cache.limit, "shards": fields})

    def _send(self, message: dict[str, Any]) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError, ValueError):  # it died: the readers fetch by themselves
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()


def _account(lines: IO[str]) -> None:
    """Count what the process has downloaded, until it ends."""
    with contextlib.suppress(OSError, ValueError), lines:
        for line in lines:
            usage.add(**json.loads(line))
