"""Networks with a part per feature: split the input, pick each feature's widths, hold its modules."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from yt8m.errors import ConfigError
from yt8m.layers.streams import at_once

DEFAULT = "default"  # the entry of every feature that has none of its own

Size = TypeVar("Size")  # one width, or the widths of several layers


def split_features(x: Tensor, feature_sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """`[..., D]` as one tensor `[..., D_f]` per feature, in configured order."""
    return torch.split(x, list(feature_sizes.values()), dim=-1)


class PerFeature(nn.ModuleDict):
    """One module per feature, in configured order, under the feature's name, each for its feature's columns.

    `nn.ModuleDict` refuses names with a dot and those of its own methods (`keys`), so these are spelled differently.

    Args:
        feature_sizes: size of each feature, in the order of its columns.
        modules: one per feature.
    """

    def __init__(self, feature_sizes: Mapping[str, int], modules: Iterable[nn.Module]):
        super().__init__()
        self._feature_sizes = dict(feature_sizes)
        for feature, module in zip(feature_sizes, modules, strict=True):
            name = feature.replace(".", "_")
            while hasattr(self, name) or name in self:
                name += "_"
            self[name] = module

    def forward(self, x: Tensor, *shared: Tensor) -> list[Tensor]:
        """What each module returns for its columns of `x [..., D]` and what all of them get, such as `num_frames`."""
        columns = split_features(x, self._feature_sizes)
        parts = [partial(module, part, *shared) for module, part in zip(self.values(), columns, strict=True)]
        return at_once(parts, [x, *shared])


def match_features(
    feature_sizes: Mapping[str, int], key: str, defaults: Mapping[str, Size], chosen: Mapping[str, Size]
) -> list[Size]:
    """Pick each feature's entry from an argument that is given per feature.

    A feature takes the entry of its own name, else of the first token of its name (split at `_`) that has one, else the
    entry `default`: `mean_rgb` takes `rgb`, `audio_embedding` takes `audio`, `flow` takes `default`.

    Args:
        feature_sizes: the configured features; only their names matter.
        key: the constructor argument, for error messages.
        defaults: the model's own entries.
        chosen: the argument's value: entries that replace or join the defaults.

    Returns:
        One entry per feature, in configured order.

    Raises:
        ConfigError: a feature has no entry, or an added entry belongs to no feature (a misspelled name).
    """
    if not isinstance(chosen, Mapping):
        raise ConfigError(
            f"model.{key}: expected an entry per feature, such as {dict(defaults)}, found {chosen!r}; "
            f"set model.{key}.{next(iter(feature_sizes))}=…"
        )
    entries = {**defaults, **chosen}
    picked = []
    for feature in feature_sizes:
        candidates = (feature, *feature.split("_"), DEFAULT)
        match = next((name for name in candidates if name in entries), None)
        if match is None:
            raise ConfigError(
                f"model.{key}: expected an entry for feature {feature!r}, found {', '.join(entries)}; "
                f"add one with +model.{key}.{feature}=…"
            )
        picked.append(match)
    if unused := sorted(set(entries) - set(defaults) - set(picked)):
        raise ConfigError(
            f"model.{key}: expected entries named after features ({', '.join(feature_sizes)}) or tokens of their "
            f"names, found {unused[0]!r}; rename or remove model.{key}.{unused[0]}"
        )
    return [entries[match] for match in picked]
