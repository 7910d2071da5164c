"""From a batch to what a network reads: dequantize, pad, average, transform; on the batch's device."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from yt8m.build import build, class_name
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.parse.windows import SEGMENT_FRAMES
from yt8m.datamodules.quantization import affine, as_floats, dequantize
from yt8m.datamodules.ranks import gather
from yt8m.errors import ConfigError
from yt8m.layers.masks import valid_frames
from yt8m.transforms import L2, Transform

#: video float `[B, D]`, frames float `[B, T, D]`, num_frames int64 `[B]`; None for what a network does not use.
Inputs = tuple[Tensor | None, Tensor | None, Tensor]


def convert(
    batch: Batch,
    *,
    video: bool,
    frames: bool,
    level: str,
    quantization: tuple[float, float],
    length: int,
    transform: Transform | None,
    mark: Tensor | None = None,
) -> Inputs:
    """The video vectors and padded frames of a batch, each if asked for.

    Features stored as uint8 become floats here, and frames past a video's end 0. The video vector of frame-level data
    is the mean of its frames, as in the dataset's video-level records, and is transformed as one; that of a segment
    with context is the mean of the segment's.

    Args:
        batch: on the device to compute on.
        video, frames: what to compute; at video level always the vectors alone.
        level, quantization: of the dataset.
        length: T, at least the frames of the batch's longest video.
        transform: applied to every vector; None for none.
        mark: of segments with context, float `[D]`: added to the frames of the segment, so that a network can tell them
            from those around; None adds nothing.
    """
    features, num_frames = batch.features, batch.num_frames
    if level == "video":
        return _transformed(features, transform), None, num_frames
    if batch.first is not None:
        return _with_context(batch, video, frames, length, quantization, transform, mark)
    limits = quantization if features.dtype == torch.uint8 else None
    pad = _pad_on_cpu if features.device.type == "cpu" else pad_on_gpu
    sums, padded = pad(features, num_frames, length, limits, sums=video, frames=frames)
    means = None
    if sums is not None:
        means = sums / num_frames[:, None]
        means = _transformed(means if limits is None else dequantize(means, limits), transform)
    if padded is not None and transform is not None:
        padded = transform(padded).masked_fill(~valid_frames(padded, num_frames)[..., None], 0)
    return means, padded, num_frames


def _pad_on_cpu(
    features: Tensor,
    num_frames: Tensor,
    length: int,
    quantization: tuple[float, float] | None,
    *,
    sums: bool,
    frames: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Sums of the stored values `[B, D]` and frames `[B, T, D]`, of which every value is written once."""
    videos = torch.split(features, num_frames.tolist())
    integral = features.dtype == torch.uint8
    found = None
    if sums:
        found = torch.stack([one.sum(0, dtype=torch.int32 if integral else None) for one in videos])
    if not frames:
        return found, None
    size = (len(videos), length, features.shape[1])
    padded = torch.empty(size, dtype=torch.float32 if integral else features.dtype)
    scale, offset = affine(quantization) if quantization else (1.0, 0.0)
    start = torch.tensor(offset)
    for row, one in zip(padded, videos, strict=True):
        if integral:
            torch.add(start, one, alpha=scale, out=row[: len(one)])
        else:
            row[: len(one)] = one
        row[len(one) :] = 0
    return found, padded


