"""The study's Keras network on frames: a forward and a backward LSTM per feature, fused by dense layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.dense import mlp
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.keras import KerasLSTM, init_as_keras
from yt8m.layers.linear import Linear
from yt8m.layers.masks import max_over_valid
from yt8m.layers.widths import scaled, scaled_all

HIDDEN_SIZES = {"rgb": 1024, "audio": 128, "default": 256}


class Stream(nn.Module):
    """One feature, `[B, T, D_f] -> [B, embedding_size]`."""

    def __init__(
        self, feature_size: int, projection_size: int, hidden_size: int, dropout: float, embedding_size: int
    ):
        super().__init__()
        self.projection = mlp(feature_size, projection_size)
        self.ahead = KerasLSTM(projection_size, hidden_size)
        self.back = KerasLSTM(hidden_size, hidden_size, go_backwards=True)
        self.dropout = nn.Dropout(dropout)
        self.embedding = mlp(hidden_size, embedding_size)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.back(self.ahead(self.projection(x), num_frames), num_frames)  # [B, T, hidden_size]
        return max_over_valid(self.embedding(self.dropout(x)), num_frames)


class KerasStreamLSTM(nn.Module):
    """A forward and a backward LSTM per feature, each reduced to 16 numbers, then fused.

    ```
    frames, per feature [B, T, D_f] → Dense 512, ReLU → LSTM forward → LSTM backward (rgb 1024, audio 128)
        → Dropout → Dense 16, ReLU → max over valid frames
    concat [B, 32] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        projection_size: width of the dense layer before the LSTMs.
        hidden_sizes: hidden units of both LSTMs, by feature.
        dropout: probability of dropping one of the second LSTM's outputs in training.
        embedding_size: width at which each stream enters the fusion.
        fusion_sizes: widths of the dense layers on the concatenated streams.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        dropout: float = 0.5,
        embedding_size: int = 16,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        projection_size = scaled(projection_size, width, "projection_size")
        embedding_size = scaled(embedding_size, width, "embedding_size")
        fusion_sizes = scaled_all(fusion_sizes, width, "fusion_sizes")
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.streams = PerFeature(
            feature_sizes,
            (
                Stream(
                    size, projection_size, scaled(hidden_of, width, "hidden_sizes"), dropout, embedding_size
                )
                for size, hidden_of in zip(feature_sizes.values(), hidden, strict=True)
            ),
        )
        self.fusion = mlp(len(feature_sizes) * embedding_size, *fusion_sizes)
        self.classifier = Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        embeddings = torch.cat(self.streams(frames, num_frames), dim=-1)
        logits: Tensor = self.classifier(self.fusion(embeddings))  # [B, C]
        return logits
