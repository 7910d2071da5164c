"""What the ranks of a run tell each other."""

from typing import Any

from torch import distributed


def gather(value: Any) -> list[Any]:
    """The value of every rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
