"""The eight networks of the study, layer by layer in NumPy, one unpadded video at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.networks import build, model_class

FEATURES = {"rgb": 7, "audio": 4}
RGB, AUDIO = slice(0, 7), slice(7, 11)
PARTS = {"rgb": RGB, "audio": AUDIO}


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Weights(dict):
    """A network's state dict as NumPy arrays, and the layers that compute with them."""

    def dense(self, name, x):
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def relus(self, name, x, count):
        """`count` Dense layers with a ReLU after each, stored as `nn.Sequential`."""
        for layer in range(count):
            x = relu(self.dense(f"{name}.{2 * layer}", x))
        return x

    def lstm(self, name, x):
        recurrent, bias = self[f"{name}.weight_hh_l0"], self[f"{name}.bias_ih_l0"]
        bias = bias + self.get(f"{name}.bias_hh_l0", 0)
        h = c = np.zeros(recurrent.shape[1])
        outputs = []
        for frame in x:
            i, f, g, o = np.split(self[f"{name}.weight_ih_l0"] @ frame + recurrent @ h + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs)

    def bidirectional(self, name, x):
        for layer in range(2):
            ahead = self.lstm(f"{name}.forwards.{layer}", x)
            back = self.lstm(f"{name}.backwards.{layer}", x[::-1])[::-1]
            x = np.concatenate([ahead, back], axis=1)
        return x


def nn_(w, video, frames):
    return w.dense("classifier", w.relus("hidden", video, 6))


def bi_lstm(w, video, frames):
    return w.dense("classifier", w.bidirectional("lstm", frames)[-1])


def stream_lstm(w, video, frames):
    embeddings = []
    for name, part in PARTS.items():
        x = w.relus(f"streams.{name}.projection", frames[:, part], 1)
        x = w.bidirectional(f"streams.{name}.lstm", x)
        x = w.relus(f"streams.{name}.bottleneck", x, 1)
        embeddings.append(w.relus(f"streams.{name}.embedding", x, 1)[-1])
    return w.dense("classifier", w.relus("fusion", np.concatenate(embeddings), 2))


def nn_stream_lstm(w, video, frames):
    scores = []
    for name, part in PARTS.items():
        x = w.relus(f"branches.{name}.0", video[part], 3)
        scores.append(w.dense(f"branches.{name}.1", x))
    for name, part in PARTS.items():
        x = w.dense(f"streams.{name}.projection", frames[:, part])
        x = relu(w.bidirectional(f"streams.{name}.lstm", x))
        scores.append(w.relus(f"streams.{name}.scores", x, 1)[-1])
    return w.dense("classifier", w.relus("fusion", np.concatenate(scores), 1))


def keras_nn(w, video, frames):
    branches = [w.relus(f"branches.{name}", video[part], 5) for name, part in PARTS.items()]
    return w.dense("classifier", w.relus("fusion", np.concatenate(branches), 1))


def keras_bi_lstm(w, video, frames):
    x = w.relus("dense.0", frames, 1)
    x = w.lstm("lstm.0", x) + x
    x = w.relus("dense.1", x, 1)
    x = w.lstm("lstm.1", x[::-1]) + x  # go_backwards: the outputs stay in reversed order
    x = w.relus("dense.2", x, 1)
    x = w.lstm("lstm.2", x) + x
    x = w.relus("dense.3", x, 1)
    x = w.lstm("lstm.3", x[::-1]).max(axis=0)
    return w.dense("classifier", w.relus("embedding", x, 1))


def keras_stream_lstm(w, video, frames):
    embeddings = []
    for name, part in PARTS.items():
        x = w.relus(f"streams.{name}.projection", frames[:, part], 1)
        x = w.lstm(f"streams.{name}.back", w.lstm(f"streams.{name}.ahead", x)[::-1])
        embeddings.append(w.relus(f"streams.{name}.embedding", x, 1).max(axis=0))
    return w.dense("classifier", w.relus("fusion", np.concatenate(embeddings), 2))


def keras_nn_stream_lstm(w, video, frames):
    scores = [w.relus(f"branches.{name}", video[part], 6) for name, part in PARTS.items()]
    for name, part in PARTS.items():
        x = np.tanh(w.dense(f"streams.{name}.projection", frames[:, part]))
        x = w.lstm(f"streams.{name}.back", w.lstm(f"streams.{name}.ahead", x)[::-1])
        x = w.relus(f"streams.{name}.bottleneck", x, 1).max(axis=0, keepdims=True)
        scores.append(w.relus(f"streams.{name}.scores", x[0], 2))
    return w.dense("classifier", w.relus("fusion", np.concatenate(scores), 2))


NETWORKS = [
    nn_,
    bi_lstm,
    stream_lstm,
    nn_stream_lstm,
    keras_nn,
    keras_bi_lstm,
    keras_stream_lstm,
    keras_nn_stream_lstm,
]
PARAMETERS = {  # of the study's networks: 3,846 classes, rgb 1024 and audio 128
    "nn": 228_186_118,
    "bi_lstm": 176_092_998,
    "stream_lstm": 203_535_232,
    "nn_stream_lstm": 353_971_880,
    "keras_nn": 193_596_166,
    "keras_bi_lstm": 201_095_942,
    "keras_stream_lstm": 65_343_270,
    "keras_nn_stream_lstm": 429_937_568,
}
STUDY = sorted(PARAMETERS)


def test_parameter_counts_are_those_of_the_study():
    for model, expected in PARAMETERS.items():
        with torch.device("meta"):
            network = model_class(model)()
            logits = network(torch.empty(2, 1152), torch.empty(2, 3, 1152), torch.tensor([3, 1]))
        assert sum(parameter.numel() for parameter in network.parameters()) == expected, model
        assert logits.shape == (2, 3846)


@pytest.mark.parametrize("reference", NETWORKS, ids=lambda reference: reference.__name__)
def test_network_matches_the_study(reference):
    """With 9 classes, and with 70, where the layers of a score per class are narrower than the scores."""
    for classes in (9, 70):
        model = build(reference.__name__.rstrip("_"), FEATURES, num_classes=classes).double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # Keras' zero biases would hide a missing one
        weights = Weights({name: value.numpy() for name, value in model.state_dict().items()})
        frames = torch.randn(3, 8, 11, dtype=torch.float64)
        num_frames = torch.tensor([8, 1, 5])
        video = torch.randn(3, 11, dtype=torch.float64)
        logits = model(video, frames, num_frames).detach().numpy()
        for row, valid in enumerate(num_frames):
            expected = reference(weights, video[row].numpy(), frames[row, :valid].numpy())
            assert expected.shape == (classes,)
            np.testing.assert_allclose(logits[row], expected, rtol=1e-10, atol=1e-12)


def test_keras_networks_start_as_in_keras():
    for model in STUDY[1:5]:
        assert model.startswith("keras")
        for name, layer in build(model, FEATURES).named_modules():
            if isinstance(layer, nn.Linear):
                limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
                assert 0 < layer.weight.abs().max() <= limit
                # The bottleneck of width 1 is the exception: with a bias of 0 it may start dead.
                assert layer.bias.eq(1.0 if "bottleneck" in name else 0.0).all(), (model, name)


@pytest.mark.parametrize("model", STUDY)
def test_dropout_acts_in_training_only(model):
    network = build(model, FEATURES)
    inputs = torch.randn(3, 11), torch.randn(3, 8, 11), torch.tensor([8, 1, 5])
    assert network(*inputs).equal(network(*inputs))
    same = network.train()(*inputs).equal(network(*inputs))
    assert same == (model in ("bi_lstm", "keras_nn", "keras_bi_lstm"))
