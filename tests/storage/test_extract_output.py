"""`python -m yt8m.extract` from and to a bucket: shards are uploaded whole, once, in an order that survives kills."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.storage.conftest import Bucket
from yt8m.api.records import open_shards
from yt8m.errors import ConfigError, DataError, FetchError, WriteError
from yt8m.extract import bucket as bucket_module
from yt8m.extract import extract as extract_module
from yt8m.storage import transport
from yt8m.video.extractor import VideoFeatures

FRAMES = "2/frame/test/test{:04}.tfrecord"


class Extractor:
    """In place of the networks: a file's frames are its first bytes; records which files it has read."""

    networks, zero_audio, feature_sizes = {}, False, {"rgb": 1024}

    def __init__(self):
        self.read, self.stop = [], SimpleNamespace(set=lambda: None)

    def __call__(self, video, *, max_frames):
        content = Path(video).read_bytes()
        if not content:
            raise DataError(f"{video}: expected a video, found an empty file")
        self.read.append(Path(video).name)
        frames = np.full((2, 1024), content[0], np.uint8)
        return VideoFeatures({"rgb": frames}, {"rgb": frames.mean(axis=0, dtype=np.float32)})


@pytest.fixture
def extract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command's task on five files; returns the names of those that were extracted."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(5):
        (clips / f"v{number}.mp4").write_bytes(bytes([number + 1]))

    def run(output: str, **changes) -> list[str]:
        extractor = Extractor()
        monkeypatch.setattr(extract_module.FeatureExtractor, "load", lambda *_, **__: extractor)
        config = {"videos": f"{clips}/*.mp4", "output": output, "weights": "x", "audio": "none", "jobs": 1}
        config |= {
            "device": "cpu",
            "max_frames": 300,
            "partition": "test",
            "shard_videos": 2,
            "compare": None,
        }
        extract_module.extract(config | changes)
        return extractor.read

    return run


def content(bucket: Bucket) -> dict[str, bytes]:
    root = bucket.root.removeprefix("s3://")
    fs = transport.filesystem(bucket.root)
    return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}


