"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real YouTube-8M and AudioSet shards beside the checkout; absent in a user's clone."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real shards beside this checkout (../shared/data)")
    return SHARED_DATA
