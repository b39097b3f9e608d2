from __future__ import annotations

import builtins
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from humanpref.annotate.aggregate import (
    METHODS,
    MOST_WEIGHT,
    PRIOR,
    annotator_weights,
    bradley_terry,
    consensus,
    plackett_luce,
    source_strengths,
)
from humanpref.annotate.exclusion import suspects
from humanpref.annotate.records import Judgement, ProjectConfig, ProjectGroup
from humanpref.correlation import kendall
from humanpref.errors import DataError, MissingExtraError, UnknownNameError
from humanpref.evaluation.instances import mean_rank_consensus
from humanpref.metrics import midranks, sigmoid
from tests.crowd import World, crowd, group, judgement
from tests.toys import ranking


@st.composite
def panel(draw: st.DrawFn) -> list[tuple[int, ...]]:
    images = draw(st.integers(2, 5))
    ranks = st.tuples(*[st.integers(1, images)] * images)
    return draw(st.lists(ranks, min_size=1, max_size=5))


def said(rows: list[tuple[int, ...]]) -> tuple[list[Judgement], dict[str, ProjectGroup]]:
    return [judgement(i, "g", i, ranks) for i, ranks in enumerate(rows, 1)], {"g": group("g", len(rows[0]))}


@given(panel())
def test_mean_rank_is_the_official_rule_and_borda_another_scale(rows: list[tuple[int, ...]]) -> None:
    judgements, groups = said(rows)
    found = consensus(judgements, groups)["g"]
    if len(rows) > 1:  # which leaves one person's numbers as they are
        assert found.ranks == mean_rank_consensus([ranking("p", r, str(i)) for i, r in enumerate(rows)]).ranks
    beaten = [
        np.mean([sum(o > r[i] for o in r) + sum(o == r[i] for o in r) / 2 - 0.5 for r in rows])
        for i in range(len(rows[0]))
    ]
    borda = consensus(judgements, groups, "borda")["g"]
    assert borda.scores == pytest.approx(beaten)
    assert borda.ranks == found.ranks
    assert (found.errors is None) == (len(rows) == 1)
    if found.errors is not None:
        assert found.errors == pytest.approx(
            np.std(midranks(np.asarray(rows, dtype=float)), axis=0, ddof=1) / len(rows) ** 0.5
        )
        assert borda.errors == pytest.approx(found.errors)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(rows=panel(), random=st.randoms(use_true_random=False))
def test_neither_the_order_of_images_nor_of_people_matters(
    method: str, rows: list[tuple[int, ...]], random: Any
) -> None:
    judgements, groups = said(rows)
    here = consensus(judgements, groups, method).get("g")
    order, people = list(range(len(rows[0]))), list(range(len(rows)))
    random.shuffle(order)
    random.shuffle(people)
    there = consensus(*said([tuple(rows[p][i] for i in order) for p in people]), method).get("g")
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert there.ranks == tuple(here.ranks[i] for i in order)
        assert there.scores == pytest.approx([here.scores[i] for i in order], abs=1e-6)
        assert there.rankings == here.rankings
        assert (there.errors is None) == (here.errors is None)
        assert there.errors is None or there.errors == pytest.approx([here.errors[i] for i in order], abs=1e-6)


def penalised(strengths: np.ndarray, places: np.ndarray) -> float:
    """The textbook: the product over places of exp(own) / sum of exp(all that are left); the prior taken off."""
    total = -PRIOR * float(np.sum(strengths**2))
    for own in places:
        left = list(np.argsort(own))
        while left:
            total += strengths[left[0]] - np.log(np.sum(np.exp(strengths[left])))
            left.pop(0)
    return total


@pytest.mark.parametrize(("images", "people"), [(2, 1), (3, 1), (4, 3), (5, 6)])
def test_plackett_luce_is_the_likeliest(images: int, people: int) -> None:
    random = np.random.default_rng(images)
    places = np.asarray([random.permutation(images) + 1.0 for _ in range(people)])
    strengths, errors = plackett_luce(places)
    best = minimize(lambda x: -penalised(x, places), np.zeros(images), method="Nelder-Mead",
                    options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 10_000, "maxfev": 20_000})  # fmt: skip
    assert strengths == pytest.approx(best.x - best.x.mean(), abs=1e-4)
    assert strengths.sum() == pytest.approx(0, abs=1e-7)
    step, eye = 1e-4, np.eye(images)  # the curvature by differences
    curve = [[(penalised(strengths + step * (a + b), places) - penalised(strengths + step * (a - b), places)
               - penalised(strengths + step * (b - a), places) + penalised(strengths - step * (a + b), places)) / (4 * step**2)
              for b in eye] for a in eye]  # fmt: skip
    centre = eye - 1 / images
    assert errors == pytest.approx(np.sqrt(np.diag(centre @ np.linalg.inv(-np.asarray(curve)) @ centre)), rel=1e-3)


