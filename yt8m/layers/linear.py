"""The Linear layer of networks whose output is a number of classes."""

import torch
from torch import Tensor, nn

ALIGNED = 8  # float32 values of an AVX2 register


class Linear(nn.Linear):
    """`nn.Linear`, faster on a CPU where `out_features` is no multiple of 8, as with 3,862 or 527 classes.

    Rows of such a result are not aligned, and MKL takes up to 1.5 times as long for the product. `W xᵀ` has rows of the
    batch's length instead: that is computed here, and transposed.

    On a GPU, under autocast, in another dtype than float32, and exported it is `nn.Linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.out_features % ALIGNED == 0
            or torch.compiler.is_exporting()
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features).t()  # [D, N]
        turned = (
            self.weight @ rows if self.bias is None else torch.addmm(self.bias[:, None], self.weight, rows)
        )
        return turned.t().contiguous().view(*x.shape[:-1], self.out_features)
