"""The study's Keras network on frames: residual LSTM blocks that alternate in direction."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.dense import mlp
from yt8m.layers.keras import KerasLSTM, init_as_keras
from yt8m.layers.linear import Linear
from yt8m.layers.masks import max_over_valid
from yt8m.layers.widths import scaled, whole


class KerasBiLSTM(nn.Module):
    """Residual blocks of a dense layer and an LSTM, alternately forward and backward.

    ```
    frames [B, T, 1152] → [Dense 2304, ReLU → LSTM 2304 → add the block's Dense output] × 3
        → Dense 2304, ReLU → LSTM 2304 → max over valid frames → Dense 2048, ReLU → Dense C
    ```

    A backward LSTM of Keras returns its outputs in reversed time order, and the study adds them as they come: the last
    valid frame's output to the first frame's Dense output.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        hidden_size: width of every block's Dense and LSTM.
        num_blocks: number of blocks, including the last, which adds nothing.
        embedding_size: width of the dense layer before the classifier.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        width: float = 1,
        hidden_size: int = 2304,
        num_blocks: int = 4,
        embedding_size: int = 2048,
    ):
        super().__init__()
        hidden_size = scaled(hidden_size, width, "hidden_size")
        embedding_size = scaled(embedding_size, width, "embedding_size")
        sizes = [sum(feature_sizes.values())] + [hidden_size] * (whole(num_blocks, "num_blocks") - 1)
        self.dense = nn.ModuleList(mlp(size, hidden_size) for size in sizes)
        self.lstm = nn.ModuleList(
            KerasLSTM(hidden_size, hidden_size, go_backwards=block % 2 == 1) for block in range(num_blocks)
        )
        self.embedding = mlp(hidden_size, embedding_size)
        self.classifier = Linear(embedding_size, num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        x = frames
        for dense, lstm in zip(self.dense[:-1], self.lstm[:-1], strict=True):
            x = dense(x)
            x = x + lstm(x, num_frames)  # [B, T, hidden_size]
        x = max_over_valid(self.lstm[-1](self.dense[-1](x), num_frames), num_frames)  # [B, hidden_size]
        logits: Tensor = self.classifier(self.embedding(x))  # [B, C]
        return logits
