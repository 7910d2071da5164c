"""Shards of a real S3 API: the same data as from files, whatever the network does."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

import yt8m
from tests.storage.conftest import Bucket
from yt8m.datamodules.datamodule import YT8MDataModule
from yt8m.datamodules.sample import write_sample
from yt8m.datamodules.tfrecord import index, sidecar_of
from yt8m.errors import ChangedError, ConfigError, DataError, FetchError, WriteError
from yt8m.storage import shard as shard_module
from yt8m.storage import transport, usage
from yt8m.storage.shard import RemoteShard

SHARDS = 8
FIRST = "train/train0000.tfrecord"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    counts = {"train_videos": 80, "validate_videos": 16, "test_videos": 16}
    return write_sample(folder, **counts, num_classes=8, min_frames=10, max_frames=12, shards=SHARDS)


def open_data(root: str | Path, **changes) -> YT8MDataModule:
    arguments = {
        "features": {"rgb": 1024, "audio": 128},
        "num_classes": 8,
        "train": "train/*.tfrecord",
        "validate": "validate/*.tfrecord",
        "vocabulary": "vocabulary.csv",
        "batch_size": 7,
        "num_workers": 0,
        "shuffle_window": 2,
    }
    return YT8MDataModule(root=str(root), **arguments | changes)


def epochs(datamodule: YT8MDataModule, *numbers: int) -> list[tuple]:
    """Every batch of these epochs of training, and of the validation after each."""
    datamodule.setup("fit")
    found = []
    for number in numbers:
        for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
            loader.batch_sampler.set_epoch(number)
            found += [(b.ids, b.features.clone(), b.label_index, b.num_frames) for b in loader]
            loader.close()
    return found


def same(one: list[tuple], other: list[tuple]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def first_shard(root: str, **changes) -> RemoteShard:
    return open_data(root, **changes).shards("train")[0]


def test_records_in_python_are_those_of_local_files(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    expected, found = yt8m.open(sample / "train"), yt8m.open(f"{bucket.root}/train/*.tfrecord")
    assert [one.id for one in found] == [one.id for one in expected]
    assert torch.equal(*(torch.from_numpy(records[-1].features["rgb"]) for records in (found, expected)))
    assert bucket.proxy.reads_of(FIRST) == 1
    with pytest.raises(ConfigError, match=r"^path: expected shards at s3://.*, found none in the bucket"):
        yt8m.open(f"{bucket.root}/absent")


def test_batches_are_those_of_local_files_and_each_shard_comes_once(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    expected = epochs(open_data(sample), 0, 1)
    before = usage.totals()
    for number, workers in enumerate((2, 0)):
        datamodule = open_data(bucket.root, num_workers=workers, limit_shards=None)
        assert same(epochs(datamodule, 0, 1), expected)
        for _ in range(2):
            assert [one.name for one in datamodule.classes()] == [
                one.name for one in open_data(sample).classes()
            ]
        assert bucket.proxy.reads_of("vocabulary.csv") == number + 1  # once for each data module
        reads = Counter(path for method, path, bytes_ in bucket.proxy.requests if bytes_)
        assert set(reads.values()) == {1}
        assert len(reads) == 2 * SHARDS  # also the second time: the cache has them
        # Nothing was known about the records the first time, and everything after it.
        assert (datamodule.datasets["train"].shard_sizes >= 0).all() or number == 0
    spent = {name: value - before[name] for name, value in usage.totals().items()}
    stored = [*sample.glob("train/*.tfrecord"), *sample.glob("validate/*.tfrecord")]
    assert spent["download_bytes"] == sum(path.stat().st_size for path in stored)
    assert spent["cache_hits"] > 0


def test_memory_addresses_and_sidecars(sample: Path, bucket: Bucket):
    """The file system in memory; with sidecars the records are known at once, also their lengths."""
    root = f"memory:/{bucket.root[4:]}"
    bucketed = {"bucket_by_length": True, "num_workers": 2}
    bucket.root = root
    bucket.upload(sample)
    module = open_data(root, **bucketed)
    module.setup("fit")
    with pytest.raises(ConfigError, match=r"dataset\.bucket_by_length: needs the records of every shard"):
        module.train_dataloader()
    for path in sample.glob("*/*.tfrecord"):
        bucket.put(f"{path.parent.name}/{path.stem}.tfindex", sidecar_of(index(path)))
    module = open_data(root, **bucketed)
    assert same(epochs(module, 0), epochs(open_data(sample, **bucketed), 0))
    assert len(module.datasets["train"]) == 80
    limited = {"limit_videos": 13}
    assert same(epochs(open_data(root, **limited), 0), epochs(open_data(sample, **limited), 0))


def test_faults_that_pass_are_retried(bucket: Bucket, sample: Path, monkeypatch: pytest.MonkeyPatch):
    bucket.upload(sample)
    content = (sample / FIRST).read_bytes()
    monkeypatch.setattr(shard_module, "BLOCK", len(content) // 2 + 1)
    options = {"config_kwargs": {**transport._OPTIONS["s3"]["config_kwargs"], "read_timeout": 0.3}}
    monkeypatch.setitem(transport._OPTIONS, "s3", options)
    transport.forget(bucket.root)
    shard = first_shard(bucket.root)
    for fault in ("500 InternalError", "503 SlowDown", "reset", "truncate", "wait 0.6", "403 ExpiredToken"):
        counts: Counter[str] = Counter()

        def once(
            method: str, path: str, range_: str, fault: str = fault, counts: Counter[str] = counts
        ) -> str:
            counts[range_] += 1
            return fault if range_ and counts[range_] == 1 else ""

        bucket.proxy.fault = once
        bucket.proxy.requests.clear()
        fd = shard.open()
        assert os.pread(fd, len(content) + 1, 0) == content, fault
        os.close(fd)
        assert bucket.proxy.reads_of(FIRST) == 4, fault  # each of two ranges, twice
        shard.discard()


def test_faults_that_stay_name_the_object_and_what_to_do(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    shard = first_shard(bucket.root)
    for fault, tries, message in (
        (
            "503 SlowDown",
            transport.ATTEMPTS,
            r"could not read in 10 attempts, the last .*SlowDown.*; check",
        ),
        ("reset", transport.ATTEMPTS, r"could not read in 10 attempts.*; check the network"),
        ("truncate", transport.ATTEMPTS, r"could not read in 10 attempts"),
        ("403 ExpiredToken", 3, r"access denied .*ExpiredToken.*; renew the credentials"),
    ):
        bucket.proxy.fault = lambda method, path, range_, fault=fault: fault if range_ else ""
        bucket.proxy.requests.clear()
        with pytest.raises(FetchError, match=message) as error:
            shard.open()
        assert str(error.value).startswith(f"{bucket.root}/{FIRST}: ")
        assert "\n" not in str(error.value)
        # The HTTP client may repeat a request on a connection that the server closed.
        assert tries <= bucket.proxy.reads_of(FIRST) <= 2 * tries
        assert not shard.is_here()
    bucket.proxy.fault = lambda *_: ""
    os.close(shard.open())


def test_an_object_that_changes_during_the_run_is_an_error(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    content = (sample / FIRST).read_bytes()
    for change, message in (
        (lambda: bucket.put(FIRST, content[::-1]), "found it replaced"),
        (lambda: bucket.put(FIRST, content[:99]), "found 99 bytes instead of"),
        (lambda: bucket.delete(FIRST), "found it deleted"),
    ):
        bucket.put(FIRST, content)
        shard = first_shard(bucket.root)
        change()
        with pytest.raises(ChangedError, match=message) as error:
            shard.open()
        assert str(error.value).startswith(f"{bucket.root}/{FIRST} @ byte 0: ")
    # Also where damaged records are skipped: the error ends the run, and no reader dies of it.
    bucket.put(FIRST, content)
    datamodule = open_data(bucket.root, on_corrupt="skip", num_workers=2)
    datamodule.setup("fit")
    bucket.put(FIRST, content[::-1])
    with pytest.raises(ChangedError, match="found it replaced"):
        list(datamodule.train_dataloader())
    datamodule.teardown("fit")


def test_a_copy_that_arrived_damaged_is_fetched_again(bucket: Bucket, sample: Path):
    bucket.upload(sample)
    garbled = iter(["garble"])
    datamodule = open_data(bucket.root)
    [shard] = [s for s in datamodule.shards("train") if s.address.endswith(FIRST)]
    dataset = datamodule.read([shard])
    os.close(shard.open())  # indexed below from a sound copy, which is then replaced by a garbled one
    dataset.remote.count_all()
    shard.discard()
    bucket.proxy.fault = lambda method, path, range_: next(garbled, "") if range_ else ""
    found = dataset[0]
    assert torch.equal(found.features, open_data(sample).read([sample / FIRST])[0].features)
    # The object itself is damaged: said once, with its address.
    content = bytearray((sample / FIRST).read_bytes())
    content[100] ^= 1
    bucket.put(FIRST, bytes(content))
    dataset = open_data(bucket.root).read([first_shard(bucket.root)])
    dataset.remote.count_all()
    with pytest.raises(DataError, match=f"{bucket.root}/{FIRST} @ byte 0: expected payload CRC"):
        dataset[0]


def test_roots_that_cannot_be_used(bucket: Bucket, sample: Path, monkeypatch: pytest.MonkeyPatch):
    bucket.upload(sample)
    biggest = sum(sorted((p.stat().st_size for p in sample.glob("train/*.tfrecord")), reverse=True)[:6])
    for root, changes, message in (
        (
            "s3://videos/nothing-here",
            {},
            r"dataset\.train: expected shards at s3://videos/nothing-here/train/\*",
        ),
        ("s3://no-such-bucket", {}, r"dataset\.train: expected shards at s3://no-such-bucket"),
        ("nfs-over-fax://x", {}, r"dataset\.root: expected a path or an address .*found nfs-over-fax://"),
        ("simplecache::s3://videos", {}, r"dataset\.root: expected one address, found the chain"),
        ("s3://AKIA:geheim@videos/x", {}, r"dataset\.root: expected an address without credentials"),
        (
            "https://x.org/y?X-Amz-Signature=geheim",
            {},
            r"dataset\.root: expected an address without credentials",
        ),
        (bucket.root, {"cache_limit": "10kB"}, r"dataset\.cache_limit: expected .*two windows of 2 shards"),
        (bucket.root, {"cache_limit": "lots"}, r"dataset\.cache_limit: expected a size such as 200GB"),
        (bucket.root, {"cache_dir": "s3://videos"}, r"dataset\.cache_dir: expected a folder on a local disk"),
        (
            bucket.root,
            {"manifest": "gone.csv"},
            r"dataset\.manifest: expected a file, found nothing at s3://",
        ),
        (str(sample), {"manifest": "manifest.csv"}, r"dataset\.manifest: expected none for the local folder"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            open_data(root, **changes).shards("train")
        assert "geheim" not in str(error.value)
    assert len(open_data(bucket.root, cache_limit=biggest).shards("train")) == SHARDS
    monkeypatch.setattr(transport, "FIRST_ATTEMPTS", 2)
    bucket.proxy.fault = lambda *_: "403 AccessDenied"
    with pytest.raises(FetchError, match=r"could not list, access denied"):
        open_data(bucket.root).shards("train")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    transport.forget(bucket.root)
    with pytest.raises(ConfigError, match="expected credentials in the environment, found none"):
        open_data(bucket.root).shards("train")


def test_uploads_are_retried_and_whole(bucket: Bucket, sample: Path):
    faults = iter(["503 SlowDown", "reset"])
    bucket.proxy.fault = lambda method, path, range_: next(faults, "") if method == "PUT" else ""
    transport.upload(sample / FIRST, f"{bucket.root}/{FIRST}")
    assert transport.read(f"{bucket.root}/{FIRST}") == (sample / FIRST).read_bytes()
    bucket.proxy.fault = lambda method, path, range_: "403 AccessDenied" if method == "PUT" else ""
    for write in (
        lambda: transport.upload(sample / FIRST, f"{bucket.root}/other"),
        lambda: transport.write(f"{bucket.root}/other", b"x"),
    ):
        with pytest.raises(WriteError, match=f"{bucket.root}/other: could not write, access denied"):
            write()
