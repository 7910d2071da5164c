"""Features of a video file, in the dataset's format."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from yt8m.datamodules.quantization import dequantize
from yt8m.errors import ConfigError
from yt8m.video.projection import quantize
from yt8m.video.sound import EXAMPLE, SAMPLE_RATE, log_mel
from yt8m.video.source import Source
from yt8m.video.weights import SIZES, FeatureNetwork, load_weights

# Frames that a network reads at a time; of one video alone, so that others do not change its features.
BATCH = 16

Audio = Literal["auto", "none", "zeros"]


@dataclass(frozen=True)
class VideoFeatures:
    """T seconds of a video.

    - ``frames``: of each feature, uint8 [T, D]: rgb 1,024, audio 128, in this order
    - ``means``: of each feature, float32 [D]: the mean of its dequantized frames, whose range the dataset's video-level
      records have, too
    - ``notes``: what a user should know of the file, such as that parts of it could not be decoded
    """

    frames: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.frames.values())))

    @property
    def array(self) -> np.ndarray:
        """The features side by side, as in a batch: uint8 [T, 1152], or [T, 1024] without audio."""
        return np.concatenate([*self.frames.values()], axis=1)


class FeatureExtractor:
    """From a video file to the features of each second.

    Frame t is the picture nearest to second t; audio example t begins at second t and lasts 0.96 s. A video without a
    sound track has the features of silence. Thread-safe: decoding runs in parallel, the networks one video at a time.

    Args:
        networks: from `yt8m.video.weights.load_weights`.
        zero_audio: write zero bytes for audio, as the starter code's extractor does.
        device: of the networks.
        threads: of each decoder; 0 lets FFmpeg choose.
    """

    def __init__(
        self,
        networks: dict[str, FeatureNetwork],
        *,
        zero_audio: bool = False,
        device: torch.device | str = "cpu",
        threads: int = 0,
    ):
        self.device, self.threads, self.zero_audio = torch.device(device), threads, zero_audio
        self.networks = networks
        for one in networks.values():
            one.network.to(self.device)
        self.stop = threading.Event()  # once set, calls in other threads end with `Stopped`
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        *,
        audio: Audio = "auto",
        device: torch.device | str | None = None,
        threads: int = 0,
    ) -> Self:
        """The extractor whose weight files are in a folder; see docs/extract.md for where they are published.

        Args:
            weights: the folder.
            audio: `auto` extracts audio where the folder has VGGish; `none` leaves audio out; `zeros` fills it with
                zero bytes.
            device: None takes a GPU if there is one.
            threads: of each decoder; 0 lets FFmpeg choose.

        Raises:
            ConfigError: a file is missing, damaged, or another one's.
        """
        if audio not in ("auto", "none", "zeros"):
            raise ConfigError(f"audio: expected auto, none or zeros, found {audio!r}")
        networks = load_weights(Path(weights).expanduser(), audio=audio == "auto")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return cls(networks, zero_audio=audio == "zeros", device=device, threads=threads)
        except (RuntimeError, AssertionError) as error:  # torch's, which has no device of that name
            problem = str(error).splitlines()[0]
            raise ConfigError(
                f"device: expected cpu or an available GPU, found {device}: {problem}"
            ) from None

    @property
    def feature_sizes(self) -> dict[str, int]:
        """The features that a call returns, in order, and their sizes."""
        names = [*self.networks] + (["audio"] if self.zero_audio else [])
        return {name: SIZES[name] for name in names}

    def __call__(self, video: str | os.PathLike[str], *, max_frames: int = 300) -> VideoFeatures:
        """The features of a video's first seconds.

        Args:
            video: a file that FFmpeg can decode. It may come from a stranger: a process of its own decodes it.
            max_frames: the most seconds; 300 as in most of the dataset, up to 360 as its authors allow.

        Raises:
            DataError: the file holds no video that can be decoded; the message begins with its path.
            ConfigError: PyAV is not installed.
        """
        source = Source(video, max_frames, self.threads, self.stop)
        activations, batch = [], []
        for frame in source:
            batch.append(frame)
            if len(batch) == BATCH:
                activations.append(self._run("rgb", np.stack(batch)))
                batch = []
        if batch:
            activations.append(self._run("rgb", np.stack(batch)))
        values = {"rgb": self.networks["rgb"].projection(np.concatenate(activations))}
        count, notes = len(values["rgb"]), [*source.notes]
        if "audio" in self.networks:
            values["audio"] = self._audio(source.samples, count)
            if not len(source.samples):
                notes.append("no sound: audio features of silence")
        frames = {name: quantize(one) for name, one in values.items()}
        if self.zero_audio:
            frames["audio"] = np.zeros((count, SIZES["audio"]), np.uint8)
        means = {name: dequantize(torch.from_numpy(one)).mean(dim=0).numpy() for name, one in frames.items()}
        return VideoFeatures(frames, means, tuple(notes))

    def _audio(self, samples: np.ndarray, count: int) -> np.ndarray:
        """float32 [T, 128]: example t reads from second t; what lies after the sound is silence."""
        padded = np.zeros((count - 1) * SAMPLE_RATE + EXAMPLE, np.float32)
        padded[: len(samples)] = samples[: len(padded)]
        examples = np.lib.stride_tricks.sliding_window_view(padded, EXAMPLE)[::SAMPLE_RATE]  # [T, 15600]
        parts = [examples[start : start + BATCH] for start in range(0, count, BATCH)]
        activations = np.concatenate([self._run("audio", log_mel(part)) for part in parts])
        return self.networks["audio"].projection(activations)

    def _run(self, feature: str, inputs: Any) -> np.ndarray:
        """Activations of a batch."""
        # inference_mode is per thread, and the networks are shared.
        with self._lock, torch.inference_mode():
            outputs = self.networks[feature].network(torch.from_numpy(inputs).to(self.device))
        return np.asarray(outputs.float().cpu())
