from __future__ import annotations

import math

import pytest

import humanpref
from humanpref.errors import ImageError, ScoreError
from tests.toys import TableScorer, picture

SCORES = TableScorer({"a.png": 0.2, "b.png": 1.4, "c.png": 0.2})


def test_results_keep_the_input_order_and_carry_rank_and_probability() -> None:
    report = humanpref.score(["a.png", "b.png", "c.png"], "p", SCORES)
    assert [(r.image, r.rank) for r in report.results] == [("a.png", 2), ("b.png", 1), ("c.png", 2)]
    assert report.results[1].win_probability == pytest.approx(1 / (1 + math.exp(-1.2)))
    assert report.results[0].win_probability == pytest.approx(1 / (1 + math.exp(0.6)))
    assert [r.image for r in humanpref.rank(["a.png", "b.png", "c.png"], "p", SCORES).results][0] == "b.png"


def test_failures_are_listed_and_the_others_scored() -> None:
    report = humanpref.score(["a.png", "gone.png", "b.png"], "p", SCORES)
    assert [r.image for r in report.results] == ["a.png", "b.png"]
    assert report.results[1].win_probability == pytest.approx(1 / (1 + math.exp(-1.2)))
    assert [f.image for f in report.failures] == ["gone.png"]
    assert "not in the table" in report.failures[0].error
    assert humanpref.score(["gone.png"], "p", SCORES).results == ()


def test_a_lone_image_has_no_opponent() -> None:
    assert humanpref.score(["a.png"], "p", SCORES).results[0].win_probability is None


def test_compare_is_the_training_formula_head_to_head() -> None:
    comparison = humanpref.compare(["a.png", "b.png", "c.png"], "p", SCORES)
    assert comparison.probabilities[1][0] == pytest.approx(1 / (1 + math.exp(-1.2)))
    assert comparison.probabilities[0][2] == 0.5
    with pytest.raises(ScoreError, match="at least two images"):
        humanpref.compare(["a.png"], "p", SCORES)
    with pytest.raises(ImageError, match="gone.png"):
        humanpref.compare(["a.png", "gone.png"], "p", SCORES)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ScoreError, match=r"table returned nan; its weights may be damaged"):
        humanpref.score(["a.png"], "p", TableScorer({"a.png": math.nan}))
    with pytest.raises(ScoreError, match="no images"):
        humanpref.score([], "p", SCORES)


def test_the_user_is_told_about_the_prompt(load_tiny) -> None:
    scorer = load_tiny()
    long, empty, plain = (humanpref.score([picture()], p, scorer) for p in ("cat " * 90, "  ", "a cat"))
    assert (long.truncated, empty.truncated, plain.truncated) == (True, False, False)
    assert "first 77" in long.notes[0]
    assert "empty" in empty.notes[0]
    assert plain.notes == ()
    lite = humanpref.score([picture()], "a cat", "lite")
    assert "does not read the prompt" in lite.notes[0]
