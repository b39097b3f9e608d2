from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from humanpref import load_scorer
from humanpref.data.formats import read_rankings
from humanpref.errors import DataError, ScoreError, UnknownNameError
from humanpref.evaluation import measures
from humanpref.evaluation.evaluate import evaluate_scorers
from humanpref.records import ImageRef, Ranking
from tests.toys import TableScorer, picture, ranking


@pytest.fixture
def two_instances(tmp_path: Path):
    """`one`: consensus A < B < C; `two`: D tied with E, then F."""
    rankings = [
        ranking("one", (1, 2, 3), folder=tmp_path),
        ranking("one", (1, 2, 3), "ann", folder=tmp_path),
        ranking("one", (1, 3, 2), "bob", folder=tmp_path),
        ranking("one", (2, 1, 3), "cyd", folder=tmp_path),
        ranking("two", (1, 1, 2), folder=tmp_path),
    ]
    for judged in rankings:
        for image in judged.images:
            picture(8, 8).save(image.path)
    return rankings


def scorer(one: tuple[float, ...], two: tuple[float, ...], name: str = "table") -> TableScorer:
    table = {f"{p}-{i}.png": s for p, scores in (("one", one), ("two", two)) for i, s in enumerate(scores)}
    return TableScorer(table, name)


def value(result, name: str) -> float:
    return result[name].value


def test_by_hand(two_instances) -> None:
    report = evaluate_scorers(two_instances, [scorer((3.0, 1.0, 2.0), (5.0, 1.0, 2.0))])
    result = report.scorers[0]
    # one: AB right, AC right, BC wrong = 2/3. two: DE human tie (right by the official rule), DF right, EF wrong = 2/3
    assert value(result, "accuracy") == pytest.approx(2 / 3)
    # pooled: 5 untied pairs, 3 right
    assert value(result, "pair_accuracy") == value(result, "imagereward_pooled") == pytest.approx(3 / 5)
    assert value(result, "imagereward_accuracy") == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Pick-a-Pic: 3 right, 2 wrong, and half for the human tie that the scorer does not call one
    assert value(result, "pickapic_accuracy") == pytest.approx(3.5 / 6)
    # one: 2 concordant, 1 discordant of 3. two: 1 concordant, 1 discordant; tau-b 0
    assert value(result, "kendall_tau_b") == pytest.approx((1 / 3 + 0) / 2)
    # one: ranks 1 3 2 against 1 2 3: 1 - 6 * 2 / 24. two: 1 3 2 against 1.5 1.5 3: covariance (-.5, .5), (1, -.5)...
    assert value(result, "spearman") == pytest.approx((1 / 2 + 0) / 2)
    assert value(result, "top1_recall") == 1.0
    assert (report.instances, report.prompts, report.images, report.pairs) == (2, 2, 6, 5)
    assert (report.test_set, report.rule, result.published_accuracy) == (None, "accuracy", None)


def test_constant_perfect_and_negated_scorers(two_instances) -> None:
    constant, perfect, inverse = (
        evaluate_scorers(two_instances, [scorer(one, two)]).scorers[0]
        for one, two in (((0.0,) * 3, (0.0,) * 3), ((-1, -2, -3), (-1, -1, -2)), ((1, 2, 3), (1, 1, 2)))
    )
    for name in measures.NAMES:
        assert perfect[name].value == pytest.approx(1.0), name
        assert perfect[name].ci is None, "two prompts are too few"
    assert (value(inverse, "accuracy"), value(inverse, "pair_accuracy")) == (pytest.approx((0 + 1 / 3) / 2), 0.0)
    assert value(constant, "accuracy") == pytest.approx((1 / 2 + 2 / 3) / 2)  # tied scores count half
    assert value(constant, "pair_accuracy") == 0.5
    assert value(constant, "imagereward_accuracy") == value(constant, "imagereward_pooled") == 0.0  # tied: wrong
    assert value(constant, "pickapic_accuracy") == pytest.approx((5 * 0.5 + 1) / 6)  # a tie said to be one is right
    assert value(constant, "top1_recall") == pytest.approx((1 / 3 + 2 / 3) / 2)  # drawn by lot
    assert value(constant, "kendall_tau_b") == value(constant, "spearman") == 0.0


