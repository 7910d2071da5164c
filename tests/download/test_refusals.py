"""What the downloader refuses or cannot have: it names the file, and the others arrive."""

from pathlib import Path

import pytest

from tests.download.server import (
    FIRST,
    LABELS,
    PARTITION,
    WHOLE,
    Fault,
    Mirror,
    leftovers,
    path_of,
    run,
    some_bytes,
)
from yt8m.download import download
from yt8m.errors import FetchError


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(status=404), "HTTP 404"),
        (Fault(status=503), "HTTP 503; gave up after 4 attempts"),
        (Fault(body=some_bytes(9)), "wrong bytes, twice"),
        (Fault(headers={"Content-Length": "9000000000000"}), "9,000,000,000,000 bytes, more than max_file"),
        (Fault(headers={"Content-Encoding": "gzip"}), "sent with content encoding 'gzip'"),
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
    with pytest.raises(FetchError):
        run(mirror, tmp_path)
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
    with pytest.raises(FetchError):
        run(mirror, tmp_path, "max_file_size=400000")
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
    with pytest.raises(FetchError):
        run(mirror, root)
    assert leftovers(tmp_path) == [f"a/b/{path}" for path in (WHOLE[1], *LABELS)]
    assert {r.path for r in mirror.asked(ending="")} <= {
        "/2/download_plans/frame_train.json",
        path_of("trainab.tfrecord"),
        *(f"/{label}" for label in LABELS),
    }
    err = capsys.readouterr().err
    assert "refused" in err
    assert "\x1b[2J" not in err


def test_a_missing_plan_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"frame_test\.json: HTTP 404"):
        run(mirror, tmp_path / "new", "partition=2/frame/test")
    assert not (tmp_path / "new").exists()


def test_an_absurd_plan_is_refused(mirror: Mirror, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(download, "SMALL", 50)
    with pytest.raises(FetchError, match="larger than 50 bytes"):
        run(mirror, tmp_path)


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(body=b"<html>gone</html>")])
def test_a_vocabulary_that_cannot_be_had_is_named(mirror: Mirror, tmp_path: Path, capsys, fault) -> None:
    mirror.always["/vocabulary.csv"] = fault
    with pytest.raises(FetchError):
        run(mirror, tmp_path)
    assert "vocabulary.csv" in capsys.readouterr().err
    assert leftovers(tmp_path) == [*WHOLE, "segment_label_ids.csv"]
    run(mirror, tmp_path, "vocabulary_url=null")
