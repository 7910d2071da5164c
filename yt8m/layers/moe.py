"""The mixture-of-experts classifier and WILLOW's gate on its probabilities, both on logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.linear import Linear
from yt8m.layers.precision import precise
from yt8m.layers.widths import whole


class MoE(nn.Module):
    """A mixture of logistic experts per class, `[B, D] -> [B, C]`, returned as logits.

    The probability of class c is Σ_m gate_cm · σ(expert_cm). The gates are a softmax over M + 1 scores without bias;
    the last one belongs to an expert that always says 0. The M experts have a bias. Logits are computed in log space,
    in float32 under autocast: log p and log(1 − p) are sums of positive terms, so neither cancels.

    Source: `MoeModel` of the YouTube-8M starter code (Abu-El-Haija et al. 2016, arXiv 1609.08675).

    Args:
        input_size: D.
        num_classes: C.
        num_experts: M.
    """

    def __init__(self, input_size: int, num_classes: int, num_experts: int = 2):
        super().__init__()
        self.num_classes, self.num_experts = num_classes, whole(num_experts, "num_experts")
        self.gates = Linear(input_size, num_classes * (num_experts + 1), bias=False)
        self.experts = Linear(input_size, num_classes * num_experts)
        nn.init.xavier_uniform_(self.gates.weight)
        nn.init.xavier_uniform_(self.experts.weight)
        nn.init.zeros_(self.experts.bias)

    def forward(self, x: Tensor) -> Tensor:
        gates = precise(self.gates(x)).view(-1, self.num_classes, self.num_experts + 1).log_softmax(-1)
        experts = precise(self.experts(x)).view(-1, self.num_classes, self.num_experts)  # [B, C, M]
        true = gates[..., :-1] + F.logsigmoid(experts)
        false = torch.cat([gates[..., :-1] + F.logsigmoid(-experts), gates[..., -1:]], dim=-1)
        logits: Tensor = true.logsumexp(-1) - false.logsumexp(-1)
        return logits


class ProbabilityGate(nn.Module):
    """Classes that vouch for each other, `[B, C] -> [B, C]`: p · σ(BN(W p)), from logits to logits.

    Parameters: C² + 2C.

    Source: the context gate on probabilities of WILLOW (Miech et al. 2017, arXiv 1706.06905, section 3.3).
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.weights = Linear(num_classes, num_classes, bias=False)
        self.norm = BatchNorm(num_classes)
        nn.init.normal_(self.weights.weight, std=num_classes**-0.5)

    def forward(self, logits: Tensor) -> Tensor:
        logits = precise(logits)
        gates = precise(self.norm(self.weights(logits.sigmoid())))
        true = F.logsigmoid(logits) + F.logsigmoid(gates)
        # 1 − p·g = (1 − p) + p·(1 − g)
        false = torch.logaddexp(F.logsigmoid(-logits), F.logsigmoid(logits) + F.logsigmoid(-gates))
        return true - false
