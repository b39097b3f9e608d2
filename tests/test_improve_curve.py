"""The curve of the best of k: from pools on disk to the figures, against images drawn anew."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from humanpref import load_scorer
from humanpref.cache import ScoreCache
from humanpref.cli import app
from humanpref.errors import DataError
from humanpref.generate import Prompt, generate, make_backend
from humanpref.improve.best_of.curve import BestOfReport, Pool, best_of_curve, read_pool
from humanpref.improve.best_of.output import best_of_json, best_of_table
from humanpref.improve.methods import ImproveError
from humanpref.improve.plots import plot_best_of
from humanpref.scorers import Scorer
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality
from tests.commands import one_line_error, run
from tests.generating import ToyBackend, prompts
from tests.toys import ByteScorer

CAPTIONS = [Prompt(text, f"s{n}") for n, text in enumerate(captions(6, 43))]


def curve(pool: Pool, *scorers: Scorer, tmp_path: Path) -> BestOfReport:
    with ScoreCache(tmp_path / "scores.sqlite") as cache:
        return best_of_curve(pool, scorers, cache=cache)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pool") / "run"
    generate(CAPTIONS, [make_backend("shapes:miscounting")], out, images_per_prompt=5)
    return out


def test_the_curve_is_the_mean_over_subsets_and_prompts(folder: Path, tmp_path: Path) -> None:
    pool = read_pool(folder)
    assert (pool.source, pool.n, len(pool.prompts)) == ("miscounting", 5, 6)
    report = curve(pool, load_scorer("shapes-truth"), load_scorer("lite"), tmp_path=tmp_path)
    lite = load_scorer("lite")
    truths = [[quality(Image.open(path), p.prompt).total for path in p.images] for p in pool.prompts]
    likes = [lite.score(list(p.images), p.prompt).tolist() for p in pool.prompts]
    for k in range(1, 6):
        point = report.points[k - 1]
        own, other = [], []
        for truth, like in zip(truths, likes, strict=True):
            subsets = list(combinations(range(5), k))
            best = [max(truth[i] for i in subset) for subset in subsets]
            own.append(np.mean(best))
            equals = [[like[i] for i in s if truth[i] == b] for s, b in zip(subsets, best, strict=True)]
            other.append(np.mean([np.mean(values) for values in equals]))
        assert point.worth[0].mean == pytest.approx(np.mean(own), abs=1e-6)
        assert point.worth[1].mean == pytest.approx(np.mean(other), abs=1e-5)
        assert point.worth[0].gain == pytest.approx(point.worth[0].mean - report.points[0].worth[0].mean, abs=1e-6)
        assert point.seconds == pytest.approx(k * report.points[0].seconds)
        if k > 1:
            low, high = point.worth[0].ci
            assert low <= point.worth[0].gain <= high
    assert report.gains[0].gain == pytest.approx(report.points[-1].worth[0].gain)
    assert report.gains[0].selected


def test_prompts_with_fewer_images_count_for_what_they_have(tmp_path: Path) -> None:
    generate(prompts(7), [ToyBackend()], tmp_path / "run", images_per_prompt=3)
    for bad in ("p0-2", "p1-0", "p1-1"):
        (tmp_path / "run" / "toy" / f"{bad}.png").write_bytes(b"BAD")
    report = curve(read_pool(tmp_path / "run"), ByteScorer(), tmp_path=tmp_path)
    assert [point.prompts for point in report.points] == [7, 6, 5]
    assert report.lost == 3
    assert (
        "3 images were refused, failed or cannot be read; 2 prompts have fewer than 3, and count up to what they have"
        in report.notes
    )
    assert any("chooses and judges" in note for note in report.notes)
    gains = [point.worth[0].gain for point in report.points]
    assert gains[0] == 0
    assert gains[1] > 0
    table = best_of_table(report)
    assert "expected best of k, chosen by byte" in table
    assert json.loads(best_of_json(report))["points"][2]["prompts"] == 5


def test_pools_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; a pool is a folder of humanpref generate"):
        read_pool(tmp_path)
    with pytest.raises(ImproveError, match="no prompt has two images"):
        read_pool(folder, n=1)
    with pytest.raises(ImproveError, match="holds images of miscounting; choose one with --source"):
        read_pool(folder, source="clean")
    generate(prompts(2), [ToyBackend("a"), ToyBackend("b")], tmp_path / "two", images_per_prompt=2)
    with pytest.raises(ImproveError, match="holds images of a, b; choose one"):
        read_pool(tmp_path / "two")
    assert read_pool(tmp_path / "two", source="b", prompts=["p1"]).prompts[0].id == "p1"


@pytest.mark.slow
def test_the_command_draws_or_takes_what_is_there(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(prompt.text for prompt in CAPTIONS[:2]) + "\n")
    words = ["--model", "lite", "--check-model", "shapes-truth", "--no-cache"]
    drawn = run(
        "improve",
        "best-of",
        file,
        "--backend",
        "shapes:coarse",
        "--n",
        "3",
        "--out",
        tmp_path / "a",
        *words,
        "--format",
        "json",
    )
    assert drawn.returncode == 0, drawn.stderr
    answer = json.loads(drawn.stdout)
    assert (answer["n"], answer["prompts"], answer["images"]) == (3, 2, 6)
    assert answer == json.loads((tmp_path / "a" / "best-of.json").read_text())
    assert "2 prompts: too few for an interval" in drawn.stderr
    assert Image.open(tmp_path / "a" / "best-of.png").size[0] > 800
    taken = CliRunner().invoke(app, ["improve", "best-of", "--pool", str(folder), "--out", str(tmp_path / "b"), *words])
    assert taken.exit_code == 0, taken.output
    assert "miscounting: expected best of k, chosen by lite; 6 prompts, 30 images" in taken.stdout
    one_line_error(
        run("improve", "best-of", file, "--out", tmp_path / "c", *words), "give a file of prompts and --backend"
    )
    one_line_error(
        run(
            "improve", "best-of", "--pool", folder, "--out", tmp_path / "c", "--model", "lite", "--check-model", "lite"
        ),
        "lite is named twice",
    )


def test_a_plot_of_many_points(folder: Path, tmp_path: Path) -> None:
    report = curve(read_pool(folder), load_scorer("shapes-truth"), tmp_path=tmp_path)
    plot_best_of(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        picture.load()
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    with pytest.raises(DataError, match="the plot cannot be saved"):
        plot_best_of(report, tmp_path / "none" / "plot.png")
