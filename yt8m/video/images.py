"""Pictures as Inception reads them."""

from functools import lru_cache

import numpy as np

SIZE = 299  # height and width, in pixels


@lru_cache(maxsize=32)
def _source(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the 299 outputs along an axis: the lower and the upper input, and the weight of the upper one."""
    place = np.arange(SIZE, dtype=np.float32) * np.float32(length / SIZE)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, length - 1), place - low.astype(np.float32)


def resize(image: np.ndarray) -> np.ndarray:
    """An image as the graph resizes it: float32 `[299, 299, 3]`, 0 to 255, not rounded.

    TensorFlow 1's `ResizeBilinear` without `align_corners`: output i reads the input at i · length / 299, without the
    half-pixel offset of other libraries, and without smoothing. The aspect ratio is not kept.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
    """
    top, bottom, down = _source(image.shape[0])
    left, right, across = _source(image.shape[1])
    across, down = across[None, :, None], down[:, None, None]

    def mix(line: np.ndarray) -> np.ndarray:
        first = line[:, left].astype(np.float32)
        return np.asarray(first + (line[:, right].astype(np.float32) - first) * across)

    above = mix(image[top])
    return np.asarray(above + (mix(image[bottom]) - above) * down)
