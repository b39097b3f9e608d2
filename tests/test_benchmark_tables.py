"""Leaderboards: published rows apart, scorers in columns of their own, what cannot be compared refused."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from humanpref.benchmark import tables
from humanpref.benchmark.leaderboard import compare_results, leaderboards, study_stability
from humanpref.benchmark.published import ARCHIVES, PUBLISHED, published_row
from humanpref.benchmark.results import ImageScore, Result, ScorerInfo, SuiteInfo, write_result
from humanpref.errors import DataError, UnknownNameError
from humanpref.scorers import SPECS
from tests.commands import one_line_error, run

STYLES = {"anime": 800, "concept-art": 800, "paintings": 800, "photo": 800}


def info(name: str = "hps-v2.1", weights: str | None = None, resize: str = "antialias") -> ScorerInfo:
    weights = SPECS[name].sha256 if weights is None else weights
    return ScorerInfo.of(name, SPECS[name].scale, f"scorer={name} weights={weights} resize={resize} precision=fp32")


def made(
    generator: str,
    mean: float,
    styles: dict[str, int] = STYLES,
    scorer: ScorerInfo | None = None,
    seeds: int = 1,
    **more,
) -> Result:
    rng = np.random.default_rng(len(generator))
    images = tuple(
        ImageScore(
            s, i, k, f"{s} {i}", Path(f"{generator}/{s}-{i}-{k}.png"), "0" * 64, mean + float(rng.normal(0, 0.01))
        )
        for s, n in styles.items()
        for i in range(n)
        for k in range(seeds)
    )
    return Result(
        generator,
        scorer or info(),
        SuiteInfo("hps-v2", "a" * 16, styles),
        images,
        date="2026-01-01T00:00:00+00:00",
        **more,
    )


def test_the_published_rows() -> None:
    assert {scorer: len(rows) for scorer, rows in PUBLISHED.items()} == {"hps-v2.1": 22, "hps-v2.0": 22}
    for rows in PUBLISHED.values():
        assert {row.generator for row in rows} == set(ARCHIVES)
        for row in rows:  # the average is over styles of equal size
            assert np.mean(list(row.styles.values())) == pytest.approx(row.average, abs=0.011), row
        assert [row.average for row in rows] == sorted((row.average for row in rows), reverse=True)
    best = published_row("hps-v2.1", "sdxl-refiner-0.9")
    assert (best.generator, best.average, best.styles["photo"]) == ("SDXL Refiner 0.9", 31.34, 28.38)
    with pytest.raises(UnknownNameError, match="glide"):
        published_row("hps-v2.1", "flux")
    with pytest.raises(UnknownNameError, match="hps-v2"):
        published_row("lite", "glide")


def test_published_rows_stand_apart() -> None:
    (board,) = leaderboards([made("mine", 0.27), made("other", 0.26)])
    assert [row.result.generator for row in board.rows] == ["mine", "other"]
    assert len(board.published) == 22
    assert [row.kind for row in tables.board_table(board).rows] == [""] * 2 + ["published"] * 22
    assert board.rows[0].overall.mean == pytest.approx(27, abs=0.1)
    assert board.rows[0].overall.chunk_std is not None
    answer = json.loads(tables.boards_json([board]))["scorers"][0]
    assert [row["generator"] for row in answer["rows"]] == ["mine", "other"]
    assert len(answer["published"]["rows"]) == 22
    rows = list(csv.DictReader(StringIO(tables.boards_csv([board]))))
    assert {row["origin"] for row in rows if row["generator"] == "mine"} == {"measured"}
    assert sum(row["origin"] == "published" for row in rows) == 22 * 5
    (changed,) = leaderboards([made("mine", 0.27, scorer=info(weights="ab" * 32))])
    assert "other weights" in changed.notes[0]
    (part,) = leaderboards([made("mine", 0.27, {"anime": 20})])
    assert not part.published
    (hidden,) = leaderboards([made("mine", 0.27)], published=False)
    assert not hidden.published


def test_scorers_are_never_averaged() -> None:
    small = {"anime": 20}
    results = [
        made("a", 0.27, small), made("b", 0.28, small), made("a", 1.0, small, info("lite")),
        made("a", 0.25, small, info(resize="no-antialias")),
    ]  # fmt: skip
    boards = leaderboards(results)
    assert [board.label for board in boards] == ["hps-v2.1", "lite", "hps-v2.1 (no-antialias)"]
    summary = tables.summary_table(boards)
    assert [c.title for c in summary.columns[1:]] == [board.label for board in boards]
    assert [cell[0] for cell in summary.rows[1].cells][2:] == ["–", "–"] or summary.rows[0].cells[2][0] == "–"
    other = leaderboards([made("a", 0.27, small), made("c", 0.27, small, info(weights="ab" * 32))])
    assert [board.label for board in other] == ["hps-v2.1 · c57a38fb", "hps-v2.1 · abababab"]


def test_what_cannot_be_compared_is_refused() -> None:
    small = {"anime": 20}
    lacking = made("a", 0.27, small, missing=("anime/00003",))
    with pytest.raises(DataError, match=r"a: is incomplete \(1 images missing\).*--allow-incomplete"):
        leaderboards([lacking])
    (board,) = leaderboards([lacking, made("b", 0.28, small)], allow_incomplete=True)
    assert "a (incomplete)" in [row.cells[1][0] for row in tables.board_table(board).rows]
    assert "incomplete: a" in board.notes[0]
    other = Result("c", info(), SuiteInfo("hps-v2", "b" * 16, small), made("c", 0.1, small).images)
    with pytest.raises(DataError, match="their prompts differ"):
        leaderboards([made("a", 0.27, small), other])
    with pytest.raises(DataError, match="no results"):
        leaderboards([])
    with pytest.raises(DataError, match="a comparison needs two generators"):
        compare_results([made("a", 0.27, small)])


def test_incomplete_rows_are_placed_on_common_prompts() -> None:
    hard = {"anime": 10, "photo": 10}
    full = made("full", 0.27, hard)
    easy = [i if i.style == "photo" else ImageScore(**{**vars(i), "score": i.score - 0.1}) for i in full.images]
    full = Result("full", full.scorer, full.suite, tuple(easy))
    lucky = Result("lucky", full.scorer, full.suite, tuple(
        ImageScore(**{**vars(i), "score": i.score - 0.01}) for i in easy if i.style == "photo"
    ), missing=tuple(f"anime/{i:05d}" for i in range(10)))  # fmt: skip
    (board,) = leaderboards([full, lucky], allow_incomplete=True)
    assert board.common == 10
    assert {row.result.generator: row.rank.rank for row in board.rows} == {"full": 1, "lucky": 2}


@pytest.mark.parametrize("columns", [pytest.param("60", marks=pytest.mark.slow), "200"])
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # numbers are whole however narrow the terminal is
    small = {"anime": 90, "photo": 90}
    for generator, mean in (("good one", 0.28), ("bad", 0.2), ("middle", 0.2799)):
        write_result(made(generator, mean, small, seeds=2), tmp_path / f"{generator}.json")
    table = run("benchmark", "table", tmp_path, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert re.search(r"1\s\(1–2\)", table.stdout)
    assert "weights c57a38fb4a2f" in table.stdout
    latex = run("benchmark", "table", tmp_path, "--format", "latex").stdout
    assert r"\begin{tabular}{rlrrrrr}" in latex
    assert "| 1 (1–2) |" in run("benchmark", "table", tmp_path, "--format", "markdown").stdout
    words = ["benchmark", "compare", "good one", "bad", "--results", tmp_path]
    (found,) = json.loads(run(*words, "--format", "json").stdout)
    (pair,) = found["comparisons"]
    assert (pair["first"], pair["second"]) == ("bad", "good one")
    assert pair["difference"] == pytest.approx(-8, abs=0.5)
    assert pair["p_value"] < 0.001
    assert pair["win_rate"] < 0.01
    assert "good one – bad" in run(*words).stdout or columns == "60"
    three = run("benchmark", "compare", tmp_path, "--format", "csv")
    assert len(three.stdout.splitlines()) == 4
    one_line_error(run("benchmark", "compare", "good one", "worse", "--results", tmp_path), "'worse'; there are: bad")
    shown = run("benchmark", "stability", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "by other seeds vary with a standard deviation of 1.0" in shown.stdout
    assert (
        json.loads(run("benchmark", "stability", tmp_path, "--format", "json").stdout)["components"][0]["components"][
            "seeds"
        ]
        > 0.9
    )
    one_line_error(run("benchmark", "table", tmp_path / "none"), "cannot be read")


def test_fewer_prompts_say_less() -> None:
    ((label, rows, parts),) = study_stability([made("a", 0.27), made("bb", 0.271), made("ccc", 0.28)], draws=50)
    assert label == "hps-v2.1"
    assert [row.prompts for row in rows] == [25, 50, 100, 200, 400, 800, 1600]
    assert rows[0].spread > 3 * rows[-1].spread
    assert parts is None


def test_published_rows_on_the_page_have_no_place() -> None:
    from humanpref.benchmark.site import _lines

    (board,) = leaderboards([made("mine", 0.27), made("other", 0.26)])
    for style in (None, 0, 3):
        lines = _lines(board, style)
        known = [line for line in lines if line.published]
        assert len(known) == 22
        assert {(line.place, line.interval, line.bar.width) for line in known} == {("–", "", 0.0)}
        assert [line.place[0] for line in lines if not line.published] == ["1", "2"]
        assert all(0 <= line.bar.low <= line.bar.mark <= 100 for line in lines)
        assert all(line.bar.low + line.bar.width <= 100 for line in lines)
    assert known[0].mean == "28.38"  # SDXL Refiner 0.9, photo, by HPS v2.1
