"""The study's Keras network on both inputs: dense branches on the video, LSTM streams on the frames."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.dense import mlp, start_alive
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.keras import KerasLSTM, init_as_keras
from yt8m.layers.linear import Linear
from yt8m.layers.masks import max_over_valid
from yt8m.layers.widths import scaled, scaled_all

HIDDEN_SIZES = {"rgb": 1024, "audio": 128, "default": 256}


class Stream(nn.Module):
    """The frames of one feature, `[B, T, D_f] -> [B, score_size]`."""

    def __init__(
        self,
        feature_size: int,
        projection_size: int,
        hidden_size: int,
        dropout: float,
        embedding_size: int,
        score_size: int,
    ):
        super().__init__()
        self.projection = nn.Linear(feature_size, projection_size)
        self.ahead = KerasLSTM(projection_size, hidden_size)
        self.back = KerasLSTM(hidden_size, hidden_size, go_backwards=True)
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = mlp(hidden_size, 1)
        self.scores = mlp(1, embedding_size, score_size)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.ahead(self.projection(x).tanh(), num_frames)  # [B, T, hidden_size]
        x = self.bottleneck(self.dropout(self.back(x, num_frames)))  # [B, T, 1]
        scores: Tensor = self.scores(max_over_valid(x, num_frames))
        return scores


class KerasNNStreamLSTM(nn.Module):
    """A dense branch and two LSTMs per feature, each with a score per class, then fused.

    ```
    video, per feature [B, D_f] → Dense 512 → 1024 → 4096 → 8192 → 4096 → C, ReLU after each
    frames, per feature [B, T, D_f] → Dense 512, tanh → LSTM forward → LSTM backward (rgb 1024, audio 128)
        → Dropout → Dense 1, ReLU → max over valid frames → Dense 8192, ReLU → Dense C, ReLU
    concat [B, 4C] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    With `width` below 1, all layers of width C but the last are narrowed like the others.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below, and on C inside the network (see `yt8m.layers.widths.scaled`).
        mlp_sizes: widths of the dense layers on the video, before the last of width C.
        projection_size: width of the dense layer before the LSTMs.
        hidden_sizes: hidden units of both LSTMs, by feature.
        dropout: probability of dropping one of the second LSTM's outputs in training.
        embedding_size: width of the dense layer between a stream's bottleneck and its scores.
        fusion_sizes: widths of the dense layers on the concatenated scores.
    """

    needs_video, needs_frames = True, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        mlp_sizes: Sequence[int] = (512, 1024, 4096, 8192, 4096),
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        dropout: float = 0.5,
        embedding_size: int = 8192,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        scores = scaled(num_classes, width, "num_classes")
        mlp_sizes = scaled_all(mlp_sizes, width, "mlp_sizes")
        projection_size = scaled(projection_size, width, "projection_size")
        embedding_size = scaled(embedding_size, width, "embedding_size")
        fusion_sizes = scaled_all(fusion_sizes, width, "fusion_sizes")
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.branches = PerFeature(
            feature_sizes, (mlp(size, *mlp_sizes, scores) for size in feature_sizes.values())
        )
        streams = [
            Stream(
                size,
                projection_size,
                scaled(hidden_of, width, "hidden_sizes"),
                dropout,
                embedding_size,
                scores,
            )
            for size, hidden_of in zip(feature_sizes.values(), hidden, strict=True)
        ]
        self.streams = PerFeature(feature_sizes, streams)
        self.fusion = mlp(2 * len(feature_sizes) * scores, *fusion_sizes)
        self.classifier = Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)
        for stream in streams:
            start_alive(stream.bottleneck)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        scores = [*self.branches(video), *self.streams(frames, num_frames)]
        logits: Tensor = self.classifier(self.fusion(torch.cat(scores, dim=-1)))  # [B, C]
        return logits
