"""What holds for every network. A new one is tested as soon as its two files are there."""

import io
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.models.networks import (
    CLASSES,
    CONF,
    MODELS,
    SMALLEST,
    STUDY,
    arguments,
    build,
    config,
    model_class,
)
from yt8m.errors import ConfigError
from yt8m.layers.operators import as_aten

TWO_FEATURES = {"rgb": 12, "audio": 5}
FEATURES = [
    TWO_FEATURES,
    {"mean_rgb": 12, "mean_audio": 5},
    {"audio_embedding": 5},
    {"optical_flow": 6},
    {"rgb": 4, "audio": 5, "text.v2": 3},
    {"keys": 2, "train": 3, "a.b": 4},
]

every_model = pytest.mark.parametrize("model", MODELS)


def batch(num_frames: list[int], feature_sizes: dict[str, int] = TWO_FEATURES, length: int = 0, **kwargs):
    """A random `(video, frames, num_frames)`, padded with zeros to `length` or to the longest video."""
    size, length = sum(feature_sizes.values()), length or max(num_frames)
    frames = torch.randn(len(num_frames), length, size, **kwargs)
    for row, valid in zip(frames, num_frames, strict=True):
        row[valid:] = 0
    video = frames.sum(dim=1) / torch.tensor(num_frames)[:, None]
    return video, frames, torch.tensor(num_frames)


def test_the_study_is_complete():
    assert len(STUDY) == 8


def without_dropout(model: str) -> dict[str, float]:
    return {name: 0.0 for name in arguments(model) if name.endswith("dropout")}


@every_model
def test_file_config_and_class_share_one_name(model):
    assert (CONF / f"{model}.yaml").read_text().startswith("# ")
    module, _, name = config(model)["_target_"].rpartition(".")
    assert module == f"yt8m.models.{model}"
    assert name.lower() == model.replace("_", "")


@every_model
def test_config_shows_every_argument_with_its_default(model):
    """The class and its config state the same network."""

    def plain(value):
        if isinstance(value, Mapping):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, tuple | list) else value

    shown = config(model)
    del shown["_target_"]
    assert list(shown.items()) == [(name, plain(default)) for name, default in arguments(model).items()]
    assert shown["width"] == 1