def test_plackett_luce_gives_the_chances_of_whole_orders() -> None:
    """Rankings drawn from known strengths give them back, and the errors are as large as the scatter."""
    truth, random = np.asarray([0.9, 0.3, -0.2, -1.0]), np.random.default_rng(0)
    found, errors = [], []
    for _ in range(10):
        felt = truth + random.gumbel(size=(20, 4))
        strengths, error = plackett_luce(np.argsort(np.argsort(-felt, axis=1), axis=1) + 1.0)
        found.append(strengths)
        errors.append(error)
    assert np.mean(found, axis=0) == pytest.approx(truth, abs=0.25)
    assert np.mean(errors, axis=0) == pytest.approx(np.std(found, axis=0, ddof=1), rel=0.4)


def test_ties_say_nothing_of_each_other() -> None:
    strengths, _ = plackett_luce(np.asarray([[1.5, 1.5, 3.0]]))
    assert strengths[0] == strengths[1] > strengths[2]
    assert plackett_luce(np.asarray([[2.0, 2.0, 2.0]]))[0] == pytest.approx([0, 0, 0])


def test_two_images_are_bradley_terry() -> None:
    strengths, _ = plackett_luce(np.asarray([[1.0, 2.0]] * 5 + [[2.0, 1.0]] * 2))
    assert strengths == pytest.approx(bradley_terry(np.asarray([[0.0, 5.0], [2.0, 0.0]])), abs=1e-8)


def test_bradley_terry_is_that_of_choix() -> None:
    import choix

    random = np.random.default_rng(1)
    wins = random.integers(0, 5, (3, 4, 4)) * (1 - np.eye(4, dtype=int))
    wins[2, 0], wins[2, :, 0] = [0, 9, 9, 9], 0  # one who always wins
    for table, own in zip(wins, bradley_terry(wins.astype(float)), strict=True):
        pairs = [(i, j) for i in range(4) for j in range(4) for _ in range(table[i, j])]
        theirs = choix.opt_pairwise(4, pairs, alpha=PRIOR, tol=1e-10)
        assert own == pytest.approx(theirs - theirs.mean(), abs=1e-6)


def truth_found(world: World, method: str, excluded: Any = ()) -> float:
    found = consensus(world.judgements, world.groups, method, excluded=excluded)
    assert len(found) == world.count
    return float(np.mean([kendall(c.scores, world.quality[key]) or 0.0 for key, c in found.items()]))


@pytest.mark.parametrize("per_group", [4, 10])
def test_weights_recover_the_order_among_bad_people(per_group: int) -> None:
    rows = []
    for seed in range(6):
        world = World(crowd(12, careless=3, reversed_=1, seed=seed), count=50, per_group=per_group, seed=seed)
        out = suspects(world.judgements, world.groups, ProjectConfig())
        rows.append(
            [truth_found(world, "mean_rank"), truth_found(world, "weighted"), truth_found(world, "mean_rank", out)]
        )
    plain, weighted, without = np.asarray(rows).T
    assert (weighted > plain).all()
    assert weighted.mean() > plain.mean() + 0.03
    assert without.mean() > plain.mean() + 0.03


def test_weights_do_no_harm_among_honest_people() -> None:
    worlds = [World(crowd(12, seed=seed), count=30, seed=seed) for seed in range(12)]
    plain, weighted = ([truth_found(w, m) for w in worlds] for m in ("mean_rank", "weighted"))
    assert np.mean(weighted) > np.mean(plain) - 0.01


def test_weights_follow_care() -> None:
    world = World(crowd(12, careless=3, reversed_=1, seed=1), count=100, seed=1)
    weights = annotator_weights(world.judgements, world.groups)
    assert list(weights) == list(range(1, 17))
    assert weights[16] == 0
    assert max(weights[i] for i in (13, 14, 15)) < 0.3
    honest = range(1, 13)
    assert min(weights[i] for i in honest) > 0.5
    assert max(weights.values()) <= MOST_WEIGHT + 1e-6
    assert kendall([weights[i] for i in honest], [-world.temperatures[i] for i in honest]) > 0.7
    assert annotator_weights(world.judgements[::-1], world.groups) == weights
    # of someone who said one thing little is known
    late = [*world.judgements, judgement(9999, "g1", 99, (1, 2, 3, 4))]
    late = [j for j in late if j.annotator != 13]
    assert 0.5 < annotator_weights(late, world.groups)[99] < 1.5


