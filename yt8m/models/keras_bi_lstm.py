"""The study's Keras network on frames: residual LSTM blocks that alternate in direction."""

from collections.abc import Mapping

from torch import Tensor, nn

from yt8m.layers.recurrent import KerasLSTM, init_as_keras, max_over_valid, mlp


class KerasBiLSTM(nn.Module):
    """LSTM blocks, alternately forward and backward; 201,095,942 parameters with 3,846 classes.

    ```
    frames [B, T, 1152] → [Dense 2304, ReLU → LSTM 2304 → add the block's Dense output] × 3
        → Dense 2304, ReLU → LSTM 2304 → max over valid frames → Dense 2048, ReLU → Dense C
    ```

    A backward LSTM of Keras returns its outputs in reversed time order, and the addition takes them as they
    come: the last valid frame's output meets the first frame's Dense output.

    Args:
        feature_sizes: width of each feature, in the order in which they lie side by side.
        num_classes: C.
        hidden_size: width of every block's Dense and LSTM.
        num_blocks: blocks, counting the last, which has no addition.
        embedding_size: width of the dense layer before the classifier.
    """

    needs_frames = True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3846,
        hidden_size: int = 2304,
        num_blocks: int = 4,
        embedding_size: int = 2048,
    ):
        super().__init__()
        sizes = [sum(feature_sizes.values())] + [hidden_size] * (num_blocks - 1)
        self.dense = nn.ModuleList(mlp(size, hidden_size) for size in sizes)
        self.lstm = nn.ModuleList(
            KerasLSTM(hidden_size, hidden_size, go_backwards=block % 2 == 1) for block in range(num_blocks)
        )
        self.embedding = mlp(hidden_size, embedding_size)
        self.classifier = nn.Linear(embedding_size, num_classes)
        init_as_keras(self)

    def forward(self, video: Tensor, frames: Tensor, num_frames: Tensor) -> Tensor:
        x = frames
        for dense, lstm in zip(self.dense[:-1], self.lstm[:-1], strict=True):
            x = dense(x)
            x = x + lstm(x, num_frames)  # [B, T, hidden_size]
        x = max_over_valid(self.lstm[-1](self.dense[-1](x), num_frames), num_frames)  # [B, hidden_size]
        return self.classifier(self.embedding(x))  # [B, C]
