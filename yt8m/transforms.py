"""Transforms of the input vectors, between dequantization and the network.

What a transform knows of the data is in its buffers, and so in the checkpoint: evaluation and prediction need neither a
file nor the training shards.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yt8m.errors import ConfigError

#: The vectors of at most so many training videos (None: of all), float `[N, D]` each, from every rank its share.
Sample = Callable[[int | None], Iterable[Tensor]]
#: The values of all ranks, in their order.
Gather = Callable[[Any], list[Any]]


Moments = tuple[int, Tensor, Tensor]  # count, mean, and sum of squared distances to it, float64 [D]


class Transform(nn.Module):
    """Maps float vectors `[..., D]` to vectors of the same shape.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
    """

    prepared = True  # False as long as `prepare` or a checkpoint has to set the buffers

    def __init__(self, *, feature_sizes: Mapping[str, int]):
        super().__init__()

    def prepare(self, sample: Sample, gather: Gather) -> None:
        """Set the buffers at the start of a training. Runs on all ranks, which must end with equal values."""

    def forward(self, vectors: Tensor) -> Tensor:
        raise NotImplementedError


class L2(Transform):
    """Scales each vector to length 1; a vector of zeros stays one.

    Source: the YouTube-8M starter code, which calls `tf.nn.l2_normalize` on video vectors and on frames.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


class Affine(Transform):
    """(x − shift) · scale in each dimension, with buffers `shift` and `scale`, float32 `[D]`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, *, feature_sizes: Mapping[str, int]):
        super().__init__(feature_sizes=feature_sizes)
        size = sum(feature_sizes.values())
        self.prepared = False
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]

    def forward(self, vectors: Tensor) -> Tensor:
        if not self.prepared:
            raise ConfigError(
                f"transform: {type(self).__name__} has no values before training starts; load a checkpoint, or call "
                "its prepare"
            )
        return (vectors - self.shift) * self.scale

    def _set(self, shift: Tensor, scale: Tensor) -> None:
        self.shift.copy_(shift)
        self.scale.copy_(scale)
        self.prepared = True


def _loaded(module: nn.Module, incompatible_keys: Any) -> None:
    missing = {name.rpartition(".")[2] for name in incompatible_keys.missing_keys}
    module.prepared = not missing & {"shift", "scale"}  # type: ignore[assignment]  # a plain attribute


class ReverseWhiten(Affine):
    """Undoes the whitening of rgb: (x − offset) · (√λ + 1e-4), λ the eigenvalues of the dataset's PCA; audio stays.

    Source: the authors' code of NeXtVLAD (Lin et al., 2018). λ is `eigenvals.npy` of yt8m_pca.tgz.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        path: NumPy file of the eigenvalues, `[N]` or `[N, 1]`, largest first; the first ones are used, one per
            dimension. Read when a training starts.
        feature: which features to change: those of this name, or with this token in their names (split at `_`).
        offset: what dequantization adds to the values, (max − min)/512.

    Raises:
        ConfigError: no feature is of that name; when a training starts, the file is none of such eigenvalues.
    """

    def __init__(
        self,
        *,
        feature_sizes: Mapping[str, int],
        path: str,
        feature: str = "rgb",
        offset: float = 4 / 512,
    ):
        super().__init__(feature_sizes=feature_sizes)
        self.path, self.feature, self.offset = path, feature, float(offset)
        self.feature_sizes = dict(feature_sizes)
        self.chosen = [name for name in feature_sizes if feature in (name, *name.split("_"))]
        if not self.chosen:
            raise ConfigError(
                f"transform.feature: expected a feature's name or a token of it, found {feature!r} for features "
                f"{', '.join(feature_sizes)}; set transform.feature"
            )

    def prepare(self, sample: Sample, gather: Gather) -> None:
        sizes = [self.feature_sizes[name] for name in self.chosen]
        factors = torch.from_numpy(np.sqrt(_eigenvalues(self.path, max(sizes)))) + 1e-4
        shift, scale = [], []
        for name, size in self.feature_sizes.items():
            whitened = name in self.chosen
            shift.append(torch.full((size,), self.offset if whitened else 0.0))
            scale.append(factors[:size] if whitened else torch.ones(size))
        self._set(torch.cat(shift), torch.cat(scale))


class Standardize(Affine):
    """(x − mean) / deviation in each dimension; one that is constant in the sample becomes 0.

    Mean and deviation are those of the training partition, each frame (at video level each video) with equal weight.
    A frame-level video's vector gets those of the frames.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        max_videos: at most so many videos, drawn by the run's seed, are read for that; None reads all.
    """

    def __init__(self, *, feature_sizes: Mapping[str, int], max_videos: int | None = 20_000):
        super().__init__(feature_sizes=feature_sizes)
        self.max_videos = max_videos

    def prepare(self, sample: Sample, gather: Gather) -> None:
        size = len(self.shift)
        own: Moments = (0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))
        for vectors in sample(self.max_videos):
            for part in torch.split(vectors.cpu().double(), 4096):  # bounds the memory
                variance, mean = torch.var_mean(part, dim=0, correction=0)
                own = _merged(own, (len(part), mean, variance * len(part)))
        # In the order of the ranks: they all add the same numbers in the same order.
        count, mean, squares = reduce(_merged, gather(own))
        if not count:
            raise ConfigError("transform: standardize expected training videos, found damaged records only")
        deviation = (squares / count).sqrt()
        constant = deviation <= 1e-6 * mean.abs()  # equal but for rounding
        self._set(mean, 1 / deviation.masked_fill(constant, 1))


def _merged(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of vectors together.

    Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
    """
    count = a[0] + b[0]
    if not count:
        return a
    delta = b[1] - a[1]
    return count, a[1] + delta * (b[0] / count), a[2] + b[2] + delta.square() * (a[0] * b[0] / count)


def _eigenvalues(path: str, size: int) -> np.ndarray:
    """The first `size` eigenvalues in a NumPy file, float64 `[size]`."""
    expected = f"transform.path: expected a NumPy file of {size} or more eigenvalues at {path}"
    try:
        values = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{expected}; {reason}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        found = getattr(values, "dtype", "an archive")
        raise ConfigError(f"{expected}, found {found}; take eigenvals.npy of yt8m_pca.tgz")
    if values.shape[1:] not in ((), (1,)) or values.ndim == 0 or len(values) < size:
        raise ConfigError(f"{expected}, found shape {list(values.shape)}; take eigenvals.npy of yt8m_pca.tgz")
    chosen = values.reshape(-1)[:size].astype(np.float64)
    if not (np.isfinite(chosen) & (chosen > 0)).all():
        wrong = int(np.flatnonzero(~(np.isfinite(chosen) & (chosen > 0)))[0])
        raise ConfigError(f"{expected}, all finite and above 0, found {chosen[wrong]} as number {wrong}")
    return chosen
