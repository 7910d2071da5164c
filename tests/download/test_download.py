"""The download command as a process: arguments, exit codes, locks, signals, a full disk."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.download.server import (
    FIRST,
    LABELS,
    PARTITION,
    SIZE,
    WHOLE,
    Fault,
    Mirror,
    arguments,
    defaults,
    leftovers,
    run,
    some_bytes,
)
from yt8m.download import fetch, transfer
from yt8m.download.verified import RECORD
from yt8m.errors import ConfigError, FetchError


def start(mirror: Mirror, root: Path, *more: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "yt8m.download", *arguments(mirror, root, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(path: Path, size: int) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{path} never had {size} bytes"
        time.sleep(0.01)


def test_free_disk_is_checked_before_a_byte_is_fetched(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(0)[:100_000])
    usage = type("usage", (), {"free": 499_999})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"500\.0 kB free, about 500\.0 kB needed"):
        run(mirror, tmp_path)
    assert mirror.asked("GET") == []
    usage.free = 500_000
    run(mirror, tmp_path)


def test_a_disk_that_fills_up_keeps_the_parts(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    """A limit on file sizes stands in for a full disk; both fail a write in the middle of a file."""
    code = """if True:
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        from yt8m.download.__main__ import main
        main()
    """
    command = [sys.executable, "-c", code, *arguments(mirror, tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: {tmp_path}: {os.strerror(errno.EFBIG)}; correct that and run the same command again, "
        "downloaded files are kept"
    ]
    # Shards come in together: the first one to meet the limit stops the others, some before their first byte.
    assert 0 < max(part.stat().st_size for part in tmp_path.rglob("*.part")) <= 150_000
    run(mirror, tmp_path)


def test_two_downloads_into_one_folder_are_refused(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / PARTITION
    folder.mkdir(parents=True)
    with (folder / RECORD).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another download is at work"):
            run(mirror, tmp_path)
    run(mirror, tmp_path)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on(mirror: Mirror, tmp_path: Path, signal_: signal.Signals) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    mirror.faults[FIRST] = [Fault(stall=200_000)]
    process = start(mirror, tmp_path, "read_timeout=30")
    wait_for(part, 190_000 - fetch.CHUNK)
    wait_for(tmp_path / WHOLE[1], SIZE)
    process.send_signal(signal_)
    _, err = process.communicate(timeout=20)
    assert process.returncode == (-9 if signal_ == signal.SIGKILL else 130)
    assert err == (
        ""
        if signal_ == signal.SIGKILL
        else "interrupted; downloaded files are kept, and the same command resumes\n"
    )
    kept = part.stat().st_size
    mirror.requests.clear()
    run(mirror, tmp_path)
    assert [(r.path, r.range, r.sent) for r in mirror.asked("GET")] == [
        (FIRST, f"bytes={kept}-", SIZE - kept)
    ]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)


def test_the_command_as_typed(mirror: Mirror, tmp_path: Path) -> None:
    """`shard=X,Y` is no sweep, `~` is the home folder, and nothing is left where the command ran."""
    here = tmp_path / "here"
    here.mkdir()
    process = start(
        mirror, Path("~/my data"), "shard=1,1", cwd=here, env=os.environ | {"HOME": str(tmp_path)}
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "0 files were present, 2 downloaded" in out
    assert leftovers(tmp_path) == [f"my data/{path}" for path in (*WHOLE, *LABELS)]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("partition=2/frame", "partition"),
        ("partition=2/../train", "partition"),
        ("partition=\u0662/frame/train", "partition"),
        ("shard=0,5", "shard"),
        ("shard=6,5", "shard"),
        ("shard=5", "shard"),
        ("shard=[1,5]", "shard"),
        ("mirror=mars", "mirror"),
        ("jobs=0", "jobs"),
        ("jobs=2.5", "jobs"),
        ("jobs=true", "jobs"),
        ("backoff=soon", "backoff"),
        ("read_timeout=nan", "read_timeout"),
        ("dry_run=maybe", "dry_run"),
        ("root=''", "root"),
        ("root=~nobody-at-all/data", "root"),
        ("plan_base=ftp://a/b", "plan_base"),
        ("file_base=http://", "file_base"),
        ("vocabulary_url=http://a:99999/", "vocabulary_url"),
        ("allowed_redirects=[example.org]", "allowed_redirects"),
        ("allowed_redirects=null", "allowed_redirects"),
    ],
)
def test_a_bad_argument_is_named(mirror: Mirror, tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}.*: ") as caught:
        run(mirror, tmp_path, override)
    assert "\n" not in str(caught.value)
    assert mirror.requests == []


@pytest.mark.parametrize("override", ["partition=2/frame", "shards=1,100", "jobs=1,2", "root=["])
def test_the_command_answers_a_bad_argument_in_one_line(override: str) -> None:
    command = [sys.executable, "-m", "yt8m.download", override]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_help_names_every_argument() -> None:
    command = [sys.executable, "-m", "yt8m.download", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [key for key in defaults() if f"{key}=" not in text] == []
