"""Sound as VGGish reads it: the log mel spectrogram.

Source: mel_features.py and vggish_params.py of tensorflow/models, research/audioset.
"""

from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16_000  # of the waveform, in Hz
WINDOW, HOP = 400, 160  # samples: 25 ms every 10 ms
FFT = 512
BANDS = 64  # mel bands from LOWEST to HIGHEST
LOWEST, HIGHEST = 125.0, 7_500.0  # Hz
SPECTRA = 96  # spectra in an example: 0.96 s
OFFSET = 0.01  # added before the logarithm
EXAMPLE = (SPECTRA - 1) * HOP + WINDOW  # samples that an example reads: 0.975 s


def log_mel(samples: np.ndarray) -> np.ndarray:
    """The example at each place of a waveform: float32 `[B, 96, 64]`.

    A spectrum is the magnitude of the discrete Fourier transform of 25 ms under a periodic Hann window; its mel bands
    are triangles on the HTK scale; then log(x + 0.01).

    Args:
        samples: float `[B, 15600]`, -1 to 1, mono, 16 kHz: what each example reads.
    """
    spectra = np.lib.stride_tricks.sliding_window_view(samples, WINDOW, axis=-1)[:, ::HOP]  # [B, 96, 400]
    magnitudes = np.abs(np.fft.rfft(spectra * _window(), FFT))  # [B, 96, 257]
    return np.asarray(np.log(magnitudes @ _mel_matrix() + OFFSET), np.float32)


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    """The Hann window whose period is its length: float64 `[400]`."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW)))


@lru_cache(maxsize=1)
def _mel_matrix() -> np.ndarray:
    """The share of each frequency in each mel band: float64 `[257, 64]`."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return np.asarray(1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0))

    bins = mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]  # [257, 1]
    edges = np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    matrix: np.ndarray = np.maximum(
        0.0, np.minimum((bins - low) / (center - low), (high - bins) / (high - center))
    )
    matrix[0] = 0.0  # HTK leaves out the constant part
    return matrix
