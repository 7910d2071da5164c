"""Parts of the published networks in NumPy, written as plain loops from their definitions, one video at a time."""

import numpy as np
import torch

from tests.models.networks import build

FEATURES = {"rgb": 6, "audio": 4}
PARTS = {"rgb": slice(0, 6), "audio": slice(6, 10)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def unit(x):
    return x / np.sqrt((x**2).sum())


class Weights(dict):
    """A network's state dict as NumPy arrays, and the layers that compute with them."""

    def dense(self, name, x):
        return self[f"{name}.weight"] @ x + self.get(f"{name}.bias", 0)

    def batch_norm(self, name, x):
        deviation = np.sqrt(self[f"{name}.running_var"] + 1e-3)
        scaled = (x - self[f"{name}.running_mean"]) / deviation
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def moe(self, name, x, classes, experts=2):
        """Probabilities, class by class and expert by expert."""
        gates, scores = self.dense(f"{name}.gates", x), self.dense(f"{name}.experts", x)
        probabilities = np.zeros(classes)
        for c in range(classes):
            gate = softmax(gates[c * (experts + 1) : (c + 1) * (experts + 1)])
            for m in range(experts):
                probabilities[c] += gate[m] * sigmoid(scores[c * experts + m])
        return probabilities

    def gated(self, name, x):
        """Context gate on units, or probability gate on probabilities."""
        return x * sigmoid(self.batch_norm(f"{name}.norm", self.dense(f"{name}.weights", x)))

    def assignment(self, name, frame):
        return softmax(self.batch_norm(f"{name}.norm", self.dense(f"{name}.weights", frame)))


def check(model, reference, classes=5, **arguments):
    """Compare a network in evaluation with its definition: logits in float64, padded videos, weights at random."""
    network = build(model, FEATURES, num_classes=classes, **arguments).double()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value += 0.3 * torch.randn_like(value)
    weights = Weights({name: value.numpy() for name, value in network.state_dict().items()})
    frames, num_frames = torch.randn(3, 7, 10, dtype=torch.float64), torch.tensor([7, 1, 4])
    probabilities = network(None, frames, num_frames).sigmoid().detach().numpy()
    for row, valid in enumerate(num_frames):
        expected = reference(weights, frames[row, :valid].numpy(), classes)
        assert expected.shape == (classes,)
        np.testing.assert_allclose(probabilities[row], expected, rtol=0, atol=1e-9)