def test_nobody_to_compare_with_weighs_one() -> None:
    judgements, groups = said([(2, 1, 3)])
    assert annotator_weights(judgements, groups) == {1: 1.0}
    assert consensus(judgements, groups, "weighted")["g"].ranks == (2, 1, 3)
    assert annotator_weights([], {}) == {}


def test_only_tasks_of_those_who_count() -> None:
    groups = {"g": group("g", 3, gold_ranks=(1, 2, 3)), "h": group("h", 3)}
    judgements = [
        judgement(1, "g", 1, (1, 2, 3)),
        judgement(2, "g", 2, (3, 2, 1)),
        judgement(3, "g", 3, (3, 2, 1), kind="gold"),
        judgement(4, "g", 1, (3, 2, 1), kind="repeat"),
        judgement(5, "g", 4, (3, 2, 1), kind="practice"),
        judgement(6, "g", 5, None),
    ]
    found = consensus(judgements, groups, excluded=[2])
    assert list(found) == ["g"]
    assert (found["g"].ranks, found["g"].rankings) == ((1, 2, 3), 1)
    assert consensus(judgements, groups)["g"].ranks == (1, 1, 1)


def test_sources_get_back_their_strengths() -> None:
    """Sources of known appeal, people of one temperature: a Plackett-Luce ranking's pairs are Bradley-Terry's."""
    truth, random = np.asarray([1.0, 0.4, -0.3, -1.1]), np.random.default_rng(0)
    groups = {f"g{i}": group(f"g{i}") for i in range(80)}
    judgements = []
    for key in groups:
        for who in (1, 2, 3):
            felt = truth + random.gumbel(size=4)
            judgements.append(judgement(len(judgements), key, who, [int(x) + 1 for x in np.argsort(np.argsort(-felt))]))
    report = source_strengths(judgements, groups)
    by_name = {s.source: s for s in report.sources}
    assert [s.rank for s in report.sources] == [1, 2, 3, 4]
    assert (report.groups, report.pairs, report.unnamed, report.same) == (80, 80 * 3 * 6, 0, 0)
    for name, strength in zip(("alpha", "beta", "gamma", "delta"), truth, strict=True):
        found = by_name[name]
        assert found.ci is not None
        assert found.win_ci is not None
        assert found.error is not None
        assert found.strength == pytest.approx(strength, abs=4 * found.error)
        assert 0.03 < found.error < 0.2
        assert found.ci[0] < found.strength < found.ci[1]
        assert found.win_ci[0] < found.win_share < found.win_ci[1]
        others = [o for o in truth if o != strength]
        assert found.win_share == pytest.approx(np.mean(sigmoid(strength - np.asarray(others))), abs=0.06)
    assert report == source_strengths(judgements[::-1], groups)
    few = source_strengths(judgements[:6], groups)
    assert [(s.error, s.ci) for s in few.sources] == [(None, None)] * 4  # two groups


def test_pairs_without_two_sources_are_counted() -> None:
    groups = {f"g{i}": group(f"g{i}", 6) for i in range(3)}  # six images of four sources: two twice
    first = groups["g0"].images[0]
    groups["g0"] = replace(groups["g0"], images=(replace(first, source=None), *groups["g0"].images[1:]))
    judgements = [judgement(i, f"g{i}", 1, (1, 2, 3, 4, 5, 6)) for i in range(3)]
    report = source_strengths(judgements, groups)
    assert (report.unnamed, report.same) == (5, 2 + 2 + 1)
    assert report.pairs + report.unnamed + report.same == 3 * 15
    assert source_strengths([], groups).sources == ()


def test_every_order_of_three_once_says_nothing() -> None:
    judgements, groups = said([tuple(p) for p in permutations((1, 2, 3))])
    for method in METHODS:
        found = consensus(judgements, groups, method)["g"]
        assert found.ranks == (1, 1, 1), method
        assert len(set(found.scores)) == 1


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    judgements, groups = said([(1, 2)])
    with pytest.raises(UnknownNameError, match="choose from: mean_rank, borda, plackett_luce, weighted"):
        consensus(judgements, groups, "kemeny")
    with pytest.raises(DataError, match="annotator 1 ranked it more than once"):
        consensus([*judgements, *judgements], groups)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "choix":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[annotate\]"'):
        consensus(judgements, groups, "plackett_luce")
    assert consensus(judgements, groups)["g"].ranks == (1, 2)
