"""A video as frames and sound, decoded in another process."""

import json
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO, cast

import numpy as np

from yt8m.errors import DataError, require
from yt8m.interpreter import start
from yt8m.video.decode import ERROR, FRAME, HEAD, NOTES, SAMPLES
from yt8m.video.images import SIZE
from yt8m.video.sound import SAMPLE_RATE


class Stopped(Exception):
    """The work was stopped from another thread."""


PATIENCE = 120.0  # seconds without a frame or a sample, after which a decoder is stopped
LARGEST = SIZE * SIZE * 3 * 4  # bytes of the longest message


class Source:
    """One pass over a video's first seconds.

    Iteration yields its frames, one per second, float32 `[299, 299, 3]`, RGB from 0 to 255. After it, `samples` holds
    the sound, float32 `[N]`, mono, 16 kHz, N = 0 where there is none, and `notes` what a user should know of the file.

    Args:
        path: a file.
        max_frames: seconds to read.
        threads: of the decoder.
        stop: once set, the decoder is stopped.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: while iterating; the file holds no video that can be decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_frames: int,
        threads: int = 0,
        stop: threading.Event | None = None,
    ):
        require("av", "videos")
        self.path, self.max_frames, self.threads = str(path), max_frames, threads
        self.samples = np.zeros(0, np.float32)
        self.notes: list[str] = []
        self._stop = stop or threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        if not os.path.isfile(self.path):
            raise DataError(
                f"{self.path}: expected a file, found {'a folder' if os.path.isdir(self.path) else 'none'}"
            )
        process = start(
            "yt8m.video.decode",
            os.path.abspath(self.path),
            str(self.max_frames),
            str(self.threads),
            env={"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield from self._messages(cast(IO[bytes], process.stdout))
        finally:
            process.kill()
            process.wait()
            cast(IO[bytes], process.stdout).close()

    def _messages(self, pipe: IO[bytes]) -> Iterator[np.ndarray]:
        parts: list[np.ndarray] = []
        frames = heard = 0
        while True:
            kind, size = HEAD.unpack(self._read(pipe, HEAD.size))
            if size > LARGEST:
                raise DataError(
                    f"{self.path}: the decoder failed: expected a message of at most {LARGEST} bytes"
                )
            payload = self._read(pipe, size)
            if kind == ERROR:
                raise DataError(payload.decode(errors="replace"))
            if kind == NOTES:
                self.notes = [str(note) for note in json.loads(payload)]
                self.samples = np.concatenate(parts) if parts else self.samples
                return
            if kind == SAMPLES and heard + size <= self.max_frames * SAMPLE_RATE * 4:
                heard += size
                parts.append(np.frombuffer(payload, np.float32))
            elif kind == FRAME and size == LARGEST and frames < self.max_frames:
                frames += 1
                yield np.frombuffer(payload, np.float32).reshape(SIZE, SIZE, 3)

    def _read(self, pipe: IO[bytes], size: int) -> bytearray:
        """Exactly `size` bytes, with an end to waiting."""
        content, descriptor = bytearray(size), pipe.fileno()
        view, quiet_since = memoryview(content), time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while view:
                if self._stop.is_set():
                    raise Stopped
                if not selector.select(0.5):
                    if time.monotonic() - quiet_since > PATIENCE:
                        raise DataError(
                            f"{self.path}: the decoder gave nothing for {PATIENCE:.0f} s and was stopped"
                        )
                    continue
                count = os.readv(descriptor, [view])
                if not count:
                    raise DataError(f"{self.path}: the decoder crashed; is the file damaged?")
                view, quiet_since = view[count:], time.monotonic()
        return content
