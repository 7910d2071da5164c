"""The study's PyTorch network on both inputs: dense branches on the video, LSTM streams on the frames."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.dense import mlp
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.linear import Linear
from yt8m.layers.recurrent import BidirectionalLSTM
from yt8m.layers.widths import scaled, scaled_all, whole

MLP_SIZES = {"rgb": (4096, 8192, 4096), "audio": (512, 1024, 4096), "default": (1024, 2048, 4096)}
HIDDEN_SIZES = {"rgb": 2096, "audio": 300, "default": 512}


class Branch(nn.Sequential):
    """The video vector of one feature, `[B, D_f] -> [B, score_size]`."""

    def __init__(self, feature_size: int, mlp_sizes: Sequence[int], score_size: int):
        super().__init__(mlp(feature_size, *mlp_sizes), nn.Linear(mlp_sizes[-1], score_size))


class Stream(nn.Module):
    """The frames of one feature, `[B, T, D_f] -> [B, score_size]`."""

    def __init__(
        self,
        feature_size: int,
        projection_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        score_size: int,
    ):
        super().__init__()
        self.projection = nn.Linear(feature_size, projection_size)
        self.lstm = BidirectionalLSTM(projection_size, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)
        self.scores = mlp(2 * hidden_size, score_size)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.lstm(self.projection(x), num_frames)  # [B, 2 hidden_size], at the last valid frame
        scores: Tensor = self.scores(self.dropout(x.relu()))
        return scores


class NNStreamLSTM(nn.Module):
    """A dense branch and a bidirectional LSTM per feature, each with a score per class, then fused.

    ```
    video, per feature [B, D_f] → Dense 4096 → 8192 → 4096 (audio 512 → 1024 → 4096), ReLU after each
        → Dense C
    frames, per feature [B, T, D_f] → Dense 512 → 2-layer bidirectional LSTM (rgb 2096, audio 300)
        → last valid frame → ReLU → Dropout → Dense C, ReLU
    concat [B, 4C] → Dense C, ReLU → Dense C
    ```

    With `width` below 1, all layers of width C but the last are narrowed like the others.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below, and on C inside the network (see `yt8m.layers.widths.scaled`).
        mlp_sizes: widths of the dense layers on the video, by feature.
        projection_size: width of the dense layer before each LSTM.
        hidden_sizes: hidden units of the LSTM per direction, by feature.
        num_layers: layers of each LSTM.
        dropout: probability of dropping one of the LSTM's outputs in training.
    """

    needs_video, needs_frames = True, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        mlp_sizes: Mapping[str, Sequence[int]] = MLP_SIZES,
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        num_layers: int = 2,
        dropout: float = 0.5,
    ):
        super().__init__()
        projection_size = scaled(projection_size, width, "projection_size")
        scores = scaled(num_classes, width, "num_classes")
        layers = whole(num_layers, "num_layers")
        mlps = match_features(feature_sizes, "mlp_sizes", MLP_SIZES, mlp_sizes)
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.branches = PerFeature(
            feature_sizes,
            (
                Branch(size, scaled_all(mlp_of, width, "mlp_sizes"), scores)
                for size, mlp_of in zip(feature_sizes.values(), mlps, strict=True)
            ),
        )
        self.streams = PerFeature(
            feature_sizes,
            (
                Stream(
                    size, projection_size, scaled(hidden_of, width, "hidden_sizes"), layers, dropout, scores
                )
                for size, hidden_of in zip(feature_sizes.values(), hidden, strict=True)
            ),
        )
        self.fusion = mlp(2 * len(feature_sizes) * scores, scores)
        self.classifier = Linear(scores, num_classes)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        scores = [*self.branches(video), *self.streams(frames, num_frames)]
        logits: Tensor = self.classifier(self.fusion(torch.cat(scores, dim=-1)))  # [B, C]
        return logits
