from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.correlation import kendall, spearman
from humanpref.errors import DataError
from humanpref.evaluation.generators import GeneratorReport, JudgedGroup, SetMetric, generator_report

NAMES = ("a", "b", "c", "d", "e")


def noisy(prompts: int, noise: float, seed: int = 0, names: Sequence[str] = NAMES) -> list[JudgedGroup]:
    """Generators whose quality falls in the order of their names, ranked by people who err."""
    generator = np.random.default_rng(seed)
    seen = np.arange(len(names)) + generator.normal(0, noise, (prompts, len(names)))
    ranks = seen.argsort(axis=1).argsort(axis=1) + 1.0
    return [JudgedGroup(f"prompt {i}", tuple(names), tuple(row)) for i, row in enumerate(ranks.tolist())]


def by_rank(groups: Sequence[JudgedGroup], sign: float) -> list[list[float]]:
    return [[sign * rank for rank in group.ranks] for group in groups]


def strengths(report: GeneratorReport) -> dict[str, float]:
    return {row.generator: row.human for row in report.generators}


def test_by_hand() -> None:
    # first: a beats b and c, b and c tie. second: two images of a, one of c; a's own images are no rivals of each other
    groups = [JudgedGroup("p", ("a", "b", "c"), (1, 2, 2)), JudgedGroup("q", ("a", "a", "c"), (1, 3, 2))]
    report = generator_report(
        groups, {"m": [[3, 2, 1], [4, 5, 0]]}, [SetMetric("FID", {"a": 9, "b": 7, "c": 8}, False)]
    )
    # a: 2/2, then 1/1 and 0/1. b: 0.5/2. c: 0.5/2, then 1 of a's 2
    assert strengths(report) == pytest.approx({"a": 2 / 3, "b": 0.25, "c": (0.25 + 0.5) / 2})
    a, c, b = report.generators
    assert (a.generator, c.generator, b.generator) == ("a", "c", "b")
    assert (a.images, b.images, c.images) == (3, 1, 2)
    assert a.metrics == {"m": 4, "FID": 9}
    assert b.metrics == {"m": 2, "FID": 7}
    assert c.metrics == {"m": 0.5, "FID": 8}
    m, fid = report.correlations
    # people a > c > b; m says a > b > c: rho = 1 - 6 * 2 / (3 * 8), two pairs of three right; FID says b > c > a
    assert (m.metric, m.spearman, m.kendall) == ("m", pytest.approx(0.5), pytest.approx(1 / 3))
    assert (fid.metric, fid.spearman, fid.kendall) == ("FID", -1, -1)
    assert (m.higher_is_better, m.interval_covers) == (True, "people and metric")
    assert (fid.higher_is_better, fid.interval_covers) == (False, "people")
    assert report.prompts == 2
    json.dumps(asdict(report))  # what output does with it


def test_with_every_generator_in_every_group_strength_is_the_mean_rank() -> None:
    groups = noisy(40, 2.0)
    found = strengths(generator_report(groups, {}))
    mean_rank = np.mean([group.ranks for group in groups], axis=0)
    assert [found[name] for name in NAMES] == pytest.approx((len(NAMES) - mean_rank) / (len(NAMES) - 1))
    assert sum(found.values()) == pytest.approx(len(NAMES) / 2)


def test_a_perfect_metric_has_1_and_a_reversed_one_minus_1() -> None:
    groups = noisy(60, 3.0)
    mean_rank = dict(zip(NAMES, np.mean([group.ranks for group in groups], axis=0), strict=True))
    good, bad, fid = generator_report(
        groups,
        {"good": by_rank(groups, -1.0), "bad": by_rank(groups, 1.0)},
        [SetMetric("FID", mean_rank, higher_is_better=False)],
    ).correlations
    # the same draw of prompts gives both sides, so that it agrees with itself in every draw
    assert (good.spearman, good.spearman_ci, good.kendall, good.kendall_ci) == (1, (1, 1), 1, (1, 1))
    assert (bad.spearman, bad.spearman_ci, bad.kendall, bad.kendall_ci) == (-1, (-1, -1), -1, (-1, -1))
    # the values of a set metric stay as they are, so that its interval is that of the people
    assert fid.spearman == 1
    assert fid.spearman_ci is not None
    assert fid.spearman_ci[0] < 1


