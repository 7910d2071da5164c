"""Decoding in a process of its own: `python -m yt8m.video.decode FILE MAX_FRAMES THREADS` writes messages to stdout.

A file that crashes, hangs, or exhausts FFmpeg then costs one process. A message is a kind (1 byte), a length (uint32,
little endian), and the payload; see `KINDS`. Nothing is pickled: what a decoder that was taken over writes is data.
"""

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np

from yt8m.errors import DataError
from yt8m.video.images import resize
from yt8m.video.sound import SAMPLE_RATE

#: Kinds of messages: a frame, float32 [299, 299, 3]; samples, float32 [N], mono at 16 kHz; notes, a JSON list of
#: texts, the last message of a file that could be read; an error, its text.
FRAME, SAMPLES, NOTES, ERROR = KINDS = (b"F", b"S", b"N", b"E")
HEAD = struct.Struct("<cI")

MAX_PIXELS = 8192 * 8192  # of a frame; more is refused before memory is allocated for it
MAX_MEMORY = 16 << 30  # bytes of address space of this process
# Seconds between what a sound track's time stamps say and its samples, from which the stamps decide.
GAP = 0.1

# Containers that hold pictures or sound themselves. Playlists, which name other files and addresses, are not read.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,flv,live_flv,ogg,asf,rm,"
    "mxf,dv,nut,gif,wtv,wav,mp3,flac,aac,amr"
)


class OnePerSecond:
    """Chooses the frame nearest to each whole second, the later one of two as near.

    Where no frame lies within half a second of it, the frame on the screen then. Source: MediaPipe's
    PacketResamplerCalculator, as its YouTube-8M graph uses it; the seconds end where the last frame does.

    Args:
        limit: the most frames to choose.
    """

    def __init__(self, limit: int):
        self.limit, self.chosen = limit, 0
        self._time = 0.0
        self._frame: Any = None

    @property
    def full(self) -> bool:
        return self.chosen >= self.limit

    def push(self, time: float, frame: Any) -> Iterator[Any]:
        """The frames that are chosen now that the next one, shown from `time` (seconds), is known."""
        if self._frame is not None and time < self._time:
            return  # out of order, in a damaged file
        while not self.full and self.chosen < time:
            ahead = time - self.chosen
            nearer = ahead < 0.5 and ahead <= self.chosen - self._time
            self.chosen += 1
            yield frame if nearer or self._frame is None else self._frame
        self._time, self._frame = time, frame

    def finish(self, duration: float) -> Iterator[Any]:
        """The rest, where the last frame is shown for `duration` seconds."""
        while self._frame is not None and not self.full and self.chosen < max(self._time + duration, 1e-6):
            self.chosen += 1
            yield self._frame


