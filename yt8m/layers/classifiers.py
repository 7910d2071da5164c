"""The last layer of networks that offer a choice of it."""

from torch import nn

from yt8m.layers.arguments import choice
from yt8m.layers.linear import Linear
from yt8m.layers.moe import MoE
from yt8m.layers.widths import whole

HEADS = ("moe", "logistic")


def make_classifier(head: str, input_size: int, num_classes: int, num_experts: int) -> nn.Module:
    """`[B, D] -> [B, C]` logits: a mixture of experts, or one Dense layer.

    Raises:
        ConfigError: `head` is neither `moe` nor `logistic`, or `num_experts` is not a whole number above 0.
    """
    whole(num_experts, "num_experts")
    if choice(head, "head", HEADS) == "moe":
        return MoE(input_size, num_classes, num_experts)
    return Linear(input_size, num_classes)