def pad_on_gpu(
    features: Tensor,
    num_frames: Tensor,
    length: int,
    quantization: tuple[float, float] | None,
    *,
    sums: bool,
    frames: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """As `_pad_on_cpu`, for devices whose values the host cannot read without a sync: bytes are padded, not floats."""
    columns = torch.arange(length, device=features.device)
    starts = num_frames.cumsum(0) - num_frames
    valid = (columns < num_frames[:, None])[..., None]  # [B, T, 1]
    index = starts[:, None] + columns
    stored = _taken(features, index).masked_fill_(~valid, 0)  # [B, T, D]
    dtype = torch.int32 if features.dtype == torch.uint8 else None
    found = stored.sum(1, dtype=dtype) if sums else None
    if not frames or quantization is None:
        return found, stored if frames else None
    scale, offset = affine(quantization)
    return found, torch.addcmul(valid * offset, stored, valid * scale)  # 0 · 0 + 0 in padding


def _taken(features: Tensor, index: Tensor) -> Tensor:
    """The frames at `index`, of any shape, or the last one where that is past it: `[..., D]`."""
    index = index.clamp(max=len(features) - 1)
    if features.device.type != "cpu":
        return features[index]
    # A quarter of the time of `features[index]`.
    return features.index_select(0, index.flatten()).view(*index.shape, features.shape[1])


def _with_context(
    batch: Batch,
    video: bool,
    frames: bool,
    length: int,
    quantization: tuple[float, float],
    transform: Transform | None,
    mark: Tensor | None,
) -> Inputs:
    """`convert` of segments that share the frames of their videos."""
    first, num_frames, (begin, end) = cast(Tensor, batch.first), batch.num_frames, cast(Tensor, batch.marks).T
    means = None
    if video:
        positions = torch.arange(SEGMENT_FRAMES, device=first.device)
        segment = (first + begin)[:, None] + positions  # [B, 5]
        own = as_floats(_taken(batch.features, segment), quantization)
        outside = (positions >= (end - begin)[:, None])[..., None]
        means = _transformed(own.masked_fill(outside, 0).sum(1) / (end - begin)[:, None], transform)
    padded = None
    if frames:
        positions = torch.arange(length, device=first.device)
        index = first[:, None] + positions  # [B, T]
        padded = as_floats(_taken(batch.features, index), quantization)
        padded = _transformed(padded, transform)
        if mark is not None:
            inside = (positions >= begin[:, None]) & (positions < end[:, None])
            padded = padded + inside[..., None] * mark
        padded = padded.masked_fill(~valid_frames(padded, num_frames)[..., None], 0)
    return means, padded, num_frames


def make_segment_mark(
    context: int | str,
    network: torch.nn.Module,
    feature_sizes: Mapping[str, int],
    objective: Mapping[str, Any],
) -> torch.nn.Parameter | None:
    """What marks the frames of a segment in its context, float32 `[D]`, zero at first; None without context.

    Raises:
        ConfigError: the network reads no frames, or the objective takes frames at random.
    """
    if not context:
        return None
    check_context(context, network)
    if objective.get("frame_subsample"):
        raise ConfigError(
            "frame_subsample: expected null with dataset.context, because it could take none of a segment's frames; "
            "set frame_subsample=null"
        )
    return torch.nn.Parameter(torch.zeros(sum(feature_sizes.values())))


def check_context(context: int | str, network: torch.nn.Module) -> None:
    """Raise ConfigError for a context that the network would not read."""
    if context and not getattr(network, "needs_frames", True):
        raise ConfigError(
            f"dataset.context: expected a network of frames, found {type(network).__name__}, which reads the segment's "
            "mean; set dataset.context=0, or choose another model"
        )


def choose_transform(transform: Any, normalize: str) -> Any:
    """A run's transform, for which `normalize: l2` is the earlier name of `transform: l2`; None for none.

    Raises:
        ConfigError: both are set, and differ.
    """
    if normalize == "none":
        return transform or None
    l2 = {"_target_": f"{L2.__module__}.{L2.__qualname__}"}
    if transform and transform != l2:
        chosen = transform.get("_target_") if isinstance(transform, Mapping) else class_name(transform)
        raise ConfigError(
            f"normalize: expected none beside transform {chosen}, found {normalize}; leave out one of them"
        )
    return l2


def make_transform(
    transform: Any, feature_sizes: Mapping[str, int], trusted: Sequence[str]
) -> Transform | None:
    """The transform that a section describes, or the one that was passed in Python.

    Raises:
        ConfigError: it is no section of `yt8m.transforms` and no `Transform`.
    """
    if isinstance(transform, Mapping):
        transform = build(transform, "transform", trusted=trusted, feature_sizes=dict(feature_sizes))
    if not isinstance(transform, Transform | None):
        raise ConfigError(f"transform: expected a section or a Transform, found {transform!r}")
    return transform


def prepare(transform: Transform | None, datamodule: Any, quantization: tuple[float, float]) -> None:
    """Give a transform its values from the training partition, unless it has them, as from a checkpoint.

    Raises:
        ConfigError: it needs the training partition and `datamodule` is none of this project.
    """

    def sample(limit: int | None) -> Iterator[Tensor]:
        if not hasattr(datamodule, "training_sample"):
            raise ConfigError(
                f"transform: {type(transform).__name__} reads the training shards, expected a YT8MDataModule, found "
                f"{'none' if datamodule is None else type(datamodule).__name__}; train with one, or without transform"
            )
        for batch in datamodule.training_sample(limit):
            yield as_floats(batch.features, quantization)

    if transform is not None and not transform.prepared:
        transform.prepare(sample, gather)


def _transformed(vectors: Tensor, transform: Transform | None) -> Tensor:
    return vectors if transform is None else cast(Tensor, transform(vectors))