class Waveform:
    """A sound track as mono samples at 16 kHz, each at the place that its time stamp says.

    Channels are averaged, as in MediaPipe's graph. What is missing at the start or in between is silence.

    Args:
        limit: the most samples.
    """

    def __init__(self, limit: int):
        self.limit, self.count = limit, 0
        self._resampler: Any = None
        self._expected, self._skip = 0.0, 0

    @property
    def full(self) -> bool:
        return self.count >= self.limit

    def push(self, time: float | None, frame: Any) -> Iterator[np.ndarray]:
        """The samples that follow from the next frame, which is heard from `time` (seconds)."""
        time = self._expected if time is None else time
        if self._resampler is None or abs(time - self._expected) > GAP:
            yield from self.finish()
            from av import AudioResampler

            self._resampler = AudioResampler(format="fltp", rate=SAMPLE_RATE)
            gap = round(time * SAMPLE_RATE) - self.count
            self._skip = max(-gap, 0)
            yield from self._clip(np.zeros(min(max(gap, 0), self.limit - self.count), np.float32))
        self._expected = time + frame.samples / frame.sample_rate
        yield from self._resample(frame)

    def finish(self) -> Iterator[np.ndarray]:
        """What the resampler still holds."""
        if self._resampler is not None:
            yield from self._resample(None)
            self._resampler = None

    def _resample(self, frame: Any) -> Iterator[np.ndarray]:
        for part in self._resampler.resample(frame):
            samples = part.to_ndarray().mean(axis=0, dtype=np.float32)
            dropped = min(self._skip, len(samples))
            self._skip -= dropped
            yield from self._clip(samples[dropped:])

    def _clip(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        samples = samples[: self.limit - self.count]
        self.count += len(samples)
        if len(samples):
            yield samples


def decode(path: str, max_frames: int, threads: int) -> Iterator[tuple[bytes, bytes]]:
    """The messages of a video's first `max_frames` seconds; `NOTES` last.

    Raises:
        DataError: the file holds no picture that can be decoded.
    """
    import av
    from av.stream import Disposition

    try:
        # `file:` and the list of protocols keep a name or a content that looks like an address from being opened.
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        container = av.open("file:" + path, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a video, found none that FFmpeg can open ({_text(error)})"
        ) from None
    with container:
        pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures:
            raise DataError(f"{path}: expected a video, found {_found(container)}")
        video, sound = pictures[0], next(iter(container.streams.audio), None)
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        video.thread_type, video.codec_context.thread_count = "AUTO", threads
        yield from _decode(path, container, video, sound, max_frames)


def _decode(
    path: str, container: Any, video: Any, sound: Any, max_frames: int
) -> Iterator[tuple[bytes, bytes]]:
    from av import FFmpegError

    chooser, waveform = OnePerSecond(max_frames), Waveform(max_frames * SAMPLE_RATE)
    zero = (container.start_time or 0) / 1e6  # when the first of the streams starts
    rate = float(video.average_rate or video.guessed_rate or 0)
    step = 1 / rate if rate > 0 else 0.0
    converted: tuple[Any, bytes] = (None, b"")  # a frame that is shown for seconds is converted once
    notes: list[str] = []
    damaged, reason, shown, lasts = 0, "", 0.0, step

    def picture(frame: Any) -> tuple[bytes, bytes]:
        nonlocal converted
        if converted[0] is not frame:
            converted = frame, resize(upright(frame)).tobytes()
        return FRAME, converted[1]

    packets = container.demux(*[stream for stream in (video, sound) if stream is not None])
    while not (chooser.full and (sound is None or waveform.full)):
        try:
            packet = next(packets)
            if (packet.stream is video and chooser.full) or (packet.stream is sound and waveform.full):
                continue
            frames = packet.decode()
        except StopIteration:
            break
        except FFmpegError as error:
            damaged += 1
            reason = _text(error)
            if isinstance(error, MemoryError) or damaged > 1000:
                break
            continue
        for frame in frames:
            time = None if frame.pts is None else float(frame.pts * frame.time_base) - zero
            if packet.stream is video:
                time = shown + lasts if time is None else time
                shown, lasts = time, _duration(frame) or step
                for chosen in chooser.push(time, frame):
                    yield picture(chosen)
            else:
                for samples in waveform.push(time, frame):
                    yield SAMPLES, samples.tobytes()
    for chosen in chooser.finish(lasts):
        yield picture(chosen)
    for samples in waveform.finish():
        yield SAMPLES, samples.tobytes()
    if not chooser.chosen:
        raise DataError(
            f"{path}: expected pictures, found none that can be decoded" + (f" ({reason})" if damaged else "")
        )
    if damaged:
        notes.append(f"damaged: {damaged} packets could not be decoded ({reason}), the others were")
    ends = container.duration / 1e6 if container.duration else 0.0
    if chooser.chosen < min(int(ends), max_frames) - 1:
        notes.append(f"its pictures end after {chooser.chosen} of {ends:,.0f} s")
    if chooser.full and ends >= max_frames + 1:
        notes.append(f"long: the first {max_frames} of {ends:,.0f} s were read")
    yield NOTES, json.dumps(notes).encode()


def upright(frame: Any) -> np.ndarray:
    """The picture as a player shows it: uint8 [H, W, 3], RGB, turned as the file says."""
    image = frame.to_ndarray(format="rgb24")
    return cast(np.ndarray, np.rot90(image, round(frame.rotation / 90) % 4))


def _duration(frame: Any) -> float:
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0


def _found(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f"only {' and '.join(kinds)}" if kinds else f"no stream in a {container.format.name} file"


def _text(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def main() -> None:
    """Write the messages of the file in argv to stdout."""
    _, path, max_frames, threads = sys.argv
    out = sys.stdout.buffer
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        try:
            for kind, payload in decode(path, int(max_frames), int(threads)):
                _send(out, kind, payload)
        except DataError as error:
            _send(out, ERROR, str(error).encode(errors="replace"))
        except MemoryError:
            _send(out, ERROR, f"{path}: its pictures do not fit in memory".encode(errors="replace"))
        out.flush()
    except BrokenPipeError:  # whoever asked has gone
        os._exit(1)


def _send(out: IO[bytes], kind: bytes, payload: bytes) -> None:
    out.write(HEAD.pack(kind, len(payload)))
    out.write(payload)
    out.flush()


if __name__ == "__main__":
    main()
