"""Checks of arguments that are no widths."""

import pytest

from yt8m.errors import ConfigError
from yt8m.layers.arguments import choice, number, switch


def test_good_values_come_back():
    assert switch(False, "gate") is False
    assert number(0, "weight", 0, 1) == 0
    assert choice("max", "pooling", ("max", "mean")) == "max"


def test_bad_values_are_refused_in_one_line():
    for check, values in (
        (lambda value: switch(value, "key"), (0, 1, "true", None)),
        (lambda value: number(value, "key", 0, 1), (-0.1, 1.1, True, "1", None, float("nan"))),
        (lambda value: choice(value, "key", ("max", "mean")), ("min", None, 1, ["max"])),
    ):
        for value in values:
            with pytest.raises(
                ConfigError, match=r"^model\.key: expected [^\n]*, found [^\n]*; set model\.key"
            ):
                check(value)
