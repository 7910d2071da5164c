"""Scaling of a network's widths."""

import pytest

from yt8m.errors import ConfigError
from yt8m.layers.widths import scaled, scaled_all, whole


def test_widths_scale_and_stop_at_the_floor():
    for size, width, expected in [
        (2096, 1, 2096),
        (2096, 0.125, 262),
        (300, 0.125, 64),  # 38 would be below the floor
        (16, 0.125, 16),  # below the floor at full width: stays
        (16, 1, 16),
        (3862, 1 / 32, 121),
        (40, 1 / 32, 40),
        (100, 2, 200),
        (1, 1, 1),
    ]:
        assert scaled(size, width, "hidden_size") == expected, (size, width)
    assert scaled_all((4096, 512, 8), 0.25, "sizes") == [1024, 128, 8]


def test_full_width_changes_nothing():
    for size in range(1, 5000):
        assert scaled(size, 1, "hidden_size") == scaled(size, 1.0, "hidden_size") == size


def test_what_is_no_width_is_refused_in_one_line():
    for size in (0, -1, 2.5, "8", None, True, 10**8, [8]):
        with pytest.raises(
            ConfigError, match=r"^model\.hidden_size: expected a whole number from 1 to 10,000,000"
        ):
            scaled(size, 1, "hidden_size")
    for width in (0, -1, 11, "1/8", None, True, float("nan"), float("inf")):
        with pytest.raises(
            ConfigError, match=r"^model\.width: expected a number above 0 and at most 10, found"
        ):
            scaled(8, width, "hidden_size")
    for sizes in ([], 8, "88", None, {"rgb": 8}, [8] * 101):
        with pytest.raises(ConfigError, match=r"^model\.sizes: expected a list of 1 to 100 widths, found"):
            scaled_all(sizes, 1, "sizes")
    with pytest.raises(ConfigError, match=r"^model\.sizes: expected a whole number .*found 0"):
        scaled_all([8, 0], 1, "sizes")
    for number in (0, 101, 1.0, True):
        with pytest.raises(
            ConfigError, match=r"^model\.num_layers: expected a whole number from 1 to 100, found"
        ):
            whole(number, "num_layers")
