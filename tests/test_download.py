"""The downloader against a mirror on loopback that breaks off, stalls, lies and recovers."""

import errno
import fcntl
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.download_server import Fault, Mirror
from yt8m.config import CONFIG_DIR
from yt8m.datamodules import fetch, transfer
from yt8m.datamodules.mirror import FetchError, Share, read_plan, stored_name
from yt8m.datamodules.verified import RECORD
from yt8m.download import download
from yt8m.errors import ConfigError

PARTITION = "2/frame/train"
SIZE = 300_000
FAST = ["backoff=0.01", "max_backoff=0.05", "read_timeout=0.4", "retries=3"]
NAMES = {"trainaa.tfrecord": "train0000.tfrecord", "trainab.tfrecord": "train0001.tfrecord"}


def some_bytes(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.add_partition(PARTITION, {name: some_bytes(i) for i, name in enumerate(NAMES)})
    server.files["/vocabulary.csv"] = b"Index,TrainVideoCount\n0,1\n"
    server.files["/segment_label_ids.csv"] = b"Index\n3\n"
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def arguments(mirror: Mirror, root: Path, *more: str) -> list[str]:
    urls = {"plan_base": "", "file_base": ""} | {
        f"{name}_url": f"/{name}.csv" for name in ("vocabulary", "segment_label_ids")
    }
    settings = [f"{key}={mirror.url}{path}" for key, path in urls.items()]
    return [f"partition={PARTITION}", f"root={root}", *settings, *FAST, *more]


@functools.cache
def defaults() -> DictConfig:
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose("download")


def run(mirror: Mirror, root: Path, *more: str) -> int:
    return download(OmegaConf.merge(defaults(), OmegaConf.from_dotlist(arguments(mirror, root, *more))))


def start(mirror: Mirror, root: Path, *more: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "yt8m.download", *arguments(mirror, root, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(path: Path, size: int) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{path} never had {size} bytes"
        time.sleep(0.01)


def path_of(name: str, partition: str = PARTITION) -> str:
    return f"/{partition}/{name}"


def leftovers(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != RECORD)


WHOLE = ["2/frame/train/train0000.tfrecord", "2/frame/train/train0001.tfrecord"]
LABELS = ["segment_label_ids.csv", "vocabulary.csv"]
FIRST = path_of("trainaa.tfrecord")


# The protocol


def test_stored_names_count_in_base_62() -> None:
    digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    names = [stored_name(f"train{high}{low}.tfrecord") for high in digits for low in digits]
    assert names == [f"train{i:04d}.tfrecord" for i in range(3844)]
    assert stored_name("train0001.tfrecord") == "train0001.tfrecord"


def test_shares_cut_a_plan_without_gap_or_overlap() -> None:
    names = [f"train{i}.tfrecord" for i in range(500)]
    shares = [[n for n in names if n in Share(x, 7)] for x in range(1, 8)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert shares[2] == [n for n in names if int(hashlib.md5(n.encode()).hexdigest(), 16) % 7 == 2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"files": ["a"]}',
        b'{"files": null}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_plan_is_refused(body: bytes) -> None:
    with pytest.raises(FetchError, match="not a download plan"):
        read_plan(body, Share())


# What goes well


def test_a_partition_and_the_label_files_arrive(mirror: Mirror, tmp_path: Path) -> None:
    assert run(mirror, tmp_path) == 0
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
    assert run(mirror, tmp_path, f"partition={partition}") == 0
    assert [path.name for path in tmp_path.glob(glob)] == [f"{split}1575.tfrecord"]  # z is digit 25
    assert (tmp_path / "vocabulary.csv").exists()


def test_a_second_run_asks_for_no_file(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(mirror, tmp_path)
    mirror.requests.clear()
    monkeypatch.setattr(transfer, "md5sum", lambda path: pytest.fail(f"{path} was hashed again"))
    assert run(mirror, tmp_path) == 0
    assert [r.path for r in mirror.requests] == ["/2/download_plans/frame_train.json"]


@pytest.mark.parametrize("column", [0, 1])
def test_a_file_under_either_name_is_there(mirror: Mirror, tmp_path: Path, column: int) -> None:
    folder = tmp_path / PARTITION
    folder.mkdir(parents=True)
    for i, names in enumerate(NAMES.items()):
        (folder / names[column]).write_bytes(some_bytes(i))
    assert run(mirror, tmp_path) == 0
    assert mirror.asked() == []
    assert len(list(folder.glob("*.tfrecord"))) == 2


def test_a_share_is_all_that_is_fetched(mirror: Mirror, tmp_path: Path) -> None:
    files = {f"train{a}{b}.tfrecord": bytes([ord(a), ord(b)]) for a in "abcd" for b in "wxyz"}
    mirror.add_partition(PARTITION, files)
    assert run(mirror, tmp_path, "shard=2,3") == 0
    share = [n for n in files if int(hashlib.md5(n.encode()).hexdigest(), 16) % 3 == 1]
    assert 0 < len(share) < 16
    assert {r.path for r in mirror.asked("GET")} == {path_of(n) for n in share}


def test_a_dry_run_writes_nothing(mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new"
    assert run(mirror, root, "dry_run=true") == 0
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
    assert run(mirror, tmp_path, "jobs=2", "read_timeout=10") == 0


# What goes wrong on the way, and passes


def test_a_file_that_breaks_off_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults[FIRST] = [Fault(cut=200_000)]
    assert run(mirror, tmp_path) == 0
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
    assert run(mirror, tmp_path) == 0
    assert not mirror.faults[FIRST]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)
    assert leftovers(tmp_path) == [*WHOLE, *LABELS]


def test_a_server_without_ranges_is_believed_at_once(mirror: Mirror, tmp_path: Path) -> None:
    """The part is begun anew in the same answer, not after a wrong md5 in a third one."""
    mirror.faults[FIRST] = [Fault(cut=100_000), Fault(ignore_range=True)]
    assert run(mirror, tmp_path) == 0
    assert [r.sent for r in mirror.asked("GET") if r.path == FIRST] == [100_000, SIZE]


def test_another_range_is_not_appended(mirror: Mirror, tmp_path: Path, capsys) -> None:
    mirror.faults[FIRST] = [Fault(cut=100_000), Fault(headers={"Content-Range": "bytes 0-299999/300000"})]
    assert run(mirror, tmp_path) == 0
    assert "another range" in capsys.readouterr().err


def test_the_plan_is_retried_too(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/2/download_plans/frame_train.json"] = [Fault(status=503), Fault(cut=10), Fault(stall=10)]
    assert run(mirror, tmp_path) == 0


@pytest.mark.parametrize(("asked", "waited"), [("1", "1.0"), ("86400", "1.2")])
def test_retry_after_is_heeded_up_to_max_backoff(
    mirror: Mirror, tmp_path: Path, capsys, asked: str, waited: str
) -> None:
    mirror.faults[FIRST] = [Fault(status=503, headers={"Retry-After": asked})]
    assert run(mirror, tmp_path, "max_backoff=1.2") == 0
    assert f"HTTP 503; retry 1 of 3 in {waited} s" in capsys.readouterr().err


def test_a_whole_part_is_not_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(0))
    assert run(mirror, tmp_path) == 0
    assert [r.sent for r in mirror.asked("GET") if r.path == FIRST] == [0]
    assert leftovers(tmp_path) == [*WHOLE, *LABELS]


def test_a_part_of_another_file_is_thrown_away(mirror: Mirror, tmp_path: Path) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(9, 100_000))
    assert run(mirror, tmp_path) == 0
    assert [r.range for r in mirror.asked("GET") if r.path == FIRST] == ["bytes=100000-", None]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)


def test_a_size_that_is_not_told_is_no_hindrance(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch.Fetcher, "size", lambda self, url: None)
    assert run(mirror, tmp_path) == 0


# What is refused or cannot be had: the file is named, the others arrive


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(status=404), "HTTP 404"),
        (Fault(status=503), "HTTP 503; gave up after 4 attempts"),
        (Fault(body=some_bytes(9)), "wrong bytes, twice"),
        (Fault(headers={"Content-Length": "9000000000000"}), "9,000,000,000,000 bytes, more than max_file"),
        (Fault(headers={"Content-Encoding": "gzip"}), "sent as 'gzip'"),
        (Fault(status=302, headers={"Location": "file:///etc/passwd"}), "redirect to 'file:///etc/passwd'"),
        (Fault(status=302, headers={"Location": "ftp://127.0.0.1/a"}), "redirect to 'ftp://127.0.0.1/a'"),
        (Fault(status=302, headers={"Location": "https://us.data.yt8m.org/a"}), "another scheme"),
        (Fault(status=302, headers={"Location": "http://example.org/a"}), "another host"),
        (Fault(status=302, headers={"Location": "http://127.0.0.1:1/a"}), "another host"),
        (Fault(status=302, headers={"Location": "http://[x"}), "redirect to"),
        (Fault(status=302, headers={"Location": FIRST}), "more than 5 redirects"),
    ],
)
def test_a_lasting_fault_names_the_file(
    mirror: Mirror, tmp_path: Path, monkeypatch, capsys, fault: Fault, why: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    mirror.always[FIRST] = fault
    assert run(mirror, tmp_path) == 1
    assert not (tmp_path / WHOLE[0]).exists()
    assert (tmp_path / WHOLE[1]).exists()
    named = [line for line in capsys.readouterr().err.splitlines() if "trainaa.tfrecord │" in line]
    assert len(named) == 1
    assert why in named[0]


def test_an_endless_file_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    """Chunked, so that no size is announced."""
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    mirror.always[FIRST] = Fault(
        body=chunk * 20, headers={"Transfer-Encoding": "chunked", "Content-Length": None}
    )
    assert run(mirror, tmp_path, "max_file_size=400000") == 1
    assert leftovers(tmp_path) == [WHOLE[1], *LABELS]


@pytest.mark.parametrize(
    "name",
    ["../evil.tfrecord", "/tmp/evil.tfrecord", "a\\b.tfrecord", "..", ".hidden.tfrecord", "a\n.tfrecord",
     "train\u0430a.tfrecord", "a..b.tfrecord", "\ud800.tfrecord", "evil.sh", "", "a" * 300 + ".tfrecord",
     "a\x1b[2J.tfrecord"],
)  # fmt: skip
def test_evil_names_of_a_plan_are_refused(mirror: Mirror, tmp_path: Path, capsys, name: str) -> None:
    root = tmp_path / "a" / "b"
    mirror.add_partition(PARTITION, {"trainab.tfrecord": some_bytes(1)}, **{name: "0" * 32})
    assert run(mirror, root) == 1
    assert leftovers(tmp_path) == [f"a/b/{path}" for path in (WHOLE[1], *LABELS)]
    assert {r.path for r in mirror.asked(ending="")} <= {
        "/2/download_plans/frame_train.json",
        path_of("trainab.tfrecord"),
        *(f"/{label}" for label in LABELS),
    }
    err = capsys.readouterr().err
    assert "refused" in err
    assert "\x1b[2J" not in err


def test_two_names_for_one_file_and_a_missing_md5_are_refused() -> None:
    plan = {"trainab.tfrecord": "A" * 32, "train0001.tfrecord": "b" * 32, "trainac.tfrecord": 5}
    files, refused = read_plan(json.dumps({"files": plan}).encode(), Share())
    assert [(f.name, f.md5) for f in files] == [("train0001.tfrecord", "b" * 32)]
    assert sorted(refused) == ["trainab.tfrecord", "trainac.tfrecord"]


def test_a_missing_plan_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"frame_test\.json: HTTP 404"):
        run(mirror, tmp_path / "new", "partition=2/frame/test")
    assert not (tmp_path / "new").exists()


