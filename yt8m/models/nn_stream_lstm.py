"""The study's PyTorch network on both inputs: dense branches on the video, LSTM streams on the frames."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yt8m.layers.recurrent import BidirectionalLSTM, match_features, mlp, split_features

MLP_SIZES = {"rgb": (4096, 8192, 4096), "audio": (512, 1024, 4096)}
HIDDEN_SIZES = {"rgb": 2096, "audio": 300}


class Stream(nn.Module):
    """The frames of one feature, `[B, T, D_f] -> [B, C]`."""

    def __init__(
        self,
        feature_size: int,
        projection_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        num_classes: int,
    ):
        super().__init__()
        self.projection = nn.Linear(feature_size, projection_size)
        self.lstm = BidirectionalLSTM(projection_size, hidden_size, num_layers)
        self.dropout = nn.Dropout(dropout)
        self.scores = mlp(2 * hidden_size, num_classes)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        x = self.lstm(self.projection(x), num_frames)  # [B, 2 hidden_size], at the last valid frame
        return self.scores(self.dropout(x.relu()))


class NNStreamLSTM(nn.Module):
    """Four branches, each with a score per class, and a fusion; 353,971,880 parameters with 3,846 classes.

    ```
    video, per feature [B, D_f] → Dense 4096 → 8192 → 4096 (audio 512 → 1024 → 4096), ReLU after each
        → Dense C
    frames, per feature [B, T, D_f] → Dense 512 → 2-layer bidirectional LSTM (rgb 2096, audio 300)
        → last valid frame → ReLU → Dropout → Dense C, ReLU
    concat [B, 4C] → Dense C, ReLU → Dense C
    ```

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        mlp_sizes: widths of the dense layers on the video, by feature or by a token of its name; entries
            replace or join the study's.
        projection_size: width of the dense layer before each LSTM.
        hidden_sizes: hidden units of the LSTM per direction, by feature or token like `mlp_sizes`.
        num_layers: layers of each LSTM.
        dropout: share of the LSTM's outputs dropped in training.
    """

    needs_frames = True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        mlp_sizes: Mapping[str, Sequence[int]] = MLP_SIZES,
        projection_size: int = 512,
        hidden_sizes: Mapping[str, int] = HIDDEN_SIZES,
        num_layers: int = 2,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.feature_sizes = dict(feature_sizes)
        widths = match_features(feature_sizes, "mlp_sizes", MLP_SIZES, mlp_sizes)
        hidden = match_features(feature_sizes, "hidden_sizes", HIDDEN_SIZES, hidden_sizes)
        self.branches = nn.ModuleDict(
            {
                name: nn.Sequential(mlp(size, *widths[name]), nn.Linear(widths[name][-1], num_classes))
                for name, size in feature_sizes.items()
            }
        )
        self.streams = nn.ModuleDict(
            {
                name: Stream(size, projection_size, hidden[name], num_layers, dropout, num_classes)
                for name, size in feature_sizes.items()
            }
        )
        self.fusion = mlp(2 * len(feature_sizes) * num_classes, num_classes)
        self.classifier = nn.Linear(num_classes, num_classes)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        video_of, frames_of = (split_features(x, self.feature_sizes) for x in (video, frames))
        scores = [branch(video_of[name]) for name, branch in self.branches.items()]
        scores += [stream(frames_of[name], num_frames) for name, stream in self.streams.items()]
        return self.classifier(self.fusion(torch.cat(scores, dim=-1)))  # [B, C]
