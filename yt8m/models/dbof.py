"""Deep bag of frames: a wide projection of each frame, its maximum over the video, a mixture of experts."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.arguments import choice
from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.masks import max_over_valid
from yt8m.layers.moe import MoE
from yt8m.layers.sampling import SampleFrames
from yt8m.layers.widths import scaled

ACTIVATIONS = {"relu6": F.relu6, "sigmoid": F.sigmoid}


class DBoF(nn.Module):
    """Deep bag of frames: every frame projected, the maximum over the frames, a mixture of experts.

    ```
    frames [B, T, 1152] → 30 random frames in training → BN → Dense 8192, BN, ReLU6 → max over valid frames
        → Dense 1024, BN, ReLU6 → mixture of 2 experts per class, C
    ```

    The dense layers have no bias. The first starter code uses ReLU6; the last one's flag has sigmoid as its default.

    Reported: mAP 26.9, Hit@1 62.7 on the 2016 data, rgb alone (Abu-El-Haija et al. 2016, arXiv 1609.08675).

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`).
        cluster_size: width of the projection that is pooled.
        hidden_size: width of the dense layer after the pooling.
        activation: what follows both, `relu6` or `sigmoid`.
        num_experts: experts per class.
        sample_frames: random frames per video in training, drawn with replacement; null keeps all.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        cluster_size: int = 8192,
        hidden_size: int = 1024,
        activation: str = "relu6",
        num_experts: int = 2,
        sample_frames: int | None = 30,
    ):
        super().__init__()
        cluster_size = scaled(cluster_size, width, "cluster_size")
        hidden_size = scaled(hidden_size, width, "hidden_size")
        input_size = sum(feature_sizes.values())
        self.activation = ACTIVATIONS[choice(activation, "activation", tuple(ACTIVATIONS))]
        self.sample = SampleFrames(sample_frames)
        self.norm = BatchNorm(input_size)
        self.projection = nn.Linear(input_size, cluster_size, bias=False)
        self.projection_norm = BatchNorm(cluster_size)
        self.hidden = nn.Linear(cluster_size, hidden_size, bias=False)
        self.hidden_norm = BatchNorm(hidden_size)
        self.classifier = MoE(hidden_size, num_classes, num_experts)
        for layer in (self.projection, self.hidden):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        frames, num_frames = self.sample(frames, num_frames)
        x = self.projection(self.norm(frames, num_frames))
        x = self.activation(self.projection_norm(x, num_frames))  # [B, T, cluster_size]
        x = self.hidden(max_over_valid(x, num_frames))
        logits: Tensor = self.classifier(self.activation(self.hidden_norm(x)))  # [B, C]
        return logits