@every_model
def test_misspelled_keyword_is_refused(model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'hiden_size'"):
        model_class(model)(hiden_size=8)


def bad_values(default):
    """Values that an argument with this default must refuse."""
    if isinstance(default, Mapping):
        (first, *_), inner = default, next(iter(default.values()))
        return [
            [],
            5,
            "8",
            *({first: value} for value in ((0, "8", []) if isinstance(inner, int) else ([], 0))),
        ]
    if isinstance(default, tuple):
        return [[], [0], [8, -1], 8, "8", *([[2.5]] if isinstance(default[0], int) else [])]
    if isinstance(default, bool):
        return [0, 1, "true", [True], None]
    if isinstance(default, str):
        return ["nonsense", "", 8, [default], None]
    if isinstance(default, float):
        return [-1, "8", [8], None, True, float("nan")]
    return [0, -1, "8", [8], True] + ([2.5] if default is None else [None])


@every_model
def test_degenerate_arguments_are_refused_in_one_line(model):
    for name, default in arguments(model).items():
        if name.endswith("dropout"):
            continue  # checked by PyTorch
        for value in bad_values(None if name == "sample_frames" else default):
            with pytest.raises(ConfigError, match=rf"^model\.{name}: expected [^\n]* found [^\n]*$"):
                build(model, TWO_FEATURES, **{name: value})


@every_model
def test_every_network_has_a_small_size(model):
    """Narrow enough for two CPU cores, with 40 classes and, for the study's, with YouTube-8M's."""
    for classes in (40, 3862) if model in STUDY else (40,):
        sizes = {}
        for width in (1, 0.125, SMALLEST):
            with torch.device("meta"):
                network = model_class(model)(num_classes=classes, width=width)
            sizes[width] = sum(parameter.numel() for parameter in network.parameters())
        if model in STUDY:
            assert sizes[0.125] < min(9e6, sizes[1] / 20), (classes, sizes)
        else:  # the published ones include small ones, down to a single layer with nothing to narrow
            assert sizes[0.125] < min(9e6, max(sizes[1] / 5, 1e6)), (classes, sizes)
        assert sizes[SMALLEST] < 1.3e6, (classes, sizes)


@every_model
def test_every_parameter_takes_part_with_any_features(model):
    for feature_sizes in FEATURES:
        network = build(model, feature_sizes)
        logits = network(*batch([4, 1, 6], feature_sizes))
        assert logits.shape == (3, CLASSES), feature_sizes
        logits.square().sum().backward()
        assert not [n for n, p in network.named_parameters() if p.grad is None], feature_sizes


@every_model
def test_networks_read_the_inputs_they_say_they_need(model):
    network = build(model, TWO_FEATURES)
    video, frames, num_frames = batch([4, 1, 6])
    expected = network(video, frames, num_frames)
    for needed, other, absent in (
        (network.needs_video, (video.flip(1), frames), (None, frames)),
        (network.needs_frames, (video, frames.flip(2)), (video, None)),
    ):
        if needed:
            assert not torch.equal(network(*other, num_frames), expected)
        else:
            assert torch.equal(network(*absent, num_frames), expected)


@every_model
def test_padding_changes_nothing(model):
    network = build(model, TWO_FEATURES).double()
    for padding in ("zeros", "noise"):
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
            assert gradient[~valid].abs().max() == 0, padding
            assert gradient[valid].abs().max() > 0, padding


@every_model
def test_videos_do_not_affect_each_other(model):
    network = build(model, TWO_FEATURES).double()
    inputs = batch([3, 7, 1, 4], dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    permuted = network(*(part[order] for part in inputs))
    torch.testing.assert_close(permuted, network(*inputs)[order], rtol=1e-12, atol=1e-12)


@every_model
def test_no_seed_starts_with_a_dead_feature(model):
    """Each feature must reach the logits with a gradient, or its part of the network can never learn."""
    for seed in range(20):
        network = build(model, TWO_FEATURES, seed)
        # Real features have nonzero means, so LSTM outputs lean to one side of a ReLU.
        offset = torch.randn(sum(TWO_FEATURES.values()))
        video, frames, num_frames = batch([5, 8, 3, 8] * 4)
        inputs = (frames if network.needs_frames else video).add_(offset).requires_grad_()
        gradient = torch.autograd.grad(network(video, frames, num_frames).square().sum(), inputs)[0]
        for name, part in zip(TWO_FEATURES, gradient.split(list(TWO_FEATURES.values()), dim=-1), strict=True):
            alive = part.abs().flatten(1).amax(dim=1) > 0
            assert alive.float().mean() > 0.5, (
                f"seed {seed}: {name} reaches {alive.sum()} of {len(alive)} videos"
            )


@every_model
def test_bfloat16_autocast(model):
    network = build(model, TWO_FEATURES).train()
    inputs = batch([4, 1, 6] * 10)  # a batch norm of a few videos would magnify what bf16 rounds
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
    network = build(model, TWO_FEATURES)
    traced = torch.jit.trace(network, batch([4, 1, 6]))
    inputs: tuple[Tensor, ...] = batch([2, 9, 3, 9, 1])
    torch.testing.assert_close(traced(*inputs), network(*inputs))


def has_recurrent_layer(network):
    return any(isinstance(module, nn.RNNBase) for module in network.modules())


@pytest.mark.parametrize(
    "model", ["moe", "nextvlad", "attention", pytest.param("bi_lstm", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
def test_compiles_in_training_and_evaluation(model):
    """The whole graph at any number of videos and frames, except for recurrent layers, which break it.

    That every other network is one graph, too, is what its export shows.
    """
    torch.compiler.reset()
    network = build(model, TWO_FEATURES, **without_dropout(model))
    whole = not has_recurrent_layer(network)
    for training in (False, True):
        network.train(training)
        compiled = torch.compile(network, backend="eager", fullgraph=whole, dynamic=True)
        for num_frames in ([4, 1, 6], [2, 9, 3, 9, 1]):
            inputs = batch(num_frames)
            torch.testing.assert_close(compiled(*inputs), network(*inputs))


@every_model
def test_exports_with_any_number_of_videos_and_frames(model):
    """As one graph that Dynamo reads (`strict`); recurrent layers are single operators, which it does not read."""
    network = build(model, TWO_FEATURES)
    recurrent = has_recurrent_layer(network)
    shapes = {0: Dim("videos")}, {0: Dim("videos"), 1: Dim("time")}, {0: Dim("videos")}
    program = torch.export.export(network, batch([4, 1, 6]), dynamic_shapes=shapes, strict=not recurrent)
    if recurrent:  # saved, it needs no code of ours
        file = io.BytesIO()
        torch.export.save(as_aten(program), file)
        file.seek(0)
        program = torch.export.load(file)
        assert not any("yt8m" in str(node.target) for node in program.graph.nodes)
    for num_frames, length in (([2, 6, 3, 1, 5], 9), ([1], 1)):
        inputs = batch(num_frames, length=length)
        torch.testing.assert_close(program.module()(*inputs), network(*inputs))


@every_model
def test_training_takes_a_last_batch_of_one_video(model):
    network = build(model, TWO_FEATURES).train()
    for num_frames in ([4, 1, 6], [1], [5]):
        logits = network(*batch(num_frames))
        logits.square().sum().backward()
        assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert all(buffer.isfinite().all() for buffer in network.buffers())


@every_model
def test_padding_changes_nothing_in_training(model):
    """Statistics of a batch are those of its valid frames."""
    every_frame = {"sample_frames": None} if "sample_frames" in arguments(model) else {}
    network = build(model, TWO_FEATURES, **without_dropout(model), **every_frame)
    network.double().train()
    video, frames, num_frames = batch([5, 1, 9, 2], length=13, dtype=torch.float64)
    expected = network(video, frames[:, :9], num_frames)
    for row, valid in zip(frames, num_frames, strict=True):
        row[valid:].normal_(std=1e3)
    torch.testing.assert_close(network(video, frames, num_frames), expected, rtol=1e-9, atol=1e-9)