def test_a_constant_metric_has_no_correlation() -> None:
    groups = noisy(30, 1.0)
    flat = [[0.1] * len(group.ranks) for group in groups]
    for c in generator_report(groups, {"flat": flat}, [SetMetric("IS", dict.fromkeys(NAMES, 2.5), True)]).correlations:
        assert (c.spearman, c.spearman_ci, c.kendall, c.kendall_ci) == (None,) * 4
    tied = [JudgedGroup(f"p{i}", NAMES, (1,) * 5) for i in range(5)]
    report = generator_report(tied, {"m": [list(range(5))] * 5})
    assert set(strengths(report).values()) == {0.5}
    assert report.correlations[0].spearman is None


def test_equal_up_to_rounding_is_equal() -> None:
    """The mean of 0.1 three times is 0.10000000000000002: no reason to put one generator before another."""
    ranks = (1.0, 2.0, 3.0)
    groups = [JudgedGroup(f"p{i}", ("a", "b", "c"), ranks) for i in range(3)]
    scores = [[0.1, 0.3, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0]]
    assert sum([0.1] * 3) / 3 != 0.3 / 3
    found = generator_report(groups, {"m": scores}).correlations[0]
    assert found.kendall == kendall([1, 1, 0], [3, 2, 1])


def brute_force(groups: Sequence[JudgedGroup], scores: Sequence[Sequence[float]]) -> dict[str, tuple[float, float]]:
    won: dict[str, list[float]] = {}
    metric: dict[str, list[float]] = {}
    for group, own in zip(groups, scores, strict=True):
        for i, source in enumerate(group.sources):
            rivals = [r for r, s in zip(group.ranks, group.sources, strict=True) if s != source]
            metric.setdefault(str(source), []).append(own[i])
            if rivals:
                beaten = sum(1.0 if group.ranks[i] < r else 0.5 if group.ranks[i] == r else 0.0 for r in rivals)
                won.setdefault(str(source), []).append(beaten / len(rivals))
    return {name: (np.mean(won[name]), np.mean(metric[name])) for name in won}


any_groups = st.lists(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.sampled_from(["p", "q", "r", "s"]),
            st.lists(st.sampled_from("abcd"), min_size=n, max_size=n),
            st.lists(st.integers(1, 4), min_size=n, max_size=n),
            st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n),
        )
    ),
    min_size=1,
    max_size=8,
)


@given(any_groups)
def test_equals_brute_force(rows: list[tuple[str, list[str], list[int], list[float]]]) -> None:
    # every generator meets the others once, so that each has a strength
    rows = [("all", list("abcd"), [1, 2, 3, 4], [0.0] * 4), *rows]
    groups = [JudgedGroup(prompt, tuple(sources), tuple(ranks)) for prompt, sources, ranks, _ in rows]
    scores = [row[3] for row in rows]
    report = generator_report(groups, {"m": scores}, samples=150)
    expected = brute_force(groups, scores)
    for row in report.generators:
        assert (row.human, row.metrics["m"]) == pytest.approx(expected[row.generator], abs=1e-12)
        assert row.human_ci is None or -1e-12 <= row.human_ci[0] <= row.human_ci[1] <= 1 + 1e-12
    humans = [row.human for row in report.generators]
    assert humans == sorted(humans, reverse=True)
    people, values = (np.round([pair[i] for pair in expected.values()], 9) for i in (0, 1))
    found = report.correlations[0]
    assert found.spearman == pytest.approx(spearman(values, people))
    assert found.kendall == pytest.approx(kendall(values, people))
    # better and worse exchanged on both sides changes nothing but the sign of the strengths
    turned = [JudgedGroup(g.prompt, g.sources, tuple(-r for r in g.ranks)) for g in groups]
    other = generator_report(turned, {"m": [[-s for s in own] for own in scores]}, samples=150)
    assert strengths(other) == pytest.approx({name: 1 - v for name, v in strengths(report).items()}, abs=1e-12)
    assert other.correlations[0].spearman == pytest.approx(found.spearman)


def test_the_bootstrap_equals_one_written_with_loops() -> None:
    groups, samples = noisy(25, 4.0, names="abcd"), 300
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(25, 4)).round(2).tolist()
    report = generator_report(
        groups, {"m": scores}, [SetMetric("IS", {"a": 4, "b": 1, "c": 2, "d": 3}, True)], seed=3, samples=samples
    )
    draws = np.random.default_rng(3).integers(25, size=(samples, 25))
    rho, fixed, first = [], [], []
    for draw in draws:
        found = brute_force([groups[i] for i in draw], [scores[i] for i in draw])
        people, values = (np.round([found[name][i] for name in "abcd"], 9) for i in (0, 1))
        rho.append(spearman(values, people))
        fixed.append(spearman([4, 1, 2, 3], people))
        first.append(found["a"][0])
    m, inception_score = report.correlations
    usable = [r for r in rho if r is not None]
    assert m.spearman_ci == pytest.approx(np.quantile(usable, [0.025, 0.975]))
    assert inception_score.spearman_ci == pytest.approx(
        np.quantile([r for r in fixed if r is not None], [0.025, 0.975])
    )
    a = next(row for row in report.generators if row.generator == "a")
    assert a.human_ci == pytest.approx(np.quantile(first, [0.025, 0.975]))


