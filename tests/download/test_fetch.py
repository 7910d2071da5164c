"""The downloader against a mirror on loopback that breaks off, stalls, lies and recovers."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from tests.download.server import (
    FIRST,
    LABELS,
    NAMES,
    PARTITION,
    SIZE,
    WHOLE,
    Fault,
    Mirror,
    leftovers,
    path_of,
    run,
    some_bytes,
)
from yt8m.download import fetch, transfer
from yt8m.download.verified import RECORD
from yt8m.errors import FetchError

# What goes well


def test_a_partition_and_the_label_files_arrive(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    assert leftovers(tmp_path) == [*WHOLE, *LABELS]
    assert (tmp_path / WHOLE[1]).read_bytes() == some_bytes(1)


@pytest.mark.parametrize(
    ("partition", "glob"),
    [
        ("2/video/train", "2/video/train/*.tfrecord"),
        ("2/frame_level/validate", "2/frame/validate/*.tfrecord"),
        ("3/frame/test", "3/frame/test/*.tfrecord"),
    ],
)
def test_files_land_where_the_datasets_look(
    mirror: Mirror, tmp_path: Path, partition: str, glob: str
) -> None:
    split = partition.rsplit("/", 1)[1]
    mirror.add_partition(partition, {f"{split}zz.tfrecord": b"shard"})
    run(mirror, tmp_path, f"partition={partition}")
    assert [path.name for path in tmp_path.glob(glob)] == [f"{split}1575.tfrecord"]  # z is digit 25
    assert (tmp_path / "vocabulary.csv").exists()


def test_a_second_run_asks_for_no_file(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(mirror, tmp_path)
    mirror.requests.clear()
    monkeypatch.setattr(transfer, "md5sum", lambda path: pytest.fail(f"{path} was hashed again"))
    run(mirror, tmp_path)
    assert [r.path for r in mirror.requests] == ["/2/download_plans/frame_train.json"]


@pytest.mark.parametrize("column", [0, 1])
def test_a_file_under_either_name_is_there(mirror: Mirror, tmp_path: Path, column: int) -> None:
    folder = tmp_path / PARTITION
    folder.mkdir(parents=True)
    for i, names in enumerate(NAMES.items()):
        (folder / names[column]).write_bytes(some_bytes(i))
    run(mirror, tmp_path)
    assert mirror.asked() == []
    assert len(list(folder.glob("*.tfrecord"))) == 2


def test_a_share_is_all_that_is_fetched(mirror: Mirror, tmp_path: Path) -> None:
    files = {f"train{a}{b}.tfrecord": bytes([ord(a), ord(b)]) for a in "abcd" for b in "wxyz"}
    mirror.add_partition(PARTITION, files)
    run(mirror, tmp_path, "shard=2,3")
    share = [n for n in files if int(hashlib.md5(n.encode()).hexdigest(), 16) % 3 == 1]
    assert 0 < len(share) < 16
    assert {r.path for r in mirror.asked("GET")} == {path_of(n) for n in share}


def test_a_dry_run_writes_nothing(mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new"
    run(mirror, root, "dry_run=true")
    assert not root.exists()
    assert mirror.asked("GET") == []
    out = capsys.readouterr().out
    assert f"{mirror.url}{FIRST} -> {root / WHOLE[0]}" in out
    assert "600.0 kB" in out


def test_files_are_fetched_side_by_side(mirror: Mirror, tmp_path: Path) -> None:
    """Each answer stalls until the other has been asked for, so one file at a time would never end."""
    both = threading.Barrier(2)
    fault = Fault(wait=lambda: both.wait(10))
    mirror.always |= {path_of(name): fault for name in NAMES}
    run(mirror, tmp_path, "jobs=2", "read_timeout=10")


# What goes wrong on the way, and passes


def test_a_file_that_breaks_off_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults[FIRST] = [Fault(cut=200_000)]
    run(mirror, tmp_path)
    first, second = (r for r in mirror.asked("GET") if r.path == FIRST)
    start = int(second.range.removeprefix("bytes=").removesuffix("-"))
    assert 200_000 - fetch.CHUNK < start <= 200_000
    assert (first.sent, second.sent) == (200_000, SIZE - start)
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(stall=100_000)],
        [Fault(stall=0), Fault(cut=0)],
        [Fault(status=503), Fault(status=500), Fault(status=429)],
        [Fault(body=some_bytes(9))],
        [Fault(cut=100_000), Fault(ignore_range=True)],
        [Fault(cut=100_000), Fault(body=some_bytes(9))],
        [Fault(cut=100_000), Fault(headers={"Content-Range": "bytes 0-299999/300000"})],
        [Fault(cut=100_000), Fault(status=416)],
        [Fault(status=302, headers={"Location": path_of("trainaa.tfrecord")})],
        [Fault(cut=n * 60_000) for n in (1, 1, 1, 1)],  # more than retries=3, but each brings bytes
    ],
    ids=[
        "stall",
        "stall, hang up",
        "5xx",
        "wrong bytes",
        "Range ignored",
        "wrong rest",
        "other range",
        "false 416",
        "redirect",
        "progress",
    ],
)
def test_a_passing_fault_costs_no_file(mirror: Mirror, tmp_path: Path, faults: list[Fault]) -> None:
    mirror.faults[FIRST] = list(faults)
    run(mirror, tmp_path)
    assert not mirror.faults[FIRST]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)
    assert leftovers(tmp_path) == [*WHOLE, *LABELS]


def test_a_server_without_ranges_is_believed_at_once(mirror: Mirror, tmp_path: Path) -> None:
    """The part is begun anew in the same answer, not after a wrong md5 in a third one."""
    mirror.faults[FIRST] = [Fault(cut=100_000), Fault(ignore_range=True)]
    run(mirror, tmp_path)
    assert [r.sent for r in mirror.asked("GET") if r.path == FIRST] == [100_000, SIZE]


def test_another_range_is_not_appended(mirror: Mirror, tmp_path: Path, capsys) -> None:
    mirror.faults[FIRST] = [Fault(cut=100_000), Fault(headers={"Content-Range": "bytes 0-299999/300000"})]
    run(mirror, tmp_path)
    assert "a different range" in capsys.readouterr().err


def test_the_plan_is_retried_too(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/2/download_plans/frame_train.json"] = [Fault(status=503), Fault(cut=10), Fault(stall=10)]
    run(mirror, tmp_path)


@pytest.mark.parametrize(("asked", "waited"), [("1", "1.0"), ("86400", "1.2")])
def test_retry_after_is_heeded_up_to_max_backoff(
    mirror: Mirror, tmp_path: Path, capsys, asked: str, waited: str
) -> None:
    mirror.faults[FIRST] = [Fault(status=503, headers={"Retry-After": asked})]
    run(mirror, tmp_path, "max_backoff=1.2")
    assert f"HTTP 503; retry 1 of 3 in {waited} s" in capsys.readouterr().err


def test_a_whole_part_is_not_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(0))
    run(mirror, tmp_path)
    assert [r.sent for r in mirror.asked("GET") if r.path == FIRST] == [0]
    assert leftovers(tmp_path) == [*WHOLE, *LABELS]


def test_a_part_of_another_file_is_thrown_away(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(9, 100_000))
    run(mirror, tmp_path)
    assert [r.range for r in mirror.asked("GET") if r.path == FIRST] == ["bytes=100000-", None]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)


def test_a_size_that_is_not_told_is_no_hindrance(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch.Fetcher, "size", lambda self, url: None)
    run(mirror, tmp_path)


# What lies there already


def test_nothing_is_overwritten_unasked(mirror: Mirror, tmp_path: Path, capsys) -> None:
    files = [tmp_path / PARTITION / "trainaa.tfrecord", tmp_path / WHOLE[1], tmp_path / "vocabulary.csv"]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.write_bytes(b"mine")
    with pytest.raises(FetchError):
        run(mirror, tmp_path)
    assert [file.read_bytes() for file in files] == [b"mine"] * 3
    assert mirror.asked() == []
    err = capsys.readouterr().err
    assert all(name in err for name in (*NAMES, "vocabulary.csv"))

    run(mirror, tmp_path, "overwrite=true")
    assert [file.read_bytes() for file in files[:2]] == [some_bytes(0), some_bytes(1)]
    assert leftovers(tmp_path) == [WHOLE[1], f"{PARTITION}/trainaa.tfrecord", *LABELS]


def test_a_changed_file_is_noticed(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    (tmp_path / WHOLE[0]).write_bytes(some_bytes(9))
    with pytest.raises(FetchError):
        run(mirror, tmp_path)


def test_verify_reads_every_file_again(mirror: Mirror, tmp_path: Path) -> None:
    """Bytes that rot leave size and modification time as they were."""
    run(mirror, tmp_path)
    file = tmp_path / WHOLE[0]
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(bytes([some_bytes(0)[0] ^ 1]) + some_bytes(0)[1:])
    os.utime(file, ns=times)
    run(mirror, tmp_path)
    with pytest.raises(FetchError):
        run(mirror, tmp_path, "verify=true")


def test_a_torn_record_costs_no_more_than_a_hash(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    record = tmp_path / PARTITION / RECORD
    record.write_bytes(record.read_bytes()[:-10] + b'\n\xff\n[]\n7\n[["a"]]\n{"')
    mirror.requests.clear()
    run(mirror, tmp_path)
    assert mirror.asked() == []
