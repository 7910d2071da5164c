"""Fixtures shared by all tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download.server import Mirror, serving
from tests.training import TINY, sample_overrides, train

# A script's background job ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """A small mirror of YouTube-8M on loopback."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real YouTube-8M and AudioSet shards beside the checkout; absent in a user's clone."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real shards beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_sample(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that choose a small embedded sample, shared by all tests."""
    return sample_overrides(tmp_path_factory.mktemp("sample") / "tiny")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_sample: list[str]) -> Path:
    """Folder of a small finished run on the small sample, shared by all tests."""
    folder = tmp_path_factory.mktemp("tiny_run")
    train(folder, *TINY, *tiny_sample)
    return folder


@pytest.fixture(scope="session")
def feature_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of random weights for `yt8m.video`, shared by all tests: copy it to change it."""
    from tests.video.files import write_weights

    return write_weights(tmp_path_factory.mktemp("weights") / "weights")
