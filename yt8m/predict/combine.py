"""Scores of segments together with those of their videos."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yt8m.checkpoint import find_checkpoint
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.predict.ensemble import Ensemble
from yt8m.restore import SAME_DATA, check_same_task


class Combined(Ensemble):
    """Segments' scores that take into account what networks of whole videos say.

    A batch of all segments of its videos has all frames of these, so the videos are not read again.

    Args:
        segments: of segments.
        videos: of whole videos; networks of frames.
        how: `video`: a video's scores for each of its segments; `product` or `mean` of both.
    """

    def __init__(self, segments: Ensemble, videos: Ensemble, how: str):
        super().__init__(segments.members, segments.weights)
        self.videos, self.how = videos, how

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Probabilities, float32 `[B, C]`; None for an empty batch."""
        if not len(batch):
            return None
        videos, owner = whole_videos(batch)
        of_videos = self.videos.mean(self.videos.scores(videos))[owner]
        if self.how == "video":
            return of_videos
        of_segments = super().predict_step(batch, batch_idx)
        assert of_segments is not None
        return of_videos * of_segments if self.how == "product" else (of_videos + of_segments) / 2


def whole_videos(batch: Batch) -> tuple[Batch, Tensor]:
    """The videos of a batch that has all their segments, and the video of each row, int64 `[B]`."""
    assert batch.videos is not None
    _, owner = torch.unique_consecutive(batch.videos, return_inverse=True)
    lengths = batch.num_frames if batch.marks is None else batch.marks[:, 1] - batch.marks[:, 0]
    count = int(owner[-1]) + 1
    num_frames = lengths.new_zeros(count).index_add_(0, owner, lengths)
    return Batch([""] * count, batch.features, num_frames, longest=int(num_frames.max())), owner


def video_classifiers(
    config: dict[str, Any], paths: list[Path], first: VideoClassifier, datamodule: YT8MDataModule
) -> list[VideoClassifier]:
    """The classifiers of whole videos that `combine` needs; none for `combine=segment`.

    Args:
        config: the command's, with `combine`, `video_ckpt_path`, `output_dir`, and `trusted_packages`.
        paths: the checkpoints of `ckpt_path`.
        first: the classifier of the first of them.
        datamodule: of segments.

    Raises:
        ConfigError: the segments are not all of their videos, or a checkpoint does not fit them.
    """
    names = config["video_ckpt_path"]
    if config["combine"] == "segment":
        if names is not None:
            raise ConfigError(
                "video_ckpt_path: expected combine=product, mean or video beside it, found segment; set combine"
            )
        return []
    if datamodule.level == "video":
        raise ConfigError(
            f"combine: expected a network of frames or of segments, found dataset.level=video in {paths[0]}; leave out "
            "combine"
        )
    if datamodule.level == "frame" or datamodule.segments == "rated":
        found = "dataset.level=frame" if datamodule.level == "frame" else "dataset.segments=rated"
        raise ConfigError(
            f"combine: expected all segments of a video, found {found}; set dataset.level=segment dataset.segments=all"
        )
    segments_path = str(paths[0])
    if names is not None:
        names = names if isinstance(names, list) else [names]
        paths = [find_checkpoint(name, Path(config["output_dir"]), "video_ckpt_path") for name in names]
    classifiers = []
    for path in paths:
        one = VideoClassifier.load_from_checkpoint(
            path, max_frames=datamodule.max_frames, trusted_packages=config["trusted_packages"]
        )
        if one.hparams.level != "frame":
            raise ConfigError(
                f"video_ckpt_path: expected a network trained on dataset.level=frame, found {one.hparams.level} in "
                f"{path}; set video_ckpt_path to one of whole videos"
            )
        check_same_task(one, first, path, segments_path, "video_ckpt_path", SAME_DATA)
        classifiers.append(one)
    return classifiers
