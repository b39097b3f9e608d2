"""The losses, by their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from humanpref.training.losses import listwise_terms, margin_loss, pair_loss, smooth, uncertain_loss

number = st.floats(-8, 8, allow_nan=False)
share = st.floats(0, 1)


def one(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


@given(number, number, share)
def test_pair_loss_is_the_official_cross_entropy(a: float, b: float, p: float) -> None:
    official = -(
        torch.tensor([[p, 1 - p]], dtype=torch.float64)
        * torch.log_softmax(torch.tensor([[a, b]], dtype=torch.float64), -1)
    ).sum()
    assert float(pair_loss(one(a), one(b), one(p))) == pytest.approx(float(official), abs=1e-9)


@given(number, number, share)
def test_exchanging_the_images_changes_no_pairwise_loss(a: float, b: float, p: float) -> None:
    x, y, label, s, t = one(a), one(b), one(p), one(-1.0), one(0.5)
    for left, right in (
        (pair_loss(x, y, label), pair_loss(y, x, 1 - label)),
        (margin_loss(x, y, label, 1.0), margin_loss(y, x, 1 - label, 1.0)),
        (uncertain_loss(x, y, label, s, t), uncertain_loss(y, x, 1 - label, t, s)),
    ):
        assert float(left) == pytest.approx(float(right), abs=1e-9)


@given(number, number, st.booleans())
def test_plackett_luce_of_two_images_is_the_pair_loss(a: float, b: float, first: bool) -> None:
    ranks = torch.tensor([1, 2] if first else [2, 1])
    expected = pair_loss(one(a), one(b), one(float(first)))
    assert float(listwise_terms(torch.tensor([a, b], dtype=torch.float64), ranks)) == pytest.approx(
        float(expected), abs=1e-9
    )


@given(number, number)
def test_plackett_luce_of_two_tied_images_is_the_pair_loss_of_a_tie(a: float, b: float) -> None:
    expected = pair_loss(one(a), one(b), one(0.5))
    found = listwise_terms(torch.tensor([a, b], dtype=torch.float64), torch.tensor([1, 1]))
    assert float(found) == pytest.approx(float(expected), abs=1e-9)


@given(st.lists(st.tuples(number, st.integers(1, 5)), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_plackett_luce_does_not_depend_on_the_order_of_the_images(rows: list, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    values = [
        float(listwise_terms(torch.tensor([s for s, _ in own], dtype=torch.float64), torch.tensor([r for _, r in own])))
        for own in (rows, shuffled)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-9)


@given(st.lists(number, min_size=2, max_size=6))
def test_plackett_luce_is_the_likelihood_of_the_choices(scores: list[float]) -> None:
    """Against the definition, choice by choice; the images are in their order."""
    likelihood = 0.0
    for i in range(len(scores) - 1):
        likelihood += scores[i] - math.log(sum(math.exp(s) for s in scores[i:]))
    found = listwise_terms(torch.tensor(scores, dtype=torch.float64), torch.arange(1, len(scores) + 1))
    assert float(found) == pytest.approx(-likelihood / (len(scores) - 1), abs=1e-9)


@given(st.lists(st.tuples(number, st.integers(1, 4)), min_size=2, max_size=6), number)
def test_a_constant_added_to_all_scores_changes_nothing(rows: list, shift: float) -> None:
    scores, ranks = torch.tensor([s for s, _ in rows], dtype=torch.float64), torch.tensor([r for _, r in rows])
    assert float(listwise_terms(scores + shift, ranks)) == pytest.approx(float(listwise_terms(scores, ranks)), abs=1e-9)


@given(number, number, share)
def test_without_spread_the_uncertain_loss_is_the_pair_loss(a: float, b: float, p: float) -> None:
    none = one(-30.0)
    found = uncertain_loss(one(a), one(b), one(p), none, none)
    assert float(found) == pytest.approx(float(pair_loss(one(a), one(b), one(p))), abs=1e-9)


@given(number, number, st.floats(-2, 0.7), st.floats(-2, 0.7))
def test_the_uncertain_loss_is_the_expectation(a: float, b: float, log_s: float, log_t: float) -> None:
    """Against a fine sum over the density."""
    spread = math.sqrt(math.exp(2 * log_s) + math.exp(2 * log_t))
    z = torch.linspace(-9, 9, 20001).double()
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    expected = -math.log(float((torch.sigmoid(a - b + spread * z) * density).sum()))
    found = uncertain_loss(one(a), one(b), one(1.0), one(log_s), one(log_t))
    assert float(found) == pytest.approx(expected, rel=2e-3, abs=1e-3)


@given(number, number, share)
def test_gradients_of_the_pair_loss_are_the_error_of_the_probability(a: float, b: float, p: float) -> None:
    x, y = one(a).requires_grad_(), one(b).requires_grad_()
    pair_loss(x, y, one(p)).sum().backward()
    error = 1 / (1 + math.exp(b - a)) - p
    assert float(x.grad) == pytest.approx(error, abs=1e-9)
    assert float(y.grad) == pytest.approx(-error, abs=1e-9)


@pytest.mark.parametrize("kind", ["listwise", "uncertain", "margin"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    sigma = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    functions = {
        "listwise": lambda s, _: listwise_terms(s, torch.tensor([2, 1, 2, 3, 3])),
        "uncertain": lambda s, t: uncertain_loss(s[:-1], s[1:], label, t[:-1], t[1:]),
        "margin": lambda s, _: margin_loss(s[:-1], s[1:], label, 0.7),
    }
    assert torch.autograd.gradcheck(functions[kind], (scores, sigma))


@given(number, number, share, st.floats(0, 5))
def test_the_margin_loss_asks_for_the_margin_and_no_more(a: float, b: float, p: float, margin: float) -> None:
    found = float(margin_loss(one(a), one(b), one(p), margin))
    assert found >= -1e-12
    if p == 1:
        assert found == pytest.approx(max(0.0, margin - (a - b)), abs=1e-9)


@given(share, st.floats(0, 0.49))
def test_smoothing_keeps_which_image_is_likelier(p: float, s: float) -> None:
    found = float(smooth(one(p), s))
    assert s - 1e-9 <= found <= 1 - s + 1e-9
    assert (found - 0.5) * (p - 0.5) >= -1e-12
    assert float(smooth(one(0.5), s)) == pytest.approx(0.5)


def test_all_losses_stand_extreme_scores() -> None:
    far, near, label = torch.tensor([5e3, -5e3]), torch.tensor([-5e3, 5e3]), torch.tensor([1.0, 1.0])
    zero = torch.zeros(2)
    for found in (
        pair_loss(far, near, label),
        margin_loss(far, near, label, 1),
        uncertain_loss(far, near, label, zero, zero),
    ):
        assert torch.isfinite(found).all()
    assert torch.isfinite(listwise_terms(torch.tensor([5e3, -5e3, 0.0]), torch.tensor([3, 1, 2])))


def test_under_adamw_the_mean_takes_the_same_step_as_the_official_sum_with_epsilon_divided() -> None:
    """16 pairs: the sum with epsilon 1e-6 and the mean with epsilon 1e-6 / 16 move the weights alike, at one rate."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(16, 2, 8, generator=generator, dtype=torch.float64)
    ends = []
    for total, epsilon in ((torch.sum, 1e-6), (torch.mean, 1e-6 / 16)):
        weight = torch.ones(8, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=3.3e-3, betas=(0.9, 0.98), eps=epsilon, weight_decay=0.35)
        for _ in range(20):
            optimizer.zero_grad()
            scores = features @ weight
            total(pair_loss(scores[:, 0], scores[:, 1], torch.ones(16, dtype=torch.float64))).backward()
            optimizer.step()
        ends.append(weight.detach())
    assert torch.allclose(*ends, rtol=0, atol=1e-12)
