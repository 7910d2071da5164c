"""Records of extracted videos, and the shards they end up in."""

from collections.abc import Sequence
from pathlib import Path

from tfrecord.example_pb2 import Example, SequenceExample

from yt8m.datamodules.tfrecord import framed, read
from yt8m.errors import DataError
from yt8m.files import replacing, write_bytes
from yt8m.video.extractor import VideoFeatures

LEVELS = ("frame", "video")


def serialize(name: str, features: VideoFeatures) -> tuple[bytes, bytes]:
    """The frame-level and the video-level record of a video without labels, as in the dataset's test partition."""
    frames, video = SequenceExample(), Example()
    identifier = name.encode()
    frames.context.feature["id"].bytes_list.value.append(identifier)
    video.features.feature["id"].bytes_list.value.append(identifier)
    for feature, values in features.frames.items():
        rows = frames.feature_lists.feature_list[feature].feature
        for row in values:
            rows.add().bytes_list.value.append(row.tobytes())
    for feature, mean in features.means.items():
        video.features.feature[f"mean_{feature}"].float_list.value.extend(mean.tolist())
    return frames.SerializeToString(deterministic=True), video.SerializeToString(deterministic=True)


class Done:
    """Videos that are done and not yet in a shard: a small file of two records for each, in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, key: str, records: tuple[bytes, bytes]) -> None:
        """Keep a video's records under `key`, whole or not at all. Raises WriteError."""
        write_bytes(self._path(key), b"".join(map(framed, records)))

    def get(self, key: str) -> tuple[bytes, bytes] | None:
        """The records under `key`; None where there are none, or damaged ones."""
        if not self._path(key).is_file():
            return None
        try:
            frame, video = read(self._path(key))
        except (DataError, ValueError):
            return None
        return frame, video

    def frames(self, key: str) -> int | None:
        """The number of frames of the video under `key`; None where there is none."""
        records = self.get(key)
        if records is None:
            return None
        lists = SequenceExample.FromString(records[0]).feature_lists.feature_list
        return len(lists["rgb"].feature)

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.tfrecord"


def write_shards(root: Path, partition: str, number: int, records: Sequence[tuple[bytes, bytes]]) -> str:
    """Write the shards of both levels, `2/LEVEL/PARTITION/PARTITIONnnnn.tfrecord`; their name. Raises WriteError."""
    name = f"{partition}{number:04d}.tfrecord"
    for level, column in zip(LEVELS, zip(*records, strict=True), strict=True):
        with replacing(root / "2" / level / partition / name) as partial, partial.open("wb") as file:
            file.writelines(map(framed, column))
    return name
