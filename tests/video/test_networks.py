"""Inception and VGGish against what is published of them: parameters, shapes, padding, and how inputs are scaled."""

import numpy as np
import pytest
import torch

from yt8m.video.inception import Inception, average
from yt8m.video.vggish import VGGish


def count(network):
    return sum(values.numel() for values in network.parameters())


def seen(network, inputs, *, before=False):
    """What comes out of each module of `network`, or with `before` what goes in, by its name."""
    found = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, arguments, output, name=name: found.update({name: arguments[0] if before else output})
        )
    with torch.no_grad():
        network(inputs)
    return found


def test_inception_has_the_published_parameters_and_shapes():
    with torch.device("meta"):
        network = Inception()
        # torchvision's Inception v3, without its auxiliary classifier and without its last layer.
        assert count(network) == 27_161_264 - 3_326_696 - 2_049_000
        found = seen(network, torch.empty(2, 299, 299, 3))
    shapes = {
        "Conv2d_1a_3x3": (32, 149),
        "Conv2d_2a_3x3": (32, 147),
        "Conv2d_2b_3x3": (64, 147),
        "Conv2d_3b_1x1": (80, 73),
        "Conv2d_4a_3x3": (192, 71),
        "Mixed_5b": (256, 35),
        **dict.fromkeys(("Mixed_5c", "Mixed_5d"), (288, 35)),
        **dict.fromkeys(("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), (768, 17)),
        "Mixed_7a": (1280, 8),
        **dict.fromkeys(("Mixed_7b", "Mixed_7c"), (2048, 8)),
    }
    for name, (channels, side) in shapes.items():
        assert found[name].shape == (2, channels, side, side), name
    assert found[""].shape == (2, 2048)


def test_inception_scales_pixels_and_pools_as_the_graph_does():
    torch.manual_seed(0)
    network = Inception(1 / 16).eval()
    images = torch.rand(1, 299, 299, 3) * 255
    found = seen(network, images, before=True)
    first = found["Conv2d_1a_3x3"][0].numpy()
    for row, column, channel in ((0, 0, 0), (17, 290, 1), (298, 3, 2)):
        expected = (float(images[0, row, column, channel]) - 128) / 128
        assert first[channel, row, column] == pytest.approx(expected, abs=1e-6)
    # The last block pools by maximum, the others by the mean of the pixels within the image.
    for block, pool in {
        "Mixed_5b": np.mean,
        "Mixed_6c": np.mean,
        "Mixed_7b": np.mean,
        "Mixed_7c": np.max,
    }.items():
        x, pooled = found[block][0].numpy(), found[f"{block}.branch_pool"][0].numpy()
        side = x.shape[-1]
        for row, column in ((0, 0), (0, side - 1), (2, side // 2), (side - 1, 3)):
            window = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            np.testing.assert_allclose(
                pooled[:, row, column], pool(window, axis=(1, 2)), rtol=1e-4, atol=1e-6
            )
    assert torch.equal(average(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    last = seen(network, images)
    np.testing.assert_allclose(last[""], last["Mixed_7c"].mean(dim=(2, 3)), rtol=1e-5)


def test_vggish_has_the_published_parameters_and_shapes():
    with torch.device("meta"):
        network = VGGish()
        assert count(network) == 72_141_184  # of vggish_model.ckpt
        found = seen(network, torch.empty(2, 96, 64))
    assert found["features"].shape == (2, 512, 6, 4)
    assert found["embeddings.0"].shape == (2, 4096)
    assert found[""].shape == (2, 128)


def test_vggish_flattens_channels_last_and_ends_before_its_relu():
    torch.manual_seed(0)
    network = VGGish(1 / 16)
    examples = torch.randn(3, 96, 64)
    found = seen(network, examples, before=True)
    features, flat = network.features(examples[:, None]), found["embeddings"]
    for channel, time, band in ((0, 0, 0), (5, 0, 1), (31, 5, 3), (7, 3, 0)):
        assert torch.equal(flat[:, (time * 4 + band) * 32 + channel], features[:, channel, time, band])
    with torch.no_grad():
        outputs = network(examples)
    assert (outputs < 0).any()
    assert isinstance(network.embeddings[-1], torch.nn.Linear)
