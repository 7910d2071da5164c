"""Writing checkpoints atomically, in the background."""

import io
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from yt8m.errors import ConfigError
from yt8m.files import PiecewiseWriter


class AtomicCheckpointIO(TorchCheckpointIO):
    """Copies a checkpoint to host memory and writes the copy while training continues.

    The writer fills `.part`, flushes it to the disk, then renames it, so a kill at any moment leaves the old file or
    the new one. The copy costs as much memory as the file has bytes, until it is written. There is never more than
    one: a save waits for the one before it. Where a copy would take more than half of the free memory, the file is
    written at once instead.

    Lightning's own writer keeps a second copy of the checkpoint in memory, and writes to the system's temporary folder
    first, which may be on another disk, so its last step may be a copy.

    Raises:
        ConfigError: the file could not be written; raised by the next call, at the latest by `teardown`.
    """

    def __init__(self) -> None:
        #: Seconds for which saving kept training waiting.
        self.blocked_seconds = 0.0
        #: The state of training that was saved last, and its file; `Checkpoint` links further names to it.
        self.latest: tuple[Any, str] | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.finish()
        began = time.perf_counter()
        try:
            sizes: list[int] = []
            apply_to_collection(checkpoint, Tensor, lambda tensor: sizes.append(tensor.nbytes))
            if sum(sizes) > psutil.virtual_memory().available / 2:
                _write(checkpoint, Path(path))
            else:
                # Rebuilds every dictionary and list, too: the callbacks' own may change while they are written.
                self._submit(_write, apply_to_collection(checkpoint, Tensor, _copy), Path(path))
        finally:
            self.blocked_seconds += time.perf_counter() - began

    def link(self, path: str, other: str) -> None:
        """Give the checkpoint in `path`, once it is written, the further name `other`; without copying its bytes."""
        self._submit(_link, Path(path), Path(other))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.finish()
        return super().load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        self.finish()
        super().remove_checkpoint(path)

    def finish(self) -> None:
        """Wait until all is written. Raises ConfigError."""
        began = time.perf_counter()
        pending, self._pending = self._pending, []
        try:
            for one in pending:
                one.result()
        finally:
            self.blocked_seconds += time.perf_counter() - began

    def teardown(self) -> None:
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        self.latest = None
        self.finish()

    def _submit(self, job: Any, *arguments: Any) -> None:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending.append(self._writer.submit(job, *arguments))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with PiecewiseWriter(io.FileIO(partial, "wb")) as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except (OSError, RuntimeError) as error:
        raise _unwritten(target, partial, error) from error


def _link(path: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        partial.replace(target)
        partial.unlink(missing_ok=True)  # a rename between two names of one file leaves both
    except OSError as error:
        raise _unwritten(target, partial, error) from error


def _unwritten(target: Path, partial: Path, error: Exception) -> ConfigError:
    partial.unlink(missing_ok=True)
    return ConfigError(
        f"{target}: the checkpoint could not be written ({error}); an earlier one is untouched; "
        "free space on the disk, or set hydra.run.dir, and resume with ckpt_path=last"
    )
