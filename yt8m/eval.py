"""Evaluate a checkpoint: `python -m yt8m.eval ckpt_path=RUN/checkpoints/best.ckpt`."""

import hydra
from omegaconf import DictConfig

from yt8m.cli import launch
from yt8m.config import CONFIG_DIR


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="eval")
def _command(cfg: DictConfig) -> float:
    # Imported here: `--help` and `--cfg job` must not wait for torch.
    from yt8m import evaluation, run

    return run.command(evaluation.evaluate, cfg)


def main() -> None:
    """The command."""
    launch(_command)


if __name__ == "__main__":
    main()