def test_an_absurd_plan_is_refused(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "SMALL", 50)
    with pytest.raises(FetchError, match="larger than 50 bytes"):
        run(mirror, tmp_path)


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(body=b"<html>gone</html>")])
def test_a_vocabulary_that_cannot_be_had_is_named(mirror: Mirror, tmp_path: Path, capsys, fault) -> None:
    mirror.always["/vocabulary.csv"] = fault
    assert run(mirror, tmp_path) == 1
    assert "vocabulary.csv" in capsys.readouterr().err
    assert leftovers(tmp_path) == [*WHOLE, "segment_label_ids.csv"]
    assert run(mirror, tmp_path, "vocabulary_url=null") == 0


# What lies there already


def test_nothing_is_overwritten_unasked(mirror: Mirror, tmp_path: Path, capsys) -> None:
    files = [tmp_path / PARTITION / "trainaa.tfrecord", tmp_path / WHOLE[1], tmp_path / "vocabulary.csv"]
    files[0].parent.mkdir(parents=True)
    for file in files:
        file.write_bytes(b"mine")
    assert run(mirror, tmp_path) == 1
    assert [file.read_bytes() for file in files] == [b"mine"] * 3
    assert mirror.asked() == []
    err = capsys.readouterr().err
    assert all(name in err for name in (*NAMES, "vocabulary.csv"))

    assert run(mirror, tmp_path, "overwrite=true") == 0
    assert [file.read_bytes() for file in files[:2]] == [some_bytes(0), some_bytes(1)]
    assert leftovers(tmp_path) == [WHOLE[1], f"{PARTITION}/trainaa.tfrecord", *LABELS]


