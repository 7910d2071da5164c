"""Fixtures shared by the tests of the data path."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own for the index."""
    monkeypatch.setenv("YT8M_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def compress(request: pytest.FixtureRequest) -> bool:
    """Whether shards are written as gzip."""
    return request.param
