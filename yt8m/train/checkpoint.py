"""Checkpoints on disk: written whole or not at all, read without unpickling code."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from yt8m.errors import ConfigError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: a kill at any moment leaves the old file.

    Lightning's own writer goes through the system's temporary folder, from where the last step may be a
    copy, and holds a second copy of the whole checkpoint in memory.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise ConfigError(
                f"{target}: the checkpoint could not be written ({error}); an earlier one is untouched; "
                "free space on the disk, or set hydra.run.dir, and go on with ckpt_path=last"
            ) from error


def find_checkpoint(ckpt_path: str, folder: Path) -> Path:
    """The checkpoint that `ckpt_path` means: a path, or `last` for the one of the run in `folder`."""
    path = folder / "checkpoints" / "last.ckpt" if ckpt_path == "last" else Path(ckpt_path).expanduser()
    if not path.is_file():
        hint = "; set hydra.run.dir to the folder of the run that is to go on" if ckpt_path == "last" else ""
        raise ConfigError(f"ckpt_path: expected a checkpoint, found nothing at {path}{hint}")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU. Tensors and plain containers only: nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if "config" in content["hyper_parameters"]:
            return content
        reason = "it carries no configuration"
    except Exception as error:  # torch reports a foreign or cut file by many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ConfigError(f"ckpt_path: expected a checkpoint of yt8m.train at {path}; {reason}")
