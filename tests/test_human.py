from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from humanpref import metrics
from humanpref.data.formats import read_rankings
from humanpref.evaluation.human import fit_people, human_agreement, simulate_people
from humanpref.evaluation.instances import gather
from tests.conftest import ROOT
from tests.toys import ranking


def test_simulated_people_are_counted_as_real_ones() -> None:
    model = simulate_people(1.5, 4, 3, groups=200, seed=3)
    generator = np.random.default_rng(3)
    appeal, noise = generator.normal(size=(200, 1, 4)), generator.gumbel(size=(200, 3, 4))
    ranks = stats.rankdata(-(1.5 * appeal + noise), axis=-1)
    found = np.sum([metrics.annotator_agreement(r) for r in ranks], axis=0)
    assert model.vs_others == pytest.approx(found[0] / found[1])
    assert model.vs_human == pytest.approx(found[2] / found[3])
    oracle = [metrics.pair_agreement(a[0], r[k])[:2] for a, r in zip(appeal, ranks, strict=True) for k in range(3)]
    assert model.oracle_vs_human == pytest.approx(np.sum(oracle, axis=0)[0] / np.sum(oracle, axis=0)[1])
    # an even consensus may fall either way: one half
    even = [metrics.pair_agreement(-r.sum(axis=0), stats.rankdata(-a[0])) for a, r in zip(appeal, ranks, strict=True)]
    assert model.oracle_vs_consensus == pytest.approx(np.sum(even, axis=0)[0] / (200 * 6))


def test_two_simulated_people_choose_as_bradley_and_terry_say() -> None:
    # P(first) = 1 / (1 + exp(-gap)), gap ~ N(0, 2 spread^2); two agree with p^2 + (1 - p)^2
    def expected(of):
        deviation = 2**0.5 * 1.2
        return integrate.quad(lambda d: stats.norm.pdf(d, 0, deviation) * of(1 / (1 + np.exp(-d))), -40, 40)[0]

    model = simulate_people(1.2, 2, 2, groups=100_000)
    assert model.vs_human == pytest.approx(expected(lambda p: p**2 + (1 - p) ** 2), abs=0.004)
    assert model.oracle_vs_human == pytest.approx(expected(lambda p: max(p, 1 - p)), abs=0.004)


def test_the_fit_agrees_as_asked_and_rises() -> None:
    for agreement in (0.6, 0.8, 0.95):
        assert fit_people(agreement, 6, 5).vs_human == pytest.approx(agreement, abs=1e-3)
    ceilings = [fit_people(x, 6, 5).oracle_vs_consensus for x in np.linspace(0.5, 0.99, 8)]
    assert ceilings == sorted(ceilings)
    assert fit_people(0.3, 6, 5).oracle_vs_consensus == pytest.approx(0.5, abs=0.02)
    assert fit_people(1.0, 6, 5).oracle_vs_consensus == pytest.approx(1.0, abs=0.01)
    assert fit_people(0.6, 6, 5).oracle_vs_human > 0.6


def test_by_hand() -> None:
    rankings = [
        ranking("one", (1, 2, 3)),
        ranking("one", (1, 2, 3), "ann"),
        ranking("one", (1, 3, 2), "bob"),
        ranking("one", (2, 1, 3), "cyd"),
        ranking("two", (1, 1, 2)),
    ]
    human = human_agreement(gather(rankings))
    assert human is not None
    assert (human.instances, human.annotations, human.annotators_per_group) == (1, 3, 3)
    assert human.vs_human.ci is None
    # ann-bob 2/3, ann-cyd 2/3, bob-cyd 1/3
    assert human.vs_human.value == pytest.approx(5 / 9)
    # ann v bob+cyd (3, 4, 5): 3 of 3; bob v ann+cyd (3, 3, 6): AB tied, AC right, BC wrong; cyd v ann+bob (2, 5, 5): BC tied, both wrong or right: AB wrong, AC right
    assert human.vs_consensus.value == pytest.approx((3 + 1 + 1) / (3 + 2 + 2))
    # against the consensus A < B < C: ann 3/3, bob 2/3, cyd 2/3
    assert human.in_consensus is not None
    assert human.in_consensus.value == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert human_agreement(gather([r for r in rankings if r.annotator is None])) is None
    assert human_agreement(gather(rankings[1:4])).in_consensus is None
    ties = [ranking("one", (1, 1), who) for who in "ab"]
    assert human_agreement(gather(ties)) is None


def test_the_figures_of_the_gallery_in_the_docs(gallery) -> None:
    human = human_agreement(gather(read_rankings(gallery)))
    assert human is not None
    shown = {
        name: f"{100 * getattr(human, name).value:.1f}"
        for name in ("vs_human", "vs_consensus", "in_consensus", "ceiling_vs_human", "ceiling_vs_consensus")
    }
    page = (ROOT / "docs" / "human_ceiling.md").read_text()
    for name, figure in shown.items():
        assert f"{figure} %" in page, (name, figure)
    # the model behind the ceiling, held against something it was not fitted to
    assert human.model_vs_consensus == pytest.approx(human.vs_consensus.value, abs=0.005)
    assert f"{100 * human.model_vs_consensus:.1f} %" in page
