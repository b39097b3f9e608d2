"""The diffusion pipeline that comes with the package: real weights, judged by the known truth about its pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref.shapes import PIPELINE
from humanpref.shapes.grammar import QUALITY_WORDS, captions, parse
from humanpref.shapes.quality import WEIGHTS, Quality, quality
from humanpref.shapes.render import render
from tests.generating import command, rows

GOOD, BAD = QUALITY_WORDS
ASKED = captions(200, 777)[:32]  # held out: their scenes were never trained on
FLOORS = {
    "all": 0.25,
    "shape": 0.6,
    "colour": 0.8,
    "count": 0.75,
    "relation": 0.45,
    "size": 0.6,
    "background": 0.9,
    "style": 0.6,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import DiffusionPipeline

    found = DiffusionPipeline.from_pretrained(PIPELINE, local_files_only=True)
    assert type(found).__name__ == "StableDiffusionPipeline"
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def good(pipeline: Any) -> list[Quality]:
    return judged(pipeline, GOOD)


def judged(pipeline: Any, words: str) -> list[Quality]:
    seeds = [torch.Generator().manual_seed(n) for n in range(len(ASKED))]
    prompts = [f"{words} {text}" for text in ASKED]
    pictures = pipeline(prompts, num_inference_steps=12, guidance_scale=2.0, generator=seeds).images
    return [quality(picture, text) for picture, text in zip(pictures, ASKED, strict=True)]


def test_is_small_and_says_what_it_is() -> None:
    assert sum(file.stat().st_size for file in PIPELINE.rglob("*") if file.is_file()) < 6_000_000
    assert "held-out captions" in (PIPELINE / "README.md").read_text()
    assert not list(PIPELINE.rglob("*.bin"))  # safetensors only


def test_draws_what_captions_say(good: list[Quality]) -> None:
    shares = {name: statistics.mean(one.attributes[name] for one in good if name in one.attributes) for name in WEIGHTS}
    shares["all"] = statistics.mean(one.right for one in good)
    assert {name: share for name, share in shares.items() if share < FLOORS[name]} == {}


def test_quality_words_tell(pipeline: Any, good: list[Quality]) -> None:
    bad = judged(pipeline, BAD)
    assert statistics.mean(one.total for one in good) > statistics.mean(one.total for one in bad) + 0.1


def test_the_encoder_reads_what_the_decoder_draws(pipeline: Any) -> None:
    drawn = np.stack([np.asarray(render(parse(text), 32, n)) for n, text in enumerate(ASKED)])
    x = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        back = pipeline.vae.decode(pipeline.vae.encode(x).latents).sample
    assert (back - x).abs().mean() < 0.1  # of a range of 2


@pytest.mark.slow
def test_generate_by_its_short_name(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(ASKED[:3]))
    done = command(tmp_path / "prompts.txt", "-b", "diffusers:shapes,steps=4", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = rows(tmp_path / "out")
    assert [(row["model"], row["status"]) for row in made] == [("shapes", "done")] * 3
    assert all(Image.open(tmp_path / "out" / row["path"]).size == (32, 32) for row in made)
    assert made[0]["settings"]["model"] == "shapes"
