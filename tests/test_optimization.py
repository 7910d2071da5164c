"""Which parameters decay and how, and what clipping leaves of their gradients."""

import re
from functools import partial

import torch
from torch import nn

from tests.test_checkpoint import refusal
from yt8m.optimization import clip_each_, make_optimizer, parameter_groups

ADAM, ADAMW, SGD = ({"_target_": f"torch.optim.{name}", "lr": 0.1} for name in ("Adam", "AdamW", "SGD"))


class Network(nn.Module):
    """One parameter of every kind."""

    def __init__(self):
        super().__init__()
        self.clusters = nn.Parameter(torch.randn(2, 3))
        self.experts_bias = nn.Parameter(torch.randn(2, 3))
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.LayerNorm(3)])
        self.recurrent = nn.LSTM(3, 3)
        self.classifier = nn.Linear(3, 2)

    @property
    def trained(self):
        return dict(self.named_parameters())


def decays(network, optimizer, weight_decay):
    """Every parameter's weight decay, by path."""
    made = make_optimizer(optimizer, network.trained, weight_decay)
    decay_of = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in made.param_groups) == len(decay_of)
    return {name: decay_of[id(parameter)] for name, parameter in network.trained.items()}


def test_weights_decay_and_biases_and_norms_do_not_unless_named():
    network = Network()
    weights = {
        *("clusters", "blocks.0.weight", "classifier.weight"),
        *("recurrent.weight_ih_l0", "recurrent.weight_hh_l0"),
    }
    for optimizer, own, expected in [
        (ADAM | {"weight_decay": 0.5}, None, dict.fromkeys(weights, 0.5)),
        (ADAMW, None, dict.fromkeys(weights, 0.01)),  # AdamW's own default
        (SGD, {"classifier": 0.25}, {"classifier.weight": 0.25}),
        (ADAMW, {"classifier": 0.25}, dict.fromkeys(weights, 0.01) | {"classifier.weight": 0.25}),
        (ADAMW, {"classifier": 0}, dict.fromkeys(weights - {"classifier.weight"}, 0.01)),
        (ADAM, {"blocks": 0.5, "blocks.0": 0.25}, {"blocks.0.weight": 0.25}),
        (ADAM, {"blocks.0.bias": 0.5, "clusters": 0.25}, {"blocks.0.bias": 0.5, "clusters": 0.25}),
    ]:
        found = decays(network, optimizer, own)
        assert found == dict.fromkeys(network.trained, 0) | expected, (optimizer, own)


def test_where_nothing_decays_all_parameters_are_one_group_in_their_order():
    network = Network()
    for optimizer in (ADAM, SGD, ADAMW | {"weight_decay": 0}, {"_target_": "torch.optim.LBFGS"}):
        (group,) = parameter_groups(optimizer, network.trained, None)
        assert group.keys() == {"params"}
        assert [*map(id, group["params"])] == [*map(id, network.parameters())]


def test_the_decay_of_the_classifier_is_added_to_its_gradient_as_in_the_reference():
    networks = [Network(), Network()]
    networks[1].load_state_dict(networks[0].state_dict())
    inputs = torch.randn(5, 3)
    reference = torch.optim.Adam(networks[1].parameters(), lr=0.1)
    optimizer = make_optimizer(ADAM, networks[0].trained, {"classifier": 0.3})
    for _ in range(3):
        for network in networks:
            network.zero_grad()
            network.classifier(network.blocks[0](inputs) * network.clusters.sum()).square().sum().backward()
        optimizer.step()
        # l2_regularizer(0.3) of TF-slim: a loss of 0.3 · |w|²/2
        (0.15 * networks[1].classifier.weight.square().sum()).backward()
        reference.step()
        for name, parameter in networks[0].named_parameters():
            torch.testing.assert_close(parameter, networks[1].trained[name])


def test_a_decay_of_nothing_is_refused():
    parameters = Network().trained
    for optimizer, own, says in [
        (ADAM, {"clasifier": 1e-8}, "weight_decay.clasifier: expected a module .* did you mean classifier?"),
        (ADAM, {"classifier.wieght": 1e-8}, "did you mean classifier.weight?"),
        (ADAM, {"class": 1e-8}, "expected a module or parameter of the network, found none"),
        ({"_target_": "torch.optim.LBFGS"}, {"classifier": 1e-8}, "LBFGS has no weight decay"),
        (partial(torch.optim.Adam, lr=1), {"classifier": 1e-8}, "expected an optimizer from a section"),
        ({"_target_": "os.system"}, {"classifier": 1e-8}, "optimizer._target_: expected a class"),
    ]:
        message = refusal(make_optimizer, optimizer, parameters, own)
        assert re.search(says, message), message


def test_each_gradient_is_clipped_on_its_own():
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    for p, gradient in zip(parameters, ([3.0, 4.0, 0.0], [0.3, 0.4, 0.0], [0.0, 0.0, 0.0]), strict=False):
        p.grad = torch.tensor(gradient)
    clip_each_(parameters, 1.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.3, 0.4, 0.0]))
    assert not parameters[2].grad.any()
    assert parameters[3].grad is None
    clip_each_(parameters[1:], 1.0)  # all are short enough
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.3, 0.4, 0.0]), rtol=0, atol=0)
    parameters[1].grad = torch.tensor([torch.nan, 1.0, 0.0])
    clip_each_(parameters, 1.0)
    assert parameters[1].grad.isnan().all()  # and not taken for short
