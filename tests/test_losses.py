"""Losses against their formulas in NumPy float64."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from yt8m.errors import ConfigError
from yt8m.losses import BCE, Asymmetric, Focal, Hinge, SoftMargin, Softmax

CONF = Path(__file__).resolve().parents[1] / "conf" / "loss"
LOSSES = [BCE, Softmax, Hinge, SoftMargin, Focal, Asymmetric]


def bce_of_one(x: float, y: float) -> float:
    p = 1 / (1 + math.exp(-x))
    return -(y * math.log(p + 1e-5) + (1 - y) * math.log(1 - p + 1e-5))


def focal_of_one(x: float, is_true: bool, gamma: float = 2.0, alpha: float | None = 0.25) -> float:
    """-α_t (1 - p_t)^γ log p_t, equation 5 of the paper."""
    p = 1 / (1 + math.exp(-x))
    p_t = p if is_true else 1 - p
    alpha_t = 1.0 if alpha is None else alpha if is_true else 1 - alpha
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def asymmetric_of_one(
    x: float, is_true: bool, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05
) -> float:
    """-L+ and -L-, equations 4 to 7 of the paper."""
    p = 1 / (1 + math.exp(-x))
    if is_true:
        return -((1 - p) ** gamma_pos) * math.log(p)
    p_m = max(p - clip, 0)
    return -(p_m**gamma_neg) * math.log(1 - p_m)


def oracle(kind: type, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
    """Mean over videos of the loss over the rated classes, one plain loop per video."""
    videos = []
    for x, y, rated in zip(logits, labels, mask, strict=True):
        pairs = [(float(a), float(b)) for a, b, r in zip(x, y, rated, strict=True) if r]
        if not pairs:
            videos.append(0.0)
        elif kind is BCE:
            videos.append(sum(bce_of_one(a, b) for a, b in pairs))
        elif kind is Hinge:
            videos.append(sum(b * max(0.0, 1 - a) + (1 - b) * max(0.0, 1 + a) for a, b in pairs))
        elif kind in (Focal, Asymmetric):
            one = focal_of_one if kind is Focal else asymmetric_of_one
            videos.append(sum(b * one(a, True) + (1 - b) * one(a, False) for a, b in pairs))
        elif kind is SoftMargin:
            terms = [b * math.log1p(math.exp(-a)) + (1 - b) * math.log1p(math.exp(a)) for a, b in pairs]
            videos.append(sum(terms) / len(terms))
        else:
            log_sum = math.log(sum(math.exp(a) for a, _ in pairs))
            labels_sum = sum(b for _, b in pairs)
            videos.append(sum(b / labels_sum * (log_sum - a) for a, b in pairs) if labels_sum else 0.0)
    return sum(videos) / len(videos)


def test_losses_match_their_formulas():
    rng = np.random.default_rng(0)
    dtypes, masked = (torch.bool, torch.float32, torch.int64, "soft"), (False, True)
    for kind, label_dtype, with_mask in itertools.product(LOSSES, dtypes, masked):
        for _ in range(50):
            shape = tuple(rng.integers(1, 9, 2))
            logits = rng.normal(0, 3, shape).astype(np.float32)
            labels = rng.random(shape) < 0.3  # some rows have no label at all
            if label_dtype == "soft":
                labels = (labels * rng.random(shape)).astype(np.float32)
            mask = rng.random(shape) < 0.6 if with_mask else np.ones(shape, bool)
            loss = kind()(
                torch.from_numpy(logits),
                torch.from_numpy(labels).to(torch.float32 if label_dtype == "soft" else label_dtype),
                torch.from_numpy(mask) if with_mask else None,
            )
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            expected = oracle(kind, logits, labels, mask)
            assert loss.item() == pytest.approx(expected, rel=2e-5, abs=1e-6), (kind, label_dtype, with_mask)


def test_bce_by_hand():
    """Logits 0: both log-probabilities are log 0.5, twice two classes."""
    loss = BCE()(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
    assert loss.item() == pytest.approx(-2 * math.log(0.5 + 1e-5))


def test_epsilon_bounds_the_bce_of_a_confident_mistake():
    assert BCE()(torch.tensor([[1e4]]), torch.tensor([[0]])).item() == pytest.approx(
        -math.log(1e-5), rel=1e-5
    )


def test_softmax_splits_one_unit_of_probability_over_the_labels():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    loss = Softmax()(logits, torch.tensor([[True, True, False]]))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert Softmax()(logits, torch.tensor([[0.2, 0.2, 0.0]])).item() == pytest.approx(loss.item())


def test_softmax_counts_videos_without_labels_as_zero():
    logits, labels = torch.zeros(2, 4), torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    assert Softmax()(logits, labels).item() == pytest.approx(math.log(4) / 2)


def test_hinge_margin():
    loss = Hinge(margin=2.0)(torch.tensor([[1.5, -1.0, 3.0]]), torch.tensor([[1, 0, 1]]))
    assert loss.item() == pytest.approx(0.5 + 1.0 + 0.0)


def test_focal_and_asymmetric_loss_with_other_arguments():
    rng = np.random.default_rng(0)
    for kind, one, choices in (
        (Focal, focal_of_one, [{"gamma": g, "alpha": a} for g in (0, 0.5, 3) for a in (None, 0.9)]),
        (
            Asymmetric,
            asymmetric_of_one,
            [{"gamma_neg": n, "gamma_pos": 0.5, "clip": c} for n in (0, 0.5, 2) for c in (0, 0.2)],
        ),
    ):
        for arguments in choices:
            x, y = rng.normal(0, 2, 40), rng.random(40)
            expected = sum(
                b * one(a, True, **arguments) + (1 - b) * one(a, False, **arguments)
                for a, b in zip(x, y, strict=True)
            )
            loss = kind(**arguments)(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
            assert loss.item() == pytest.approx(expected, rel=1e-5), (kind, arguments)
    extremes = torch.tensor([[1e4, -1e4, 104.0, -104.0, 0.0]] * 2, requires_grad=True)
    for loss in (Focal(gamma=0.5), Asymmetric(gamma_neg=0.5, gamma_pos=0.5, clip=0)):
        extremes.grad = None
        loss(extremes, torch.tensor([[1] * 5, [0] * 5])).backward()
        assert extremes.grad.isfinite().all()


def test_without_focus_both_are_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9), torch.rand(6, 9).round()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / 6
    torch.testing.assert_close(Focal(gamma=0, alpha=None)(logits, labels), expected)
    torch.testing.assert_close(Asymmetric(gamma_neg=0, gamma_pos=0, clip=0)(logits, labels), expected)


def test_arguments_out_of_range_are_told():
    for kind, arguments, says in (
        (Focal, {"gamma": -1}, r"loss\.gamma: expected a number, 0 or more, found -1"),
        (Focal, {"alpha": 1.5}, r"loss\.alpha: expected a number, from 0 to 1, found 1\.5"),
        (Asymmetric, {"gamma_neg": "x"}, r"loss\.gamma_neg: .* found 'x'"),
        (Asymmetric, {"clip": 2}, r"loss\.clip: .*from 0 to 1, found 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            kind(**arguments)


def test_soft_margin_equals_torch():
    logits, labels = torch.randn(16, 30), torch.rand(16, 30).round()
    expected = torch.nn.MultiLabelSoftMarginLoss()(logits, labels)
    torch.testing.assert_close(SoftMargin()(logits, labels), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_loss_and_gradient_are_finite_at_extreme_logits(kind, masked):
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4, 0.0]] * 3, requires_grad=True)
    labels = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0]]) if masked else None
    loss = kind()(logits, labels, mask)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", LOSSES)
def test_unrated_classes_change_neither_loss_nor_gradient(kind):
    torch.manual_seed(0)
    labels, mask = torch.rand(8, 12) < 0.3, torch.rand(8, 12) < 0.5
    logits = torch.randn(8, 12)
    other = logits.where(mask, 100 * torch.randn(8, 12))
    a, b = logits.requires_grad_(), other.requires_grad_()
    loss_a, loss_b = kind()(a, labels, mask), kind()(b, labels ^ ~mask, mask)
    loss_a.backward()
    loss_b.backward()
    assert loss_a == loss_b
    assert torch.equal(a.grad, b.grad)
    assert a.grad[mask].any()
    assert not a.grad[~mask].any()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_mask_of_ones_changes_nothing(kind):
    logits, labels = torch.randn(4, 7), torch.rand(4, 7) < 0.4
    assert kind()(logits, labels, torch.ones(4, 7)) == kind()(logits, labels)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(kind, dtype):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 500).to(dtype), torch.rand(8, 500) < 0.01
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = kind()(logits, labels)
    assert loss.dtype == torch.float32
    assert loss == kind()(logits.float(), labels)


@pytest.mark.parametrize("kind", LOSSES)
def test_shapes_must_agree(kind):
    with pytest.raises(ValueError, match=r"labels .*\[4, 7\].*\[4, 1\]"):
        kind()(torch.zeros(4, 7), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"mask .*\[4, 7\].*\[7\]"):
        kind()(torch.zeros(4, 7), torch.zeros(4, 7), torch.ones(7))


def test_every_loss_has_a_config():
    built = {path.stem: type(instantiate(OmegaConf.load(path))) for path in CONF.glob("*.yaml")}
    assert built == {
        "bce": BCE,
        "softmax": Softmax,
        "hinge": Hinge,
        "soft_margin": SoftMargin,
        "focal": Focal,
        "asymmetric": Asymmetric,
    }
