"""What an exported file computes: from stored features to scores, with any number of videos and frames."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from yt8m.datamodules.quantization import as_floats
from yt8m.errors import ConfigError
from yt8m.layers.masks import valid_frames
from yt8m.module import VideoClassifier


class FramesToScores(nn.Module):
    """Stored frames `[B, T, D]`, uint8 or float32, and their counts int64 `[B]`, to scores float32 `[B, C]`.

    Frames past a video's count change nothing. It computes what `VideoClassifier.predict_step` computes, from padded
    input in place of a ragged batch.
    """

    def __init__(self, classifier: VideoClassifier):
        super().__init__()
        self.network, self.transform = classifier.model, classifier.transform
        self.limits = classifier.hparams["quantization"]
        self.needs_video, self.needs_frames = classifier.needs_video, classifier.needs_frames

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        valid = valid_frames(frames, num_frames)[..., None]
        values = as_floats(frames, self.limits).masked_fill(~valid, 0)
        video = padded = None
        if self.needs_video:
            video = values.sum(dim=1) / num_frames[:, None]
            video = video if self.transform is None else self.transform(video)
        if self.needs_frames:
            padded = values if self.transform is None else self.transform(values).masked_fill(~valid, 0)
        scores: Tensor = self.network(video, padded, num_frames).float().sigmoid()
        return scores


class VideoToScores(nn.Module):
    """Video vectors float32 `[B, D]`, as the video-level records store them, to scores float32 `[B, C]`."""

    def __init__(self, classifier: VideoClassifier):
        super().__init__()
        self.network, self.transform = classifier.model, classifier.transform

    def forward(self, video: Tensor) -> Tensor:
        values = video if self.transform is None else self.transform(video)
        count = torch.ones(video.shape[0], dtype=torch.int64, device=video.device)
        scores: Tensor = self.network(values, None, count).float().sigmoid()
        return scores


def make_program(classifier: VideoClassifier, reads: str, stored: torch.dtype) -> ExportedProgram:
    """The program of a classifier that is on the CPU, in evaluation.

    Args:
        classifier: left as it is.
        reads: `frames` or `video`.
        stored: dtype of the frames.

    Raises:
        ConfigError: `torch.export` cannot trace the network.
    """
    size = sum(classifier.hparams["feature_sizes"].values())
    anything = Dim.DYNAMIC
    module: nn.Module
    if reads == "frames":
        module = FramesToScores(classifier)
        inputs: tuple[Tensor, ...] = (torch.zeros(3, 5, size, dtype=stored), torch.tensor([4, 1, 5]))
        shapes: tuple[Any, ...] = ({0: anything, 1: anything}, {0: anything})
    else:
        module, inputs, shapes = VideoToScores(classifier), (torch.zeros(3, size),), ({0: anything},)
    training = classifier.model.training
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many types, from the network's code or from torch's tracing of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = type(classifier.model).__name__
        raise ConfigError(
            f"ckpt_path: expected a network that torch.export can trace, found {name}; {reason}"
        ) from error
    finally:
        classifier.model.train(training)
