"""A decoder that hangs, crashes, or writes what it should not costs its file one line, and leaves no process behind."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.video.videos import encode, seconds
from yt8m import interpreter
from yt8m.errors import DataError
from yt8m.video import source
from yt8m.video.decode import FRAME, HEAD
from yt8m.video.source import LARGEST, Source


@pytest.fixture
def video(tmp_path):
    return encode(tmp_path / "a.mp4", seconds(2))


@pytest.fixture
def started(monkeypatch):
    """The processes that sources start, after what a test sends to each."""
    processes = []

    def with_signal(number):
        def start(*arguments, **options):
            processes.append(interpreter.start(*arguments, **options))
            os.kill(processes[-1].pid, number)
            return processes[-1]

        monkeypatch.setattr(source, "start", start)
        return processes

    return with_signal


def test_a_decoder_that_hangs_is_ended(video, started, monkeypatch):
    monkeypatch.setattr(source, "PATIENCE", 0.1)
    processes = started(signal.SIGSTOP)
    with pytest.raises(DataError, match=f"^{video}: the decoder gave nothing for 0 s and was stopped$"):
        list(Source(video, 5))
    assert [process.returncode for process in processes] == [-signal.SIGKILL]


def test_a_decoder_that_crashes_is_one_line(video, started):
    processes = started(signal.SIGSEGV)
    with pytest.raises(DataError, match=f"^{video}: the decoder crashed; is the file damaged\\?$"):
        list(Source(video, 5))
    assert [process.returncode for process in processes] == [-signal.SIGSEGV]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (HEAD.pack(FRAME, LARGEST) + b"half a frame", "the decoder crashed"),
        (HEAD.pack(FRAME, LARGEST + 1), f"expected a message of at most {LARGEST} bytes"),
        (struct.pack("<cI", b"?", 0) * 3, "the decoder crashed"),  # unknown messages, and no last one
    ],
    ids=["cut", "too long", "unknown"],
)
def test_what_a_decoder_writes_is_not_trusted(video, monkeypatch, written, message):
    program = f"import sys; sys.stdout.buffer.write({written!r})"
    monkeypatch.setattr(
        source,
        "start",
        lambda *_, env, **options: subprocess.Popen([sys.executable, "-IS", "-c", program], **options),
    )
    with pytest.raises(DataError, match=message):
        list(Source(video, 5))


def test_who_stops_reading_ends_the_decoder(tmp_path, monkeypatch):
    processes = []

    def start(*arguments, **options):
        processes.append(interpreter.start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(source, "start", start)
    frames = iter(Source(encode(tmp_path / "long.mp4", seconds(20, rate=1)), 20))
    next(frames)
    frames.close()
    assert [process.returncode for process in processes] == [-signal.SIGKILL]


def test_a_module_in_the_current_folder_does_not_run(video, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert len(list(Source(video, 5))) == 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc, to know the memory in use")
def test_a_picture_too_large_for_the_memory_is_one_line(tmp_path, monkeypatch):
    large = encode(tmp_path / "large.mp4", [0.0], size=(4000, 4000))
    program = """
import av
from yt8m.video import decode
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * 4096
decode.MAX_MEMORY = used + (32 << 20)
decode.main()
"""
    monkeypatch.setattr(
        source,
        "start",
        lambda module, *arguments, env, **options: subprocess.Popen(
            [sys.executable, "-c", program, *arguments], **options
        ),
    )
    with pytest.raises(DataError, match=f"^{large}: .*memory"):
        list(Source(large, 5, threads=1))
