"""Successive halving under a budget: how many pictures each candidate gets, in which round. Pure functions of counts.

Jamieson and Talwalkar 2016 (arXiv 1502.07943): all candidates are tried on a few (prompt, seed) pairs, the better half
on twice as many, and so on. The pairs of a round are the first ones of one fixed order, so that all candidates of a
round are compared on the same, and what an earlier round made is used again. The last ones are measured on other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from humanpref.improve.methods import ImproveError
from humanpref.resampling import MIN_CLUSTERS


@dataclass(frozen=True)
class Round:
    """So many candidates, each on the first `pairs` of the order; what earlier rounds made counts among them."""

    candidates: int
    pairs: int


@dataclass(frozen=True)
class Schedule:
    """The rounds, then the holdout: `finalists` and the baseline on `holdout_pairs` others. `images` is what it takes
    in all, the baseline's included; `used_up` says that more budget would find no more pairs."""

    rounds: tuple[Round, ...]
    finalists: int
    holdout_pairs: int
    images: int
    used_up: bool


def plan(candidates: int, budget: int, selection: int, holdout: int, finalists: int) -> Schedule:
    """Return the schedule that uses most pairs within `budget` images; the holdout has at least the last round's pairs.

    selection, holdout: how many pairs there are for each. Raises `ImproveError` that says the smallest budget that
    works: one pair in the first round and five prompts (or all) in the holdout.
    """
    finalists = min(finalists, candidates)
    needed = min(MIN_CLUSTERS, holdout)
    best: tuple[tuple[Round, ...], int] | None = None
    if candidates <= finalists:
        best = ((), needed)
    else:
        for first in range(1, selection + 1):
            rounds = halving(candidates, finalists, first, selection)
            least = max(needed, min(holdout, rounds[-1].pairs))
            if best is not None and _cost(rounds, finalists, least) > budget:
                break
            best = rounds, least
    assert best is not None
    rounds, least = best
    if (smallest := _cost(rounds, finalists, least)) > budget:
        raise ImproveError(
            f"a budget of {budget} images is too small for {candidates} tokens; the smallest that works is {smallest}"
        )
    pairs = min(holdout, (budget - _cost(rounds, finalists, 0)) // (finalists + 1))
    used_up = pairs == holdout and (not rounds or rounds[0].pairs == selection)
    return Schedule(rounds, finalists, pairs, _cost(rounds, finalists, pairs), used_up)


def halving(candidates: int, finalists: int, first: int, available: int) -> tuple[Round, ...]:
    """Return rounds that halve the candidates and double the pairs until the finalists are left.

    With all `available` pairs looked at, another round would tell nothing: that one is the last.
    """
    rounds, pairs = [], first
    while candidates > finalists:
        rounds.append(Round(candidates, min(pairs, available)))
        if pairs >= available:
            break
        candidates, pairs = max(finalists, -(-candidates // 2)), 2 * pairs
    return tuple(rounds)


def new_images(rounds: tuple[Round, ...]) -> list[int]:
    """Return how many images each round makes, the baseline's included."""
    before = [0, *(one.pairs for one in rounds)]
    return [(one.candidates + 1) * (one.pairs - was) for one, was in zip(rounds, before, strict=False)]


def split_pairs(pairs: int, prompts: int) -> list[tuple[int, int]]:
    """Return which images the first `pairs` are: (so many first prompts, so many images of each), in the order to make.

    Every prompt gets its first image before any gets a second.
    """
    every, rest = divmod(pairs, prompts)
    return [*([(prompts, every)] if every else []), *([(rest, every + 1)] if rest else [])]


def _cost(rounds: tuple[Round, ...], finalists: int, holdout: int) -> int:
    return sum(new_images(rounds)) + (finalists + 1) * holdout
