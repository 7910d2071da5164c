"""What holds for every model. A new model is one row in `MODELS`."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"

TWO_FEATURES = {"rgb": 12, "audio": 5}
FEATURES = [TWO_FEATURES, {"mean_rgb": 12, "mean_audio": 5}, {"audio_embedding": 5}]
CLASSES = 20


class Model(NamedTuple):
    name: str
    parameters: int  # with the constructor's defaults: rgb 1024, audio 128, 3,846 classes
    small: dict[str, Any]  # widths that make it quick


LSTM = {"rgb": 16, "audio": 8}
MODELS = [
    Model("nn", 228_186_118, {"hidden_sizes": [32, 24]}),
    Model("bi_lstm", 176_092_998, {"hidden_size": 8}),
    Model("stream_lstm", 203_535_232, {"projection_size": 8, "hidden_sizes": LSTM, "fusion_sizes": [64, 32]}),
    Model(
        "nn_stream_lstm",
        353_971_880,
        {"mlp_sizes": {"rgb": [16, 8], "audio": [8]}, "projection_size": 8, "hidden_sizes": LSTM},
    ),
    Model("keras_nn", 193_596_166, {"mlp_sizes": [16, 24], "fusion_sizes": [32]}),
    Model("keras_bi_lstm", 201_095_942, {"hidden_size": 16, "embedding_size": 32}),
    Model(
        "keras_stream_lstm",
        65_343_270,
        {"projection_size": 8, "hidden_sizes": LSTM, "fusion_sizes": [64, 32]},
    ),
    Model(
        "keras_nn_stream_lstm",
        429_937_568,
        {
            "mlp_sizes": [16, 24],
            "projection_size": 8,
            "hidden_sizes": LSTM,
            "embedding_size": 32,
            "fusion_sizes": [64, 32],
        },
    ),
]

every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def model_class(model: Model) -> type[nn.Module]:
    return get_class(OmegaConf.load(CONF / f"{model.name}.yaml")["_target_"])


def build(model: Model, feature_sizes: dict[str, int] = TWO_FEATURES, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return model_class(model)(feature_sizes=feature_sizes, num_classes=CLASSES, **model.small).eval()


def batch(num_frames: list[int], feature_sizes: dict[str, int] = TWO_FEATURES, length: int = 0, **kwargs):
    """A random `(video, frames, num_frames)`, padded with zeros to `length` or to the longest video."""
    size, length = sum(feature_sizes.values()), length or max(num_frames)
    frames = torch.randn(len(num_frames), length, size, **kwargs)
    for row, valid in zip(frames, num_frames, strict=True):
        row[valid:] = 0
    video = frames.sum(dim=1) / torch.tensor(num_frames)[:, None]
    return video, frames, torch.tensor(num_frames)


@every_model
def test_config_names_the_class_of_the_file(model):
    path = CONF / f"{model.name}.yaml"
    assert path.read_text().startswith("# ")
    target = OmegaConf.load(path)["_target_"]
    module, name = target.rsplit(".", 1)
    assert module == f"yt8m.models.{model.name}"
    assert name.lower() == model.name.replace("_", "")


@every_model
def test_parameter_count_of_the_default_network(model):
    with torch.device("meta"):
        network = model_class(model)()
        logits = network(torch.empty(2, 1152), torch.empty(2, 3, 1152), torch.tensor([3, 1]))
    assert sum(parameter.numel() for parameter in network.parameters()) == model.parameters
    assert logits.shape == (2, 3846)


@every_model
def test_misspelt_keyword_is_refused(model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'hiden_size'"):
        model_class(model)(hiden_size=8)


@every_model
@pytest.mark.parametrize("feature_sizes", FEATURES, ids="+".join)
def test_every_parameter_takes_part(model, feature_sizes):
    network = build(model, feature_sizes)
    logits = network(*batch([4, 1, 6], feature_sizes))
    assert logits.shape == (3, CLASSES)
    logits.square().sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not unused


@every_model
def test_video_level_models_need_no_frames(model):
    network = build(model)
    video, frames, num_frames = batch([4, 1, 6])
    if network.needs_frames:
        other = network(video, frames.flip(2), num_frames)
        assert not torch.equal(network(video, frames, num_frames), other)
    else:
        torch.testing.assert_close(network(video, None, num_frames), network(video, frames, num_frames))


@every_model
@pytest.mark.parametrize("padding", ["zeros", "noise"])
def test_padding_changes_nothing(model, padding):
    network = build(model).double()
    video, frames, num_frames = batch([5, 1, 9, 2], length=13, dtype=torch.float64)
    if padding == "noise":
        for row, valid in zip(frames, num_frames, strict=True):
            row[valid:].normal_(std=1e3)
    frames.requires_grad_()
    logits = network(video, frames, num_frames)
    for row, valid in enumerate(num_frames):
        alone = network(video[row : row + 1], frames[row : row + 1, :valid], num_frames[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=1e-12, atol=1e-12)

    if network.needs_frames:
        (gradient,) = torch.autograd.grad(logits.square().sum(), frames)
        valid = torch.arange(13) < num_frames[:, None]
        assert gradient[~valid].abs().max() == 0
        assert gradient[valid].abs().max() > 0


@every_model
def test_videos_do_not_touch_each_other(model):
    network = build(model).double()
    inputs = batch([3, 7, 1, 4], dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    permuted = network(*(part[order] for part in inputs))
    torch.testing.assert_close(permuted, network(*inputs)[order], rtol=1e-12, atol=1e-12)


@every_model
def test_no_seed_starts_with_a_dead_feature(model):
    """Each feature must reach the logits with a gradient, or its part of the network could never learn."""
    for seed in range(20):
        network = build(model, seed=seed)
        # Real features have means other than zero; so LSTM outputs lean to one side of a ReLU.
        offset = torch.randn(sum(TWO_FEATURES.values()))
        video, frames, num_frames = batch([5, 8, 3, 8] * 4)
        inputs = (frames if network.needs_frames else video).add_(offset).requires_grad_()
        gradient = torch.autograd.grad(network(video, frames, num_frames).square().sum(), inputs)[0]
        for name, part in zip(TWO_FEATURES, gradient.split(list(TWO_FEATURES.values()), dim=-1), strict=True):
            alive = part.abs().flatten(1).amax(dim=1) > 0
            assert alive.float().mean() > 0.5, (
                f"seed {seed}: {name} reaches the logits of {alive.sum()} videos"
            )


@every_model
def test_bfloat16_autocast(model):
    network = build(model).train()
    inputs = batch([4, 1, 6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)
        logits = network(*inputs)
    torch.manual_seed(1)
    torch.testing.assert_close(logits.float(), network(*inputs), rtol=0.05, atol=0.02)
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@every_model
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # nn.LSTM compares sizes in Python
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # still what TensorBoard's graph uses
def test_trace_holds_for_other_shapes(model):
    network = build(model)
    traced = torch.jit.trace(network, batch([4, 1, 6]))
    inputs: tuple[Tensor, ...] = batch([2, 9, 3, 9, 1])
    torch.testing.assert_close(traced(*inputs), network(*inputs))
