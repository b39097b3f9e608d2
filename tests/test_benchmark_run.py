"""A benchmark run with real files and processes: layouts, bad input, one pass over the images, going on where it was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from humanpref import load_scorer
from humanpref.benchmark.collect import collect
from humanpref.benchmark.results import read_result, read_results
from humanpref.benchmark.run import run_benchmark
from humanpref.benchmark.suites import HPS_STYLES, SHAPES_PER_STYLE, load_suite
from humanpref.cache import ScoreCache
from humanpref.errors import DataError
from tests.commands import one_line_error, run
from tests.hub import FakeDatasetHub, serving
from tests.toys import ByteScorer, picture

STYLES = {"anime": ["a red cat", "a dog", "a house"], "photo": ["a tree", "a boat"]}


@pytest.fixture
def suite_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    for style, texts in STYLES.items():
        (folder / f"{style}.json").write_text(json.dumps(texts))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two generators in the official layout, in all three formats."""
    for g, generator in enumerate(("A", "B")):
        for s, (style, texts) in enumerate(STYLES.items()):
            folder = tmp_path / "images" / generator / style
            folder.mkdir(parents=True)
            for i in range(len(texts)):
                picture(seed=100 * g + 10 * s + i).save(folder / f"{i:05d}{('.jpg', '.png', '.webp')[i]}")
    return tmp_path / "images"


def score(images: Path, suite_folder: Path, out: Path, *words: str | Path):
    return run("benchmark", "run", images, "--suite", suite_folder, "--model", "lite", "--out", out, *words)


