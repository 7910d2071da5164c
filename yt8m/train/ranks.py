"""Several training processes (ranks) of one run: decisions that they share, and the death of one of them."""

import logging
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed

from yt8m.train.links import Links, connect

log = logging.getLogger(__name__)


class Vote:
    """A number that all ranks agree on. All ranks must construct it at the same point.

    Goes over the CPU (gloo), also in a run on GPUs, so that it does not wait for their work.
    """

    def __init__(self) -> None:
        self._several = distributed.is_available() and distributed.is_initialized()
        self._several = self._several and distributed.get_world_size() > 1
        gloo = self._several and distributed.get_backend() == "gloo"
        self._group = distributed.new_group(backend="gloo") if self._several and not gloo else None

    def max(self, value: int) -> int:
        """The largest of the ranks' values; every rank must call it."""
        if not self._several:
            return value
        votes = torch.tensor(value)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self._group)
        return int(votes)


class WatchRanks(Callback):
    """Ends all ranks, and their readers, when one of them dies.

    Without it, the others wait in a collective until a timeout, or end in a traceback of the network library. Where
    Lightning started the ranks, a thread of the first one watches the others' processes, and a thread of each other
    one watches its parent. Elsewhere (torchrun, SLURM, several machines) they watch connections (`yt8m.train.links`).
    """

    INTERVAL = 0.5  # seconds

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._processes: list[Any] = []
        self._links: Links | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._thread or trainer.world_size == 1:
            return
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if not isinstance(environment, LightningEnvironment) or trainer.num_nodes > 1:
            address = environment.main_address if environment else "localhost"
            try:
                self._links = connect(trainer.global_rank, address)
            except OSError as error:
                log.warning(
                    "rank %d cannot watch the others: no connection to %s (%s)",
                    trainer.global_rank,
                    address,
                    error,
                )
                return
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch_links, name="watch-ranks", daemon=True)
            self._thread.start()
            return
        self._processes = getattr(trainer.strategy.launcher, "procs", None) or []
        self._stop.clear()
        watch = self._watch_children if self._processes else self._watch_parent
        self._thread = threading.Thread(target=watch, args=(os.getppid(),), name="watch-ranks", daemon=True)
        self._thread.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end_watch()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self._thread is None:
            return
        if isinstance(exception, SIGTERMException | KeyboardInterrupt):
            self._end_watch()
        elif is_lost_connection(exception):
            self._thread.join(5)  # which finds out who died, and ends this process
        elif self._processes:
            self._end_watch()
            for process in self._processes:
                process.kill()
        else:
            time.sleep(1)  # if all ranks fail alike, the first one reports it and ends the others

    def _end_watch(self) -> None:
        self._stop.set()
        thread, self._thread = self._thread, None
        if self._links and thread:
            thread.join(5)
            self._links.close()
            self._links = None

    def _watch_links(self) -> None:
        links = self._links
        while links and not self._stop.wait(0.05):
            lost = links.lost(self.INTERVAL / 2)
            if lost is not None:
                links.tell(lost)
                self._stop.wait(1)  # perhaps this rank fails alike, and says why
                if not self._stop.is_set():
                    self._leave(f"rank {lost} died or lost its connection")

    def _watch_children(self, _: int) -> None:
        while not self._stop.wait(self.INTERVAL):
            for rank, process in enumerate(self._processes, start=1):
                code = process.poll()
                if code and code > 0:
                    self._stop.wait(2)  # it has printed why; perhaps this rank fails alike
                if code and not self._stop.is_set():
                    self._leave(f"rank {rank} {_how(code)}")

    def _watch_parent(self, parent: int) -> None:
        while not self._stop.wait(self.INTERVAL):
            if os.getppid() != parent:
                self._leave("rank 0 was killed")

    def _leave(self, what: str) -> NoReturn:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        print(
            f"error: trainer.devices: {what}, so this run ends; if memory ran out, lower dataset.batch_size; "
            "resume with ckpt_path=last",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # the main thread may hang in a collective


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone."""
    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} (its error is above)"