def test_the_bucket_has_what_a_folder_has(bucket: Bucket, extract, tmp_path: Path, capsys):
    extract(str(tmp_path / "local"))
    extract(bucket.root)
    found = content(bucket)
    local = {
        str(p.relative_to(tmp_path / "local")): p for p in (tmp_path / "local").rglob("*") if p.is_file()
    }
    assert set(found) == set(local) - {".extract.lock"}
    assert {name: data for name, data in found.items() if name.endswith(".tfrecord")} == {
        name: path.read_bytes() for name, path in local.items() if name.endswith(".tfrecord")
    }
    assert f"{bucket.root}: 5 videos" in capsys.readouterr().out
    # Nothing is left here, nothing is done twice, and another machine knows it from the bucket.
    output = bucket_module.BucketOutput(bucket.root)
    assert not list(output.work.rglob("*.tfrecord"))
    (output.work / "extract.json").unlink()
    bucket.proxy.requests.clear()
    assert extract(bucket.root) == []
    assert not [path for method, path, _ in bucket.proxy.requests if method == "PUT" and ".tfrecord" in path]
    clips = tmp_path / "clips"
    (clips / "v5.mp4").write_bytes(b"\6")
    (clips / "v6.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=rf"1 of 7 videos could not be read .*{bucket.root}/extract\.json"):
        extract(bucket.root)
    assert set(content(bucket)) - set(found) == {FRAMES.format(3), FRAMES.format(3).replace("frame", "video")}
    assert len(json.loads(content(bucket)["extract.json"])["failed"]) == 1


def test_videos_of_a_bucket(bucket: Bucket, extract, tmp_path: Path, capsys):
    bucket.upload(tmp_path)
    bucket.put("clips/sub/v9.mp4", b"")
    videos, root = f"{bucket.root}/clips/**/*.mp4", tmp_path / "out"
    with pytest.raises(DataError, match="1 of 6 videos could not be read"):
        extract(str(root), videos=videos)
    assert f"failed  {bucket.root}/clips/sub/v9.mp4: expected a video, found an empty file" in (
        capsys.readouterr().out
    )
    ids = [record.id for n in range(3) for record in open_shards(root / FRAMES.format(n))]
    assert ids == ["v0", "v1", "v2", "v3", "v4"]
    bucket.put("clips/sub/v9.mp4", b"\7")
    assert len(extract(str(root), videos=videos)) == 1
    assert [record.id for record in open_shards(root / FRAMES.format(3))] == ["sub/v9"]
    bucket.put("clips/v0.mp4", b"another")
    with pytest.raises(ConfigError, match=rf"expected {bucket.root}/clips/v0\.mp4 as when it was extracted"):
        extract(str(root), videos=videos)
    with pytest.raises(ConfigError, match=r"files that match s3://videos/none/\*, found none in the bucket"):
        extract(str(root), videos="s3://videos/none/*")


def test_what_an_interrupted_upload_left_is_uploaded_later(bucket: Bucket, extract):
    seen = []

    def fault(method: str, path: str, range_: str) -> str:
        if method == "PUT" and ".tfrecord" in path:
            seen.append(path)
        return "500 InternalError" if len(seen) > 3 and method == "PUT" else ""

    bucket.proxy.fault = fault
    with pytest.raises(WriteError, match=r"test0001\.tfrecord: could not write in 10 attempts"):
        extract(bucket.root)
    found = content(bucket)
    # The manifest in the bucket names the first two shards only, and all that it names is there.
    assert {one["shard"] for one in json.loads(found["extract.json"])["videos"].values()} == {
        "test0000.tfrecord"
    }
    bucket.proxy.fault = lambda *_: ""
    bucket.proxy.requests.clear()
    assert "v0.mp4" not in extract(bucket.root)
    puts = [path for method, path, _ in bucket.proxy.requests if method == "PUT" and ".tfrecord" in path]
    assert sorted(Path(path).parts[-3] + Path(path).name for path in puts) == [
        "frametest0002.tfrecord",
        "videotest0001.tfrecord",
        "videotest0002.tfrecord",
    ]
    (record,) = open_shards(f"{bucket.root}/{FRAMES.format(2)}")
    assert (record.id, record.features["rgb"][0, 0]) == ("v4", 5)


def test_two_writers_and_addresses_that_take_nothing(
    bucket: Bucket, extract, monkeypatch: pytest.MonkeyPatch
):
    for output, message in (
        ("memory://features", "found memory://features: the memory of this process, which ends with it"),
        ("https://x.org/features", "found https://x.org/features: a web server, which takes no files"),
        ("nfs-over-fax://x", "expected a path or an address"),
        ("s3://AKIA:geheim@videos/x", "expected an address without credentials"),
    ):
        with pytest.raises(ConfigError, match=f"^output: .*{message}") as error:
            extract(output)
        assert "\n" not in str(error.value)
        assert "geheim" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^compare: expected output=DIR"):
        extract(bucket.root, compare="/data")
    with pytest.raises(
        WriteError, match=r"s3://no-such-bucket/x/extract\.json: could not write .*NoSuchBucket"
    ):
        extract("s3://no-such-bucket/x")
    monkeypatch.setattr(transport, "FIRST_ATTEMPTS", 1)
    bucket.proxy.fault = lambda *_: "403 AccessDenied"
    with pytest.raises(FetchError, match="could not read, access denied"):
        extract(bucket.root)
    bucket.proxy.fault = lambda *_: ""

    upload, calls = bucket_module.BucketOutput.upload, []

    def disturbed(output) -> None:
        upload(output)
        calls.append(output)
        if len(calls) == 2:  # after the first shard
            bucket.put("extract.json", b'{"settings": {}, "videos": {}, "failed": {}}')

    monkeypatch.setattr(bucket_module.BucketOutput, "upload", disturbed)
    with pytest.raises(ConfigError, match="for this run alone, found that another one writes to it"):
        extract(bucket.root)
    # This machine has shards that were not uploaded, and the bucket has another run's videos.
    bucket.put("extract.json", b'{"settings": {}, "videos": {"/other.mp4": {}}, "failed": {}}')
    with pytest.raises(ConfigError, match=r"found videos of another run; choose another output, or delete /"):
        extract(bucket.root)
