"""The embedded sample as a data module."""

from typing import Any

from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.synthetic import write_sample


class SampleDataModule(YT8MDataModule):
    """`YT8MDataModule` over shards that it writes itself where they are not there yet.

    Args:
        sample: arguments of `write_sample`; the number of classes and the seed of the data are its own.
        arguments: those of `YT8MDataModule`.
    """

    def __init__(self, *, sample: dict[str, Any], **arguments: Any):
        super().__init__(**arguments)
        self.sample = sample

    def prepare_data(self) -> None:
        if not self.read_only:
            write_sample(self.root, num_classes=self.num_classes, **self.sample)
