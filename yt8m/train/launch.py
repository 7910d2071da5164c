"""Reject unsupported multi-process launches."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from yt8m.errors import ConfigError


def refuse_unusable(trainer: dict[str, Any]) -> None:
    """Check the group `trainer` against how this process was started.

    Raises:
        ConfigError: the processes would repeat a whole sweep, write to several folders, or lose their results.
    """
    strategy, devices = trainer["strategy"], trainer["devices"]
    if isinstance(strategy, str) and any(word in strategy for word in ("fork", "spawn", "notebook")):
        raise ConfigError(
            f"trainer.strategy: expected processes of their own, found {strategy}, whose forked ones lose the "
            "run's results when they end; set trainer.strategy=ddp"
        )
    one_process = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if one_process and trainer["num_nodes"] == 1:
        return
    hydra = HydraConfig.get()
    in_slurm = SLURMEnvironment.detect()
    if hydra.mode == RunMode.MULTIRUN:
        # submitit starts one process per task of the job, and tells each its rank.
        if not (in_slurm and "submitit" in hydra.launcher._target_):
            raise ConfigError(
                f"trainer.devices: expected 1 in a multirun, found {devices}, whose processes would each run the "
                "whole sweep; leave out -m and start each configuration by itself, as `wandb agent` does, or set "
                "hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=DEVICES"
            )
    elif (in_slurm or TorchElasticEnvironment.detect()) and not any(
        override.startswith("hydra.run.dir=") for override in hydra.overrides.hydra
    ):
        raise ConfigError(
            "hydra.run.dir: expected one output folder for all processes of this run, found the default, which "
            "contains the time at which each started; set hydra.run.dir=outputs/NAME"
        )
