"""The study's PyTorch network on frames: one bidirectional LSTM per feature, fused by dense layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.dense import mlp, start_alive
from yt8m.layers.features import PerFeature, match_features
from yt8m.layers.linear import Linear
from yt8m.layers.recurrent import BidirectionalLSTM
from yt8m.layers.widths import scaled, scaled_all, whole

HIDDEN_SIZES = {"rgb": 2096, "audio": 300, "default": 512}


class Stream(nn.Module):
    """One feature, `[B, T, D_f] -> [B, embedding_size]`."""

    def __init__(
        self,
        feature_size: int,
        projection_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        embedding_size: int,
    ):
        super().__init__()
        self.projection = mlp(feature_size, projection_size)
        self.lstm = BidirectionalLSTM(projection_size, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = mlp(2 * hidden_size, 1)
        self.embedding = mlp(1, embedding_size)
        start_alive(self.bottleneck)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.lstm(self.projection(x), num_frames)  # [B, 2 hidden_size], at the last valid frame
        embedding: Tensor = self.embedding(self.bottleneck(self.dropout(x)))
        return embedding


class StreamLSTM(nn.Module):
    """A bidirectional LSTM per feature, each squeezed through one number, then fused.

    ```
    frames, per feature [B, T, D_f] → Dense 512, ReLU → 2-layer bidirectional LSTM (rgb 2096, audio 300)
        → last valid frame → Dropout → Dense 1, ReLU → Dense 16, ReLU
    concat [B, 32] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        projection_size: width of the dense layer before each LSTM.
        hidden_sizes: hidden units of the LSTM per direction, by feature.
        num_layers: layers of each LSTM.
        dropout: probability of dropping one of the LSTM's outputs in training.
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
        num_layers: int = 2,
        dropout: float = 0.5,
        embedding_size: int = 16,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        projection_size = scaled(projection_size, width, "projection_size")
        embedding_size = scaled(embedding_size, width, "embedding_size")
        fusion_sizes = scaled_all(fusion_sizes, width, "fusion_sizes")
        layers = whole(num_layers, "num_layers")
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.streams = PerFeature(
            feature_sizes,
            (
                Stream(
                    size,
                    projection_size,
                    scaled(hidden_size, width, "hidden_sizes"),
                    layers,
                    dropout,
                    embedding_size,
                )
                for size, hidden_size in zip(feature_sizes.values(), hidden, strict=True)
            ),
        )
        self.fusion = mlp(len(feature_sizes) * embedding_size, *fusion_sizes)
        self.classifier = Linear(fusion_sizes[-1], num_classes)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        embeddings = torch.cat(self.streams(frames, num_frames), dim=-1)
        logits: Tensor = self.classifier(self.fusion(embeddings))  # [B, C]
        return logits
