"""Draw a dataset: `python -m yt8m.explore dataset=yt8m_video dataset.root=~/data/yt8m`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from yt8m.cli import end, launch
from yt8m.config import CONFIG_DIR
from yt8m.errors import ConfigError

if TYPE_CHECKING:
    from yt8m.exploration.sections import Section

PAGE, STATISTICS = "index.html", "statistics.json"
RANGES = {"limit_videos": (1, 10**12), "top_classes": (2, 40), "seed": (0, 2**32 - 1)}


def explore(cfg: DictConfig) -> Path:
    """Read a partition twice; write its pictures, its figures and the page.

    Args:
        cfg: as in `conf/explore.yaml`.

    Returns:
        The page.

    Raises:
        ConfigError: an argument is wrong, or a page would be overwritten.
        DataError: the data are damaged, or do not fit the dataset's configuration.
        ReaderError: a reading process was killed.
        OSError: the disk is full, or cannot be written.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)
    check(config)
    folder = Path(config["output"]).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: expected a folder, found the file {folder}")
    if (folder / PAGE).exists() and not config["overwrite"]:
        raise ConfigError(
            f"output: {folder / PAGE} is there already; choose another folder, or set overwrite=true"
        )

    # Imported here: `--help` and a misspelt argument must not wait for torch.
    import torch
    from rich.console import Console

    from yt8m.build import build
    from yt8m.exploration.page import render
    from yt8m.exploration.passes import open_partition, two_passes
    from yt8m.exploration.sections import make_facts, make_sections
    from yt8m.exploration.statistics import as_json
    from yt8m.vocabulary import ClassInfo

    torch.set_num_threads(1)  # the readers have the other processors
    datamodule = build(config["dataset"], "dataset", "yt8m.datamodules", seed=config["seed"])
    names = datamodule.classes()  # the embedded sample is written on first use
    classes = names or [ClassInfo.unnamed(number) for number in range(datamodule.num_classes)]
    loader = open_partition(datamodule, config["partition"], config["limit_videos"])
    try:
        overview, scores, skipped = two_passes(
            loader, config["video"], config["top_classes"], config["seed"], Console(stderr=True)
        )
    finally:
        loader.close()

    sections = make_sections(overview, scores, classes, datamodule.features)
    facts = make_facts(overview, loader.dataset, skipped)
    title = f"{datamodule.root.resolve().name}, {config['partition']} partition"
    page = render(title, summary(config, datamodule.root, len(loader.dataset), bool(names)), facts, sections)
    write(folder, page, as_json(overview, scores, skipped), sections)
    print(f"{len(sections)} sections about {overview.videos:,} videos: {folder / PAGE}")
    return folder / PAGE


def check(config: dict[str, Any]) -> None:
    """Raise `ConfigError` for the first argument of a wrong kind or out of range."""
    if config["partition"] not in ("train", "validate", "test"):
        raise ConfigError(f"partition: expected train, validate or test, found {config['partition']!r}")
    if not isinstance(config["output"], str) or not config["output"]:
        raise ConfigError(f"output: expected a folder, found {config['output']!r}")
    if config["video"] is not None:
        config["video"] = str(config["video"])  # an id may look like a number
    for key, (low, high) in RANGES.items():
        value = config[key]
        if value is None and key == "limit_videos":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"{key}: expected a whole number from {low} to {high}, found {value!r}")
    if not isinstance(config["overwrite"], bool):
        raise ConfigError(f"overwrite: expected true or false, found {config['overwrite']!r}")


def summary(config: dict[str, Any], root: Path, records: int, named: bool) -> str:
    """What the page says below its title."""
    which = f"all {records:,} records"
    if config["limit_videos"] is not None and config["limit_videos"] < records:
        which = (
            f"{config['limit_videos']:,} of {records:,} records, from shards drawn by seed {config['seed']}"
        )
    text = f"Made from {which} below {root} ({config['dataset']['level']} level)."
    return text if named else f"{text} Without a vocabulary of these classes, which have numbers for names."


def write(folder: Path, page: str, statistics: dict[str, Any], sections: list["Section"]) -> None:
    """Write all files, the page last; each is whole or not there."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    files = {name: content for section in sections for name, _, content in section.pictures}
    files[STATISTICS] = (json.dumps(statistics, indent=2) + "\n").encode()
    files[PAGE] = page.encode()
    for name, content in files.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="explore")
def _command(cfg: DictConfig) -> None:
    try:
        explore(cfg)
    except ConfigError as error:
        end(2, f"error: {error}")
    except KeyboardInterrupt:
        end(130, "interrupted; nothing was written")
    except OSError as error:
        end(1, f"error: {error.filename}: {error.strerror}; put that right and start again")
    except (ValueError, RuntimeError) as error:
        from yt8m.datamodules.loader import ReaderError
        from yt8m.datamodules.tfrecord import DataError

        if not isinstance(error, DataError | ReaderError):
            raise
        end(1, f"error: {error}")


def main() -> None:
    """The command."""
    launch(_command)


if __name__ == "__main__":
    main()