def test_a_prompt_without_any_untied_pair_does_not_spoil_the_intervals(tmp_path: Path) -> None:
    rankings = [ranking(p, (1, 1 if p == "two" else 2), folder=tmp_path) for p in ("one", "two", "a", "b", "c")]
    rankings += [ranking(p, (1, 1), who, folder=tmp_path) for p in ("one", "two") for who in ("ann", "bob")]
    for judged in rankings:
        for image in judged.images:
            picture(8, 8).save(image.path)
    report = evaluate_scorers(
        rankings, [TableScorer({f"{p}-{i}.png": -i for p in ("one", "two", "a", "b", "c") for i in range(2)})]
    )
    assert report.scorers[0]["pair_accuracy"].ci == (1.0, 1.0)
    assert any("people are of the 2 of 5 instances" in note for note in report.notes)
    assert report.human is None


def test_annotators_alone_are_enough(two_instances) -> None:
    report = evaluate_scorers([r for r in two_instances if r.annotator], [scorer((-1, -2, -3), (0, 0, 0))])
    # sums of ranks 4, 6, 8: the order of the mean ranks is A, B, C
    assert value(report.scorers[0], "accuracy") == 1.0
    assert report.human is not None
    assert report.human.in_consensus is None


def test_differences_are_paired(two_instances) -> None:
    good, bad = scorer((-1, -2, -3), (-1, -1, -2), "good"), scorer((1, 2, 3), (1, 1, 2), "bad")
    same = scorer((-2, -4, -6), (-1, -1, -3), "same")
    report = evaluate_scorers(two_instances, [bad, good, same])
    found = {(d.model, d.other): d for d in report.differences}
    assert set(found) == {("bad", "good"), ("bad", "same"), ("good", "same")}
    assert found["bad", "good"].difference == pytest.approx((0 + 1 / 3) / 2 - 1)
    assert found["bad", "good"].ci is None
    assert found["bad", "good"].p_value == 0.5  # two prompts: all four patterns of signs, two as extreme
    assert found["bad", "good"].p_holm == 1.0
    assert (found["good", "same"].difference, found["good", "same"].p_value) == (0, 1)


def test_parts_of_the_data(two_instances) -> None:
    sources = {"one-0.png": "sd", "one-1.png": "dalle", "one-2.png": "sd", "two-0.png": "dalle", "two-1.png": "sd"}
    tagged = [
        replace(
            r,
            images=tuple(ImageRef(i.path, sources.get(i.path.name)) for i in r.images),
            prompt_source={"one": "COCO", "two": None}[r.prompt],
            style="anime",
        )
        for r in two_instances
    ]
    result = evaluate_scorers(tagged, [scorer((3.0, 1.0, 2.0), (5.0, 1.0, 2.0))]).scorers[0]
    groups = {(g.by, g.value): g for g in result.groups}
    assert set(groups) == {
        ("prompt_source", "COCO"), ("prompt_source", "unknown"),
        ("image_source", "sd"), ("image_source", "dalle"), ("image_source", "unknown"),
    }  # fmt: skip
    assert groups["prompt_source", "COCO"].measures["accuracy"].value == pytest.approx(2 / 3)
    assert (groups["prompt_source", "unknown"].instances, groups["prompt_source", "unknown"].pairs) == (1, 2)
    # pairs with an image by dalle that people do not tie: AB right, BC wrong, DF right
    assert groups["image_source", "dalle"].measures["pair_accuracy"].value == pytest.approx(2 / 3)
    assert groups["image_source", "dalle"].pairs == 3
    # by an unknown generator: DF right, EF wrong
    assert groups["image_source", "unknown"].measures["pair_accuracy"].value == 0.5


