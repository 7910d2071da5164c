"""A bounded folder shared by processes, any of which may die."""

import errno
import os
import shutil
import signal
import time
from collections import namedtuple
from multiprocessing import get_context
from pathlib import Path

import pytest

from yt8m.errors import ConfigError, WriteError
from yt8m.storage import cache as cache_module
from yt8m.storage.cache import BusyError, Cache, parse_bytes

SIZE = 1000
FORK = get_context("fork")


def key(number: int) -> str:
    return f"{number:040x}"


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def fetching(number: int, log: Path | None = None, pause: float = 0.0):
    def fetch(fd: int) -> None:
        if log:
            with log.open("a") as file:
                file.write(f"{number}\n")
        os.pwrite(fd, content(number)[: SIZE // 2], 0)
        time.sleep(pause)
        os.pwrite(fd, content(number)[SIZE // 2 :], SIZE // 2)

    return fetch


def get(cache: Cache, number: int, **options) -> int:
    """A descriptor whose content is right."""
    fd, _ = cache.open(key(number), SIZE, fetching(number, **options))
    assert os.pread(fd, 2 * SIZE, 0) == content(number)
    return fd


def held(cache: Cache, most: int = 20) -> list[int]:
    return [number for number in range(most) if cache.has(key(number), SIZE)]


def test_the_least_recently_used_goes_first_and_what_is_open_stays(tmp_path: Path):
    cache = Cache(tmp_path / "made" / "later", 3 * SIZE)
    foreign = tmp_path / "made" / "later" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"x" * 9 * SIZE)
    opened = get(cache, 0)
    for number in (1, 2):
        os.close(get(cache, number))
    assert held(cache) == [0, 1, 2]
    os.close(get(cache, 1))  # now 2 is the oldest that nobody has open
    os.close(get(cache, 3))
    assert held(cache) == [0, 1, 3]
    for number in range(4, 9):
        os.close(get(cache, number))
        assert cache.used() <= cache.limit
    assert held(cache) == [0, 7, 8]
    os.close(opened)
    os.close(get(cache, 9))
    assert held(cache) == [7, 8, 9]
    assert foreign.stat().st_size == 9 * SIZE


def test_processes_share_one_copy(tmp_path: Path):
    cache, log = Cache(tmp_path / "cache", 10 * SIZE), tmp_path / "log"
    processes = [
        FORK.Process(target=lambda: [get(cache, n, log=log, pause=0.05) for n in range(3)]) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == ["0", "1", "2"]


def test_what_a_killed_process_left_is_not_taken_for_whole(tmp_path: Path):
    cache, log = Cache(tmp_path / "cache", 3 * SIZE), tmp_path / "log"
    process = FORK.Process(target=get, args=(cache, 1), kwargs={"log": log, "pause": 60})
    process.start()
    while not log.exists():
        time.sleep(0.01)
    with pytest.raises(BusyError):
        cache.open(key(1), SIZE, fetching(1), wait=False)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert cache.used() == SIZE  # the part has its full size from the start, half of it zeros
    assert not cache.has(key(1), SIZE)
    for number in (2, 3, 4):  # room is made from it
        os.close(get(cache, number))
    assert cache.used() == 3 * SIZE
    os.close(get(cache, 1, log=log))
    assert log.read_text().split() == ["1", "1"]


def test_a_failed_fetch_leaves_nothing(tmp_path: Path):
    cache = Cache(tmp_path, 3 * SIZE)

    def fail(fd: int) -> None:
        os.pwrite(fd, b"half", 0)
        raise KeyError("the network")

    with pytest.raises(KeyError):
        cache.open(key(1), SIZE, fail)
    assert cache.used() == 0
    os.close(get(cache, 1))


def test_a_cache_that_somebody_empties_or_cuts(tmp_path: Path):
    folder = tmp_path / "cache"
    cache = Cache(folder, 3 * SIZE)
    fd = get(cache, 1)
    shutil.rmtree(folder)
    assert os.pread(fd, SIZE, 0) == content(1)
    os.close(fd)
    os.close(cache.open(key(1), SIZE, fetching(1), wait=False)[0])  # no folder is not a busy one
    os.truncate(folder / f"{key(1)}.shard", SIZE // 2)
    os.close(get(cache, 1))

    def emptied(number: int):
        def fetch(fd: int) -> None:
            shutil.rmtree(folder)
            fetching(number)(fd)

        return fetch

    fd, _ = cache.open(key(2), SIZE, emptied(2))
    assert os.pread(fd, SIZE, 0) == content(2)
    os.close(fd)


def test_a_full_disk_takes_the_oldest_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = Cache(tmp_path, 100 * SIZE)
    for number in range(3):
        os.close(get(cache, number))
    usage = namedtuple("usage", "free")
    free = [0, SIZE]  # after one was removed, there is room
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage(free.pop(0)))
    os.close(get(cache, 3))
    assert held(cache) == [1, 2, 3]
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage(0))
    with pytest.raises(WriteError, match=r"dataset\.cache_dir: .*No space left on device; free space"):
        get(cache, 4)
    assert held(cache) == []
    monkeypatch.undo()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="No space left"):
        cache.open(key(5), SIZE, full)


def test_a_limit_in_use_is_waited_for_and_then_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = Cache(tmp_path, 2 * SIZE)
    process = FORK.Process(target=lambda: (get(cache, 1), get(cache, 2), time.sleep(0.5)))
    process.start()
    while held(cache) != [1, 2]:
        time.sleep(0.01)
    os.close(get(cache, 3))  # waits until that process ends
    process.join()
    assert cache.used() <= cache.limit
    opened = [get(cache, 3), get(cache, 4)]
    monkeypatch.setattr(cache_module, "PATIENCE", 0.1)
    with pytest.raises(ConfigError, match=r"dataset\.cache_limit: .*all 2,000 bytes in use"):
        get(cache, 5)
    with pytest.raises(ConfigError, match=r"dataset\.cache_limit: expected room for a shard of 2,001"):
        cache.open(key(6), 2001, fetching(6))
    for fd in opened:
        os.close(fd)


def test_sizes_are_read_as_people_write_them():
    sizes = {"200GB": 200 * 10**9, "1.5 TiB": 3 << 39, "1000": 1000, 7: 7, "3kb": 3000}
    assert {text: parse_bytes(text, "k") for text in sizes} == sizes
    for text in ("", "much", "-1GB", "0GB", "1PB"):
        with pytest.raises(ConfigError, match=r"dataset\.cache_limit: expected a size"):
            parse_bytes(text, "dataset.cache_limit")
