"""What a reader makes of a batch for the statistics: one vector per video, and the frames of at most one."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.quantization import as_floats, dequantize


@dataclass
class Video:
    """One video's features as stored, uint8 or float32 [T, D], its classes, and the (min, max) of uint8 features."""

    id: str
    frames: np.ndarray
    classes: list[int]
    quantization: tuple[float, float]

    def values(self) -> np.ndarray:
        """The features as the network sees them, float32 [T, D]."""
        return as_floats(torch.from_numpy(self.frames), self.quantization).numpy()


@dataclass
class Vectors(Batch):
    """A batch whose ``features`` are a vector per row, float32 [B, D]: the mean of its dequantized frames.

    ``video``: one of its videos with its frames, or None. At video level the features are as stored, and there is none.
    """

    video: Video | None = None


def vectors(batch: Batch, level: str, wanted: str | None, quantization: tuple[float, float]) -> Vectors:
    """Means of the frames of every row of a batch, and the frames of the row with the wanted id, or of the first."""
    found = Vectors(**{each.name: getattr(batch, each.name) for each in fields(Batch)})
    if level == "video" or not len(batch):
        return found
    found.features = _means(batch, quantization)
    if wanted is None or wanted in batch.ids:
        row = 0 if wanted is None else batch.ids.index(wanted)
        end = int(batch.num_frames[: row + 1].sum())
        frames = batch.features[end - int(batch.num_frames[row]) : end].numpy().copy()
        pairs = () if batch.label_index is None else batch.label_index.tolist()
        classes = [column for owner, column in pairs if owner == row]
        found.video = Video(batch.ids[row], frames, classes, quantization)
    return found


def _means(batch: Batch, quantization: tuple[float, float]) -> Tensor:
    # Summing integers, video by video, is three times as fast as converting every frame to floats.
    quantized = batch.features.dtype == torch.uint8
    dtype = torch.int32 if quantized else torch.float32
    videos = torch.split(batch.features, batch.num_frames.tolist())
    sums = [frames.sum(0, dtype=dtype) for frames in videos]
    means = torch.stack(sums) / batch.num_frames[:, None]
    return dequantize(means, quantization) if quantized else means
