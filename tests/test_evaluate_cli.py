"""`humanpref evaluate` as a user meets it: real processes over real annotations."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest

from humanpref.data.formats import write_rankings
from humanpref.records import ImageRef, Ranking
from tests.commands import one_line_error, run
from tests.conftest import SHARED, TINY_ARCH, skip_or_fail
from tests.toys import picture


@pytest.fixture
def by_generators(tmp_path: Path) -> Path:
    """Six prompts drawn by four generators; people order the generators a, b, c, d with some disagreement."""
    orders = [(1, 2, 3, 4), (1, 2, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3), (1, 2, 3, 4)]
    rankings = []
    for p, ranks in enumerate(orders):
        images = []
        for g, source in enumerate("abcd"):
            path = tmp_path / "set" / source / f"{p}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(64 - 12 * g, 48 - 9 * g, seed=10 * p + g).save(path)
            images.append(ImageRef(path, source))
        style = "anime" if p < 3 else "photo"
        rankings.append(Ranking(f"prompt {p}", tuple(images), ranks, style=style))
    write_rankings(rankings, tmp_path / "set" / "rankings.jsonl")
    return tmp_path / "set"


@pytest.fixture
def imagereward(tmp_path: Path) -> Path:
    """The first thirty prompts of the real ImageReward test set, with pictures drawn here in place of its images."""
    if not (file := SHARED / "imagereward" / "test.json").is_file():
        skip_or_fail(f"{file} is absent")
    rows = json.loads(file.read_text())[:30]
    folder = tmp_path / "ir"
    for row in rows:
        for name in row["generations"]:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(24, 16, seed=sum(map(ord, name))).save(path, "PNG")
    (folder / "test.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.slow
def test_the_json_of_two_runs_is_the_same_with_and_without_the_cache(gallery: Path) -> None:
    words = ["evaluate", gallery, "--model", "lite", "--format", "json"]
    first, second, without = (run(*words, *extra) for extra in ([], [], ["--no-cache"]))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout == without.stdout
    answer = json.loads(first.stdout)
    assert (answer["instances"], answer["pairs"], answer["test_set"], answer["rule"]) == (
        28,
        1089,
        "hpdv2-test",
        "accuracy",
    )
    row = answer["scorers"][0]
    assert row["model"] == "lite"
    assert row["accuracy_ci"][0] < row["accuracy"] < row["accuracy_ci"][1]
    assert {(g["by"], g["value"], g["instances"]) for g in row["groups"]} == {("images", "9", 19), ("images", "10", 9)}
    assert row["calibration"]["against"] == "annotators"
    human = answer["human"]
    assert 0.7 < human["vs_human"] < human["vs_consensus"] < human["ceiling_vs_consensus"] < 1
    counted = json.loads(run("cache", "info", "--format", "json").stdout)
    assert counted["scores"] == 261


@pytest.mark.slow
def test_several_sets_and_scorers_make_the_papers_table(
    gallery: Path, imagereward: Path, tiny_checkpoint: Path
) -> None:
    words = [
        "evaluate",
        gallery,
        imagereward,
        "--model",
        "lite",
        "hps-v2.1",
        "--weights",
        f"hps-v2.1={tiny_checkpoint}",
    ]
    done = run(*words, "--arch", f"hps-v2.1={TINY_ARCH}", env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    top = done.stdout.split("· 28 instances")[0]
    assert "official rule" in done.stdout
    assert "ImageReward rule" in done.stdout
    assert "(84.1)" in top, "the published figure stands beside ours"
    assert "(66.8)" in top
    assert "hps-v2.1 " in top
    assert "lite " in top
    assert "lite was trained on a part of hpdv2-test" in done.stderr
    assert "not of these 28" in done.stderr
    assert "a single person" in done.stdout
    assert "(78.1)" in done.stdout
    assert "lite is ahead of hps-v2.1" in done.stdout
    answer = json.loads(run(*words, "--arch", f"hps-v2.1={TINY_ARCH}", "--format", "json").stdout)
    assert [report["test_set"] for report in answer["reports"]] == ["hpdv2-test", "imagereward-test"]
    assert [s["model"] for s in answer["reports"][1]["scorers"]] == ["lite", "hps-v2.1"]
    assert answer["reports"][0]["differences"][0]["p_value"] < 0.01
    rows = list(csv.DictReader(StringIO(run(*words, "--arch", f"hps-v2.1={TINY_ARCH}", "--format", "csv").stdout)))
    headline = [r for r in rows if r["model"] == "lite" and r["measure"] == "accuracy" and not r["by"]]
    assert float(headline[0]["estimate"]) == answer["reports"][0]["scorers"][0]["accuracy"]


def test_reports_are_written_in_every_form(gallery: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"out.{suffix}" for suffix in ("html", "md", "tex")]
    done = run("evaluate", gallery, "--model", "lite", *(word for f in files for word in ("--report", f)))
    assert done.returncode == 0, done.stderr
    for file in files:
        assert "lite" in file.read_text()
        assert "90.4" in file.read_text()
    one_line_error(
        run("evaluate", gallery, "--model", "lite", "--report", tmp_path / "out.doc"), ".html", ".md", ".tex"
    )


@pytest.mark.slow
def test_generators_are_ranked(by_generators: Path) -> None:
    done = run("evaluate", by_generators, "--model", "lite", "--level", "model", "--format", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    rows = list(
        csv.DictReader(
            StringIO(run("evaluate", by_generators, "--model", "lite", "--level", "model", "--format", "csv").stdout)
        )
    )
    spearman = next(r for r in rows if (r["metric"], r["statistic"]) == ("lite", "spearman"))
    assert float(spearman["value"]) == answer["correlations"][0]["spearman"]
    assert [g["generator"] for g in answer["generators"]] == ["a", "b", "c", "d"]
    assert answer["generators"][0]["human"] == pytest.approx(17 / 18)  # beaten once in six prompts by one of three
    assert answer["correlations"][0]["metric"] == "lite"
    assert -1 <= answer["correlations"][0]["spearman"] <= 1
    assert (
        "agreement with people's order" in run("evaluate", by_generators, "--model", "lite", "--level", "model").stdout
    )
    by_style = json.loads(run("evaluate", by_generators, "--model", "lite", "--format", "json").stdout)
    cuts = {(g["by"], g["value"]) for g in by_style["scorers"][0]["groups"]}
    assert cuts == {("style", "anime"), ("style", "photo"), *(("image_source", s) for s in "abcd")}


@pytest.mark.slow
def test_fid_and_inception_score_of_generators(by_generators: Path, inception_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for i in range(4):
        picture(40, 40, seed=i).save(tmp_path / "real" / f"{i}.png")
    done = run(
        *("evaluate", by_generators, "--model", "lite", "--level", "model", "--format", "json"),
        *("--fid", tmp_path / "real", "--inception-score", "--inception-weights", inception_weights),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [c["metric"] for c in answer["correlations"]] == ["lite", "FID", "Inception Score"]
    assert answer["correlations"][1]["higher_is_better"] is False
    assert all(g["metrics"]["FID"] > 0 and g["metrics"]["Inception Score"] >= 1 for g in answer["generators"])
    assert "not the official ones" in done.stderr
    assert "biased upwards" in done.stderr


def test_missing_images_are_counted(by_generators: Path) -> None:
    for name in ("a/0.png", "b/0.png", "c/0.png", "d/5.png"):
        (by_generators / name).unlink()
    one_line_error(run("evaluate", by_generators, "--model", "lite"), "4 images are not on disk", "--allow-missing")
    done = run("evaluate", by_generators, "--model", "lite", "--allow-missing", "--format", "json")
    answer = json.loads(done.stdout)
    assert (answer["missing_images"], answer["dropped_instances"], answer["instances"]) == (4, 1, 5)
    assert "4 images are not on disk and were left out" in done.stderr


def test_bad_words_are_one_line_each(gallery: Path, by_generators: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    lite, both_scorers = ["--model", "lite"], ["--model", "lite", "pickscore"]
    one_line_error(run("evaluate", gallery / "absent", *lite), "no such file or folder")
    one_line_error(run("evaluate", gallery, "--model", "lite", "lite"), "named twice")
    one_line_error(run("evaluate", gallery, *lite, "--tie-threshold", "much"), "--tie-threshold")
    one_line_error(run("evaluate", gallery, *lite, "--tie-threshold", "1.5"), "[0, 1]")
    one_line_error(run("evaluate", gallery, *lite, "--inception-weights", "x"), "--fid")
    one_line_error(run("evaluate", gallery, *both_scorers, "--resize", "no-antialias"), "pickscore resizes with PIL")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "p", "images": ["a" * 300, "b"], "ranks": [1, 2]}))
    one_line_error(run("evaluate", tmp_path / "long.jsonl", *lite), "2 images are not on disk")
    one_line_error(run("evaluate", gallery, *lite, "--fid", tmp_path), "--level model")
    one_line_error(run("evaluate", gallery, *lite, "--level", "model"), "261 of 261 images do not say which generator")
    one_line_error(
        run(
            "evaluate",
            gallery,
            by_generators,
            *lite,
            "--image-root",
            gallery,
            "--image-root",
            gallery,
            "--image-root",
            gallery,
        ),
        "3 --image-root for 2",
    )
    both = ["--model", "lite", "hps-v2.1"]
    one_line_error(run("evaluate", gallery, *both, "--weights", tiny_checkpoint), "say which scorer")
    one_line_error(run("evaluate", gallery, *lite, "--weights", f"hps-v2.1={tiny_checkpoint}"), "not among the scorers")
    one_line_error(run("evaluate", gallery, "--model", "hps-v2.1", "--weights", tmp_path / "absent.pt"), "no such file")
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    one_line_error(run("evaluate", tmp_path / "x.json", *lite), "unknown format", "expected one of")
    (tmp_path / "x.jsonl").write_text('{"prompt": "p", "images": ["a"], "ranks": [1]}\n')
    one_line_error(run("evaluate", tmp_path / "x.jsonl", *lite), "needs at least two images")
