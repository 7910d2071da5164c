"""Attention among frames: which of PyTorch's kernels may compute it."""

import torch
from torch.nn import functional as F

from yt8m.layers.attention import EncoderLayer


def test_no_kernel_that_plans_for_each_length(monkeypatch):
    attend, allowed = F.scaled_dot_product_attention, []

    def attended(*arguments, **options):
        backends = torch.backends.cuda
        allowed.append((backends.cudnn_sdp_enabled(), backends.mem_efficient_sdp_enabled()))
        return attend(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    EncoderLayer(8, 2, 16, 0.1).eval()(torch.randn(3, 5, 8), torch.tensor([5, 1, 3]))
    assert allowed == [(False, True)]
    assert torch.backends.cuda.cudnn_sdp_enabled()  # elsewhere
