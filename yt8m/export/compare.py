"""An exported file against PyTorch, on a partition of real videos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from yt8m.datamodules.batch import Batch
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import YT8MError
from yt8m.metrics import GAP
from yt8m.module import VideoClassifier

Scorer = Callable[..., Tensor]  # frames and their counts, or video vectors, to scores [B, C]


@dataclass(frozen=True)
class Comparison:
    """Of `videos` videos: the largest difference of a score, and GAP of both; None without labels."""

    videos: int
    difference: float
    gap: float | None
    exported_gap: float | None


def onnx_scorer(path: Path) -> Scorer:
    """The ONNX file, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def scores(*inputs: Tensor) -> Tensor:
        values = dict(zip(names, (one.numpy() for one in inputs), strict=True))
        return torch.from_numpy(session.run(None, values)[0])

    return scores


def program_scorer(path: Path) -> Scorer:
    """The PT2 file, as a program that does not know this package would run it."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda *inputs: module(*inputs)


def as_inputs(batch: Batch, reads: str) -> tuple[Tensor, ...]:
    """A batch as an exported file takes it: padded frames and their counts, or video vectors."""
    if reads == "video":
        return (batch.features,)
    videos = torch.split(batch.features, batch.num_frames.tolist())
    return pad_sequence(list(videos), batch_first=True), batch.num_frames


@torch.inference_mode()
def compare(
    classifier: VideoClassifier, datamodule: YT8MDataModule, exported: Scorer, reads: str
) -> Comparison:
    """Score the partition for prediction of a data module, which is set up, with both.

    Raises:
        DataError: a record is damaged.
        YT8MError: there are no videos.
    """
    loader, videos, difference = datamodule.predict_dataloader(), 0, 0.0
    gaps: Sequence[GAP] = (GAP(), GAP())
    labeled = True
    try:
        for batch in track(loader, "comparing with PyTorch", console=Console(stderr=True), transient=True):
            if not len(batch):
                continue
            pair = (classifier.predict_step(batch, 0), exported(*as_inputs(batch, reads)))
            videos += len(batch)
            difference = max(difference, float(np.nanmax((pair[0] - pair[1]).abs().numpy())))
            labeled = labeled and batch.label_index is not None
            for gap, scores in zip(gaps, pair, strict=True):
                if labeled:
                    gap.update(scores, classifier.labels(batch), classifier.mask(batch))
    finally:
        datamodule.teardown("predict")
    if not videos:
        raise YT8MError(
            "split: expected videos to compare on, found damaged records only; choose another split"
        )
    values = [float(gap.compute()) if labeled else None for gap in gaps]
    return Comparison(videos, difference, *values)
