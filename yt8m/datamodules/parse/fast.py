"""What the fast readers of all levels share: their result, and the check of records' framing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from yt8m.datamodules.parse.layouts import Integers
from yt8m.datamodules.tfrecord import header, mask

#: Reads the record at a position of the batch carefully; its features [n, D], n = 0 for a record that is skipped.
CarefulRead = Callable[[int], np.ndarray]


class FastRows(NamedTuple):
    """A batch's features, and everything else about the records that the fast reader parsed.

    Args:
        features: [N, D], of all records of the batch in order, those that were read carefully included.
        owners: int64 [R], position in the batch of the record that each row belongs to, ascending.
        ids: of the rows, [R].
        num_frames: of the rows, int64 [R].
        labels: (row, class) pairs, or None for unlabeled records.
        rated: the pairs that were rated, or None.
        mixed: whether some records are labeled and others are not; then the rest is meaningless.
        windows: of segments that share frames with others, int64 [R, 4] (`Window`), counted from the video's first
            frame in ``features``; None if every row has its own frames.
        frames: of each record of the batch in ``features``, int64; with ``windows`` only.
        unrated: how many records have no rated segment.
    """

    features: np.ndarray
    owners: np.ndarray
    ids: list[str]
    num_frames: np.ndarray
    labels: Integers | None
    rated: Integers | None = None
    mixed: bool = False
    windows: np.ndarray | None = None
    frames: np.ndarray | None = None
    unrated: int = 0


def sound(lengths: Sequence[int], headers: bytes, footers: np.ndarray, crcs: Sequence[int]) -> np.ndarray:
    """Which records, bool [B], have the right header and CRC.

    ``lengths`` are those of the payloads; ``headers`` are all headers, one after another, ``footers`` the stored CRCs,
    uint32 [B], and ``crcs`` the computed ones.
    """
    good = footers == mask(np.array(crcs, np.uint64))
    expected = b"".join(map(header, lengths))
    if headers != expected:  # rarely: one comparison is faster than one per record
        item = f"V{len(expected) // len(lengths)}"
        good &= np.frombuffer(headers, item) == np.frombuffer(expected, item)
    return good