def test_a_changed_file_is_noticed(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    (tmp_path / WHOLE[0]).write_bytes(some_bytes(9))
    assert run(mirror, tmp_path) == 1


def test_verify_reads_every_file_again(mirror: Mirror, tmp_path: Path) -> None:
    """Bytes that rot leave size and modification time as they were."""
    run(mirror, tmp_path)
    file = tmp_path / WHOLE[0]
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(bytes([some_bytes(0)[0] ^ 1]) + some_bytes(0)[1:])
    os.utime(file, ns=times)
    assert run(mirror, tmp_path) == 0
    assert run(mirror, tmp_path, "verify=true") == 1


def test_a_torn_record_costs_no_more_than_a_hash(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    record = tmp_path / PARTITION / RECORD
    record.write_bytes(record.read_bytes()[:-10] + b'\n\xff\n[]\n7\n[["a"]]\n{"')
    mirror.requests.clear()
    assert run(mirror, tmp_path) == 0
    assert mirror.asked() == []


# Disk, locks, signals


def test_free_disk_is_checked_before_a_byte_is_fetched(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(some_bytes(0)[:100_000])
    usage = type("usage", (), {"free": 499_999})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"500\.0 kB free, about 500\.0 kB needed"):
        run(mirror, tmp_path)
    assert mirror.asked("GET") == []
    usage.free = 500_000
    assert run(mirror, tmp_path) == 0


def test_a_disk_that_fills_up_keeps_the_parts(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    """A limit on file sizes stands in for a full disk; both fail a write in the middle of a file."""
    code = """if True:
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        from yt8m.download import main
        main()
    """
    command = [sys.executable, "-c", code, *arguments(mirror, tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: {tmp_path}: {os.strerror(errno.EFBIG)}; what has arrived is kept, "
        "and the same command goes on"
    ]
    assert 0 < (tmp_path / f"{WHOLE[0]}.part").stat().st_size <= 150_000
    assert run(mirror, tmp_path) == 0


def test_two_downloads_into_one_folder_are_refused(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / PARTITION
    folder.mkdir(parents=True)
    with (folder / RECORD).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another download is at work"):
            run(mirror, tmp_path)
    assert run(mirror, tmp_path) == 0


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on(mirror: Mirror, tmp_path: Path, signal_: signal.Signals) -> None:
    part = tmp_path / f"{WHOLE[0]}.part"
    mirror.faults[FIRST] = [Fault(stall=200_000)]
    process = start(mirror, tmp_path, "read_timeout=30")
    wait_for(part, 190_000 - fetch.CHUNK)
    wait_for(tmp_path / WHOLE[1], SIZE)
    process.send_signal(signal_)
    _, err = process.communicate(timeout=20)
    assert process.returncode == (-9 if signal_ == signal.SIGKILL else 130)
    assert err == (
        ""
        if signal_ == signal.SIGKILL
        else "interrupted; what has arrived is kept, and the same command goes on\n"
    )
    kept = part.stat().st_size
    mirror.requests.clear()
    assert run(mirror, tmp_path) == 0
    assert [(r.path, r.range, r.sent) for r in mirror.asked("GET")] == [
        (FIRST, f"bytes={kept}-", SIZE - kept)
    ]
    assert (tmp_path / WHOLE[0]).read_bytes() == some_bytes(0)


# The command


def test_the_command_as_typed(mirror: Mirror, tmp_path: Path) -> None:
    """`shard=X,Y` is no sweep, `~` is the home folder, and nothing is left where the command ran."""
    here = tmp_path / "here"
    here.mkdir()
    process = start(
        mirror, Path("~/my data"), "shard=1,1", cwd=here, env=os.environ | {"HOME": str(tmp_path)}
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "0 files were there, 2 fetched" in out
    assert leftovers(tmp_path) == [f"my data/{path}" for path in (*WHOLE, *LABELS)]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("partition=2/frame", "partition"),
        ("partition=2/../train", "partition"),
        ("partition=\u0662/frame/train", "partition"),
        ("partition=???", "partition"),
        ("shard=0,5", "shard"),
        ("shard=6,5", "shard"),
        ("shard=5", "shard"),
        ("shard=[1,5]", "shard"),
        ("mirror=mars", "mirror"),
        ("jobs=0", "jobs"),
        ("jobs=2.5", "jobs"),
        ("jobs=true", "jobs"),
        ("backoff=soon", "backoff"),
        ("read_timeout=nan", "read_timeout"),
        ("dry_run=maybe", "dry_run"),
        ("root=''", "root"),
        ("plan_base=ftp://a/b", "plan_base"),
        ("file_base=http://", "file_base"),
        ("vocabulary_url=http://a:99999/", "vocabulary_url"),
        ("allowed_redirects=[example.org]", "allowed_redirects"),
        ("allowed_redirects=null", "allowed_redirects"),
    ],
)
def test_a_bad_argument_is_named(mirror: Mirror, tmp_path: Path, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}.*: ") as caught:
        run(mirror, tmp_path, override)
    assert "\n" not in str(caught.value)
    assert mirror.requests == []


@pytest.mark.parametrize("override", ["partition=2/frame", "shards=1,100", "jobs=1,2", "root=["])
def test_the_command_answers_a_bad_argument_in_one_line(override: str) -> None:
    command = [sys.executable, "-m", "yt8m.download", override]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_help_names_every_argument() -> None:
    command = [sys.executable, "-m", "yt8m.download", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [key for key in defaults() if f"{key}=" not in text] == []
