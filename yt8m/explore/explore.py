"""Plot a partition of a dataset, and write its statistics and an HTML page."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from yt8m.build import build
from yt8m.cpus import available_cpus
from yt8m.errors import ConfigError
from yt8m.explore.drawing import draw_all
from yt8m.explore.page import render
from yt8m.explore.passes import open_partition, two_passes
from yt8m.explore.sections import Section, make_facts, make_sections
from yt8m.explore.statistics import as_json
from yt8m.files import write_bytes, write_json, write_text
from yt8m.labels import ClassInfo

PAGE, STATISTICS = "index.html", "statistics.json"
READERS = 8  # more read and sum faster than one process counts


def explore(config: dict[str, Any]) -> Path:
    """Read a partition twice; write its plots, its statistics, and the page.

    Args:
        config: as in `conf/explore.yaml`.

    Returns:
        The page.

    Raises:
        ConfigError: a setting is wrong, or a page would be overwritten.
        DataError: the data are damaged, or do not fit the dataset's configuration.
        ReaderError: a process that reads or draws died.
        WriteError: a file cannot be written.
    """
    folder = Path(config["output"]).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: expected a folder, found the file {folder}")
    if (folder / PAGE).exists() and not config["overwrite"]:
        raise ConfigError(
            f"output: {folder / PAGE} already exists; set overwrite=true or choose another folder"
        )

    torch.set_num_threads(1)  # leave the other cores to the readers
    dataset = dict(config["dataset"])
    if dataset.get("num_workers") is None:
        dataset["num_workers"] = min(available_cpus(), READERS)
    datamodule = build(dataset, "dataset", trusted=config["trusted_packages"], seed=config["seed"])
    datamodule.prepare_data()  # the sample is written on first use
    names = datamodule.classes()
    classes = names or [ClassInfo.unnamed(number) for number in range(datamodule.num_classes)]
    video = None if config["video"] is None else str(config["video"])  # an id may look like a number
    loader = open_partition(datamodule, config["partition"], config["limit_videos"], video)
    console = Console(stderr=True)
    try:
        overview, scores, skipped = two_passes(
            loader,
            video,
            config["top_classes"],
            config["seed"],
            console,
        )
    finally:
        loader.close()

    sections = draw_all(make_sections(overview, scores, classes, datamodule.features), console)
    facts = make_facts(overview, loader.dataset, skipped)
    title = f"{datamodule.storage.name}, {config['partition']} partition"
    page = render(
        title, summary(config, str(datamodule.root), len(loader.dataset), bool(names)), facts, sections
    )
    write(folder, page, as_json(overview, scores, skipped), sections)
    print(f"{len(sections)} sections about {overview.videos:,} {overview.rows}: {folder / PAGE}")
    return folder / PAGE


def summary(config: dict[str, Any], root: str, records: int, named: bool) -> str:
    """The text below the page's title."""
    which = f"all {records:,} records"
    if config["limit_videos"] is not None and config["limit_videos"] < records:
        which = (
            f"{config['limit_videos']:,} of {records:,} records, from shards drawn with seed {config['seed']}"
        )
    text = f"Made from {which} in {root} ({config['dataset']['level']} level)."
    if config["dataset"]["level"] == "segment" and config["dataset"].get("segments") != "all":
        text += " Labels are the classes that were rated true; one that was not rated counts as absent."
    return text if named else f"{text} There is no vocabulary: classes are numbered."


def write(folder: Path, page: str, statistics: dict[str, Any], sections: list[Section]) -> None:
    """Write all files, the page last, each atomically."""
    for section in sections:
        for plot in section.plots:
            write_bytes(folder / plot.file, plot.images[0])
    write_json(folder / STATISTICS, statistics)
    write_text(folder / PAGE, page)