def test_calibration_against_votes_and_against_the_consensus(two_instances) -> None:
    likely = math.log(2)  # P = 2/3
    table = scorer((2 * likely, likely, 0.0), (0.0, 0.0, 0.0))
    found = evaluate_scorers([r for r in two_instances if r.prompt == "one"], [table]).scorers[0].calibration
    assert found is not None
    assert found.against == "annotators"
    # AB: P 2/3, votes 2 of 3. BC: P 2/3, votes 2 of 3. AC: P 4/5, votes 3 of 3
    assert [(b.pairs, b.predicted, b.observed) for b in found.bins] == [
        (2, pytest.approx(2 / 3), pytest.approx(2 / 3)),
        (1, pytest.approx(0.8), 1.0),
    ]
    assert found.ece == pytest.approx(0.2 / 3)
    without = evaluate_scorers(two_instances, [table]).scorers[0].calibration
    assert without is not None
    assert without.against == "consensus"
    blind = evaluate_scorers(two_instances, [TableScorer(table.table, logit_scale=None)]).scorers[0]
    assert blind.calibration is None


def test_the_tie_threshold_of_pickapic(two_instances) -> None:
    table = scorer((3.0, 1.0, 2.0), (1.0, 1.1, 9.0))  # DE are nearly tied, as people have it; DF and EF are wrong
    plain, half, best = (
        evaluate_scorers(two_instances, [table], test_set="pickapic-test", tie_threshold=t) for t in (0.0, 0.05, "best")
    )
    assert plain.rule == "pickapic_accuracy"
    # AB, AC right, BC wrong; DE half, DF and EF wrong
    assert value(plain.scorers[0], "pickapic_accuracy") == pytest.approx(2.5 / 6)
    assert value(half.scorers[0], "pickapic_accuracy") == pytest.approx(3 / 6)
    assert value(best.scorers[0], "pickapic_accuracy") >= value(half.scorers[0], "pickapic_accuracy")
    assert best.scorers[0].tie_threshold > 0
    assert any("flatters" in note for note in best.notes)
    blind = TableScorer(table.table, logit_scale=None)
    report = evaluate_scorers(two_instances, [blind], tie_threshold=0.05)
    assert report.scorers[0].measures["pickapic_accuracy"] is None
    assert any("needs probabilities" in note for note in report.notes)
    blinds = [TableScorer(table.table, name, logit_scale=None) for name in "ab"]
    both = evaluate_scorers(two_instances, blinds, test_set="pickapic-test", tie_threshold=0.05)
    assert both.differences == ()
    with pytest.raises(KeyError, match="not defined"):
        both.scorers[0]["pickapic_accuracy"]
    with pytest.raises(DataError, match="tie threshold"):
        evaluate_scorers(two_instances, [table], tie_threshold=2.0)


def test_calibration_counts_how_sure_annotators_were(tmp_path: Path) -> None:
    pair = [ImageRef(tmp_path / f"p-{i}.png") for i in range(2)]
    for image in pair:
        picture(8, 8).save(image.path)
    votes = [Ranking.of_pair("p", *pair, 0.6, annotator=who) for who in "ab"]
    table = TableScorer({"p-0.png": math.log(0.6 / 0.4), "p-1.png": 0.0})
    assert evaluate_scorers(votes, [table]).scorers[0].calibration.ece == pytest.approx(0.0, abs=1e-12)


def test_published_figures_stand_beside_the_test_set_they_belong_to(two_instances) -> None:
    table = TableScorer(scorer((1, 2, 3), (1, 2, 3)).table, published=0.7)
    assert evaluate_scorers(two_instances, [table], test_set="hpdv2-test").scorers[0].published_accuracy == 0.7
    other = evaluate_scorers(two_instances, [table], test_set="imagereward-test")
    assert (other.scorers[0].published_accuracy, other.rule) == (None, "imagereward_accuracy")
    assert any("of all of imagereward-test (466 prompts), not of these 2" in note for note in other.notes)
    with pytest.raises(UnknownNameError, match="choose from: hpdv2-test, imagereward-test, pickapic-test"):
        evaluate_scorers(two_instances, [table], test_set="hpdv3")


