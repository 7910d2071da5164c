"""Trained random Fourier features of every frame, and an attention over the frames for each class."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yt8m.layers.arguments import number
from yt8m.layers.fourier import FEATURE_SCALES, ScaledFeatures, cosines, start_as_kernel_machine
from yt8m.layers.linear import Linear
from yt8m.layers.masks import mean_over_valid, valid_frames
from yt8m.layers.precision import precise
from yt8m.layers.widths import scaled


class FourierAttention(nn.Module):
    """A kernel machine on every frame, whose logits each class weighs by an attention of its own.

    ```
    frames [B, T, D] + their mean → per feature: column j times j^-0.25, scaled to length √D, times its scale
        → Dropout → √2 · cos(Dense 1024) → Dropout → logits z [B, T, C] and, from another Dense C, scores s [B, T, C]
        → log Σ_t a_t · exp(z_t), a = softmax of s over the frames
    ```

    The cosine layer is that of `FourierNet`. What only some frames show counts in full for a class that attends to
    them, where the mean of all frames would dilute it; the mean that is added to each frame tells what is around it.

    Source of an attention per class: Kong et al. 2018, "Audio Set classification with attention model: a probabilistic
    perspective", arXiv 1711.00927, which weighs probabilities; here it weighs odds.

    It keeps some tensors `[B, T, C]`, of 4.6 MB a video at 300 frames and 3,862 classes.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: number of Fourier features of a frame.
        bandwidth: the cosine layer's first weights have the standard deviation bandwidth / √D.
        feature_scales: length of each feature's vector over √D, by feature.
        decay: column j of a feature, counted from 1, is multiplied by j^-decay.
        input_dropout: probability of dropping a column of the scaled input in training.
        dropout: probability of dropping a Fourier feature in training.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        hidden_size: int = 1024,
        bandwidth: float = 0.7,
        feature_scales: Mapping[str, float] = FEATURE_SCALES,
        decay: float = 0.25,
        input_dropout: float = 0.1,
        dropout: float = 0.4,
    ):
        super().__init__()
        self.scaled_features = ScaledFeatures(feature_sizes, feature_scales, decay)
        hidden_size = scaled(hidden_size, width, "hidden_size")
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.hidden = nn.Linear(sum(feature_sizes.values()), hidden_size)
        self.classifier = Linear(hidden_size, num_classes)
        self.attention = Linear(hidden_size, num_classes, bias=False)  # a bias would not change a softmax
        start_as_kernel_machine(self.hidden, self.classifier, number(bandwidth, "bandwidth", 1e-6, 1e6))
        nn.init.normal_(self.attention.weight, std=0.01 / math.sqrt(hidden_size))  # the mean, at first

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        valid = valid_frames(frames, num_frames)[..., None]  # [B, T, 1]
        x = frames.masked_fill(~valid, 0) + mean_over_valid(frames, num_frames)[:, None]
        x = self.scaled_features(x)
        x = self.dropout(cosines(self.hidden(self.input_dropout(x))))
        scores = precise(self.attention(x)).masked_fill(~valid, -torch.inf)
        logits: Tensor = (precise(self.classifier(x)) + scores.log_softmax(dim=1)).logsumexp(dim=1)
        return logits
