"""VGGish, from a patch of a log mel spectrogram to its 128 embedding values.

Source: vggish_slim.py of tensorflow/models, research/audioset. Parameters have the names of torchvggish's state dict.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yt8m.video.sound import BANDS, SPECTRA

CHANNELS = 128  # of the output


class VGGish(nn.Module):
    """The network up to `fc2`, before its ReLU.

    Args:
        width: multiplies all channels but the output's; 1 is the published network, less is for tests.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.channels = CHANNELS
        layers: list[nn.Module] = []
        inputs = 1
        for group in ((64,), (128,), (256, 256), (512, 512)):
            for outputs in (int(channels * width) for channels in group):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        n = int(4096 * width)
        self.embeddings = nn.Sequential(
            nn.Linear(inputs * (SPECTRA // 16) * (BANDS // 16), n),
            nn.ReLU(inplace=True),
            nn.Linear(n, n),
            nn.ReLU(inplace=True),
            nn.Linear(n, CHANNELS),
        )

    def forward(self, examples: Tensor) -> Tensor:
        """Embeddings, float32 `[B, 128]`.

        Args:
            examples: float32 `[B, 96, 64]`, from `yt8m.video.sound.log_mel`.
        """
        x = self.features(examples[:, None])  # [B, 512, 6, 4]
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as TensorFlow flattens
        return torch.as_tensor(self.embeddings(x))

    @staticmethod
    def width_of(state: Mapping[str, Tensor]) -> float:
        """The width of the network that a state dict belongs to. Raises KeyError."""
        return state["features.0.weight"].shape[0] / 64
