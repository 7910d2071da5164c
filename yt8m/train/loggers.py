"""Loggers of training: W&B, TensorBoard, and MLflow, with the run's name, settings, and best value.

Lightning's own loggers are extended by `begin`, which training calls once before it starts. The CSV logger is
Lightning's as it is.
"""

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

import yt8m
from yt8m.errors import require
from yt8m.metric_table import METRICS, metric_of
from yt8m.module import VideoClassifier

# Settings that say where a run happens, not what it is: left out of its name.
_NOT_IN_NAMES = (
    "logger",
    "callbacks",
    "ckpt_path",
    "dataset.root",
    "+dataset.sample",
    "study_name",
    "trainer=",
)


@runtime_checkable
class RunLogger(Protocol):
    """A logger that wants to know the run before it starts."""

    def begin(self, classifier: VideoClassifier, settings: dict[str, Any], metric: str) -> None:
        """Record what the run is.

        Args:
            classifier: the network.
            settings: the run's configuration, flat (`optimizer.lr`), parameter count, and git commit.
            metric: the metric to optimize, such as `val/gap`.
        """


class WandbLogger(pl.loggers.WandbLogger):
    """W&B for runs that stop and resume, and for several runs in one process; with the code and the best weights.

    Args:
        save_dir: the run's output folder.
        offline: write to the disk only; `wandb sync` uploads it later.
        ckpt_path: `last` resumes the W&B run in `save_dir`; anything else starts one.
        name: the run's name; None for the overrides, or the model and the dataset without any.
        group: None for the folder of a multirun, or the id of a W&B sweep.
        tags: None for the model and the dataset.
        gradients_every: steps between two histograms of the gradients; None records none.
        log_model: upload the checkpoint of the callback that monitors a metric, as an artifact.
        **init: other arguments of `wandb.init`, such as project and notes.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        offline: bool = False,
        ckpt_path: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        gradients_every: int | None = None,
        log_model: bool = False,
        **init: Any,
    ):
        require("wandb", "logger=wandb")
        # Lightning's own `offline` sets an environment variable, which the next jobs of a sweep would inherit.
        if offline:
            init["mode"] = "offline"
        # What the user's environment sets goes first.
        init["name"] = name or os.environ.get("WANDB_NAME") or job_name()
        init["group"] = group or os.environ.get("WANDB_RUN_GROUP") or run_group()
        init["tags"] = tags if tags or "WANDB_TAGS" in os.environ else run_tags()
        run_id = find_run_id(Path(save_dir)) if ckpt_path == "last" else None
        super().__init__(save_dir=save_dir, id=run_id, log_model=log_model, **init)
        self.gradients_every = gradients_every

    @rank_zero_only
    def begin(self, classifier: VideoClassifier, settings: dict[str, Any], metric: str) -> None:
        """Record the settings, the package's source, each metric's best value, and the gradients if configured."""
        self.log_hyperparams(settings)
        self.experiment.log_code(root=str(Path(yt8m.__file__).parent), name="yt8m")
        for key, info in METRICS.items():
            self.experiment.define_metric(f"val/{key}", summary=f"{info.mode},last")
        if self.gradients_every:
            self.watch(classifier.model, log="gradients", log_freq=self.gradients_every, log_graph=False)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        if checkpoint_callback.monitor is not None:
            super().after_save_checkpoint(checkpoint_callback)


class TensorBoardLogger(pl.loggers.TensorBoardLogger):
    """TensorBoard with the network's graph, and the settings in the HPARAMS tab.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, save_dir: str, **options: Any):
        require("tensorboard", "logger=tensorboard")
        super().__init__(save_dir, **options)

    @rank_zero_only
    def begin(self, classifier: VideoClassifier, settings: dict[str, Any], metric: str) -> None:
        """Record the settings beside the best value, which `BestSoFar` fills in, and the network's graph."""
        self.log_hyperparams(settings, {f"best/{metric}": math.nan})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's remarks on constants
            inputs = cast(Any, classifier.example())  # a tuple, which the type leaves out
            self.log_graph(classifier, inputs)


