"""NeXtVLAD and its mixture: parameters, loops over groups and clusters, and the mixture's loss."""

import numpy as np
import pytest
import torch

from tests.models.definitions import FEATURES, PARTS, Weights, check, sigmoid, softmax, unit
from tests.models.networks import build, model_class
from yt8m.losses import BCE

SMALL = {
    "groups": {"rgb": 2, "audio": 4},
    "num_clusters": {"rgb": 5, "audio": 3},
    "hidden_size": 8,
    "reduction": 2,
}


def count(model, **arguments):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(model)(**arguments).parameters())


def test_parameter_counts_are_those_of_the_paper():
    assert count("nextvlad") == 88_889_378
    branch = count("nextvlad", num_clusters={"rgb": 112, "audio": 56}, reduction=16)
    assert branch == 78_643_170
    # The mixture adds a batch norm of the mean frame and a dense layer to three weights.
    assert count("mix_nextvlad") == 3 * branch + 2 * 1152 + 1152 * 3 + 3
    assert count("mix_nextvlad", num_branches=2) == 2 * branch + 2 * 1152 + 1152 * 2 + 2


def nextvlad(w, frames, prefix=""):
    """Logits, group by group and cluster by cluster."""
    pooled = []
    for name, part in PARTS.items():
        pool = f"{prefix}poolings.{name}"
        groups, (clusters, size) = SMALL["groups"][name], w[f"{pool}.centers"].shape
        residuals = np.zeros((clusters, size))
        for frame in frames:
            x = w.dense(f"{pool}.expand", frame[part])
            scores = w.batch_norm(f"{pool}.norm", w.dense(f"{pool}.weights", x))
            attention = sigmoid(w.dense(f"{pool}.attention", x))
            for g in range(groups):
                assigned = softmax(scores[g * clusters : (g + 1) * clusters])
                for k in range(clusters):
                    residual = x[g * size : (g + 1) * size] - w[f"{pool}.centers"][k]
                    residuals[k] += attention[g] * assigned[k] * residual
        vector = np.concatenate([unit(residual) for residual in residuals])
        pooled.append(w.batch_norm(f"{pool}.output_norm", vector))
    x = w.batch_norm(f"{prefix}norm", w.dense(f"{prefix}hidden", np.concatenate(pooled)))
    squeezed = np.maximum(w.batch_norm(f"{prefix}gate.norm", w.dense(f"{prefix}gate.squeeze", x)), 0)
    return w.dense(f"{prefix}classifier", x * sigmoid(w.dense(f"{prefix}gate.excite", squeezed)))


def mix_nextvlad(w, frames):
    weights = softmax(w.dense("gate", w.batch_norm("norm", np.mean(frames, axis=0))))
    return sum(weights[n] * nextvlad(w, frames, f"branches.{n}.") for n in range(len(weights)))


def test_networks_are_those_of_their_definitions():
    check("nextvlad", lambda w, frames, _: sigmoid(nextvlad(w, frames)), **SMALL)
    check("mix_nextvlad", lambda w, frames, _: sigmoid(mix_nextvlad(w, frames)), num_branches=2, **SMALL)


def test_the_expanded_frame_is_a_multiple_of_the_groups():
    network = build("nextvlad", {"rgb": 5, "audio": 1}, groups={"rgb": 8, "audio": 4}, width=1)
    assert network.poolings["rgb"].expand.out_features == 16  # 10, rounded up
    assert network.poolings["audio"].expand.out_features == 4


@pytest.mark.parametrize("weight", [0, 2.5])
def test_the_mixtures_loss_is_that_of_its_definition(weight):
    network = build("mix_nextvlad", FEATURES, num_classes=5, temperature=1.7, distill_weight=weight, **SMALL)
    network.double()
    for value in network.parameters():
        value.data += 0.3 * torch.randn_like(value)
    w = Weights({name: value.numpy() for name, value in network.state_dict().items()})
    frames, num_frames = torch.randn(3, 7, 10, dtype=torch.float64), torch.tensor([7, 1, 4])
    labels, mask = torch.rand(3, 5) < 0.5, torch.rand(3, 5) < 0.8
    expected = 0.0
    for row, valid in enumerate(num_frames):
        video = frames[row, :valid].numpy()
        mixture = mix_nextvlad(w, video)
        branches = [nextvlad(w, video, f"branches.{n}.") for n in range(3)]
        for logits in (mixture, *branches):
            part = torch.from_numpy(logits)[None]
            expected += float(BCE()(part, labels[row : row + 1], mask[row : row + 1])) / 3
        for logits in branches:
            p, q = softmax(mixture / 1.7), softmax(logits / 1.7)
            for c in range(5):
                expected += weight * p[c] * np.log(p[c] / q[c]) / 3
    loss = network.training_loss((None, frames, num_frames), labels, mask, BCE())
    assert loss.item() == pytest.approx(expected, abs=1e-5)  # losses compute in float32
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_distillation_pulls_the_branches_together():
    """On the same weights and labels, the gradient's step with distillation brings them nearer to the mixture."""
    inputs, labels = (None, torch.randn(8, 7, 10), torch.full((8,), 7)), torch.rand(8, 5) < 0.5

    def divergence(network):
        with torch.no_grad():
            branches = network.branch_logits(*inputs[1:])
            return (branches.softmax(-1) - network(*inputs).softmax(-1)[:, None]).square().sum()

    after = {}
    for weight in (0, 100):
        network = build("mix_nextvlad", FEATURES, num_classes=5, distill_weight=weight, **SMALL)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            network.training_loss(inputs, labels, None, BCE()).backward()
            optimizer.step()
        after[weight] = divergence(network)
    assert after[100] < after[0] / 2, after