def test_two_generators_in_one_call(images: Path, suite_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = score(images, suite_folder, out, "--format", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(r["generator"], r["images"], r["complete"]) for r in answer["results"]] == [("A", 5, True), ("B", 5, True)]
    assert answer["computed"] == 10
    assert 0 <= answer["waiting_share"] <= 1
    lite = load_scorer("lite")
    for result in read_results([out]):
        assert result.suite.revision == load_suite(str(suite_folder)).revision
        assert result.scorer.weights == lite.identity.split("weights=")[1].split()[0]
        assert result.date[:2] == "20"
        for image in result.images:
            assert image.prompt == STYLES[image.style][image.index]
            assert float(lite.score([image.image], image.prompt)) == pytest.approx(image.score, abs=1e-6)
    again = json.loads(score(images, suite_folder, out, "--format", "json").stdout)
    assert again["computed"] == 0
    assert [r["mean"] for r in again["results"]] == [r["mean"] for r in answer["results"]]


def test_results_move_with_their_images(images: Path, suite_folder: Path, tmp_path: Path) -> None:
    out = images / "A" / "results"
    done = score(images / "A", suite_folder, images / "A" / "one.json", "--name", "Mine")
    assert done.returncode == 0, done.stderr
    shutil.move(images / "A", tmp_path / "moved")
    result = read_result(tmp_path / "moved" / "one.json")
    assert result.generator == "Mine"
    assert all(image.image.is_file() for image in result.images)
    assert not out.exists()


def test_missing_and_unreadable_images_are_counted(images: Path, suite_folder: Path, tmp_path: Path) -> None:
    (images / "A" / "photo" / "00001.png").unlink()
    (images / "A" / "anime" / "00000.jpg").write_bytes(b"not an image")
    done = score(images / "A", suite_folder, tmp_path / "out")
    assert done.returncode == 1
    assert "A: 1 images are missing: photo/00001" in done.stderr
    assert "00000.jpg: not an image" in done.stderr
    assert "--allow-incomplete" in done.stderr.splitlines()[-1]
    (result,) = read_results([tmp_path / "out"])
    assert result.missing == ("photo/00001",)
    assert [(one.style, one.index) for one in result.unreadable] == [("anime", 0)]
    assert not result.complete
    assert len(result.images) == 3
    assert score(images / "A", suite_folder, tmp_path / "out", "--allow-incomplete").returncode == 0


def test_bad_layouts_are_refused(images: Path, suite_folder: Path, tmp_path: Path) -> None:
    suite, own = load_suite(str(suite_folder)), images / "A"

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            collect(own, suite)

    picture().save(own / "photo" / "00002.png")
    refused("more images than prompts: style photo has 2")
    (own / "photo" / "00002.png").rename(own / "photo" / "00000.webp")
    refused("is of the same prompt")
    (own / "photo" / "00000.webp").rename(own / "photo" / "best.png")
    refused("named by its prompt's place")
    (own / "photo" / "best.png").unlink()
    (own / "cubism").mkdir()
    refused("'cubism' is no style of the suite small")
    shutil.rmtree(own / "cubism")
    picture().save(own / "00000.png")
    refused("both images and folders")
    with pytest.raises(DataError, match="holds no images of the suite"):
        collect(suite_folder, suite)
    with pytest.raises(DataError, match="can name only one"):
        (own / "00000.png").unlink()
        collect(images, suite, "X")
    one_line_error(score(tmp_path / "absent", suite_folder, tmp_path / "out"), "is not a folder of images")
    one_line_error(run("benchmark", "run", "--suite", suite_folder, "--model", "lite"), "no images: name folders")


def test_a_flat_folder_counts_through_the_suite(suite_folder: Path, tmp_path: Path) -> None:
    for i in range(5):
        picture(seed=i).save(tmp_path / f"{i:05d}.png")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(flat / file.name)
    (found,) = collect(flat, load_suite(str(suite_folder)))
    assert [image.path.name for image in found.images] == [f"{i:05d}.png" for i in range(5)]
    assert found.missing == ()


def test_suites(suite_folder: Path, tmp_path: Path) -> None:
    suite = load_suite("shapes")
    assert list(suite.styles.values()) == [SHAPES_PER_STYLE] * 4
    assert suite.revision == "6d84b14fbf37d1fb"  # results of another revision are not comparable
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\na cat\n")
    with pytest.raises(DataError, match=r"1 prompts are there more than once \('a cat' as all/00000 and all/00002\)"):
        load_suite(str(file))
    before = load_suite(str(suite_folder)).revision
    (suite_folder / "photo.json").write_text(json.dumps(["a tree", "a ship"]))
    assert load_suite(str(suite_folder)).revision != before
    with pytest.raises(DataError, match="no suite and no file"):
        load_suite("hps-v3")
    with pytest.raises(DataError, match="--prompts"):
        load_suite("parti")
    table = tmp_path / "PartiPrompts.tsv"
    table.write_text("Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tx\nbread\tFood & Beverage\tBasic\tx\n")
    parti = load_suite("parti", table)
    assert [prompt.stem for prompt in parti.prompts] == ["abstract/00000", "food-beverage/00000"]


def test_the_official_prompts_are_fetched_once(tmp_path: Path) -> None:
    files = {f"benchmark/{style}.json": json.dumps([f"{style} one", f"{style} two"]).encode() for style in HPS_STYLES}
    files["benchmark/drawbench.json"] = json.dumps(["a red car"]).encode()
    files["benchmark/benchmark_imgs/CM.tar.gz"] = b"not asked for"
    handler = type("Hub", (FakeDatasetHub,), {"files": files, "lies": {}, "asked": [], "ranges": []})
    code = "from humanpref.benchmark.suites import load_suite as l; print(dict(l('hps-v2').styles), l('drawbench').prompts[0].text)"
    with serving(handler, tmp_path) as env:
        import os

        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env={**os.environ, **env},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.strip() == "{'anime': 2, 'concept-art': 2, 'paintings': 2, 'photo': 2} a red car", done
    assert sum("/resolve/" in path and "anime" in path for path in handler.asked) <= 1
    assert not [path for path in handler.asked if "tar.gz" in path]


@pytest.mark.slow
def test_prompts_that_changed_since_the_images_were_generated(tmp_path: Path) -> None:
    from humanpref.shapes.grammar import captions

    file = tmp_path / "s.jsonl"

    def write(texts: list[str]) -> None:
        file.write_text(
            "\n".join(json.dumps({"text": t, "id": f"p{i}", "style": "anime"}) for i, t in enumerate(texts))
        )

    texts = captions(5, 3)
    write(texts[:3])
    words = ["benchmark", "run", "--suite", file, "--model", "lite", "--out", tmp_path / "out"]
    done = run(*words, "-b", "shapes:clean,size=32", "-b", "shapes:coarse,size=32", "--images-per-prompt", "2")
    assert done.returncode == 0, done.stderr
    results = read_results([tmp_path / "out"])
    assert [(r.generator, len(r.images), len(r.by_prompt)) for r in results] == [("clean", 6, 3), ("coarse", 6, 3)]
    for number in range(2):
        (tmp_path / "out" / "images" / "coarse" / f"p1-{number}.png").unlink()
    gone = run(*words, tmp_path / "out" / "images")
    assert gone.returncode == 1
    assert "coarse: 1 images are missing: anime/00001" in gone.stderr
    write([texts[0], texts[3], texts[2]])
    one_line_error(run(*words, tmp_path / "out" / "images"), "prompt 'p1' has changed since the run")
    file.write_text(json.dumps({"text": texts[4]}))
    one_line_error(run(*words, tmp_path / "out" / "images"), "is not in the suite s")


def test_each_image_is_decoded_once_for_all_scorers(
    images: Path, suite_folder: Path, tmp_path: Path, load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import humanpref.images

    opened: list[str] = []
    real = humanpref.images._decode
    monkeypatch.setattr(humanpref.images, "_decode", lambda file, name, *a: opened.append(name) or real(file, name, *a))
    suite = load_suite(str(suite_folder))
    scorers = [load_scorer("lite"), ByteScorer("byte 1"), ByteScorer("other 2", reads_prompt=False), load_tiny()]
    with ScoreCache() as cache:
        report = run_benchmark(collect(images, suite), suite, scorers, tmp_path / "out", cache=cache)
        assert len(opened) == len(set(opened)) == 10
        assert report.computed == 40
        assert all(len(scorer.scored) == 10 for scorer in scorers[1:3])
        (images / "A" / "anime" / "00000.jpg").write_bytes((images / "B" / "photo" / "00000.jpg").read_bytes())
        again = run_benchmark(collect(images, suite), suite, scorers, tmp_path / "out", cache=cache)
    assert again.computed == 2  # of the scorers that read the prompt: these bytes have not been seen with it
    values = {r.generator + r.scorer.name: r for r in again.results}
    assert [i.score for i in values["Abyte"].images] == [
        pytest.approx(scorers[1].value(i.image, i.prompt)) for i in values["Abyte"].images
    ]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    folder, count = tmp_path / "images", 400
    (folder / "all").mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((300 + i % 7, 300), 40).convert("RGB").save(
            folder / "all" / f"{i:05d}.png", compress_level=1
        )
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"prompt {i}" for i in range(count)))
    words = ["benchmark", "run", folder, "--suite", file, "--model", "lite", "--out", tmp_path / "out", "--no-cache"]
    kept = tmp_path / "out" / ".scores.sqlite"
    process = subprocess.Popen([sys.executable, "-m", "humanpref.cli", *map(str, words)], stdout=subprocess.DEVNULL)
    known = 0
    while process.poll() is None and not known:
        time.sleep(0.05)
        if kept.exists():
            import sqlite3
            from contextlib import closing, suppress

            with suppress(sqlite3.Error), closing(sqlite3.connect(kept)) as database:
                known = database.execute("SELECT COUNT(*) FROM scores").fetchone()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < known < count
    answer = json.loads(run(*words, "--format", "json").stdout)
    assert answer["computed"] <= count - known
    assert answer["results"][0]["images"] == count
    assert not kept.exists()


def test_damaged_and_foreign_result_files(images: Path, suite_folder: Path, tmp_path: Path) -> None:
    assert score(images / "A", suite_folder, tmp_path / "out").returncode == 0
    (path,) = (tmp_path / "out").glob("*.json")
    content = json.loads(path.read_text())
    for change, match in (
        ({"version": 2}, "version 2, this humanpref reads version 1; update humanpref"),
        ({"version": 0}, "version 0, this humanpref reads version 1; run the benchmark again"),
        ({"format": "x"}, "is not a result"),
        ({"images": [{"style": "anime"}]}, "is damaged"),
        ({"images": content["images"] * 2}, "do not fit its suite"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=match):
            read_result(path)
    path.write_text(json.dumps(content)[:200])
    with pytest.raises(DataError, match="not readable as JSON"):
        read_result(path)
    path.write_text(json.dumps(content))
    shutil.copy(path, path.with_name("again.json"))
    with pytest.raises(DataError, match="both are A by lite"):
        read_results([tmp_path / "out"])
