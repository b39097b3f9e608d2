"""The drop-in for the official package: its README's calls, results and printed rows, on small weights in its layout."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humanpref.compat import hpsv2, hpsv2_data
from humanpref.compat.models import ARCHIVES
from humanpref.data.sources import DATASETS
from humanpref.errors import DataError, DownloadError, HumanprefError, ImageError
from tests.conftest import TINY_ARCH
from tests.hub import FakeDatasetHub, serving
from tests.test_download_data import tar
from tests.toys import picture

COUNTS = {"anime": 90, "concept-art": 6, "paintings": 6, "photo": 82}
"""Prompts of each style (800 in truth): two styles have a second, short chunk of what the official code averages over."""
PROMPTS = {style: [f"{style} number {i}" for i in range(COUNTS[style])] for style in hpsv2_data.STYLES}


@pytest.fixture
def tiny(load_tiny, monkeypatch: pytest.MonkeyPatch):
    """The drop-in with the small checkpoint as v2.1."""
    monkeypatch.setattr(hpsv2, "_loaded", {})
    hpsv2.use(scorer := load_tiny(), "v2.1")
    return scorer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the official package has put the prompts."""
    monkeypatch.setenv("HPS_ROOT", str(tmp_path / "hps"))
    (folder := tmp_path / "hps" / "datasets" / "benchmark").mkdir(parents=True)
    for style, prompts in PROMPTS.items():
        (folder / f"{style}.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    """All images of a generator called `mine`."""
    for s, style in enumerate(hpsv2_data.STYLES):
        (folder := tmp_path / "mine" / style).mkdir(parents=True)
        for i in range(COUNTS[style]):
            picture(40, 40, 1000 * s + i).save(folder / f"{i:05d}.jpg")
    return tmp_path / "mine"


def rows(printed: str) -> dict[str, tuple[float, ...]]:
    head, *lines = printed.splitlines()
    assert head == "-----------benchmark score ---------------- "
    found = {}
    for line in lines:
        match = re.fullmatch(r"mine (\S+) +(\d+\.\d\d|-\d+\.\d\d) \t(?: (\d+\.\d{4}))?", line)
        assert match, line
        found[match[1]] = tuple(float(text) for text in match.groups()[1:] if text)
    return found


def test_the_official_signatures() -> None:
    def arguments(function: object) -> dict[str, object]:
        return {name: p.default for name, p in inspect.signature(function).parameters.items()}

    none = inspect.Parameter.empty
    assert arguments(hpsv2.score) == {"imgs_path": none, "prompt": none, "hps_version": "v2.0"}
    assert arguments(hpsv2.evaluate) == {"imgs_path": none, "batch_size": 20, "hps_version": "v2.1"}
    assert arguments(hpsv2.evaluate_benchmark) == {"model_id": none, "batch_size": 20, "hps_version": "v2.1"}
    assert arguments(hpsv2.benchmark_prompts) == {"style": "all"}
    assert arguments(hpsv2.get_available_models) == {}


def test_score_of_a_list_a_path_and_a_picture(tiny, gallery: Path, expected_rows) -> None:
    group = [row for row in expected_rows if row["prompt"] == expected_rows[0]["prompt"]]
    paths = [str(gallery / "test" / row["image"]) for row in group]
    result = hpsv2.score(paths, group[0]["prompt"], hps_version="v2.1")
    assert isinstance(result, list)
    assert all(isinstance(value, np.float32) for value in result)
    assert np.allclose(result, [row["score"] for row in group], atol=1e-5)
    for one in (paths[0], Path(paths[0]), Image.open(paths[0]), [Image.open(paths[0])]):
        assert np.allclose(hpsv2.score(one, group[0]["prompt"], "v2.1"), result[:1], atol=1e-6)
    assert hpsv2.score([], "a cat", "v2.1") == []


def test_a_model_is_loaded_once_and_in_the_official_precision(monkeypatch, load_tiny, tmp_path: Path) -> None:
    asked = []

    def load(name: str, **options: object) -> object:
        asked.append((name, options))
        return load_tiny()

    monkeypatch.setattr(hpsv2, "_loaded", {})
    monkeypatch.setattr(hpsv2, "load_scorer", load)
    picture().save(tmp_path / "a.png")
    for _ in range(2):
        hpsv2.score(str(tmp_path / "a.png"), "a cat")
        hpsv2.score(str(tmp_path / "a.png"), "a cat", "v2")
    assert asked == [("hps-v2.0", {"precision": "fp32"})]
    with pytest.warns(hpsv2.CompatWarning, match="not comparable") as seen:
        hpsv2.score(str(tmp_path / "a.png"), "a cat", "v2.1")
    assert [name for name, _ in asked] == ["hps-v2.0", "hps-v2.1"]
    assert seen[0].filename == __file__  # the caller's line


def test_what_cannot_be_scored(tiny, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="paths or PIL images"):
        hpsv2.score([3], "a cat", "v2.1")
    with pytest.raises(ValueError, match=r"choose from: v2\.0, v2\.1"):
        hpsv2.score("a.png", "a cat", "v3")
    with pytest.raises(ImageError, match="no such file"):
        hpsv2.score(str(tmp_path / "a.png"), "a cat", "v2.1")
    with pytest.warns(hpsv2.CompatWarning, match="the prompt has more than 77 tokens"):
        hpsv2.score(picture(), "cat " * 90, "v2.1")


def test_evaluate_prints_means_and_deviations_over_chunks_of_80(tiny, home, generator, capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hpsv2.evaluate(str(generator), batch_size=7) is None
    found = rows(capsys.readouterr().out)
    assert list(found) == [*hpsv2_data.STYLES, "Average"]
    every = []
    for style in hpsv2_data.STYLES:
        scores = (
            100 * tiny.score([generator / style / f"{i:05d}.jpg" for i in range(COUNTS[style])], PROMPTS[style]).numpy()
        )
        means = [chunk.mean() for chunk in (scores[:80], scores[80:]) if len(chunk)]  # the last chunk is short
        assert found[style] == pytest.approx((np.mean(means), np.std(means)), abs=6e-3)
        assert found[style][1] == pytest.approx(np.std(means), abs=6e-5)
        every.extend(scores)
    assert found["Average"] == pytest.approx((np.mean(every),), abs=6e-3)


def test_missing_and_unused_images_are_left_out_and_told(tiny, home, generator, capsys) -> None:
    for i in (0, 5, 6, 81):
        (generator / "anime" / f"{i:05d}.jpg").unlink()
    picture().save(generator / "photo" / "00090.jpg")
    picture().save(generator / "photo" / "00000.png")
    (generator / "paintings" / "00003.jpg").rename(generator / "paintings" / "3.jpg")
    with pytest.warns(hpsv2.CompatWarning) as seen:
        hpsv2.evaluate(f"{generator}/")
    said = [str(warning.message) for warning in seen]
    assert "4 of 90 images are missing (00000.jpg, 00005.jpg, 00006.jpg ...)" in said[0]
    assert "1 of 6 images are missing (00003.jpg)" in said[1]
    assert "1 files are not looked at (3.jpg)" in said[2]
    assert "2 files are not looked at (00000.png, 00090.jpg)" in said[3]
    kept = [i for i in range(90) if i not in {0, 5, 6, 81}]
    scores = 100 * tiny.score([generator / "anime" / f"{i:05d}.jpg" for i in kept], [PROMPTS["anime"][i] for i in kept])
    expected = hpsv2.chunk_statistics(scores.tolist())  # each image with its own prompt, chunks of those that are there
    assert rows(capsys.readouterr().out)["anime"] == pytest.approx(expected, abs=6e-3)


def test_some_of_the_styles(tiny, home, generator, capsys) -> None:
    for style in ("anime", "concept-art", "paintings"):
        (generator / style).rename(generator.with_name(style))
    with pytest.warns(hpsv2.CompatWarning, match="only photo; the average is of 1 of 4 styles"):
        hpsv2.evaluate(generator)
    found = rows(capsys.readouterr().out)
    assert list(found) == ["photo", "Average"]


def test_folders_that_are_no_benchmark(tiny, home, generator, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        hpsv2.evaluate(tmp_path / "nowhere")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        hpsv2.evaluate(empty)
    (generator / "photos").mkdir()
    with pytest.raises(DataError, match="photos is not a style"):
        hpsv2.evaluate(generator)
    (generator / "photos").rmdir()
    (generator / ".DS_Store").touch()  # what file browsers leave is no reason to stop
    (generator / "anime" / "00007.jpg").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"00007\.jpg"):
        hpsv2.evaluate(generator)
    with pytest.raises(ValueError, match="batch_size"):
        hpsv2.evaluate(generator, batch_size=0)
    (empty / "anime").mkdir()
    with pytest.warns(hpsv2.CompatWarning), pytest.raises(DataError, match="has none of the images 00000.jpg"):
        hpsv2.evaluate(empty)


def test_prompts_by_style(home: Path) -> None:
    assert hpsv2.benchmark_prompts() == hpsv2.benchmark_prompts("all") == PROMPTS
    assert hpsv2.benchmark_prompts("photo") == PROMPTS["photo"]
    with pytest.raises(ValueError, match="choose from: all, anime, concept-art, paintings, photo"):
        hpsv2.benchmark_prompts("drawbench")
    (home / "photo.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="must be a list of prompts"):
        hpsv2.benchmark_prompts("photo")
    (home / "photo.json").write_text('["a')
    with pytest.raises(DataError, match="cannot be read as JSON"):
        hpsv2.benchmark_prompts()


def test_prompts_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPS_ROOT", str(tmp_path))
    with pytest.raises(DownloadError) as error:
        hpsv2.benchmark_prompts()
    text = str(error.value)
    assert "\n" not in text
    assert "hps-benchmark (prompts)" in text
    assert f"put anime.json, concept-art.json, paintings.json, photo.json in {tmp_path}/datasets/benchmark" in text
    assert isinstance(error.value, HumanprefError)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        hpsv2.get_available_models()


def test_the_table_of_archives() -> None:
    assert len(ARCHIVES) == len(set(ARCHIVES.values())) == 24
    assert ARCHIVES["VQGAN"] == "VQGAN + CLIP"


README = """
import os
import humanpref.compat.hpsv2 as hpsv2
from humanpref import load_scorer
from tests.toys import picture

hpsv2.use(load_scorer("hps-v2.1", weights=os.environ["WEIGHTS"], arch=os.environ["ARCH"], precision="fp32"))
print(hpsv2.get_available_models())
hpsv2.evaluate_benchmark("Stable Diffusion v2.0")
hpsv2.evaluate_benchmark("Stable Diffusion v2.0")

all_prompts = hpsv2.benchmark_prompts("all")
for style, prompts in all_prompts.items():
    os.makedirs(os.path.join("images", style))
    for idx, prompt in enumerate(prompts):
        image = picture(30, 30, len(prompt) + idx)
        image.save(os.path.join("images", style, f"{idx:05d}.jpg"))
hpsv2.evaluate("images", hps_version="v2.1")
result = hpsv2.score(["images/anime/00000.jpg"], "a cat", hps_version="v2.1")
print(len(result), float(result[0]))
try:
    hpsv2.evaluate_benchmark("Nobody's")
except ValueError as error:
    print(error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[type[FakeDatasetHub], dict[str, str]]]:
    """The benchmark's repository in small: three prompts a style, the images of two models."""
    (jpeg := tmp_path / "x.jpg").parent.mkdir(exist_ok=True)
    picture(20, 20).save(jpeg)
    images = {f"sdv2/{style}/{i:05d}.jpg": jpeg.read_bytes() for style in hpsv2_data.STYLES for i in range(3)}
    files = {f"benchmark/{style}.json": json.dumps(PROMPTS[style][:3]).encode() for style in hpsv2_data.STYLES}
    files |= {"benchmark/drawbench.json": b"[]", "benchmark/drawbench/sdv2.tar.gz": b"", "test.json": b"[]"}
    files |= {f"benchmark/benchmark_imgs/{name}.tar.gz": tar(images) for name in ("sdv2", "newer-than-this")}
    handler = type("Hub", (FakeDatasetHub,), {"files": files, "lies": {}, "asked": [], "ranges": []})
    with serving(handler, tmp_path) as env:
        yield handler, env


@pytest.mark.slow
def test_the_official_readme_from_the_hub(hub, tmp_path: Path, tiny_checkpoint: Path) -> None:
    handler, env = hub
    env = {
        **os.environ,
        **env,
        "WEIGHTS": str(tiny_checkpoint),
        "ARCH": str(TINY_ARCH),
        "HPS_ROOT": str(tmp_path / "hps"),
    }
    env["PYTHONPATH"] = os.pathsep.join([str(TINY_ARCH.parents[1]), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", README], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CompatWarning" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "['Stable Diffusion v2.0', 'newer-than-this']"
    assert lines[1] == lines[7] == lines[13] == "-----------benchmark score ---------------- "
    assert [line.split()[:2] for line in lines[2:7]] == [["sdv2", name] for name in (*hpsv2_data.STYLES, "Average")]
    assert lines[2:7] == lines[8:13]
    assert [line.split()[0] for line in lines[14:19]] == ["images"] * 5
    assert lines[19].startswith("1 ")
    assert lines[20] == 'there are no images of "Nobody\'s"; choose from: Stable Diffusion v2.0, newer-than-this'
    fetched = [path.split("/resolve/")[1].split("/", 1)[1] for path in handler.asked if "/resolve/" in path]
    assert sorted(fetched) == sorted({*fetched})  # each file once, of all these calls
    assert {*fetched} == {*(f"benchmark/{s}.json" for s in hpsv2_data.STYLES), "benchmark/benchmark_imgs/sdv2.tar.gz"}
    assert all(DATASETS["hps-benchmark"].revision in path for path in handler.asked)
