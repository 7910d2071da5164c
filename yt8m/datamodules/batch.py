"""What a dataset hands out."""

from dataclasses import dataclass, field, replace

import torch


@dataclass
class Batch:
    """B videos, or segments of videos; CPU tensors until `to` moves them.

    - ``ids``: one per row; ``"id:start"`` for segments
    - ``features``: frame and segment level uint8 [N, D], the frames of all videos one after another,
      N = ``num_frames.sum()``; video level float32 [B, D]; D = the configured features side by side
    - ``num_frames``: int64 [B], 1 <= n <= ``max_frames``; all 1 at video level
    - ``label_index``: int64 [M, 2], distinct (row, class) pairs in rising order, or None where there are no labels
    - ``label_mask``: same form, the pairs that were rated (segments), or None
    - ``faults``: one message for each record that was left out, with ``on_corrupt="skip"``
    """

    ids: list[str]
    features: torch.Tensor
    num_frames: torch.Tensor
    label_index: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    faults: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with features and labels on ``device``.

        ``num_frames`` stays on the CPU: the longest video of a batch must be known there, and asking the device
        for it would wait for all that is queued.
        """

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=move(self.features),
            label_index=move(self.label_index),
            label_mask=move(self.label_mask),
        )
