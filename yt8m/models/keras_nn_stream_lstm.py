"""The study's Keras network on both inputs: dense branches on the video, LSTM streams on the frames."""

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
    """The frames of one feature, `[B, T, D_f] -> [B, C]`."""

    def __init__(
        self,
        feature_size: int,
        projection_size: int,
        hidden_size: int,
        dropout: float,
        embedding_size: int,
        num_classes: int,
    ):
        super().__init__()
        self.projection = nn.Linear(feature_size, projection_size)
        self.ahead = KerasLSTM(projection_size, hidden_size)
        self.back = KerasLSTM(hidden_size, hidden_size, go_backwards=True)
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = mlp(hidden_size, 1)
        self.scores = mlp(1, embedding_size, num_classes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.ahead(self.projection(x).tanh(), num_frames)  # [B, T, hidden_size]
        x = self.bottleneck(self.dropout(self.back(x, num_frames)))  # [B, T, 1]
        return self.scores(max_over_valid(x, num_frames))


class KerasNNStreamLSTM(nn.Module):
    """Four branches, each with a score per class, and a fusion; 429,937,568 parameters with 3,846 classes.

    ```
    video, per feature [B, D_f] → Dense 512 → 1024 → 4096 → 8192 → 4096 → C, ReLU after each
    frames, per feature [B, T, D_f] → Dense 512, tanh → LSTM forward → LSTM backward (rgb 1024, audio 128)
        → Dropout → Dense 1, ReLU → max over valid frames → Dense 8192, ReLU → Dense C, ReLU
    concat [B, 4C] → Dense 8192, ReLU → Dense 4096, ReLU → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        mlp_sizes: widths of the dense layers on the video, before the last of width C.
        projection_size: width of the dense layer before the LSTMs.
        hidden_sizes: hidden units of both LSTMs, by feature or by a token of its name; entries replace or
            join the study's.
        dropout: share of the second LSTM's outputs dropped in training.
        embedding_size: width of the dense layer between a stream's bottleneck and its scores.
        fusion_sizes: widths of the dense layers on the concatenated scores.
    """

    needs_frames = True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        mlp_sizes: Sequence[int] = (512, 1024, 4096, 8192, 4096),
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        dropout: float = 0.5,
        embedding_size: int = 8192,
        fusion_sizes: Sequence[int] = (8192, 4096),
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.branches = nn.ModuleDict(
            {name: mlp(size, *mlp_sizes, num_classes) for name, size in feature_sizes.items()}
        )
        self.streams = nn.ModuleDict(
            {
                name: Stream(size, projection_size, hidden[name], dropout, embedding_size, num_classes)
                for name, size in feature_sizes.items()
            }
        )
        self.fusion = mlp(2 * len(feature_sizes) * num_classes, *fusion_sizes)
        self.classifier = nn.Linear(fusion_sizes[-1], num_classes)
        init_as_keras(self)
        # One ReLU carries a whole stream. With a bias of 0, three streams in ten start silent for most videos,
        # some for every video: no signal, no gradient. A bias of 1 outweighs the LSTM's outputs at first.
        for stream in self.streams.values():
            nn.init.ones_(stream.bottleneck[0].bias)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        video_of, frames_of = (split_features(x, self.feature_sizes) for x in (video, frames))
        scores = [branch(video_of[name]) for name, branch in self.branches.items()]
        scores += [stream(frames_of[name], num_frames) for name, stream in self.streams.items()]
        return self.classifier(self.fusion(torch.cat(scores, dim=-1)))  # [B, C]
