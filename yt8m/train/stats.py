"""What a run cost: time, videos per second, load of the machine."""

import threading
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class RunStats(Callback):
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
