"""Paired gains: against figures worked out by hand, and what the warnings say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.improve.gains import Gain, corrected, doubts, paired_gain


def test_a_gain_worked_out_by_hand() -> None:
    baseline = np.array([1.0, 2.0, 3.0, math.nan, 5.0, 6.0])
    scores = np.array([2.0, 2.0, 2.0, 9.0, math.nan, 8.0])
    gain = paired_gain("m", "s", baseline, scores, ["a", "a", "b", "b", "c", "d"])
    assert gain is not None
    assert (gain.pairs, gain.left_out, gain.prompts) == (4, 2, 3)
    assert (gain.baseline, gain.mean, gain.gain) == (3.0, 3.5, 0.5)
    assert gain.win_rate == 2.5 / 4
    assert gain.ci is None  # three prompts are too few
    assert gain.p_value == 0.75  # sums of prompts 1, -1, 2: two of eight patterns of signs are less extreme
    assert paired_gain("m", "s", baseline * math.nan, scores, list("aabbcd")) is None


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=20), st.floats(-50, 50))
def test_a_shift_is_the_gain_and_the_other_way_round_its_opposite(values: list[float], shift: float) -> None:
    base = np.asarray(values)
    ids = [f"p{i}" for i in range(len(values))]
    gain = paired_gain("m", "s", base, base + shift, ids)
    back = paired_gain("m", "s", base + shift, base, ids)
    assert gain is not None
    assert back is not None
    assert gain.gain == pytest.approx(shift, abs=1e-9)
    assert back.gain == pytest.approx(-gain.gain, abs=1e-9)
    assert gain.win_rate + back.win_rate == pytest.approx(1.0)
    assert gain.p_value == pytest.approx(back.p_value)
    assert gain.ci is not None
    assert gain.ci[0] - 1e-9 <= gain.gain <= gain.ci[1] + 1e-9


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, inside = np.random.default_rng(3), 0
    for _ in range(200):
        effect = generator.normal(0.3, 1.0, 30)
        noise = generator.normal(0.0, 0.5, (30, 3))
        base = generator.normal(0.0, 5.0, (30, 3))  # differences between images cancel out
        scores = base + effect[:, None] + noise
        gain = paired_gain("m", "s", base.ravel(), scores.ravel(), np.repeat(np.arange(30), 3).astype(str).tolist())
        assert gain is not None
        assert gain.ci is not None
        inside += gain.ci[0] <= 0.3 <= gain.ci[1]
    assert 180 <= inside <= 200


def made(method: str, scorer: str, low: float, high: float, *, selected: bool = False, p: float = 0.01) -> Gain:
    middle = (low + high) / 2
    return Gain(method, scorer, 9, 0, 9, 0.0, middle, middle, (low, high), p, p, 0.6, None, selected)


def test_doubts_are_gains_that_only_some_see() -> None:
    assert doubts([made("a", "x", 0.1, 0.2), made("a", "y", 0.01, 0.3)]) == ()
    assert doubts([made("a", "x", -0.1, 0.2), made("a", "y", -0.01, 0.3)]) == ()
    (one,) = doubts([made("a", "x", 0.1, 0.2), made("a", "y", -0.1, 0.3), made("b", "x", 0.1, 0.2)])
    assert one == (
        "a: its gain by x (+0.1500) does not hold by y (+0.1000, [-0.1000, +0.3000]); one is fooled or the other is "
        "blind to it: look at the images"
    )
    (alone,) = doubts([made("a", "x", 0.1, 0.2, selected=True)])
    assert alone == "a: judged only by x, which chose its images: no sign that they are better"


def test_correction_is_holms() -> None:
    found = corrected([made("a", "x", 0, 1, p=0.04), made("a", "y", 0, 1, p=0.01), made("b", "x", 0, 1, p=0.03)])
    assert [gain.p_holm for gain in found] == pytest.approx([0.06, 0.03, 0.06])
