"""Segments of a video: where they begin, and which frames the row of one holds."""

from typing import Literal, NamedTuple

SEGMENT_FRAMES = 5  # every rated segment of YouTube-8M 2019 is five frames long

#: Frames before and after a segment that its row holds, too; or `video`: all frames of the video.
Context = int | Literal["video"]


class Window(NamedTuple):
    """A segment's row: ``count`` frames of a video from ``first``; of them, ``length`` from ``offset`` are its own."""

    first: int
    count: int
    offset: int
    length: int


def every_start(frames: int) -> range:
    """Starts of all consecutive segments of a video: 0, 5, 10, …; the last one may be short."""
    return range(0, frames, SEGMENT_FRAMES)


def window(start: int, frames: int, context: Context) -> Window:
    """The row of the segment at ``start`` in a video of ``frames`` frames.

    A segment that reaches over the video's end has the frames before it: where the reference reader counts its padding
    as frames, the reference's inference does as here. One that begins at the end or after it has the video's last
    frame, where the reference has padding alone.
    """
    begin = min(start, frames - 1)
    end = max(min(start + SEGMENT_FRAMES, frames), begin + 1)
    if context == "video":
        return Window(0, frames, begin, end - begin)
    first, last = max(begin - context, 0), min(end + context, frames)
    return Window(first, last - first, begin - first, end - begin)
