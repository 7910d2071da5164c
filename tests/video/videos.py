"""Videos that tests encode: a color and a tone for each second."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 44_100


def color(second: int) -> tuple[int, int, int]:
    """Another color for each of 27 seconds, far enough from the others to survive encoding."""
    return tuple((second // 3**place % 3) * 100 + 20 for place in range(3))  # type: ignore[return-value]


def tone(second: float, hertz: float = 300.0) -> float:
    """The frequency that is heard in a second."""
    return hertz * 1.25 ** (int(second) % 12)


def encode(
    path: Path,
    times: Sequence[float],
    *,
    sound: float = 0.0,
    stereo: bool = True,
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    codec: str = "mpeg4",
    pictures: list[np.ndarray] | None = None,
    sound_from: float = 0.0,
) -> Path:
    """Write a video whose picture at each of `times` has the color of that second, and whose sound has its tone.

    Args:
        times: when each picture is shown, in seconds.
        sound: seconds of sound; 0 for no sound track.
        size: width and height.
        rotation: degrees that a player must turn the picture counterclockwise.
        pictures: uint8 [H, W, 3] instead of the colors.
        sound_from: when the sound starts.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        base = video.time_base = video.codec_context.time_base = Fraction(1, 15_360)
        if rotation:
            video.set_display_rotation(rotation)
        audio = (
            container.add_stream("aac", rate=RATE, layout="stereo" if stereo else "mono") if sound else None
        )
        for number, time in enumerate(times):
            image = np.full((size[1], size[0], 3), color(int(time + 1e-6)), np.uint8)
            frame = av.VideoFrame.from_ndarray(pictures[number] if pictures else image, format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            moments = np.arange(int(sound * RATE)) / RATE
            frequencies = np.array([tone(second) for second in range(int(sound) + 1)])[moments.astype(int)]
            wave = (0.5 * np.sin(2 * np.pi * np.cumsum(frequencies) / RATE)).astype(np.float32)
            channels = np.stack([wave, wave * 0] if stereo else [wave])
            for start in range(0, channels.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(channels[:, start : start + 1024]),
                    format="fltp",
                    layout=audio.layout.name,
                )
                part.sample_rate, part.pts = RATE, start + round(sound_from * RATE)
                part.time_base = Fraction(1, RATE)
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path


def seconds(count: float, rate: float = 5) -> list[float]:
    """Times of a video of a constant rate."""
    return [number / rate for number in range(round(count * rate))]
