"""Parts per feature: splitting, matching widths, holding modules."""

import pytest
import torch
from torch import nn

from yt8m.errors import ConfigError
from yt8m.layers.features import PerFeature, match_features, split_features

DEFAULTS = {"rgb": 20, "audio": 3}
WITH_DEFAULT = DEFAULTS | {"default": 5}


def test_split_features_keeps_the_configured_order():
    parts = split_features(torch.arange(6).expand(2, 3, 6), {"b": 2, "a": 1, "c": 3})
    assert [part[0, 0].tolist() for part in parts] == [[0, 1], [2], [3, 4, 5]]


def test_a_feature_takes_its_own_entry_then_a_tokens_then_the_default():
    for features, defaults, chosen, expected in [
        (["rgb", "audio"], DEFAULTS, {}, [20, 3]),
        (["mean_audio", "mean_rgb"], DEFAULTS, {}, [3, 20]),
        (["audio_embedding"], DEFAULTS, {}, [3]),
        (["rgb", "audio"], DEFAULTS, {"rgb": 7}, [7, 3]),
        (["rgb", "optical_flow"], DEFAULTS, {"flow": 9}, [20, 9]),
        (["rgb", "mean_rgb"], DEFAULTS, {"mean_rgb": 8}, [20, 8]),  # the exact name comes before a token
        (["rgb_audio"], DEFAULTS, {}, [20]),  # the first token that has an entry
        (["rgb", "audio", "optical_flow"], WITH_DEFAULT, {}, [20, 3, 5]),
        (["flow", "text"], WITH_DEFAULT, {"text": 4}, [5, 4]),
        (["flow"], WITH_DEFAULT, {"default": 6}, [6]),
    ]:
        found = match_features(dict.fromkeys(features, 1), "hidden_sizes", defaults, chosen)
        assert found == expected, (features, chosen)


def test_entries_that_do_not_fit_the_features_are_refused():
    for features, chosen, says in [
        (
            ["rgb", "flow"],
            {},
            r"expected an entry for feature 'flow', found rgb, audio; .*hidden_sizes\.flow=",
        ),
        (["rgb", "audio"], {"rbg": 5}, r"rgb, audio.*found 'rbg'; .*remove model\.hidden_sizes\.rbg$"),
        (["rgb"], 5, r"expected an entry per feature, .*found 5; set model\.hidden_sizes\.rgb="),
    ]:
        with pytest.raises(ConfigError, match=r"^model\.hidden_sizes: .*" + says.removeprefix("^")):
            match_features(dict.fromkeys(features, 1), "hidden_sizes", DEFAULTS, chosen)


def test_modules_are_held_for_features_of_any_name():
    names = ["rgb", "keys", "a.b", "a_b", "training", "forward"]
    modules = PerFeature(dict.fromkeys(names, 1), [nn.Linear(1, size + 1) for size in range(len(names))])
    assert [module.out_features for module in modules.values()] == [1, 2, 3, 4, 5, 6]
    assert next(iter(modules)) == "rgb"  # checkpoints of usual features name their tensors plainly
    assert len(modules.state_dict()) == 2 * len(names)
