"""Scorers' order of generators against people's, from rankings and result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from humanpref.benchmark.leaderboard import leaderboards
from humanpref.benchmark.people import agreement, scatter_plot
from humanpref.benchmark.results import read_results, write_result
from humanpref.correlation import spearman
from humanpref.data.formats import write_rankings
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking
from tests.commands import run
from tests.test_benchmark_tables import info, made

SMALL = {"anime": 12}
SCORES = {"a": 0.30, "b": 0.25, "c": 0.20, "d $x_1$": 0.10}


def rankings(folder: Path) -> list[Ranking]:
    """People like b best, then a, c and d; one image is of a generator without results."""
    order = ["b", "a", "c", "d $x_1$"]
    found = []
    for p in range(20):
        names = order if p % 4 else [order[1], order[0], *order[2:]]
        images = tuple(ImageRef(folder / f"{p}-{n[0]}.png", n) for n in [*names, "stranger"])
        found.append(Ranking(f"prompt {p}", images, (1, 2, 3, 4, 5), f"person {p % 3}"))
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, mean in SCORES.items():
        write_result(made(name, mean, SMALL), tmp_path / "results" / f"{name[0]}.hps.json")
        write_result(made(name, -mean, SMALL, info("lite")), tmp_path / "results" / f"{name[0]}.lite.json")
    return tmp_path / "results"


def test_correlations_and_what_is_left_out(results: Path, tmp_path: Path) -> None:
    report, notes = agreement(rankings(tmp_path), leaderboards(read_results([results])))
    assert [row.generator for row in report.generators] == ["b", "a", "c", "d $x_1$"]
    shares = [row.human for row in report.generators]
    assert shares == pytest.approx([(15 * 3 + 5 * 2) / 60, (15 * 2 + 5 * 3) / 60, 1 / 3, 0])
    by_name = {c.metric: c for c in report.correlations}
    hps = [SCORES[row.generator] for row in report.generators]
    assert by_name["hps-v2.1"].spearman == pytest.approx(spearman(shares, hps))
    assert by_name["lite"].spearman == pytest.approx(-by_name["hps-v2.1"].spearman)
    low, high = by_name["hps-v2.1"].spearman_ci
    assert low <= by_name["hps-v2.1"].spearman <= high
    assert notes == ["20 of 100 ranked images are of generators without results by every scorer: left out"]


def test_too_few_generators_are_refused(results: Path, tmp_path: Path) -> None:
    two = [Ranking(r.prompt, r.images[:2], r.ranks[:2], r.annotator) for r in rankings(tmp_path)]
    with pytest.raises(DataError, match="in both: a, b"):
        agreement(two, leaderboards(read_results([results])))


def test_the_command_and_its_plot(results: Path, tmp_path: Path) -> None:
    data = tmp_path / "rankings.jsonl"
    write_rankings(rankings(tmp_path), data)
    done = run("benchmark", "people", data, "--results", results, "--plot", tmp_path / "p.png", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "the plot is in" in done.stderr
    answer = json.loads(done.stdout)
    assert [c["metric"] for c in answer["correlations"]] == ["hps-v2.1", "lite"]
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > picture.height > 300
    report, _ = agreement(rankings(tmp_path), leaderboards(read_results([results])))
    scatter_plot(report, tmp_path / "p.svg")
    assert "Spearman" in (tmp_path / "p.svg").read_text() or (tmp_path / "p.svg").stat().st_size > 5000
    with pytest.raises(DataError, match="cannot be saved"):
        scatter_plot(report, tmp_path / "p.nonsense")
