"""How much better is one method than another? Paired differences on the same prompts and seeds: pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from humanpref.metrics import Array
from humanpref.resampling import bootstrap, cluster_sums, holm, interval, sign_flip_p_value


@dataclass(frozen=True)
class Gain:
    """A method minus the baseline by one scorer, on its scale, over `pairs` of images with the same prompt and seed.

    `baseline` and `mean` are the mean scores of the two over these pairs, `gain` their difference. `win_rate` is the
    share of pairs in which the method's image scores higher, ties half, in [0, 1]. Intervals are 95 %, by a bootstrap
    over prompts, None for fewer than five. `p_value`: two-sided, by flipping the signs of prompts; `p_holm`: the same
    corrected for the number of gains in the report. `left_out` pairs lack an image or a score. `selected`: the method
    chose its images by this very scorer, so the gain says nothing of whether they are better.
    """

    method: str
    scorer: str
    pairs: int
    left_out: int
    prompts: int
    baseline: float
    mean: float
    gain: float
    ci: tuple[float, float] | None
    p_value: float
    p_holm: float
    win_rate: float
    win_rate_ci: tuple[float, float] | None
    selected: bool = False

    @property
    def holds(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.ci is not None and self.ci[0] > 0

    @property
    def harms(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.ci is not None and self.ci[1] < 0


def paired_gain(
    method: str,
    scorer: str,
    baseline: Array,
    scores: Array,
    prompts: Sequence[str],
    *,
    selected: bool = False,
    seed: int = 0,
) -> Gain | None:
    """Compare two arrays of scores (n,), paired, n images of `prompts` -> the gain, None where no pair is left.

    nan is a score that is not there; such pairs are left out and counted. `p_holm` is `p_value` until `corrected`.
    """
    there = ~(np.isnan(baseline) | np.isnan(scores))
    if not there.any():
        return None
    first, second = baseline[there], scores[there]
    clusters = [prompt for prompt, here in zip(prompts, there, strict=True) if here]
    differences = second - first
    wins = (second > first) + 0.5 * (second == first)
    ones = np.ones_like(differences)
    # (n, 2 measures, numerator and denominator)
    sums = cluster_sums(np.stack([np.stack([differences, ones], -1), np.stack([wins, ones], -1)], axis=1), clusters)
    draws = bootstrap(sums, seed=seed)
    p_value = sign_flip_p_value(sums[:, 0, 0], seed=seed)
    return Gain(
        method=method,
        scorer=scorer,
        pairs=int(there.sum()),
        left_out=int((~there).sum()),
        prompts=len(sums),
        baseline=float(first.mean()),
        mean=float(second.mean()),
        gain=float(differences.mean()),
        ci=interval(draws[:, 0], len(sums)),
        p_value=p_value,
        p_holm=p_value,
        win_rate=float(wins.mean()),
        win_rate_ci=interval(draws[:, 1], len(sums)),
        selected=selected,
    )


def corrected(gains: Sequence[Gain]) -> tuple[Gain, ...]:
    """Correct the p values for the number of gains (Holm)."""
    adjusted = holm([gain.p_value for gain in gains])
    return tuple(dataclasses.replace(gain, p_holm=p) for gain, p in zip(gains, adjusted, strict=True))


def doubts(gains: Sequence[Gain]) -> tuple[str, ...]:
    """Say in one line each which gains one scorer sees and another does not: the first may only have been fooled."""
    found = []
    for method in dict.fromkeys(gain.method for gain in gains):
        own = [gain for gain in gains if gain.method == method]
        held, not_held = [g for g in own if g.holds], [g for g in own if not g.holds]
        if held and not_held:
            by = " and ".join(f"{g.scorer} ({signed(g.gain)})" for g in held)
            not_by = " and ".join(f"{g.scorer} ({signed(g.gain)}{_within(g)})" for g in not_held)
            found.append(
                f"{method}: its gain by {by} does not hold by {not_by}; one is fooled or the other is blind to it: "
                "look at the images"
            )
        if own and own[0].selected and len(own) == 1:
            found.append(
                f"{method}: judged only by {own[0].scorer}, which chose its images: no sign that they are better"
            )
    return tuple(found)


def signed(value: float) -> str:
    """A difference as "+0.0123", with four significant digits at most."""
    return f"{value:+.4f}" if abs(value) < 1 else f"{value:+.3f}"


def _within(gain: Gain) -> str:
    return "" if gain.ci is None else f", [{signed(gain.ci[0])}, {signed(gain.ci[1])}]"
