"""What is computed in which dtype under mixed precision, and the order of unscaling and clipping."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.test_module import QUIET, classifier
from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.layers import recurrent
from yt8m.layers.recurrent import LSTM


class Dtypes(TorchDispatchMode):
    """Notes the floating dtypes that each operator takes and returns."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        name = operator.__name__.partition(".")[0]
        self.seen.setdefault(name, set()).update(one.dtype for one in tensors if one.is_floating_point())
        return result


@pytest.mark.parametrize("model", ["nn", "bi_lstm"])
@pytest.mark.parametrize("loss", ["BCE", "SoftMargin", "Softmax"])
def test_bf16_is_for_products_and_everything_after_the_logits_is_in_float32(model, loss):
    batch = frames()
    module = classifier(model, loss={"_target_": f"yt8m.losses.{loss}"})
    with Dtypes() as products, torch.autocast("cpu", torch.bfloat16):
        logits = module(*module.inputs(batch))
    with Dtypes() as rest, torch.autocast("cpu", torch.bfloat16):
        value = module.loss(logits, module.labels(batch), None)
        scores = module._evaluate(batch, "val")
    value.backward()
    assert torch.bfloat16 in products.seen["addmm"]
    assert not any(torch.float16 in dtypes for seen in (products.seen, rest.seen) for dtypes in seen.values())
    assert (value.dtype, scores.dtype) == (torch.float32, torch.float32)
    for name in ("log", "log_sigmoid_forward", "_log_softmax", "sigmoid", "sum", "topk", "sort"):
        assert torch.bfloat16 not in rest.seen.get(name, ()), name
    for metric in [*module.metrics["val"].values(), module.mean_loss["val"]]:
        for state in tree_leaves([getattr(metric, name) for name in metric._defaults]):
            assert state.dtype != torch.bfloat16
    assert {weight.grad.dtype for weight in module.parameters()} == {torch.float32}


def test_a_gpus_lstm_gets_input_state_and_weights_in_bf16(monkeypatch):
    """The kernel's arguments, without a GPU: PyTorch's own autocast would cast them to fp16."""
    taken = []

    def run(x, state, weights, **settings):
        taken.extend((one.dtype, torch.is_autocast_enabled("cpu")) for one in (x, *state, *weights))
        return x.new_zeros(*x.shape[:2], 4), None, x.new_zeros(1, len(x), 4)

    monkeypatch.setattr(recurrent, "safe_dtype", lambda x: torch.bfloat16)
    monkeypatch.setattr(torch, "lstm", run)
    with torch.autocast("cpu", torch.bfloat16):
        assert LSTM(6, 4)(torch.randn(2, 3, 6)).dtype == torch.bfloat16
    assert taken == [(torch.bfloat16, False)] * 7


def frames():
    """Three videos of frames."""
    stored = torch.randint(0, 256, (11, 8), dtype=torch.uint8)
    return Batch(["a", "b", "c"], stored, torch.tensor([3, 1, 7]), torch.tensor([[0, 1], [2, 0]]))


def videos():
    """Two vectors of videos."""
    return Batch(["a", "b"], torch.randn(2, 8), torch.ones(2, dtype=torch.int64), torch.tensor([[0, 1]]))


def fit(module, kind="16-mixed"):
    """One step under autocast, in fp16 with loss scaling, by a CPU's own; the norm of each variable's change."""
    before = [weight.detach().clone() for weight in module.parameters()]
    precision = MixedPrecision(kind, "cpu")
    trainer = pl.Trainer(max_steps=1, plugins=[precision], **QUIET)
    trainer.fit(module, torch.utils.data.DataLoader([videos()], batch_size=None))
    assert precision.scaler is None or precision.scaler.get_scale() > 1
    return torch.stack(
        [(weight - old).norm() for weight, old in zip(module.parameters(), before, strict=True)]
    )


def assert_clipped(changes, per):
    expected = torch.full_like(changes, 0.01) if per == "variable" else torch.tensor(0.01)
    torch.testing.assert_close(changes if per == "variable" else changes.norm(), expected, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no validation
@pytest.mark.parametrize("per", ["variable", "global"])
def test_16_mixed_clips_gradients_that_are_unscaled(per):
    """A gradient that was clipped and then unscaled would be 65,536 times smaller."""
    torch.manual_seed(0)
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    module = classifier("nn", level="video", optimizer=sgd, gradient_clip={"norm": 0.01, "per": per})
    assert_clipped(fit(module), per)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per", ["variable", "global"])
def test_bf16_mixed_clips_before_a_fused_step(per):
    """Lightning refuses to clip for a fused optimizer under any mixed precision, though only fp16 is scaled."""
    torch.manual_seed(0)
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0, "fused": True}
    module = classifier("nn", level="video", optimizer=sgd, gradient_clip={"norm": 0.01, "per": per})
    assert_clipped(fit(module, "bf16-mixed"), per)


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_that_unscales_after_the_clipping_is_refused():
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0, "fused": True}
    module = classifier("nn", level="video", optimizer=sgd, gradient_clip={"norm": 0.01, "per": "variable"})
    with pytest.raises(ConfigError, match=r"optimizer\.fused: expected false with trainer.prec"):
        fit(module)
    fit(classifier("nn", level="video", optimizer=sgd))  # nothing is clipped