def test_bad_data_is_named(two_instances, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without an annotator"):
        evaluate_scorers([*two_instances, two_instances[0]], [])
    with pytest.raises(DataError, match="every pair of the data is tied"):
        tied = [ranking("two", (1, 1, 1), folder=tmp_path)]
        evaluate_scorers(tied, [scorer((0.0,) * 3, (0.0,) * 3)])
    with pytest.raises(ScoreError, match="returned nan; its weights may be damaged"):
        evaluate_scorers(two_instances, [scorer((math.nan, 1.0, 2.0), (1.0, 2.0, 3.0))])
    with pytest.raises(ScoreError, match="two scorers are called table"):
        evaluate_scorers(two_instances, [scorer((1, 2, 3), (1, 2, 3)), scorer((3, 2, 1), (1, 2, 3))])
    two_instances[0].images[0].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be scored.*one-0.png: the file is empty"):
        evaluate_scorers(two_instances, [load_scorer("lite")])
    two_instances[0].images[0].path.unlink()
    with pytest.raises(DataError, match=r"1 images are not on disk \(.*one-0.png\).*--allow-missing"):
        evaluate_scorers(two_instances, [load_scorer("lite")])
    report = evaluate_scorers(two_instances, [load_scorer("lite")], allow_missing=True)
    assert (report.instances, report.images, report.pairs, report.missing_images, report.dropped_instances) == (
        2,
        5,
        3,
        1,
        0,
    )
    assert "1 images are not on disk and were left out" in report.notes[0]
    assert "2 prompts are too few for intervals" in report.notes
    for image in tmp_path.glob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match="no instance has two images on disk \\(6 are missing"):
        evaluate_scorers(two_instances, [load_scorer("lite")], allow_missing=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "list of instances"),
        (
            '[{"prompt": "p"}]',
            r"unknown format: its first row has prompt; .*HPD v2's test.json \(prompt, image_path, rank\)",
        ),
        (
            '[{"prompt": "p", "image_path": ["a", "b"], "rank": [1, 2]}, {}]',
            "instance 1: expected prompt, image_path and rank",
        ),
        ('[{"prompt": "p", "image_path": "a", "rank": [1]}]', "must be lists"),
        ('[{"prompt": "p", "image_path": ["a", "b"], "rank": [1]}]', "instance 0: .*2 images but 1 ranks"),
        ('[{"prompt": "p", "image_path": ["a", "b"], "rank": [1, "x"]}]', "whole numbers"),
        ('[{"prompt": "p", "image_path": ["a", "../b"], "rank": [1, 2]}]', "leads out of the image folder"),
        ('[{"prompt": "p", "image_path": ["a", "/b"], "rank": [1, 2]}]', "leads out of the image folder"),
        (
            '[{"prompt": "p", "image_path": ["a", "b"], "rank": [1, 2], "raw_annotations": [{"rank": [1, 2]}]}]',
            "user_hash",
        ),
    ],
)
def test_files_that_are_not_hpdv2(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_rankings(tmp_path)


def test_where_data_is_looked_for(tmp_path: Path, gallery: Path) -> None:
    with pytest.raises(DataError, match=r"looked for test.json"):
        read_rankings(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_rankings(tmp_path / "absent.json")
    with pytest.raises(DataError, match="image root is not a folder"):
        read_rankings(gallery, tmp_path / "absent")
    assert read_rankings(gallery) == read_rankings(gallery / "test.json", gallery / "test")
    assert len(read_rankings(gallery)) == 28 * 11


def test_lite_on_the_gallery_equals_an_independent_computation(gallery: Path) -> None:
    lite = load_scorer("lite")
    report = evaluate_scorers(read_rankings(gallery), [lite], seed=3)
    rates, right, pairs = [], 0.0, 0
    for row in json.loads((gallery / "test.json").read_text()):
        scores = lite.score([gallery / "test" / name for name in row["image_path"]], row["prompt"]).tolist()
        good = 0.0
        for i, j in combinations(range(len(scores)), 2):
            assert row["rank"][i] != row["rank"][j]
            good += (scores[i] > scores[j]) == (row["rank"][i] < row["rank"][j])
        n = len(scores) * (len(scores) - 1) // 2
        rates.append(good / n)
        right, pairs = right + good, pairs + n
    result = report.scorers[0]
    assert report.pairs == pairs == 1089
    assert value(result, "accuracy") == pytest.approx(sum(rates) / len(rates), abs=1e-12)
    assert value(result, "pair_accuracy") == pytest.approx(right / pairs, abs=1e-12)
    assert result["pair_accuracy"].ci[0] < value(result, "pair_accuracy") < result["pair_accuracy"].ci[1]
    assert report == evaluate_scorers(read_rankings(gallery), [lite], seed=3)
