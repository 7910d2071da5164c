"""Checks of a network's arguments that are no widths."""

from collections.abc import Sequence

from yt8m.errors import ConfigError


def switch(value: bool, key: str) -> bool:
    """`value` if it is true or false; raises ConfigError otherwise."""
    if not isinstance(value, bool):
        raise ConfigError(f"model.{key}: expected true or false, found {value!r}; set model.{key}")
    return value


def number(value: float, key: str, low: float, high: float) -> float:
    """`value` if it is a number from `low` to `high`; raises ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(
            f"model.{key}: expected a number from {low:,.9g} to {high:,.9g}, found {value!r}; set model.{key}"
        )
    return value


def choice(value: str, key: str, options: Sequence[str]) -> str:
    """`value` if it is one of `options`; raises ConfigError otherwise."""
    if not isinstance(value, str) or value not in options:
        raise ConfigError(
            f"model.{key}: expected {' or '.join(options)}, found {value!r}; set model.{key}={options[0]}"
        )
    return value
