"""A mixture of NeXtVLADs, trained together and distilled into each of them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from yt8m.layers.arguments import number
from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.masks import valid_frames
from yt8m.layers.precision import precise
from yt8m.layers.widths import whole
from yt8m.models.nextvlad import GROUPS, NeXtVLAD

NUM_CLUSTERS = {"rgb": 112, "audio": 56, "default": 56}


class MixNeXtVLAD(nn.Module):
    """A mixture of NeXtVLADs with a gate, trained together and distilled into each of them.

    ```
    frames [B, T, 1152] → 3 × nextvlad (112 and 56 clusters, reduction 16) → logits [B, 3, C]
    mean over valid frames [B, 1152] → BN → Dense 3 → softmax [B, 3]
    Σ over branches of weight · logits, C
    ```

    The loss in training is that of the mixture, plus that of every branch, plus `distill_weight` times the branches'
    Kullback-Leibler divergence from the mixture: Σ over branches of Σ_c p_c · log(p_c / q_c), the mean over videos,
    where p and q are softmaxes over the classes of the mixture's and the branch's logits, divided by `temperature`.
    As in the authors' code, its gradient reaches the mixture, too. The published weight is the temperature squared.

    Reported on the 2018 data (Lin et al. 2018, arXiv 1811.05014): GAP 0.88722 on the private test videos; 0.8788 on
    their validation videos, where the same mixture without distillation had 0.8798 and a single NeXtVLAD 0.8723.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        num_classes: C.
        width: factor on every width below (see `yt8m.layers.widths.scaled`), and on the expanded frame; 8 clusters
            remain.
        num_branches: NeXtVLADs in the mixture.
        temperature: what logits are divided by before they are compared.
        distill_weight: factor on the divergence; 0 switches distillation off.
        expansion: how many times wider than its feature the expanded frame is; rounded up to a multiple of the groups.
        groups: groups of the expanded frame, by feature.
        num_clusters: clusters, by feature.
        dropout: probability of dropping one of the pooled values in training.
        hidden_size: width of the dense layer.
        reduction: how many times narrower than the dense layer the SE gate is inside.
        sample_frames: random frames per video and branch in training, drawn with replacement; null keeps all.
    """

    needs_video, needs_frames = False, True

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int] = {"rgb": 1024, "audio": 128},
        num_classes: int = 3862,
        width: float = 1,
        num_branches: int = 3,
        temperature: float = 3.0,
        distill_weight: float = 9.0,
        expansion: int = 2,
        groups: Mapping[str, int] = GROUPS,
        num_clusters: Mapping[str, int] = NUM_CLUSTERS,
        dropout: float = 0.5,
        hidden_size: int = 2048,
        reduction: int = 16,
        sample_frames: int | None = None,
    ):
        super().__init__()
        self.temperature = number(temperature, "temperature", 1e-3, 1e3)
        self.distill_weight = number(distill_weight, "distill_weight", 0, 1e6)
        self.branches = nn.ModuleList(
            NeXtVLAD(
                feature_sizes=feature_sizes,
                num_classes=num_classes,
                width=width,
                expansion=expansion,
                groups=groups,
                num_clusters=num_clusters,
                dropout=dropout,
                hidden_size=hidden_size,
                reduction=reduction,
                sample_frames=sample_frames,
            )
            for _ in range(whole(num_branches, "num_branches"))
        )
        self.norm = BatchNorm(sum(feature_sizes.values()))
        self.gate = nn.Linear(sum(feature_sizes.values()), num_branches)
        nn.init.kaiming_normal_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, video: Tensor | None, frames: Tensor, num_frames: Tensor) -> Tensor:
        return self.mixture(frames, num_frames, self.branch_logits(frames, num_frames))

    def branch_logits(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """Logits of every branch, `[B, branches, C]`."""
        return torch.stack([branch(None, frames, num_frames) for branch in self.branches], dim=1)

    def mixture(self, frames: Tensor, num_frames: Tensor, logits: Tensor) -> Tensor:
        """The branches' logits `[B, branches, C]`, weighed by the gate, `[B, C]`."""
        valid = valid_frames(frames, num_frames)[..., None]
        mean = frames.where(valid, 0).sum(1) / num_frames[:, None]
        weights: Tensor = self.gate(self.norm(mean)).softmax(-1)  # [B, branches]
        return (weights[..., None] * precise(logits)).sum(1)

    def training_loss(
        self,
        inputs: tuple[Tensor | None, Tensor, Tensor],
        labels: Tensor,
        mask: Tensor | None,
        loss: Callable[..., Tensor],
    ) -> Tensor:
        """Scalar: the loss of the mixture and of every branch, and the branches' divergence from the mixture.

        Arguments as `yt8m.module.VideoClassifier` describes them.
        """
        _, frames, num_frames = inputs
        branches = self.branch_logits(frames, num_frames)
        mixture = self.mixture(frames, num_frames, branches)
        total = loss(mixture, labels, mask)
        total = total + torch.stack([loss(branch, labels, mask) for branch in branches.unbind(1)]).sum()
        if self.distill_weight:
            log_p = (mixture / self.temperature).log_softmax(-1)[:, None]  # [B, 1, C]
            log_q = (precise(branches) / self.temperature).log_softmax(-1)  # [B, branches, C]
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1)  # [B, branches]
            total = total + self.distill_weight * divergence.sum(1).mean()
        return total
