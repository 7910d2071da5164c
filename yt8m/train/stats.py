"""What a run costs: time and where it went, videos per second, load of the machine."""

import contextlib
import threading
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from yt8m.train.checkpoint import AtomicCheckpointIO

#: Where a fit's time goes; the rest is start-up, hooks, and loggers.
PHASES = ("input_seconds", "step_seconds", "validation_seconds", "checkpoint_seconds")


class RunStats(Callback):
    """Seconds, videos per second, and the machine's load, sampled in a thread.

    `input_seconds` is the time between two steps in which the next batch was waited for, and copied to the device;
    `step_seconds` that of the steps, on a GPU as the host sees it; `checkpoint_seconds` the time for which saving
    kept training waiting. The clock is the host's, so that measuring forces no sync.

    Videos per second counts training steps only, on all ranks, without validation. CPU is in percent of the whole
    machine; memory is the resident GiB of this process and its readers; GPU is the percent of time in which kernels
    ran, and the GiB in use, on this run's device.
    """

    INTERVAL = 1.0  # seconds between two samples

    def __init__(self) -> None:
        self.seconds = self.train_seconds = 0.0
        self.videos = 0
        self.spent = dict.fromkeys(PHASES, 0.0)
        self._blocked = 0.0  # seconds of checkpoints that `spent` has
        self._samples: dict[str, list[float]] = {}  # name: [sum, count, peak]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def elapsed(self) -> float:
        """Seconds of training so far, including those before a resume."""
        return self.seconds + (time.perf_counter() - self._began if self._thread else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.elapsed(),
            "train_seconds": self.train_seconds,
            "videos": self.videos,
            "spent": dict(self.spent),
            "samples": self._samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.train_seconds = state_dict["seconds"], state_dict["train_seconds"]
        self.videos = state_dict["videos"]
        self.spent |= state_dict.get("spent", {})
        self._samples = {name: list(sums) for name, sums in state_dict["samples"].items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._sample_forever, args=(trainer.strategy.root_device,), name="run-stats", daemon=True
        )
        self._thread.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = self._waiting = time.perf_counter()  # a resumed epoch has no start of its own
        self._add_checkpoints(trainer)

    on_train_epoch_start = on_train_start

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._step_began = time.perf_counter()
        # Checkpoints of the step before were written after this callback's turn.
        waited = self._step_began - self._waiting - self._add_checkpoints(trainer)
        self.spent["input_seconds"] += max(waited, 0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._mark
        self.spent["step_seconds"] += now - self._step_began
        self._mark = self._waiting = now
        self.videos += len(batch) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            self._log_curves(trainer)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._log_curves(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = self._waiting = time.perf_counter()
        if trainer.state.fn == "fit":
            self.spent["validation_seconds"] += self._mark - self._validation_began
            self._add_checkpoints(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        files = trainer.strategy.checkpoint_io
        if isinstance(files, AtomicCheckpointIO):
            files.finish()
        self._add_checkpoints(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._end()  # Lightning skips teardown

    def _end(self) -> None:
        if self._thread:
            self.seconds += time.perf_counter() - self._began
            self._stop.set()
            self._thread.join()
            self._thread = None

    def summary(self) -> dict[str, float | None]:
        """The stats under their names in `metrics.json`; None where nothing was measured."""
        stats: dict[str, float | None] = {
            "seconds": round(self.seconds, 3),
            "videos_per_second": self.videos / self.train_seconds if self.train_seconds else None,
            **{name: round(seconds, 3) for name, seconds in self.spent.items()},
        }
        for name in ("cpu_percent", "memory_gib", "gpu_percent", "gpu_memory_gib"):
            total, count, peak = self._samples.get(name, (0.0, 0, 0.0))
            stats[f"{name}_mean"] = total / count if count else None
            stats[f"{name}_peak"] = peak if count else None
        return stats

    def _log_curves(self, trainer: pl.Trainer) -> None:
        curves = {
            "seconds": self.elapsed(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "videos_per_second": self.videos / self.train_seconds if self.train_seconds else 0.0,
            **self.spent,
        }
        # CPU tensors, to avoid a host-to-device copy.
        self.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in curves.items()})

    def _add_checkpoints(self, trainer: pl.Trainer) -> float:
        """Add the seconds that checkpoints took since the last call, and return them."""
        blocked = getattr(trainer.strategy.checkpoint_io, "blocked_seconds", 0.0)
        new, self._blocked = blocked - self._blocked, blocked
        self.spent["checkpoint_seconds"] += new
        return float(new)

    def _sample_forever(self, device: torch.device) -> None:
        psutil.cpu_percent()  # The first call only starts the clock.
        gpu = _gpu_handle(device)
        while not self._stop.wait(self.INTERVAL):
            self._add("cpu_percent", psutil.cpu_percent())
            self._add("memory_gib", _resident_bytes() / 2**30)
            if gpu:
                import pynvml

                with contextlib.suppress(pynvml.NVMLError):  # a slice of a GPU (MIG) does not report its load
                    self._add("gpu_memory_gib", pynvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**30)
                    self._add("gpu_percent", pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)

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


def _gpu_handle(device: torch.device) -> Any:
    """NVML's handle of a CUDA device; None for other devices.

    The device is an argument because the current CUDA device belongs to a thread: in another one it is GPU 0.
    """
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None