class MLFlowLogger(pl.loggers.MLFlowLogger):
    """MLflow; a resumed run continues its MLflow run.

    Args:
        save_dir: the run's output folder, which keeps the id of the MLflow run.
        tracking_uri: a server (`http://…`) or a database (`sqlite:///mlflow.db`).
        ckpt_path: `last` resumes the MLflow run of `save_dir`.
        run_name: None for the overrides, or the model and the dataset without any.
        **options: other arguments of Lightning's logger, such as experiment_name and tags.

    Raises:
        ConfigError: mlflow is not installed.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        tracking_uri: str,
        ckpt_path: str | None = None,
        run_name: str | None = None,
        tags: dict[str, Any] | None = None,
        **options: Any,
    ):
        require("mlflow", "logger=mlflow")
        self._id_file = Path(save_dir, "mlflow_run_id")
        resumes = ckpt_path == "last" and self._id_file.is_file()
        defaults = dict(zip(("model", "dataset"), run_tags(), strict=False)) | {"group": run_group()}
        tags = {key: value for key, value in (defaults | (tags or {})).items() if value is not None}
        # MLflow opens one store per address and process: that of a relative path would stay in the first folder.
        database = re.fullmatch(r"sqlite:///([^/:].*)", tracking_uri)
        super().__init__(
            save_dir=save_dir,
            tracking_uri=f"sqlite:///{Path(database[1]).resolve()}" if database else tracking_uri,
            run_name=run_name or job_name(),
            run_id=self._id_file.read_text().strip() if resumes else None,
            tags=tags,
            **options,
        )

    @rank_zero_only
    def begin(self, classifier: VideoClassifier, settings: dict[str, Any], metric: str) -> None:
        """Record the settings, and keep the MLflow run's id. A resumed run keeps those that it began with."""
        self._id_file.write_text(f"{self.run_id}\n")
        earlier = self.experiment.get_run(self.run_id).data.params  # MLflow does not let them change
        self.log_hyperparams({key: value for key, value in settings.items() if key not in earlier})


class BestSoFar(Callback):
    """Logs the best value so far of a metric as `best/METRIC` after each validation.

    Not to the CSV logger, in which a step is one row.

    Args:
        metric: name of the logged metric, such as `val/gap`.
    """

    def __init__(self, metric: str):
        self.metric = metric
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or self.metric not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.metric])
        better = max if metric_of(self.metric).mode == "max" else min
        self.best = value if self.best is None else better(self.best, value)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_metrics({f"best/{self.metric}": self.best}, step=trainer.global_step - 1)


def job_name() -> str | None:
    """The job's overrides, `model=nn,optimizer.lr=0.001`, or without any the model and the dataset, `nn_sample`.

    None outside of a Hydra job.
    """
    if not HydraConfig.initialized():
        return None
    overrides = [one for one in HydraConfig.get().overrides.task if not one.startswith(_NOT_IN_NAMES)]
    while len(overrides) > 1 and len(",".join(overrides)) > 120:
        overrides.remove(max(overrides, key=len))
    return ",".join(overrides)[:120] or "_".join(run_tags())


def run_tags() -> list[str]:
    """The names of the model and the dataset; empty outside of a Hydra job."""
    if not HydraConfig.initialized():
        return []
    choices = HydraConfig.get().runtime.choices
    return [str(choices.get("model")), str(choices.get("dataset"))]


def run_group() -> str | None:
    """What the job is one of: a W&B sweep, or a multirun, by its folder's name; None for a run of its own."""
    if sweep := os.environ.get("WANDB_SWEEP_ID"):
        return sweep
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None


def find_run_id(folder: Path) -> str | None:
    """The id of the latest W&B run in an output folder, `wandb/[offline-]run-DATE_TIME-ID`."""
    runs = [path.name.removeprefix("offline-") for path in folder.glob("wandb/*run-*-*")]
    return max(runs).split("-", 2)[2] if runs else None
