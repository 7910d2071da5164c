"""What happens beside training: checkpoints and exact resume, the run's figures, a line per validation."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed

METRICS = ("loss", "hit1", "perr", "gap", "map")


class ProgressBar(RichProgressBar):
    """Lightning's rich bar with the loss, and a line that stays for each validation."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {"loss": metrics["train/loss_step"]} if "train/loss_step" in metrics else {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit" or self.progress is None:
            return
        values = trainer.callback_metrics
        figures = "  ".join(
            f"{name} {float(values[f'val/{name}']):.4f}" for name in METRICS if f"val/{name}" in values
        )
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else "∞"
        self.progress.console.print(
            f"epoch {trainer.current_epoch + 1}/{epochs}  step {trainer.global_step}  validate: {figures}",
            highlight=False,
            soft_wrap=True,
        )


class Checkpoint(ModelCheckpoint):
    """Lightning's, but what is due after an epoch's last batch is saved after its validation.

    From a checkpoint that lies between the two, Lightning goes on with the next epoch and without that validation.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, *batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, trainer.num_training_batches - 1)
        super().on_train_epoch_end(trainer, pl_module)


class ResumedEpoch(Callback):
    """Counts an epoch that begins with a resumed checkpoint, where that was saved after the last batch of another.

    Lightning takes such an epoch for the rest of the one before: it leaves out its start, and from then on counts one
    epoch less, so that a checkpoint of this run would enter the wrong epoch's order.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop
        progress = loop.epoch_progress.current
        if loop.restarted_mid_epoch and progress.processed == progress.ready:
            loop.reset_restart_stage()


class RandomState(Callback):
    """Keeps every rank's random state in the checkpoint, so that dropout goes on exactly."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        mine = {"cpu": torch.get_rng_state(), "cuda": None}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            mine["cuda"] = torch.cuda.get_rng_state()
        if not (distributed.is_available() and distributed.is_initialized()):
            return {"ranks": [mine]}
        states: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, mine)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # As late as can be: building loaders and loggers may draw random numbers.
        states = self._restored["ranks"] if self._restored else []
        self._restored = None
        if len(states) == trainer.world_size:
            mine = states[trainer.global_rank]
            torch.set_rng_state(mine["cpu"])
            if mine["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(mine["cuda"])


class SaveOnTermination(Callback):
    """Writes `last.ckpt` when the process is told to end (SIGTERM, as clusters send it before they take a node).

    Lightning obeys between two batches, so the checkpoint is as exact as any other.
    """

    def __init__(self, dirpath: str):
        self.path = Path(dirpath, "last.ckpt")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)


class RunFigures(Callback):
    """What the run cost: seconds, videos per second, and the machine's load sampled beside it.

    Videos per second counts training steps alone, on all ranks, validation left out. CPU is in percent of
    the whole machine, memory the resident GiB of this process and its workers, GPU the percent of time in
    which kernels ran and the GiB in use on the device.
    """

    INTERVAL = 1.0  # seconds between two samples

    def __init__(self) -> None:
        self.seconds = self.train_seconds = 0.0
        self.videos = 0
        self._samples: dict[str, list[float]] = {}  # name: [sum, count, peak]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resumed checkpoint included."""
        return self.seconds + (time.perf_counter() - self._began if self._thread else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.elapsed(),
            "train_seconds": self.train_seconds,
            "videos": self.videos,
            "samples": self._samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.train_seconds = state_dict["seconds"], state_dict["train_seconds"]
        self.videos = state_dict["videos"]
        self._samples = {name: list(figures) for name, figures in state_dict["samples"].items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample_forever, name="run-figures", daemon=True)
        self._thread.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()  # an epoch that is resumed has no start of its own

    on_train_epoch_start = on_train_start

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._mark
        self._mark = now
        self.videos += len(batch) * trainer.world_size
        self._log_seconds()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._log_seconds()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._end()  # Lightning leaves the teardown out

    def _end(self) -> None:
        if self._thread:
            self.seconds += time.perf_counter() - self._began
            self._stop.set()
            self._thread.join()
            self._thread = None

    def summary(self) -> dict[str, float | None]:
        """The figures under the names of `metrics.json`; None where nothing was measured."""
        figures: dict[str, float | None] = {
            "seconds": round(self.seconds, 3),
            "videos_per_second": self.videos / self.train_seconds if self.train_seconds else None,
        }
        for name in ("cpu_percent", "memory_gib", "gpu_percent", "gpu_memory_gib"):
            total, count, peak = self._samples.get(name, (0.0, 0, 0.0))
            figures[f"{name}_mean"] = total / count if count else None
            figures[f"{name}_peak"] = peak if count else None
        return figures

    def _log_seconds(self) -> None:
        # Beside the other figures, for curves over time. A tensor of the host, so that no GPU hears of it.
        self.log("seconds", torch.tensor(self.elapsed()))

    def _sample_forever(self) -> None:
        psutil.cpu_percent()  # The first call only starts the clock.
        gpu = _gpu_handle()
        while not self._stop.wait(self.INTERVAL):
            self._add("cpu_percent", psutil.cpu_percent())
            self._add("memory_gib", _resident_bytes() / 2**30)
            if gpu:
                import pynvml

                self._add("gpu_percent", pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
                self._add("gpu_memory_gib", pynvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**30)

    def _add(self, name: str, value: float) -> None:
        total, count, peak = self._samples.get(name, (0.0, 0, 0.0))
        self._samples[name] = [total + value, count + 1, max(peak, value)]


def _resident_bytes() -> int:
    """Memory of this process and its children. Shared pages count in each process that touched them."""
    process = psutil.Process()
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _gpu_handle() -> Any:
    """NVML's handle of the current CUDA device; None without one."""
    if not torch.cuda.is_available():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
    except pynvml.NVMLError:
        return None


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` left at `path`; nothing where there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` at once: a reader sees the old file or the new one, never a part."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
