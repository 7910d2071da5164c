"""Widths of layers: one factor that narrows a whole network, and checks of what a configuration asks for."""

from collections.abc import Sequence

from yt8m.errors import ConfigError

# No layer is scaled below this many units. Narrower, LSTMs and class scores lose more than they save: with 40 classes,
# scores an eighth as wide would be five numbers.
FLOOR = 64
_MOST_UNITS = 10**7
_MOST_LAYERS = 100


def scaled(size: int, width: float, key: str, floor: int = FLOOR) -> int:
    """The units of a layer that has `size` units in the full network: round(size · width), but at least 64.

    A layer with fewer than 64 units in the full network keeps its size. With `width` 1, so does every layer.

    Args:
        size: units at full width.
        width: the network's factor, the argument `model.width`.
        key: the argument that `size` comes from, for error messages.
        floor: another number than 64, where a unit is more than a number.

    Raises:
        ConfigError: `size` is not a whole number from 1 to 10,000,000, or `width` is not a number in (0, 10].
    """
    size = whole(size, key, _MOST_UNITS)
    return max(round(size * checked_width(width)), min(size, floor))


def checked_width(width: float) -> float:
    """`width` if it is a number above 0 and at most 10; raises ConfigError otherwise."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 10:
        raise ConfigError(
            f"model.width: expected a number above 0 and at most 10, found {width!r}; set model.width=1 for the "
            "full network, or model.width=0.125 for an eighth of it"
        )
    return width


def scaled_all(sizes: Sequence[int], width: float, key: str) -> list[int]:
    """`scaled` for the widths of several layers.

    Raises:
        ConfigError: as `scaled`, and where `sizes` is empty or not a list.
    """
    if not isinstance(sizes, list | tuple) or not 1 <= len(sizes) <= _MOST_LAYERS:
        raise ConfigError(
            f"model.{key}: expected a list of 1 to {_MOST_LAYERS} widths, found {sizes!r}; "
            f"set model.{key}=[512], for example"
        )
    return [scaled(size, width, key) for size in sizes]


def whole(number: int, key: str, high: int = _MOST_LAYERS) -> int:
    """`number` if it is a whole number from 1 to `high`; raises ConfigError otherwise."""
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= high:
        raise ConfigError(
            f"model.{key}: expected a whole number from 1 to {high:,}, found {number!r}; set model.{key}"
        )
    return number
