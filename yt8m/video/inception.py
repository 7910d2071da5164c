"""Inception v3 of 2015-12-05, from an image to its 2,048 pooled activations.

Source: the graph of inception-2015-12-05.tgz, from which YouTube-8M's rgb features come. Parameters have the names of
torchvision's Inception v3 and of pytorch-fid's state dict of this graph. It differs from torchvision's network in three
places: average pools do not count their padding, the last block pools by maximum, and images are resized and scaled as
in `yt8m.video.images.resize` and `Inception.forward`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 2048  # of the output, at the published width


class Conv(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = True
    ):
        high, wide = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        around = (high // 2, wide // 2) if padding else 0
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (high, wide), stride, around, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)


def average(x: Tensor) -> Tensor:
    """3×3 average pool, stride 1, whose padding does not count, as in TensorFlow."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class MixedA(nn.Module):
    """35×35 block."""

    def __init__(self, inputs: int, pool: int, w: float):
        super().__init__()
        n64, n96 = int(64 * w), int(96 * w)
        self.branch1x1 = Conv(inputs, n64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, int(48 * w), 1), Conv(int(48 * w), n64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, n64, 1), Conv(n64, n96, 3)
        self.branch3x3dbl_3 = Conv(n96, n96, 3)
        self.branch_pool = Conv(inputs, int(pool * w), 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, deep, self.branch_pool(average(x))], dim=1)


class MixedB(nn.Module):
    """35×35 to 17×17."""

    def __init__(self, inputs: int, w: float):
        super().__init__()
        n64, n96 = int(64 * w), int(96 * w)
        self.branch3x3 = Conv(inputs, int(384 * w), 3, 2, padding=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, n64, 1), Conv(n64, n96, 3)
        self.branch3x3dbl_3 = Conv(n96, n96, 3, 2, padding=False)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), deep, F.max_pool2d(x, 3, 2)], dim=1)


class MixedC(nn.Module):
    """17×17 block of factorized 7×7 convolutions."""

    def __init__(self, inputs: int, middle: int, w: float):
        super().__init__()
        n, out = int(middle * w), int(192 * w)
        self.branch1x1 = Conv(inputs, out, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(inputs, n, 1), Conv(n, n, (1, 7))
        self.branch7x7_3 = Conv(n, out, (7, 1))
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(inputs, n, 1), Conv(n, n, (7, 1))
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(n, n, (1, 7)), Conv(n, n, (7, 1))
        self.branch7x7dbl_5 = Conv(n, out, (1, 7))
        self.branch_pool = Conv(inputs, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(average(x))], dim=1)


class MixedD(nn.Module):
    """17×17 to 8×8."""

    def __init__(self, inputs: int, w: float):
        super().__init__()
        n = int(192 * w)
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, n, 1), Conv(n, int(320 * w), 3, 2, padding=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, n, 1), Conv(n, n, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(n, n, (7, 1)), Conv(n, n, 3, 2, padding=False)

    def forward(self, x: Tensor) -> Tensor:
        large = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), large, F.max_pool2d(x, 3, 2)], dim=1)


class MixedE(nn.Module):
    """8×8 block; `maximum` pools by maximum, as the graph's last block does."""

    def __init__(self, inputs: int, w: float, maximum: bool):
        super().__init__()
        n384, n448 = int(384 * w), int(448 * w)
        self.maximum = maximum
        self.branch1x1 = Conv(inputs, int(320 * w), 1)
        self.branch3x3_1 = Conv(inputs, n384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Conv(n384, n384, (1, 3)), Conv(n384, n384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, n448, 1), Conv(n448, n384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(n384, n384, (1, 3)), Conv(n384, n384, (3, 1))
        self.branch_pool = Conv(inputs, int(192 * w), 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else average(x)
        branches = [self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one)]
        branches += [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two), self.branch_pool(pooled)]
        return torch.cat(branches, dim=1)


class Inception(nn.Module):
    """The network up to `pool_3`.

    Args:
        width: multiplies all channels; 1 is the published network, less is for tests.
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        w = width

        def n(channels: int) -> int:
            return int(channels * width)

        self.channels = n(CHANNELS)
        self.Conv2d_1a_3x3 = Conv(3, n(32), 3, 2, padding=False)
        self.Conv2d_2a_3x3 = Conv(n(32), n(32), 3, padding=False)
        self.Conv2d_2b_3x3 = Conv(n(32), n(64), 3)
        self.Conv2d_3b_1x1 = Conv(n(64), n(80), 1)
        self.Conv2d_4a_3x3 = Conv(n(80), n(192), 3, padding=False)
        self.Mixed_5b = MixedA(n(192), 32, w)
        self.Mixed_5c = MixedA(n(256), 64, w)
        self.Mixed_5d = MixedA(n(288), 64, w)
        self.Mixed_6a = MixedB(n(288), w)
        self.Mixed_6b = MixedC(n(768), 128, w)
        self.Mixed_6c = MixedC(n(768), 160, w)
        self.Mixed_6d = MixedC(n(768), 160, w)
        self.Mixed_6e = MixedC(n(768), 192, w)
        self.Mixed_7a = MixedD(n(768), w)
        self.Mixed_7b = MixedE(n(1280), w, maximum=False)
        self.Mixed_7c = MixedE(n(2048), w, maximum=True)

    def forward(self, images: Tensor) -> Tensor:
        """Activations, float32 `[B, 2048]`.

        Args:
            images: float32 `[B, 299, 299, 3]`, RGB from 0 to 255, from `yt8m.video.images.resize`.
        """
        x = images.permute(0, 3, 1, 2).sub(128).mul(1 / 128)  # [B, 3, 299, 299]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)  # [B, 64, 73, 73]
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)  # [B, 192, 35, 35]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [B, 288, 35, 35]
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # [B, 768, 17, 17]
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [B, 2048, 8, 8]
        return torch.as_tensor(x.mean(dim=(2, 3)))

    @staticmethod
    def width_of(state: Mapping[str, Tensor]) -> float:
        """The width of the network that a state dict belongs to. Raises KeyError."""
        return state["Conv2d_1a_3x3.conv.weight"].shape[0] / 32
