"""Gates that reweight a vector's units by the vector itself."""

from torch import Tensor, nn

from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.widths import whole


class ContextGate(nn.Module):
    """x · σ(BN(W x)), `[B, D] -> [B, D]`; D² + 2D parameters.

    Source: Miech et al. 2017, arXiv 1706.06905, section 3.3.
    """

    def __init__(self, size: int):
        super().__init__()
        self.weights = nn.Linear(size, size, bias=False)
        self.norm = BatchNorm(size)
        nn.init.normal_(self.weights.weight, std=size**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.norm(self.weights(x)).sigmoid()
        return gated


class SEGate(nn.Module):
    """Squeeze and excitation, x · σ(W₂ ReLU(BN(W₁ x))), `[B, D] -> [B, D]`, through D // reduction units.

    Source: the SE context gate of Lin et al. 2018, arXiv 1811.05014.

    Args:
        size: D.
        reduction: how many times fewer units the bottleneck has; it keeps one at least.
    """

    def __init__(self, size: int, reduction: int):
        super().__init__()
        bottleneck = max(size // whole(reduction, "reduction", 10**7), 1)
        self.squeeze = nn.Linear(size, bottleneck, bias=False)
        self.norm = BatchNorm(bottleneck)
        self.excite = nn.Linear(bottleneck, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.excite(self.norm(self.squeeze(x)).relu()).sigmoid()
        return gated
