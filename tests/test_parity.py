"""The official implementation's scores, for a small random checkpoint in its layout: both resizes, within 1e-5."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tests.commands import run
from tests.conftest import TINY_ARCH

COLUMN = {"antialias": "score", "no-antialias": "score_no_antialias"}
Rows = list[dict[str, object]]


@pytest.mark.parametrize("resize", COLUMN)
def test_library_batched(load_tiny, gallery: Path, expected_rows: Rows, resize: str) -> None:
    scorer = load_tiny(resize=resize)
    found = scorer.score([gallery / "test" / r["image"] for r in expected_rows], [r["prompt"] for r in expected_rows])
    expected = torch.tensor([r[COLUMN[resize]] for r in expected_rows])
    assert found.shape == (269,)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("resize", COLUMN)
def test_library_one_at_a_time(load_tiny, gallery: Path, expected_rows: Rows, resize: str, every: int) -> None:
    scorer = load_tiny(resize=resize)
    prompts = [row["prompt"] for row in expected_rows]
    awkward = [row for row in expected_rows if prompts.count(row["prompt"]) == 2]
    assert len(awkward) == 8
    for row in [*expected_rows[::every], *awkward]:
        found = scorer.score(gallery / "test" / row["image"], row["prompt"])
        assert found.shape == (1,)
        assert abs(float(found) - row[COLUMN[resize]]) < 1e-5


def test_the_rows_hold_what_is_awkward(gallery: Path, expected_rows: Rows) -> None:
    from PIL import Image

    images = {r["image"]: Image.open(gallery / "test" / r["image"]) for r in expected_rows}
    assert any(image.mode == "L" for image in images.values())
    assert any(image.width != image.height for image in images.values())
    prompts = {r["prompt"] for r in expected_rows}
    assert "" in prompts
    assert any(len(p.split()) > 77 for p in prompts)
    assert any("日本語" in p for p in prompts)


@pytest.mark.slow
@pytest.mark.parametrize("resize", COLUMN)
def test_command_line(tiny_checkpoint: Path, gallery: Path, expected_rows: Rows, resize: str) -> None:
    """Prompts by way of the command line: the awkward ones, and the first of the gallery with all its images."""
    groups: dict[str, Rows] = defaultdict(list)
    for row in expected_rows:
        groups[row["prompt"]].append(row)
    chosen = [prompt for prompt, rows in groups.items() if len(rows) == 2] + [next(iter(groups))]
    assert len(chosen) == 5
    for prompt in chosen:
        rows = groups[prompt]
        words = ["score", *(gallery / "test" / r["image"] for r in rows), "--prompt", prompt, "--model", "hps-v2.1"]
        words += ["--weights", tiny_checkpoint, "--arch", TINY_ARCH, "--resize", resize, "--precision", "fp32"]
        done = run(*words, "--format", "json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        for row, result in zip(rows, answer["results"], strict=True):
            assert Path(result["image"]).name == row["image"]
            assert abs(result["score"] - row[COLUMN[resize]]) < 1e-5
        assert answer["truncated"] == (len(prompt) > 300)
        assert ("first 77" in done.stderr) == answer["truncated"]
