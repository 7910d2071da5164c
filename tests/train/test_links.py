"""Ranks that Lightning did not start find out that another is gone, and what a stop of a submitit job does."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from yt8m.train.links import Links

FORK = multiprocessing.get_context("fork")


def pairs(number):
    """Links of a first rank, and of each other rank."""
    sockets = [socket.socketpair() for _ in range(number)]
    first = Links({rank: ours for rank, (ours, _) in enumerate(sockets, start=1)})
    return first, [Links({0: theirs}) for _, theirs in sockets]


def test_a_broken_connection_is_told_from_a_goodbye():
    first, (one, two) = pairs(2)
    assert first.lost(0.01) is None
    one.close()
    assert first.lost(1) is None
    two._sockets[0].close()  # as the system does when the process is killed
    assert first.lost(1) == 2
    for links in (first, two):
        links.close()
    first, (one, two) = pairs(2)
    first.tell(2)
    assert one.lost(1) == 2
    first.close()
    assert two.lost(1) == 2  # what was told goes before the goodbye
    for links in (one, two):
        links.close()


def test_a_killed_process_breaks_its_connection_at_once():
    ours, theirs = socket.socketpair()

    def other():
        ours.close()
        time.sleep(60)

    process = FORK.Process(target=other)
    process.start()
    theirs.close()
    links = Links({1: ours})
    assert links.lost(0.1) is None
    process.kill()
    assert links.lost(5) == 1
    links.close()
    process.join()


PROBE = """
import os, sys
from datetime import timedelta
from torch import distributed
from yt8m.train.links import connect
rank = int(sys.argv[1])
store = distributed.FileStore(sys.argv[2], 3)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=3, timeout=timedelta(seconds=60))
links = connect(rank, "127.0.0.1", 60)
print("connected", flush=True)
if rank == 1:
    sys.stdin.read()
    os._exit(9)
while (lost := links.lost(60)) is None:
    pass
links.tell(lost)
print("lost", lost, flush=True)
"""


@pytest.mark.slow
def test_all_ranks_hear_of_the_one_that_is_gone(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROBE, str(rank), str(tmp_path / "store")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    assert [process.stdout.readline() for process in processes] == ["connected\n"] * 3
    processes[1].kill()
    for rank in (0, 2):
        assert processes[rank].communicate(timeout=60)[0] == "lost 1\n"
    processes[1].communicate()


def test_submitit_requeues_after_the_checkpoint(monkeypatch, tmp_path):
    from yt8m.train import stop

    called = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setattr(stop, "_submitit", [])
    monkeypatch.setattr(stop, "time", SimpleNamespace(sleep=lambda seconds: called.append(seconds)))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(launcher=None),
        state=SimpleNamespace(fn="fit"),
        _signal_connector=SimpleNamespace(received_sigterm=False),
    )
    try:
        signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
        callback = stop.SaveOnStop(str(tmp_path))
        callback.on_fit_start(trainer, None)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert not called  # it would end the process in the middle of a batch
        callback._check(trainer)
        assert trainer._signal_connector.received_sigterm
        with pytest.raises(SystemExit):
            stop.requeue()
        assert called == [signal.SIGUSR2, 120]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
