"""What a network minimizes in training: its loss, with mixup, label smoothing, teachers, dropout of streams and frames.

Nothing here touches evaluation, which sees whole videos and the labels as they are. Random numbers come from torch's
global generator of the batch's device, whose state checkpoints keep.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.distributions import Beta

from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError

if TYPE_CHECKING:
    from yt8m.inputs import Inputs
    from yt8m.module import VideoClassifier


#: Of logits `[B, C]`, labels `[B, C]`, and a mask `[B, C]` or None; a scalar.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Teacher(Protocol):
    """What a network learns from besides the labels; see `yt8m.train.teacher`."""

    def __call__(self, batch: Batch, mix: "Mix | None", temperature: float) -> tuple[Tensor, Tensor | None]:
        """Probabilities of a batch's videos at a temperature, and which videos have any.

        Args:
            batch: on the classifier's device.
            mix: how the network's inputs are mixed; None if they are not.
            temperature: T. A class with logit x has the probability σ(x/T).

        Returns:
            Float32 `[B, C]`, and bool `[B]`; None if all videos have them.
        """


class Objective:
    """The training loss of a batch.

    With teachers (Hinton et al. 2015), every logit x counts twice, for the labels and for the mean q of the teachers'
    probabilities at temperature T: (1 − w)·loss(x, y) + w·T²·loss(x/T, q), with the run's own loss. A video that no
    teacher knows has loss(x, y). A mask of rated labels does not limit the teachers, who know all classes.

    Args:
        feature_sizes: features side by side in a batch, in order, and their sizes.
        level: `frame`, `segment` or `video`: what batches hold.
        mixup: α of mixup (`Mix`); 0 mixes nothing.
        label_smoothing: ε. A label y becomes (1 − ε)·y + ε/C (Szegedy et al. 2016, section 7).
        stream_dropout: probability of dropping a feature of a video (`drop_streams`).
        frame_subsample: train on at most this many frames of each video (`subsample`); None takes all.
        splice: probability of replacing half of a video's frames by those of another video (`splice`).
        unrated: of segments, classes that a segment was not rated for are `ignored`, or `negative`, as in the reference
            trainer.
        distillation: `{"temperature": T, "weight": w}`, by default 1 and 0.5.

    Attributes:
        teachers: to learn from, none at first. They are not part of a checkpoint.

    Raises:
        ConfigError: a setting does not fit the data.
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        level: str,
        *,
        mixup: float = 0,
        label_smoothing: float = 0,
        stream_dropout: float = 0,
        frame_subsample: int | None = None,
        splice: float = 0,
        unrated: str = "ignored",
        distillation: Mapping[str, float] | None = None,
    ):
        for key, value in (("mixup", mixup), ("splice", splice)):
            if value and level == "segment":
                raise ConfigError(
                    f"{key}: expected videos whose every label is known, found dataset.level=segment, whose segments "
                    f"are rated for few classes; set {key}=0"
                )
        if stream_dropout and len(feature_sizes) < 2:
            raise ConfigError(
                f"stream_dropout: expected two features or more, found only {', '.join(feature_sizes)}; set "
                "stream_dropout=0"
            )
        for key, wanted, off in (
            ("frame_subsample", bool(frame_subsample), "null"),
            ("splice", splice > 0, "0"),
        ):
            if wanted and level == "video":
                raise ConfigError(
                    f"{key}: expected frame-level data, found dataset.level=video; set {key}={off}"
                )
        self.feature_sizes = dict(feature_sizes)
        self.mixup, self.label_smoothing = mixup, label_smoothing
        if unrated == "negative" and level != "segment":
            raise ConfigError(
                f"unrated: expected ignored, found negative with dataset.level={level}, whose videos were rated for "
                "all classes"
            )
        self.unrated = unrated
        self.stream_dropout, self.frame_subsample, self.splice = stream_dropout, frame_subsample, splice
        distillation = distillation or {}
        self.temperature, self.weight = distillation.get("temperature", 1), distillation.get("weight", 0.5)
        self.teachers: Sequence[Teacher] = ()

    def sample(self, batch: Batch) -> Batch:
        """The frames to train on, of a batch on the CPU: there the number of frames is known without a sync."""
        if self.frame_subsample is not None:
            batch = subsample(batch, self.frame_subsample)
        return splice(batch, self.splice) if self.splice else batch

    def __call__(self, classifier: "VideoClassifier", batch: Batch) -> Tensor:
        """The loss of a batch that `sample` returned, on the classifier's device; a scalar."""
        inputs, labels = classifier.inputs(batch), classifier.labels(batch)
        mask = classifier.mask(batch) if self.unrated == "ignored" else None
        mix = Mix.draw(len(batch), self.mixup, labels.device) if self.mixup else None
        if mix is not None:
            inputs, labels = mix.inputs(inputs), mix(labels.float())
        if self.label_smoothing:
            labels = (1 - self.label_smoothing) * labels + self.label_smoothing / labels.shape[1]
        if self.stream_dropout:
            inputs = drop_streams(inputs, self.feature_sizes, self.stream_dropout)
        loss = self._distilling(classifier.loss, batch, mix) if self.teachers else classifier.loss
        own: Callable[..., Tensor] | None = getattr(classifier.model, "training_loss", None)
        if own is not None:
            return own(inputs, labels, mask, loss)
        return loss(classifier(*inputs), labels, mask)

    def _distilling(self, loss: Loss, batch: Batch, mix: "Mix | None") -> Loss:
        """The loss on logits, labels and mask that also teaches what the teachers say about the batch."""
        answers = [teacher(batch, mix, self.temperature) for teacher in self.teachers]
        taught: Tensor | None = None
        if all(known is None for _, known in answers):
            soft = torch.stack([answer for answer, _ in answers]).mean(0)
        else:
            known = [answer.new_ones(len(batch)) if one is None else one.float() for answer, one in answers]
            count = torch.stack(known).sum(0)  # [B]
            weighted = [answer * one[:, None] for (answer, _), one in zip(answers, known, strict=True)]
            soft = torch.stack(weighted).sum(0) / count.clamp(min=1)[:, None]
            taught = (count > 0)[:, None].expand_as(soft)

        def both(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
            from_teachers = self.temperature**2 * loss(logits.float() / self.temperature, soft, taught)
            total = (1 - self.weight) * loss(logits, labels, mask) + self.weight * from_teachers
            if taught is not None:
                rest = ~taught if mask is None else ~taught & (mask > 0)
                total = total + self.weight * loss(logits, labels, rest)
            return total

        return both


@dataclass(frozen=True)
class Mix:
    """Mixup of the videos of a batch (Zhang et al. 2018): λ·x + (1 − λ)·x', with x' another video of the batch.

    Attributes:
        share: λ of each video, float32 `[B]`, drawn from Beta(α, α).
        partner: the row of x', int64 `[B]`: a permutation.
    """

    share: Tensor
    partner: Tensor

    @classmethod
    def draw(cls, size: int, alpha: float, device: torch.device) -> "Mix":
        """The mixing of `size` videos."""
        concentration = torch.full((size,), alpha, dtype=torch.float, device=device)
        beta = Beta(concentration, concentration, validate_args=False)  # validating would force a sync
        return cls(beta.sample(), torch.randperm(size, device=device))

    def __call__(self, x: Tensor) -> Tensor:
        """Mix the rows of a float tensor `[B, ...]`."""
        share = self.share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return x[self.partner].lerp(x, share)

    def inputs(self, inputs: "Inputs") -> "Inputs":
        """Mix what a network reads.

        Frames are mixed one by one, as waveforms are in audio tagging: the shorter video counts as zeros past its
        end, and the result is as long as the longer one. The video vector is the mix of the two videos' vectors.
        """
        video, frames, num_frames = inputs
        return (
            None if video is None else self(video),
            None if frames is None else self(frames),
            torch.maximum(num_frames, num_frames[self.partner]),
        )


def drop_streams(inputs: "Inputs", feature_sizes: Mapping[str, int], probability: float) -> "Inputs":
    """Replace each feature of a video by zeros with some probability, but never all features of a video.

    A video whose features would all go keeps one of them, any with equal probability. What is kept is not scaled, as
    in ModDrop (Neverova et al. 2016): evaluation sees all streams, each at the magnitude it was trained at.
    """
    video, frames, num_frames = inputs
    draws = torch.rand(len(num_frames), len(feature_sizes), device=num_frames.device)
    stays = (draws >= probability).scatter(1, draws.argmax(dim=1, keepdim=True), True)  # [B, F]
    columns = zip(stays.unbind(1), feature_sizes.values(), strict=True)
    kept = torch.cat([column[:, None].expand(-1, size) for column, size in columns], dim=1)  # [B, D]
    return (
        None if video is None else video.where(kept, 0),
        None if frames is None else frames.where(kept[:, None], 0),
        num_frames,
    )


def subsample(batch: Batch, count: int) -> Batch:
    """At most `count` random frames of each video, without replacement, in their order in time.

    Args:
        batch: of frames or segments, on the CPU.
    """
    if batch.longest <= count:
        return batch
    num_frames = batch.num_frames.clamp(max=count)
    chosen = _random_frames(batch.num_frames, num_frames)
    return replace(batch, features=_frames(batch, chosen), num_frames=num_frames, longest=count)


def splice(batch: Batch, probability: float) -> Batch:
    """Replace half of the frames of some videos by half of those of another video of the batch; labels are of both.

    Such a video has ⌊n'/2⌋ random frames of the other, then ⌈n/2⌉ of its own, each in their order in time, and an id
    made of both, which no stored prediction has. So a network learns to find what only some of the frames show.

    Args:
        batch: of frames, on the CPU. Without labels it stays as it is.
        probability: of replacing half of a video; none by a video of one frame.
    """
    size, label_index = len(batch), batch.label_index
    if label_index is None:
        return batch
    partner = torch.randperm(size)
    half = batch.num_frames // 2
    spliced = (torch.rand(size) < probability) & (partner != torch.arange(size)) & (half[partner] > 0)
    source = partner.argsort()  # the video that gets frames of video i
    given = half.where(spliced[source], 0)
    kept = batch.num_frames - half.where(spliced, 0)
    chosen = torch.cat([_random_frames(batch.num_frames, count) for count in (given, kept)])
    rows = torch.cat([source.repeat_interleave(given), torch.arange(size).repeat_interleave(kept)])
    from_partner = torch.stack([source[label_index[:, 0]], label_index[:, 1]], dim=1)
    from_partner = from_partner[spliced[from_partner[:, 0]]]
    pairs = zip(batch.ids, partner.tolist(), spliced.tolist(), strict=True)
    return replace(
        batch,
        ids=[f"{name}+{batch.ids[other]}" if both else name for name, other, both in pairs],
        features=_frames(batch, chosen[rows.argsort(stable=True)]),
        num_frames=kept + given[partner],
        longest=-1,  # computed there
        label_index=torch.unique(torch.cat([label_index, from_partner]), dim=0),
    )


def _random_frames(num_frames: Tensor, counts: Tensor) -> Tensor:
    """Positions among the frames of all videos of `counts` random ones of each video, int64, ascending."""
    rows = torch.repeat_interleave(num_frames)  # [N]
    number = torch.arange(len(rows))
    draws = (torch.rand(len(rows)) * 2**24).long()  # exact: `rand` draws multiples of 2⁻²⁴
    # One number of video, draw, and frame: NumPy sorts numbers several times as fast as torch sorts by keys.
    bits = len(rows).bit_length()
    keys = ((rows << 24 | draws) << bits | number).numpy()
    keys.sort()
    starts = num_frames.cumsum(0) - num_frames
    first = number - starts[rows] < counts[rows]
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[torch.from_numpy(keys & ((1 << bits) - 1))[first]] = True
    return chosen.nonzero().flatten()


def _frames(batch: Batch, positions: Tensor) -> Tensor:
    """These of the batch's frames, `[n, D]`, page-locked if the batch is: else its copy to a GPU would not be async."""
    features = batch.features
    taken = features.new_empty((len(positions), features.shape[1]), pin_memory=features.is_pinned())
    # A fifth of the time of `features[positions]`.
    return torch.index_select(features, 0, positions, out=taken)
