"""Pictures and sound as the networks read them, against loops written from the definitions."""

import math

import numpy as np
import pytest

from yt8m.video.images import resize
from yt8m.video.sound import log_mel


@pytest.mark.parametrize("size", [(5, 7), (299, 299), (480, 360), (1, 2)], ids=str)
def test_resize_is_tensorflows_bilinear(size):
    """TF 1's ResizeBilinear, align_corners=False: input = output · scale, neighbors by floor, the last one repeated."""
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    found = resize(image)
    assert (found.shape, found.dtype) == ((299, 299, 3), np.float32)
    for i, j in ((0, 0), (1, 2), (150, 37), (297, 298), (298, 298)):
        y, x = i * height / 299, j * width / 299
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        for channel in range(3):
            a, b, c, d = (
                int(image[row, column, channel]) for row in (top, bottom) for column in (left, right)
            )
            above, below = a + (b - a) * (x - left), c + (d - c) * (x - left)
            assert found[i, j, channel] == pytest.approx(above + (below - above) * (y - top), abs=0.02)


def test_log_mel_is_the_definition():
    """AudioSet's mel_features.py: 25 ms under a periodic Hann window, 512 points, 64 HTK bands, log(x + 0.01)."""
    moments = np.arange(15_600) / 16_000
    rng = np.random.default_rng(0)
    samples = (0.5 * np.sin(2 * np.pi * 440 * moments) + 0.05 * rng.normal(size=15_600)).astype(np.float32)
    found = log_mel(samples[None])
    assert (found.shape, found.dtype) == ((1, 96, 64), np.float32)

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    low, high = mel(125), mel(7500)
    edges = [low + (high - low) * n / 65 for n in range(66)]
    angles = -2j * np.pi / 512 * np.outer(np.arange(257), np.arange(400))
    for spectrum in (0, 1, 95):
        windowed = [
            samples[spectrum * 160 + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n in range(400)
        ]
        magnitudes = np.abs(np.exp(angles) @ np.array(windowed))
        for band in (0, 10, 40, 63):
            total = 0.0
            for k in range(1, 257):  # HTK leaves out the constant part
                at = mel(k * 16_000 / 512)
                rising = (at - edges[band]) / (edges[band + 1] - edges[band])
                falling = (edges[band + 2] - at) / (edges[band + 2] - edges[band + 1])
                total += max(0.0, min(rising, falling)) * magnitudes[k]
            assert found[0, spectrum, band] == pytest.approx(math.log(total + 0.01), abs=1e-4)
