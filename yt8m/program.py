"""A network as a program of `torch.export`, for any number of videos and frames."""

from typing import TYPE_CHECKING

import torch
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    from yt8m.module import VideoClassifier


def export_program(classifier: "VideoClassifier") -> ExportedProgram:
    """The classifier's network in evaluation: inputs as it takes them to logits `[B, C]`, B and T of any size.

    Its inputs are video float `[B, D]`, frames float `[B, T, D]`, and num_frames int64 `[B]`; None for one that the
    network does not read. Recurrent layers are the operators of `yt8m.layers.operators`, whose `as_aten` replaces them
    for a program that is saved.
    """
    device, size = classifier.device, sum(classifier.hparams.feature_sizes.values())
    videos, time = Dim("videos"), Dim("time")
    num_frames = torch.tensor([5, 3], device=device)
    frames = torch.zeros(2, 5, size, device=device) if classifier.needs_frames else None
    video = torch.zeros(2, size, device=device) if classifier.needs_video else None
    shapes = (
        None if video is None else {0: videos},
        None if frames is None else {0: videos, 1: time},
        {0: videos},
    )
    training = classifier.model.training
    try:
        return torch.export.export(
            classifier.model.eval(), (video, frames, num_frames), dynamic_shapes=shapes, strict=False
        )
    finally:
        classifier.model.train(training)
