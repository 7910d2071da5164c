"""The study's PyTorch network on frames: one bidirectional LSTM per feature, fused by dense layers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.recurrent import BidirectionalLSTM, match_features, mlp, split_features

HIDDEN_SIZES = {"rgb": 2096, "audio": 300}


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
        # One ReLU carries the whole stream. With PyTorch's initial bias almost half of all streams start silent
        # for every video: no signal, no gradient, no way back. A bias of 1 outweighs the LSTM's outputs at first.
        nn.init.ones_(self.bottleneck[0].bias)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.lstm(self.projection(x), num_frames)  # [B, 2 hidden_size], at the last valid frame
        return self.embedding(self.bottleneck(self.dropout(x)))


class StreamLSTM(nn.Module):
    """A bidirectional LSTM per feature; 203,535,232 parameters with 3,846 classes.

    ```
    frames, per feature [B, T, D_f] → Dense 512, ReLU → 2-layer bidirectional LSTM (rgb 2096, audio 300)
        → last valid frame → Dropout → Dense 1, ReLU → Dense 16, ReLU
    concat [B, 32] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        projection_size: width of the dense layer before each LSTM.
        hidden_sizes: hidden units of the LSTM per direction, by feature or by a token of its name; entries
            replace or join the study's.
        num_layers: layers of each LSTM.
        dropout: share of the LSTM's outputs dropped in training.
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
        num_layers: int = 2,
        dropout: float = 0.5,
        embedding_size: int = 16,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.streams = nn.ModuleDict(
            {
                name: Stream(size, projection_size, hidden[name], num_layers, dropout, embedding_size)
                for name, size in feature_sizes.items()
            }
        )
        self.fusion = mlp(len(feature_sizes) * embedding_size, *fusion_sizes)
        self.classifier = nn.Linear(fusion_sizes[-1], num_classes)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        frames_of = split_features(frames, self.feature_sizes)
        embeddings = [stream(frames_of[name], num_frames) for name, stream in self.streams.items()]
        return self.classifier(self.fusion(torch.cat(embeddings, dim=-1)))  # [B, C]
