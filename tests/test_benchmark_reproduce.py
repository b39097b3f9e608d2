"""A published row measured again, from a local Hub over real HTTP, by a small random checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from humanpref.benchmark.published import STYLES, published_row
from humanpref.benchmark.reproduce import reproduction
from humanpref.benchmark.results import read_results
from humanpref.data.sources import DATASETS
from humanpref.errors import DataError
from tests.commands import one_line_error, run
from tests.conftest import TINY_ARCH
from tests.hub import FakeDatasetHub, serving
from tests.test_download_data import tar

PROMPTS = 6


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 200, 3), dtype=np.uint8)  # noise: the resize matters
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path: Path):
    images = {f"sdv2/{style}/{i:05d}.jpg": jpeg(10 * s + i) for s, style in enumerate(STYLES) for i in range(PROMPTS)}
    files = {
        f"benchmark/{style}.json": json.dumps([f"{style} {i}" for i in range(PROMPTS)]).encode() for style in STYLES
    }
    files["benchmark/benchmark_imgs/sdv2.tar.gz"] = tar(images)
    files["benchmark/benchmark_imgs/glide.tar.gz"] = b"not asked for"
    handler = type("Hub", (FakeDatasetHub,), {"files": files, "lies": {}, "asked": [], "ranges": []})
    with serving(handler, tmp_path) as env:
        yield handler, env


@pytest.mark.slow
def test_both_resizes_beside_the_published_row(hub, tmp_path: Path, tiny_checkpoint: Path, load_tiny) -> None:
    handler, env = hub
    words = ["benchmark", "reproduce", "Stable Diffusion v2.0", "--weights", tiny_checkpoint, "--arch", TINY_ARCH]
    words += ["--precision", "fp32"]
    done = run(*words, "--format", "json", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hps-benchmark-sdv2" in done.stderr
    assert not [path for path in handler.asked if "glide" in path]
    assert all(DATASETS["hps-benchmark"].revision in path for path in handler.asked)
    answer = json.loads(done.stdout)
    published = published_row("hps-v2.1", "sdv2")
    folder = tmp_path / "humanpref-data/hps-benchmark-sdv2/benchmark_imgs/sdv2"
    for row in answer["rows"]:
        styles = STYLES if row["style"] == "average" else [row["style"]]
        assert row["published"] == (published.average if row["style"] == "average" else published.styles[row["style"]])
        scorer = load_tiny(resize=row["resize"])
        scores = [
            100 * float(scorer.score([folder / style / f"{i:05d}.jpg"], f"{style} {i}"))
            for style in styles
            for i in range(PROMPTS)
        ]
        assert row["ours"] == pytest.approx(np.mean(scores), abs=1e-3)
        assert row["low"] <= row["ours"] <= row["high"]
    ours = {row["resize"]: row["ours"] for row in answer["rows"] if row["style"] == "average"}
    assert ours["antialias"] != pytest.approx(ours["no-antialias"], abs=1e-4)
    assert answer["closest"] == min(answer["distance"], key=answer["distance"].get)
    results = read_results([tmp_path / "benchmark"])
    assert sorted(result.scorer.label for result in results) == ["hps-v2.1", "hps-v2.1 (no-antialias)"]
    asked = len(handler.asked)
    again = run(*words, env={**env, "HUMANPREF_CACHE": "/proc/x/scores.sqlite"}, cwd=tmp_path)
    assert len(handler.asked) == asked
    assert "there already" in again.stderr
    assert "scores.sqlite: no scores are kept, because the cache cannot be used" in again.stderr
    assert f"Nearer: {answer['closest']}" in again.stdout
    assert "+" in again.stdout or "−" in again.stdout
    with pytest.raises(DataError, match="different resizes"):
        reproduction("hps-v2.1", published, [results[0], results[0]])


@pytest.mark.slow
def test_an_incomplete_archive_and_an_unknown_model(hub, tmp_path: Path, tiny_checkpoint: Path) -> None:
    handler, env = hub
    handler.files["benchmark/benchmark_imgs/sdv2.tar.gz"] = tar(
        {f"sdv2/{style}/00000.jpg": jpeg(s) for s, style in enumerate(STYLES)}
    )
    words = ["--weights", tiny_checkpoint, "--arch", TINY_ARCH, "--out", tmp_path / "o"]
    done = run("benchmark", "reproduce", "sdv2", *words, env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert "20 images are missing" in done.stderr
    assert "--allow-incomplete" in done.stderr.splitlines()[-1]
    one_line_error(run("benchmark", "reproduce", "flux", *words, env=env), "no published model is called 'flux'")
