"""PCA, whitening, and quantization: from a network's activations to the dataset's bytes."""

from dataclasses import dataclass

import numpy as np

LOW, HIGH = -2.0, 2.0  # values outside are clipped


@dataclass(frozen=True)
class Projection:
    """y = (x - mean) · matrix; whitening is part of the matrix.

    - ``mean``: float64 [I]
    - ``matrix``: float64 [I, O]
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def whitening(cls, mean: np.ndarray, eigenvectors: np.ndarray, eigenvalues: np.ndarray) -> "Projection":
        """Project to the eigenvectors, and divide by √(eigenvalue + 1e-4), as the starter code's feature extractor.

        Args:
            mean: [I]
            eigenvectors: [O, I], one per row.
            eigenvalues: [O]
        """
        vectors = eigenvectors.astype(np.float64).T
        return cls(mean.astype(np.float64), vectors / np.sqrt(eigenvalues.astype(np.float64) + 1e-4))

    def __call__(self, activations: np.ndarray) -> np.ndarray:
        """float32 `[T, O]` of activations `[T, I]`."""
        return np.asarray((activations.astype(np.float64) - self.mean) @ self.matrix, np.float32)


def quantize(features: np.ndarray) -> np.ndarray:
    """uint8 of float features of any shape: clip to ±2, then round((x + 2) · 255 / 4).

    Source: the starter code's extract_tfrecords_main.quantize.
    """
    return np.asarray(np.rint((np.clip(features, LOW, HIGH) - LOW) * (255 / (HIGH - LOW))), np.uint8)
