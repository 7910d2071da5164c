"""The bags of frames, NetVLADs, and NetFV: parameters, and each against loops over frames and clusters."""

import numpy as np
import pytest
import torch

from tests.models.definitions import FEATURES, PARTS, check, sigmoid, unit
from tests.models.networks import build, model_class

PARAMETERS = {  # 3,862 classes, rgb 1024 and audio 128
    "dbof": 37_627_692,
    "gated_dbof": 52_091_708,
    "soft_dbow": 37_338_492,
    "netvlad": 321_528_380,
    "netrvlad": 321_249_852,
    "netfv": 321_388_732,
}


def count(model, **arguments):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(model)(**arguments).parameters())


def test_parameter_counts_are_those_of_the_authors_code():
    assert {model: count(model) for model in PARAMETERS} == PARAMETERS
    assert count("gated_dbof", probability_gate=False) == 37_168_940


def dbof(w, frames, classes):
    projected = []
    for frame in frames:
        x = w.dense("projection", w.batch_norm("norm", frame))
        projected.append(np.clip(w.batch_norm("projection_norm", x), 0, 6))
    x = w.dense("hidden", np.max(projected, axis=0))
    return w.moe("classifier", np.clip(w.batch_norm("hidden_norm", x), 0, 6), classes)


def head(w, frames, classes, pool, gate, probability_gate):
    """What WILLOW's networks share: normalized frames, pooled per feature, then classified."""
    frames = [w.batch_norm("norm", frame) for frame in frames]
    pooled = [pool(w, f"poolings.{name}", [x[part] for x in frames]) for name, part in PARTS.items()]
    x = w.dense("hidden", np.concatenate(pooled))
    p = w.moe("classifier", w.gated("gate", x) if gate else x, classes)
    return w.gated("probability_gate", p) if probability_gate else p


def soft_bag(w, name, frames):
    return unit(sum(w.assignment(f"{name}.assignment", frame) for frame in frames))


def gated_bag(w, name, frames):
    if name != "poolings.rgb":
        return soft_bag(w, name, frames)
    assigned = [w.assignment(f"{name}.assignment", frame) for frame in frames]
    x = w.dense(f"{name}.expand", w.dense(f"{name}.reduce", unit(np.max(assigned, axis=0))))
    return unit(sigmoid(w.batch_norm(f"{name}.norm", x)) * sum(assigned))


def vlad(w, name, frames):
    clusters = len(w[f"{name}.assignment.weights.weight"])
    centers = w.get(f"{name}.centers", np.zeros((clusters, len(frames[0]))))
    residuals = []
    for k in range(clusters):
        residual = np.zeros(len(frames[0]))
        for frame in frames:
            residual += w.assignment(f"{name}.assignment", frame)[k] * frame
            residual -= w.assignment(f"{name}.assignment", frame)[k] * centers[k]
        residuals.append(unit(residual))
    return unit(np.concatenate(residuals))


def fisher_vector(w, name, frames):
    centers, firsts, seconds = w[f"{name}.centers"], [], []
    for k in range(len(centers)):
        first, second = np.zeros(len(frames[0])), np.zeros(len(frames[0]))
        for d in range(len(frames[0])):
            deviation = w[f"{name}.root_deviations"][k, d] ** 2 + 1e-6
            for frame in frames:
                assigned = w.assignment(f"{name}.assignment", frame)[k]
                first[d] += assigned * (frame[d] - centers[k, d]) / deviation
                second[d] += assigned * (((frame[d] - centers[k, d]) / deviation) ** 2 - 1)
        firsts.append(unit(first))
        seconds.append(second)
    return np.concatenate([unit(np.concatenate(firsts)), unit(np.concatenate(seconds))])


def test_dbof_is_that_of_its_definition():
    check("dbof", dbof, cluster_size=12, hidden_size=8)


@pytest.mark.parametrize(
    ("model", "pool", "gates"),
    [
        ("soft_dbow", soft_bag, {"gate": False, "probability_gate": False}),
        ("soft_dbow", soft_bag, {"gate": True, "probability_gate": True}),
        ("gated_dbof", gated_bag, {"probability_gate": True}),
        ("netvlad", vlad, {"gate": True, "probability_gate": True}),
        ("netvlad", vlad, {"gate": False, "probability_gate": False}),
        ("netrvlad", vlad, {"gate": True, "probability_gate": True}),
        ("netfv", fisher_vector, {"gate": True, "probability_gate": True}),
    ],
)
def test_pooling_is_that_of_its_definition(model, pool, gates):
    def reference(w, frames, classes):
        return head(w, frames, classes, pool, gates.get("gate", False), gates["probability_gate"])

    clusters = {"rgb": 5, "audio": 3}
    check(model, reference, num_clusters=clusters, hidden_size=8, **gates)


def test_netrvlad_has_no_centers():
    names = {name for name, _ in build("netrvlad", FEATURES).named_parameters()}
    assert {name for name, _ in build("netvlad", FEATURES).named_parameters()} - names == {
        "poolings.rgb.centers",
        "poolings.audio.centers",
    }


def test_the_feature_with_the_most_clusters_is_gated():
    for feature_sizes, gated in (
        ({"audio": 4, "rgb": 6}, "rgb"),
        ({"audio": 4}, "audio"),
        ({"a": 4, "b": 6}, "a"),
    ):
        network = build("gated_dbof", feature_sizes)
        assert [name for name, pooling in network.poolings.items() if hasattr(pooling, "expand")] == [gated]


def test_frames_are_sampled_in_training_only():
    inputs = None, torch.randn(4, 9, 10), torch.tensor([9, 5, 3, 9])
    for model in PARAMETERS:
        network = build(model, FEATURES, sample_frames=3)
        assert network(*inputs).equal(network(*inputs)), model
        network.train()
        torch.manual_seed(0)
        first = network(*inputs)
        torch.manual_seed(0)
        assert network(*inputs).equal(first), model
        assert not network(*inputs).equal(first), model
        network = build(model, FEATURES, sample_frames=None).train()
        assert network(*inputs).equal(network(*inputs)), model
