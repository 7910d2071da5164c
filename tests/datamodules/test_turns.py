"""One process of a machine indexes and checks; the others get its result, or its error, and none waits forever."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import tfrecord

from yt8m.datamodules import partition, turns
from yt8m.errors import DataError, RankError

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(turns, "_POLL", 0.02)
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path):
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.tfrecord"))
        writer = tfrecord.TFRecordWriter(paths[-1])
        for record in range(number * 3 + 1):
            writer.write({"x": (b"y" * (record + number), "byte")})
        writer.close()
    return paths


def in_processes(work, number):
    """What `work(pipe)` sends in each of several processes, and the processes."""
    pipes = [FORK.Pipe(duplex=False) for _ in range(number)]
    processes = [FORK.Process(target=work, args=(ours,)) for _, ours in pipes]
    for process in processes:
        process.start()
    return [theirs for theirs, _ in pipes], processes


def test_one_process_works_and_the_others_wait_for_it(shards, monkeypatch):
    scan = partition.scan
    scanned = FORK.Value("i", 0)

    def slow_scan(path):
        with scanned.get_lock():
            scanned.value += 1
        time.sleep(0.1)
        return scan(path)

    monkeypatch.setattr(partition, "scan", slow_scan)

    def work(pipe):
        with turns.one_at_a_time("name", "indexing"):
            pipe.send([found.records.tolist() for found in partition.index_all(shards)])

    pipes, processes = in_processes(work, 4)
    expected = [scan(path, cache=False).records.tolist() for path in shards]
    assert [pipe.recv() for pipe in pipes] == [expected] * 4
    assert scanned.value == len(shards)
    for process in processes:
        process.join()


def test_the_error_of_the_one_that_works_is_that_of_all(cache):
    tried = FORK.Value("i", 0)

    def work(pipe):
        try:
            with turns.one_at_a_time("name", "indexing"):
                with tried.get_lock():
                    tried.value += 1
                time.sleep(0.3)  # until all wait
                raise DataError("a.tfrecord @ byte 7: expected a record")
        except DataError as error:
            pipe.send(str(error))

    pipes, processes = in_processes(work, 3)
    assert [pipe.recv() for pipe in pipes] == ["a.tfrecord @ byte 7: expected a record"] * 3
    assert tried.value == 1
    for process in processes:
        process.join()
    with turns.one_at_a_time("name", "indexing"):  # a later start tries again
        pass


def test_another_takes_over_from_one_that_is_killed():
    def work(pipe):
        with turns.one_at_a_time("name", "indexing"):
            pipe.send(os.getpid())
            time.sleep(0.3)
            pipe.send("done")

    pipes, processes = in_processes(work, 2)
    first = next(pipe for pipe in pipes if pipe.poll(10) or pipe is pipes[-1])
    os.kill(first.recv(), signal.SIGKILL)
    other = next(pipe for pipe in pipes if pipe is not first)
    assert isinstance(other.recv(), int)
    assert other.recv() == "done"
    for process in processes:
        process.join()


def test_one_that_hangs_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE", 1.5)

    def work(pipe, reports):
        with turns.one_at_a_time("name", "indexing train") as turn:
            pipe.send(os.getpid())
            for _ in range(reports):
                time.sleep(1.1)
                turn.progress()
            time.sleep(60)

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=work, args=(theirs, 2))
    process.start()
    pid = ours.recv()
    began = time.monotonic()
    with (
        pytest.raises(
            RankError, match=rf"indexing train: process {pid} on .* has made no progress for 2 seconds"
        ),
        turns.one_at_a_time("name", "indexing train"),
    ):
        pass
    assert time.monotonic() - began > 2.2  # as long as it reported progress, it was waited for
    process.kill()
    process.join()


def test_without_a_cache_folder_every_process_works_alone(tmp_path, shards, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "file"))
    with turns.one_at_a_time("name", "indexing") as turn:
        turn.progress()
        assert len(partition.index_all(shards)) == 4


def test_a_kept_partition_is_what_was_scanned_until_a_shard_changes(cache, shards, monkeypatch):
    scanned = []
    scan = partition.scan
    monkeypatch.setattr(partition, "scan", lambda path: scanned.append(path) or scan(path))
    first = partition.index_all(shards)
    assert scanned == shards
    second = partition.index_all(shards)
    assert scanned == shards
    for one, other in zip(first, second, strict=True):
        assert (one.path, one.stamp) == (other.path, other.stamp)
        np.testing.assert_array_equal(one.records, other.records)
    os.utime(shards[2], ns=(1, 1))
    assert partition.index_all(shards)[2].stamp[1] == 1
    assert len(scanned) == 8
    (kept,) = (cache / "partitions").iterdir()
    for damaged in (b"", kept.read_bytes()[:-8], kept.read_bytes()[:-1] + b"\1"):
        kept.write_bytes(damaged)
        scanned.clear()
        assert len(partition.index_all(shards)) == len(scanned) == 4
    os.remove(shards[0])
    with pytest.raises(DataError, match="No such file"):
        partition.index_all(shards)


def test_a_damaged_shard_is_never_kept(shards):
    with open(shards[1], "r+b") as file:
        file.write(b"\xff" * 12)
    for _ in range(2):
        with pytest.raises(DataError, match=r"1\.tfrecord @ byte 0"):
            partition.index_all(shards)
        assert partition.index_all(shards, "skip")[1].errors
