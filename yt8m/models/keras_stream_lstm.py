"""The study's Keras network on frames: a forward and a backward LSTM per feature, fused by dense layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.recurrent import (
    KerasLSTM,
    init_as_keras,
    match_features,
    max_over_valid,
    mlp,
    split_features,
)

HIDDEN_SIZES = {"rgb": 1024, "audio": 128}


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
    """Two LSTMs per feature; 65,343,270 parameters with 3,846 classes.

    ```
    frames, per feature [B, T, D_f] → Dense 512, ReLU → LSTM forward → LSTM backward (rgb 1024, audio 128)
        → Dropout → Dense 16, ReLU → max over valid frames
    concat [B, 32] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        projection_size: width of the dense layer before the LSTMs.
        hidden_sizes: hidden units of both LSTMs, by feature or by a token of its name; entries replace or
            join the study's.
        dropout: share of the second LSTM's outputs dropped in training.
        embedding_size: width in which each stream enters the fusion.
        fusion_sizes: widths of the dense layers on the concatenated streams.
    """

    needs_frames = True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        dropout: float = 0.5,
        embedding_size: int = 16,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.streams = nn.ModuleDict(
            {
                name: Stream(size, projection_size, hidden[name], dropout, embedding_size)
                for name, size in feature_sizes.items()
            }
        )
        self.fusion = mlp(len(feature_sizes) * embedding_size, *fusion_sizes)
        self.classifier = nn.Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        frames_of = split_features(frames, self.feature_sizes)
        embeddings = [stream(frames_of[name], num_frames) for name, stream in self.streams.items()]
        return self.classifier(self.fusion(torch.cat(embeddings, dim=-1)))  # [B, C]
