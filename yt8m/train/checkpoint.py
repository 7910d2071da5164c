"""Writing checkpoints atomically."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from yt8m.errors import ConfigError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to `.part`, flushes to the disk, then renames, so a kill at any moment leaves the old file.

    Lightning's own writer keeps a second copy of the checkpoint in memory, and writes to the system's temporary folder
    first, which may be on another disk, so its last step may be a copy.

    Raises:
        ConfigError: the file could not be written.
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
                "free space on the disk, or set hydra.run.dir, and resume with ckpt_path=last"
            ) from error
