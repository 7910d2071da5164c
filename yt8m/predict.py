"""Write predictions: `python -m yt8m.predict ckpt_path=RUN/checkpoints/best.ckpt dataset.root=PATH`."""

import hydra
from omegaconf import DictConfig

from yt8m.cli import launch
from yt8m.config import CONFIG_DIR


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="predict")
def _command(cfg: DictConfig) -> None:
    # Imported here: `--help` and `--cfg job` must not wait for torch.
    from yt8m import inference, run

    run.command(inference.predict, cfg)


def main() -> None:
    """The command."""
    launch(_command)


if __name__ == "__main__":
    main()
