"""The manifest that verify writes, and what checks it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.conftest import Bucket
from tests.storage.test_s3 import FIRST, SHARDS, epochs, first_shard, open_data, same
from tests.training import run_command
from yt8m.datamodules.sample import write_sample
from yt8m.datamodules.tfrecord import index
from yt8m.errors import ChangedError, ConfigError
from yt8m.storage.manifest import Entry, from_csv, to_csv

HEADER = b"shard,records,bytes,crc32c\n"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    counts = {"train_videos": 80, "validate_videos": 16, "test_videos": 16}
    return write_sample(folder, **counts, num_classes=8, min_frames=10, max_frames=12, shards=SHARDS)


def test_verify_writes_it_and_training_needs_no_listing(bucket: Bucket, sample: Path, tmp_path: Path):
    bucket.upload(sample)
    shared = ["dataset.num_classes=8", "jobs=2", "index=true"]
    local = tmp_path / "local.csv"
    run_command("verify", f"dataset.root={sample}", f"manifest={local}", *shared)
    run_command("verify", f"dataset.root={bucket.root}", f"manifest={bucket.root}/manifest.csv", *shared)
    name = f"{sample}/train/train0000.tfindex"
    assert Path(name).read_bytes() == b"".join(b"%d %d\n" % (o, n) for o, n in index(sample / FIRST).tolist())
    bucket.proxy.requests.clear()
    datamodule = open_data(bucket.root)
    entries = datamodule.storage.manifest
    assert entries == from_csv(local.read_bytes(), "local")
    assert len(entries) == 3 * SHARDS
    assert same(epochs(datamodule, 0), epochs(open_data(sample), 0))
    assert len(datamodule.datasets["train"]) == 80
    assert not [path for method, path, _ in bucket.proxy.requests if "list-type" in path or path == "/videos"]
    for sidecar in sample.glob("*/*.tfindex"):  # the other tests' sample has none
        sidecar.unlink()


def test_what_arrives_must_be_what_it_says(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    content, records = (sample / FIRST).read_bytes(), len(index(sample / FIRST))
    good = Entry(FIRST, records, len(content), first_crc(content))
    for change, message in (
        ({"crc32c": 1}, r"expected the shard of the manifest \(CRC-32C 00000001\), found"),
        ({"bytes": len(content) + 1}, rf"found {len(content):,} bytes instead of {len(content) + 1:,}"),
        ({"records": records + 1}, rf"expected {records + 1:,} records, as the manifest .*found {records:,}"),
    ):
        bucket.put("manifest.csv", to_csv([good._replace(**change)]).encode())
        with pytest.raises(ChangedError, match=message) as error:
            open_data(bucket.root).read([first_shard(bucket.root)])[0]
        assert str(error.value).startswith(f"{bucket.root}/{FIRST} @ byte 0: ")
    bucket.put("manifest.csv", to_csv([good]).encode())
    open_data(bucket.root).read([first_shard(bucket.root)])[0]


def first_crc(content: bytes) -> int:
    import crc32c

    return crc32c.crc32c(content)


def test_a_manifest_of_a_stranger():
    for content, message in (
        (b"", "line 1: expected the columns"),
        (b"\xff\xfe", "line 1: expected"),
        (HEADER + b"a.tfrecord,1,2\n", "line 2: expected 4 values, found 3"),
        (
            HEADER + b"../../etc/passwd,1,2,00000000\n",
            "line 2: expected the path of another shard below the root",
        ),
        (HEADER + b"/etc/passwd,1,2,00000000\n", "line 2: expected the path"),
        (HEADER + b"s3://other/x,1,2,00000000\n", "line 2: expected the path"),
        (HEADER + b"a,1,2,00000000\n" * 2, "line 3: expected the path of another shard"),
        (HEADER + b"a,-1,2,00000000\n", "line 2: expected two whole numbers"),
        (HEADER + b"a,1,2,zzzzzzzz\n", "line 2: expected two whole numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_csv(content, "m.csv")


def test_credentials_reach_no_file(bucket: Bucket, sample: Path, tmp_path: Path, capfd):
    with pytest.raises(SystemExit) as stop:
        run_command(
            "train",
            "dataset.root=s3://AKIAX:geheim@videos/x",
            f"hydra.run.dir={tmp_path / 'run'}",
            "trainer=cpu",
        )
    assert stop.value.code == 2
    assert not (tmp_path / "run").exists()
    said = "".join(capfd.readouterr())
    assert "dataset.root: expected an address without credentials" in said
    assert "geheim" not in said


@pytest.mark.slow
def test_a_run_from_a_bucket_is_the_run_from_files(bucket: Bucket, sample: Path, tmp_path: Path):
    """In processes of their own, as a user starts them; the number of batches is unknown, and so ends the epoch.

    Stopped inside the first one and resumed, it reports what both processes have spent.
    """
    bucket.upload(sample)
    tiny = "model=logistic dataset=yt8m_frame dataset.num_classes=8 trainer=cpu dataset.batch_size=16"
    shards = [f"dataset.{name}={name}/*.tfrecord" for name in ("train", "validate", "test")]
    found = []
    for name, root in (("bucket", bucket.root), ("files", str(sample))):
        folder = tmp_path / name
        command = [sys.executable, "-W", "ignore", "-m", "yt8m.train", *tiny.split(), *shards]
        command += [f"dataset.root={root}", f"hydra.run.dir={folder}", "test=false", "ckpt_path=auto"]
        for end in ("+trainer.max_steps=2", "trainer.max_epochs=2")[name == "files" :]:
            done = subprocess.run([*command, end], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
        found.append(json.loads((folder / "metrics.json").read_text()))
    for key in ("train/loss", "val/gap", "val/loss"):
        assert found[0][key] == found[1][key], key
    read = [path for part in ("train", "validate") for path in sample.glob(f"{part}/*.tfrecord")]
    # Once each. A shard that arrived after the checkpoint from which the second process went on is not in its account.
    assert 0 < found[0]["download_bytes"] <= sum(path.stat().st_size for path in read)
    assert found[0]["cache_hits"] > 0
    assert found[0]["cache_misses"] > 0
    assert found[0]["cache_wait_seconds"] > 0
    assert "download_bytes" not in found[1]
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for path in (tmp_path / "bucket").rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes()
