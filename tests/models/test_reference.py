"""Networks of the starter code, attention, the Transformer, and strong video-level networks from their definitions."""

import math

import numpy as np
import pytest
import torch

from tests.models.networks import build, model_class
from tests.models.test_study import Weights, relu, sigmoid
from yt8m.errors import ConfigError
from yt8m.losses import BCE

PARAMETERS = {  # 3,862 classes, rgb 1024 and audio 128
    "logistic": 4_452_886,
    "moe": 22_252_844,
    "frame_logistic": 4_452_886,
    "lstm": 96_411_180,
    "gru": 63_466_124,
    "attention": 23_330_476,
    "transformer": 47_052_332,
    "resmlp": 27_072_278,
    "fourier_net": 10_274_582,
    "fourier_attention": 9_093_910,
}
FEATURES = [{"rgb": 7, "audio": 4}, {"audio": 5}, {"rgb": 4, "audio": 3, "text.v2": 5}]
CLASSES = 6
ARGUMENTS = {name: {"bandwidths": [0.5, 0.7]} for name in ("fourier_net", "fourier_attention")}


def softmax(scores):
    shares = [math.exp(score - max(scores)) for score in scores]
    return [share / sum(shares) for share in shares]


def layer_norm(x, weight=1.0, bias=0.0):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def mixture(w, x):
    """Logits of the mixture of two experts, class by class."""
    logits = []
    for c in range(CLASSES):
        gates = softmax([w["classifier.gates.weight"][3 * c + m] @ x for m in range(3)])
        experts = [
            sigmoid(w["classifier.experts.weight"][2 * c + m] @ x + w["classifier.experts.bias"][2 * c + m])
            for m in range(2)
        ]
        p = gates[0] * experts[0] + gates[1] * experts[1]
        logits.append(math.log(p / (1 - p)))
    return np.array(logits)


def logistic(w, video, frames, sizes):
    return w.dense("classifier", video)


def moe(w, video, frames, sizes):
    return mixture(w, video)


def frame_logistic(w, video, frames, sizes):
    return w.dense("classifier", sum(frames) / len(frames))