def test_the_same_seed_gives_the_same_report_and_groups_of_a_prompt_are_drawn_together() -> None:
    groups = noisy(40, 4.0)
    scores = {"m": np.random.default_rng(1).normal(size=(40, 5)).tolist()}
    first = generator_report(groups, scores, seed=1)
    assert first == generator_report(groups, scores, seed=1)
    assert first != generator_report(groups, scores, seed=2)
    # each group three times over, of the same prompts, says nothing more
    again = generator_report(groups * 3, {"m": scores["m"] * 3}, seed=1)
    assert again.prompts == 40
    assert [row.human_ci for row in again.generators] == [
        pytest.approx(row.human_ci, abs=1e-12) for row in first.generators
    ]
    assert again.correlations == first.correlations


def test_more_prompts_give_a_narrower_interval() -> None:
    def width(prompts: int) -> float:
        row = generator_report(noisy(prompts, 4.0), {}).generators[0]
        assert row.human_ci is not None
        assert row.human_ci[0] < row.human < row.human_ci[1]
        return row.human_ci[1] - row.human_ci[0]

    assert width(400) == pytest.approx(width(100) / 2, rel=0.25)


def test_draws_in_many_pieces_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    import humanpref.evaluation.generators as module

    groups = noisy(30, 3.0)
    whole = generator_report(groups, {"m": by_rank(noisy(30, 3.0, seed=9), -1.0)})
    monkeypatch.setattr(module, "MAX_HELD", 30 * 7)
    assert generator_report(groups, {"m": by_rank(noisy(30, 3.0, seed=9), -1.0)}) == whole


def test_a_rare_generator_has_an_interval_from_the_draws_that_have_it() -> None:
    groups = [*noisy(20, 1.0), JudgedGroup("one more", ("a", "rare"), (2, 1))]
    report = generator_report(groups, {"m": by_rank(groups, -1.0)})
    rare = report.generators[0]
    assert (rare.generator, rare.images, rare.human, rare.human_ci) == ("rare", 1, 1.0, (1.0, 1.0))
    assert report.correlations[0].spearman_ci is not None
    # every generator in one prompt only: next to no draw has them all
    few = [JudgedGroup(f"p{i}", (f"g{2 * i}", f"g{2 * i + 1}"), (1, 2)) for i in range(10)]
    found = generator_report(few, {"m": by_rank(few, -1.0)}).correlations[0]
    assert (found.spearman, found.spearman_ci) == (1, None)


def test_errors_say_what_is_wrong() -> None:
    good = noisy(3, 1.0)

    def refused(
        match: str, groups: Sequence[JudgedGroup] = good, per_image: object = None, per_set: object = ()
    ) -> None:
        with pytest.raises(DataError, match=match) as caught:
            generator_report(groups, per_image or {}, per_set)
        assert "\n" not in str(caught.value)

    unknown = JudgedGroup("p", ("a", None, None), (1, 2, 3))
    refused("2 of 18 images do not say which generator .* `source`", [*good, unknown])
    refused(r"at least 3 of them, the data have 2 \(a, b\)", [JudgedGroup("p", ("a", "b"), (1, 2))])
    refused("have 0", [])
    refused("'z' is never compared", [*good, JudgedGroup("p", ("z", "z"), (1, 2))])
    refused("m: 2 lists of scores for 3 groups", per_image={"m": [[1] * 5] * 2})
    refused("m: prompt 'prompt 0' needs 5 finite scores", per_image={"m": [[1] * 4] * 3})
    refused("m: prompt 'prompt 0' needs 5 finite scores", per_image={"m": [[1, 2, 3, 4, math.nan]] * 3})
    refused("FID: no finite value for generator 'e'", per_set=[SetMetric("FID", dict.fromkeys("abcd", 1.0), False)])
    refused("FID: has a value for 'z'", per_set=[SetMetric("FID", dict.fromkeys("abcdez", 1.0), False)])
    twice = SetMetric("FID", dict.fromkeys("abcde", 1.0), False)
    refused("FID: two metrics have this name", per_set=[twice, twice])
    with pytest.raises(DataError, match="2 sources but 3 ranks"):
        JudgedGroup("p", ("a", "b"), (1, 2, 3))
    with pytest.raises(DataError, match="finite"):
        JudgedGroup("p", ("a", "b"), (1, math.nan))
