"""The download protocol: names, shares, plans that nobody should trust."""

import hashlib
import json

import pytest

from yt8m.download.mirror import Share, read_plan, stored_name
from yt8m.errors import FetchError


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


def test_two_names_for_one_file_and_a_missing_md5_are_refused() -> None:
    plan = {"trainab.tfrecord": "A" * 32, "train0001.tfrecord": "b" * 32, "trainac.tfrecord": 5}
    files, refused = read_plan(json.dumps({"files": plan}).encode(), Share())
    assert [(f.name, f.md5) for f in files] == [("train0001.tfrecord", "b" * 32)]
    assert sorted(refused) == ["trainab.tfrecord", "trainac.tfrecord"]
