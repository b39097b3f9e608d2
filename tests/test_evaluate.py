from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from humanpref import load_scorer
from humanpref.data.formats import read_rankings
from humanpref.errors import DataError
from humanpref.evaluate import evaluate_scorers, group, human_agreement
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


def test_by_hand(two_instances) -> None:
    report = evaluate_scorers(two_instances, [scorer((3.0, 1.0, 2.0), (5.0, 1.0, 2.0))])
    result = report.scorers[0]
    # one: AB right, AC right, BC wrong = 2/3. two: DE human tie (right by the official rule), DF right, EF wrong = 2/3
    assert result.accuracy == pytest.approx(2 / 3)
    # pooled: 5 untied pairs, 3 right
    assert result.pair_accuracy == pytest.approx(3 / 5)
    assert (report.instances, report.pairs) == (2, 5)


def test_constant_and_perfect_scorers(two_instances) -> None:
    constant, perfect, inverse = (
        evaluate_scorers(two_instances, [scorer(one, two)]).scorers[0]
        for one, two in (((0.0,) * 3, (0.0,) * 3), ((-1, -2, -3), (-1, -1, -2)), ((1, 2, 3), (1, 1, 2)))
    )
    assert (perfect.accuracy, perfect.pair_accuracy, perfect.accuracy_ci) == (1.0, 1.0, (1.0, 1.0))
    assert (inverse.accuracy, inverse.pair_accuracy) == (pytest.approx((0 + 1 / 3) / 2), 0.0)
    assert (constant.accuracy, constant.pair_accuracy) == (pytest.approx((1 / 2 + 2 / 3) / 2), 0.5)


def test_human_agreement_by_hand(two_instances) -> None:
    human = evaluate_scorers(two_instances, []).human
    assert human is not None
    assert human.annotations == 3
    # ann-bob 2/3, ann-cyd 2/3, bob-cyd 1/3
    assert human.vs_human == pytest.approx(5 / 9)
    # ann v mean of bob+cyd (1.5, 2, 2.5): 3 of 3; bob v (1.5, 1.5, 3): AB tied, 1 of 2 right... counted below
    right = untied = 0
    ranks = {"ann": (1, 2, 3), "bob": (1, 3, 2), "cyd": (2, 1, 3)}
    for who, own in ranks.items():
        rest = [sum(r[k] for other, r in ranks.items() if other != who) for k in range(3)]
        for i, j in combinations(range(3), 2):
            if rest[i] != rest[j]:
                untied += 1
                right += (own[i] < own[j]) == (rest[i] < rest[j])
    assert human.vs_consensus == pytest.approx(right / untied)


def test_without_annotations_there_is_no_human_row(two_instances) -> None:
    assert human_agreement(group([r for r in two_instances if r.annotator is None])) is None


def test_a_prompt_without_any_untied_pair_does_not_spoil_the_intervals(tmp_path: Path) -> None:
    rankings = [ranking("one", (1, 2), folder=tmp_path), ranking("two", (1, 1), folder=tmp_path)]
    rankings += [ranking(p, (1, 1), who, folder=tmp_path) for p in ("one", "two") for who in ("ann", "bob")]
    for judged in rankings:
        for image in judged.images:
            picture(8, 8).save(image.path)
    report = evaluate_scorers(rankings, [TableScorer({f"{p}-{i}.png": -i for p in ("one", "two") for i in range(2)})])
    assert report.scorers[0].pair_accuracy_ci == (1.0, 1.0)
    assert report.human is None


def test_bad_data_is_named(two_instances, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one consensus"):
        group([r for r in two_instances if r.annotator])
    with pytest.raises(DataError, match="expected one consensus"):
        group([*two_instances, two_instances[0]])
    with pytest.raises(DataError, match="every pair of the data is tied"):
        tied = [ranking("two", (1, 1, 1), folder=tmp_path)]
        evaluate_scorers(tied, [scorer((0.0,) * 3, (0.0,) * 3)])
    two_instances[0].images[0].path.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be scored.*one-0.png: the file is empty"):
        evaluate_scorers(two_instances, [load_scorer("lite")])
    two_instances[0].images[0].path.unlink()
    with pytest.raises(DataError, match=r"1 images are not on disk \(first: .*one-0.png\)"):
        evaluate_scorers(two_instances, [load_scorer("lite")])


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
    assert result.accuracy == pytest.approx(sum(rates) / len(rates), abs=1e-12)
    assert result.pair_accuracy == pytest.approx(right / pairs, abs=1e-12)
    assert result.pair_accuracy_ci[0] < result.pair_accuracy < result.pair_accuracy_ci[1]
    assert report == evaluate_scorers(read_rankings(gallery), [lite], seed=3)
