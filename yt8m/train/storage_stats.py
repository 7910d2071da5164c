"""What a run spent on shards from a bucket: downloads, hits of the cache, and the time that readers waited."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from yt8m.datamodules.ranks import gather
from yt8m.storage import usage


class StorageStats(Callback):
    """Logs `usage.totals` of this run, summed over the ranks at its end; nothing where all shards are local files.

    Includes what the run spent before it was resumed.
    """

    def __init__(self) -> None:
        self._before = usage.totals()
        self._earlier: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.summary()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = dict(state_dict)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            curves = self._spent()
            if any(curves.values()):
                # CPU tensors, to avoid a host-to-device copy.
                self.log_dict({k: torch.tensor(v, dtype=torch.float64) for k, v in curves.items()})

    def summary(self) -> dict[str, float]:
        """The figures under their names in `metrics.json`, over all ranks, which must all call this."""
        of_ranks = gather(self._spent())
        total = {n: self._earlier.get(n, 0.0) + sum(one[n] for one in of_ranks) for n in usage.NAMES}
        return total if any(total.values()) else {}

    def _spent(self) -> dict[str, float]:
        """Of this rank, since it was started."""
        return {name: now - self._before[name] for name, now in usage.totals().items()}
