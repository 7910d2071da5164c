"""The dataset's videos, by id and by label."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from yt8m.api.records import Record, Records
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.dataset import ShardDataset
from yt8m.errors import YT8MError

_AT_A_TIME = 64


@dataclass(frozen=True)
class Entry:
    """A video: the number of its record, its id, its labels; None for an unlabeled one."""

    number: int
    id: str
    labels: tuple[int, ...] | None


class Catalog:
    """The first videos of a partition.

    Args:
        records: of the whole partition.
        entries: its videos to choose from.
        names: of the dataset's labels.
        partition: its name.
    """

    def __init__(self, records: Records, entries: Sequence[Entry], names: Sequence[str], partition: str):
        self.entries, self.names, self.partition = list(entries), list(names), partition
        self._records = records
        self._by_id = {entry.id: entry for entry in entries}
        self._by_label: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            for label in entry.labels or ():
                self._by_label[label].append(entry)

    def find(self, text: str) -> list[Entry]:
        """The video with this id, or those with a label of this name, else with labels that contain it; any case."""
        if text in self._by_id:
            return [self._by_id[text]]
        wanted = text.casefold()
        folded = {label: self.names[label].casefold() for label in self._by_label}
        labels = [label for label, name in folded.items() if name == wanted] or [
            label for label, name in sorted(folded.items()) if wanted in name
        ]
        found = {entry.number: entry for label in labels for entry in self._by_label[label]}
        return [found[number] for number in sorted(found)]

    def get(self, name: str) -> Entry | None:
        """The video with an id."""
        return self._by_id.get(name)

    def record(self, entry: Entry) -> Record:
        """The features of a video. Raises DataError if its shard changed."""
        return self._records[entry.number]

    def common(self, count: int) -> list[str]:
        """Names of the most frequent labels."""
        ranked = sorted(self._by_label, key=lambda label: (-len(self._by_label[label]), label))
        return [self.names[label] for label in ranked[:count]]


def read_catalog(datamodule: YT8MDataModule, partition: str, limit: int | None) -> Catalog:
    """The first `limit` videos of a partition, or all.

    Raises:
        ConfigError, DataError: the partition cannot be read.
        YT8MError: it has no videos.
    """
    datamodule.prepare_data()
    if datamodule.level == "segment":
        datamodule.level = "frame"  # whole videos, to show when something happens
    datamodule.setup("predict")
    dataset = datamodule.datasets[partition]
    count = len(dataset) if limit is None else min(limit, len(dataset))
    begins = range(0, count, _AT_A_TIME)
    entries: list[Entry] = []
    for begin in track(begins, "reading ids and labels", console=Console(stderr=True), transient=True):
        entries += _entries(dataset, range(begin, min(begin + _AT_A_TIME, count)))
    if not entries:
        raise YT8MError(
            f"split: expected videos in {partition}, found damaged records only; choose another split"
        )
    classes = datamodule.classes()
    names = (
        [info.name for info in classes] if classes else [f"class {n}" for n in range(datamodule.num_classes)]
    )
    return Catalog(Records(dataset), entries, names, partition)


def _entries(dataset: ShardDataset, numbers: Sequence[int]) -> list[Entry]:
    batch = dataset.__getitems__(numbers)
    if len(batch) != len(numbers):  # some are damaged, and skipped
        return (
            [entry for number in numbers for entry in _entries(dataset, [number])] if len(numbers) > 1 else []
        )
    labels: list[list[int]] = [[] for _ in numbers]
    if batch.label_index is not None:
        for row, label in batch.label_index.tolist():
            labels[row].append(label)
    known = batch.label_index is not None
    return [
        Entry(number, name, tuple(found) if known else None)
        for number, name, found in zip(numbers, batch.ids, labels, strict=True)
    ]
