"""What a dataset returns: a batch of videos, ragged."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor


@dataclass
class Batch:
    """B videos, or segments of videos; CPU tensors until `to` moves them.

    - ``ids``: one per row; ``"id:start"`` for segments
    - ``features``: frame and segment level [N, D], the frames of all videos one after another, N =
      ``num_frames.sum()``, uint8 or float32 as the dataset stores them; video level float32 [B, D];
      D = the configured features side by side
    - ``num_frames``: int64 [B], 1 <= n <= ``max_frames``; all 1 at video level
    - ``label_index``: int64 [M, 2], unique (row, class) pairs in ascending order, or None for unlabeled data
    - ``label_mask``: same form, the pairs that were rated (segments), or None
    - ``errors``: one message per record that was skipped, with ``on_corrupt="skip"``
    - ``slow_records``: how many records the careful reader had to parse
    - ``unrated``: how many records were left out because none of their segments is rated
    - ``videos``: of segments, the record of each row by its position in the batch, int64 [B], ascending; None otherwise
    - ``first``, ``marks``: of segments with context, which share the frames of their video: where a row's frames begin
      in ``features``, int64 [B], and which of them are the segment, from and to (excluded), int64 [B, 2]; else None
    - ``longest``: the largest of ``num_frames``, 0 for an empty batch; a plain int, because reading it from a GPU
      would force a sync
    """

    ids: list[str]
    features: Tensor
    num_frames: Tensor
    label_index: Tensor | None = None
    label_mask: Tensor | None = None
    errors: list[str] = field(default_factory=list)
    slow_records: int = 0
    longest: int = -1  # computed here unless given
    unrated: int = 0
    videos: Tensor | None = None
    first: Tensor | None = None
    marks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.longest < 0:
            self.longest = int(self.num_frames.max()) if len(self.ids) else 0

    def __len__(self) -> int:
        return len(self.ids)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the batch by the name of their field."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with all its tensors on ``device``."""
        moved = {
            name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self.tensors().items()
        }
        return replace(self, **cast(dict[str, Any], moved))

    def split(self, rows: int) -> Iterator["Batch"]:
        """The rows of a batch of segments with context, a few at a time, without labels; all share the features."""
        first, marks = cast(Tensor, self.first), cast(Tensor, self.marks)
        for begin in range(0, len(self), rows):
            part = slice(begin, begin + rows)
            yield Batch(
                self.ids[part],
                self.features,
                self.num_frames[part],
                longest=self.longest,
                first=first[part],
                marks=marks[part],
            )