def lstm(w, video, frames, sizes):
    states, x = [], frames
    for layer in range(2):
        name = f"stack.layers.{layer}"
        recurrent = w[f"{name}.weight_hh_l0"]
        h = c = np.zeros(recurrent.shape[1])
        outputs = []
        for frame in x:
            sums = w[f"{name}.weight_ih_l0"] @ frame + recurrent @ h + w[f"{name}.bias_ih_l0"]
            i, f, g, o = np.split(sums, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        states += [c, h]
        x = outputs
    return mixture(w, np.concatenate(states))


def gru(w, video, frames, sizes):
    states, x = [], frames
    for layer in range(2):
        name = f"stack.layers.{layer}"
        recurrent = np.split(w[f"{name}.weight_hh_l0"], 3)
        h = np.zeros(recurrent[0].shape[1])
        outputs = []
        for frame in x:
            r, z, n = np.split(w[f"{name}.weight_ih_l0"] @ frame + w[f"{name}.bias_ih_l0"], 3)
            reset, update = sigmoid(r + recurrent[0] @ h), sigmoid(z + recurrent[1] @ h)
            h = update * h + (1 - update) * np.tanh(n + reset * (recurrent[2] @ h))
            outputs.append(h)
        states.append(h)
        x = outputs
    return mixture(w, np.concatenate(states))


def attention(w, video, frames, sizes):
    pooled, start = [], 0
    for feature, size in sizes.items():
        name = f"pools.{feature.replace('.', '_')}"
        part = frames[:, start : start + size]
        start += size
        values = [np.split(w.dense(f"{name}.values", frame), 8) for frame in part]
        for head in range(8):
            shares = softmax([w[f"{name}.scores.weight"][head] @ frame for frame in part])
            pooled.append(sum(share * value[head] for share, value in zip(shares, values, strict=True)))
    x = layer_norm(np.concatenate(pooled), w["norm.weight"], w["norm.bias"])
    return mixture(w, x)


def transformer(w, video, frames, sizes):
    # Frames that have the encoder's width enter it as they are.
    x = [w.dense("projection", frame) if "projection.weight" in w else frame.copy() for frame in frames]
    assert ("projection.weight" in w) == (sum(sizes.values()) != 12)
    size = len(x[0])
    for t, row in enumerate(x):
        for column in range(size):
            angle = t / 10_000 ** (2 * (column // 2) / size)
            row[column] += math.cos(angle) if column % 2 else math.sin(angle)
    for layer in range(2):
        name = f"layers.{layer}"
        normed = [
            layer_norm(row, w[f"{name}.attention_norm.weight"], w[f"{name}.attention_norm.bias"]) for row in x
        ]
        query, key, value = (
            [np.split(w.dense(f"{name}.{part}", row), 12) for row in normed]
            for part in ("query", "key", "value")
        )
        added = []
        for t, row in enumerate(x):
            heads = []
            for head in range(12):
                scores = [query[t][head] @ other[head] / math.sqrt(size / 12) for other in key]
                shares = softmax(scores)
                heads.append(sum(share * v[head] for share, v in zip(shares, value, strict=True)))
            row = row + w.dense(f"{name}.output", np.concatenate(heads))
            hidden = layer_norm(row, w[f"{name}.dense_norm.weight"], w[f"{name}.dense_norm.bias"])
            hidden = w.dense(f"{name}.dense.0", hidden)
            gelu = np.array([0.5 * u * (1 + math.erf(u / math.sqrt(2))) for u in hidden])
            added.append(row + w.dense(f"{name}.dense.2", gelu))
        x = added
    return mixture(w, sum(layer_norm(row) for row in x) / len(x))


def resmlp(w, video, frames, sizes):
    def norm(name, x):
        deviation = np.sqrt(w[f"{name}.running_var"] + 1e-3)
        return (x - w[f"{name}.running_mean"]) / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    ends = np.cumsum([*sizes.values()])[:-1]
    x = w.dense("stem", np.concatenate([layer_norm(part) for part in np.split(video, ends)]))
    for block in range(2):
        name = f"blocks.{block}"
        hidden = relu(w.dense(f"{name}.first", relu(norm(f"{name}.norm", x))))
        x = x + w.dense(f"{name}.second", hidden)
    return w.dense("classifier", relu(norm("norm", x)))


def scaled_features(x, sizes):
    scales, parts, start = {"rgb": 1.0, "audio": 0.4}, [], 0
    for name, size in sizes.items():
        part = np.array([x[start + j] / (j + 1) ** 0.25 for j in range(size)])
        parts.append(scales.get(name, 1.0) * math.sqrt(len(x)) * part / math.sqrt(sum(part**2)))
        start += size
    return np.concatenate(parts)


def fourier_net(w, video, frames, sizes):
    x = scaled_features(video, sizes)
    branches = [
        w.dense(f"branches.{n}.classifier", math.sqrt(2) * np.cos(w.dense(f"branches.{n}.hidden", x)))
        for n in range(2)
    ]
    return sum(branches) / 2


def fourier_attention(w, video, frames, sizes):
    mean = sum(frames) / len(frames)
    branches = []
    for n in range(2):
        name = f"branches.{n}"
        hidden = [
            math.sqrt(2) * np.cos(w.dense(f"{name}.hidden", scaled_features(x + mean, sizes))) for x in frames
        ]
        logits = [w.dense(f"{name}.classifier", x) for x in hidden]
        odds = []
        for c in range(CLASSES):
            shares = softmax([w[f"{name}.attention.weight"][c] @ x for x in hidden])
            odds.append(sum(share * math.exp(z[c]) for share, z in zip(shares, logits, strict=True)))
        branches.append(np.log(odds))
    return sum(branches) / 2


def test_a_new_fourier_net_is_a_gaussian_kernel():
    """The inner products of its cosines approach the kernel that its documentation states."""
    network = build("fourier_net", FEATURES[0], bandwidths=[0.7], hidden_size=200_000, width=1)
    x = torch.randn(4, 11)
    with torch.no_grad():
        cosines = math.sqrt(2) * network.branches[0].hidden(x).cos()
    expected = torch.exp(-(0.7**2) * torch.cdist(x, x).square() / (2 * 11))
    torch.testing.assert_close(cosines @ cosines.T / 200_000, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("model", ["fourier_net", "fourier_attention"])
def test_the_branches_train_as_they_would_alone(model):
    network = build(model, FEATURES[0], bandwidths=[0.5, 0.7], dropout=0.0, input_dropout=0.0).double()
    inputs = (
        torch.randn(4, 11, dtype=torch.float64),
        torch.randn(4, 3, 11, dtype=torch.float64),
        torch.tensor([3, 1, 2, 3]),
    )
    labels = torch.rand(4, 20) < 0.2
    network.training_loss(inputs, labels, None, BCE()).backward()
    for branch, logits in zip(network.branches, network.branch_logits(*inputs).unbind(1), strict=True):
        alone = torch.autograd.grad(BCE()(logits, labels, None), list(branch.parameters()))
        torch.testing.assert_close([p.grad for p in branch.parameters()], list(alone))
    with pytest.raises(
        ConfigError, match=r"model\.bandwidths: expected a list of 1 to 100 numbers, found 0\.5"
    ):
        build(model, FEATURES[0], bandwidths=0.5)


def test_parameter_counts():
    for model, expected in PARAMETERS.items():
        with torch.device("meta"):
            network = model_class(model)()
            logits = network(torch.empty(2, 1152), torch.empty(2, 3, 1152), torch.tensor([3, 1]))
        assert sum(parameter.numel() for parameter in network.parameters()) == expected, model
        assert logits.shape == (2, 3862), model


@pytest.mark.parametrize(
    "reference",
    [
        logistic,
        moe,
        frame_logistic,
        lstm,
        gru,
        attention,
        transformer,
        resmlp,
        fourier_net,
        fourier_attention,
    ],
    ids=lambda reference: reference.__name__,
)
@torch.no_grad()
def test_network_matches_its_definition(reference):
    for sizes in FEATURES:
        name = reference.__name__
        network = build(name, sizes, num_classes=CLASSES, **ARGUMENTS.get(name, {})).double()
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
        weights = Weights({name: value.numpy() for name, value in network.state_dict().items()})
        num_frames = torch.tensor([6, 1, 4])
        frames = torch.randn(3, 8, sum(sizes.values()), dtype=torch.float64)
        video = torch.randn(3, sum(sizes.values()), dtype=torch.float64)
        logits = network(video, frames, num_frames).numpy()
        for row, valid in enumerate(num_frames):
            expected = reference(weights, video[row].numpy(), frames[row, :valid].numpy(), sizes)
            np.testing.assert_allclose(logits[row], expected, rtol=1e-9, atol=1e-9)


def test_the_transformer_reads_the_order_of_frames_unless_told_not_to():
    frames, num_frames = torch.randn(2, 5, 11, dtype=torch.float64), torch.tensor([5, 5])
    for positions, same in (("none", True), ("sinusoidal", False)):
        network = build("transformer", FEATURES[0], positions=positions).double()
        logits = [network(None, x, num_frames) for x in (frames, frames.flip(1))]
        assert torch.allclose(*logits, rtol=1e-9, atol=1e-9) is same


def test_heads_and_norms_can_be_chosen():
    for model in ("attention", "transformer", "resmlp"):
        classes = {
            head: type(build(model, FEATURES[0], head=head).classifier).__name__
            for head in ("moe", "logistic")
        }
        assert classes == {"moe": "MoE", "logistic": "Linear"}, model
    with torch.no_grad():
        network = build("resmlp", FEATURES[0], norm="layer").double().train()
        network.dropout.p = 0.0
        for block in network.blocks:
            block.dropout.p = 0.0
        videos = torch.randn(4, 11, dtype=torch.float64)
        alone = torch.cat([network(video[None], None, None) for video in videos])
        torch.testing.assert_close(network(videos, None, None), alone, rtol=1e-12, atol=1e-12)


def test_a_final_state_passes_gradients_through_padding():
    network = build("lstm", FEATURES[0]).double()
    frames = torch.randn(1, 3, 11, dtype=torch.float64)
    padded = torch.cat([frames, torch.randn(1, 200, 11, dtype=torch.float64)], dim=1)
    gradients = []
    for x in (frames, padded):
        network.zero_grad()
        network(None, x, torch.tensor([3])).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for alone, with_padding in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, with_padding, rtol=1e-10, atol=1e-12)
