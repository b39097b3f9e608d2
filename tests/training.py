"""A tiny world to train in: one-colour pictures, the brighter the better, and a CLIP of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from humanpref.data.formats import write_rankings
from humanpref.records import ImageRef, Ranking
from humanpref.training.config import PRESETS, TrainConfig, with_options
from tests import commands

ARCH = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
WORDS = ("cat", "dog", "boat", "tree", "house", "lamp", "road", "hill")


def arch_file(folder: Path) -> Path:
    path = folder / "arch.json"
    path.write_text(json.dumps(ARCH))
    return path


def world(folder: Path, groups: int = 12, size: int = 4, seed: int = 0, annotators: int = 0) -> list[Ranking]:
    """Pictures of `size` different brightnesses per prompt, ranked by brightness (annotators: with some noise)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for g in range(groups):
        prompt = f"a {WORDS[g % len(WORDS)]} number {seed} {g}"
        levels = rng.permutation(np.linspace(20, 235, size)).round()
        images = []
        for k, level in enumerate(levels):
            pixels = np.clip(level + rng.normal(0, 6, (32, 32, 3)), 0, 255).astype(np.uint8)
            path = folder / f"{seed}-{g}-{k}.png"
            Image.fromarray(pixels).save(path)
            images.append(ImageRef(path))
        people = [None] if not annotators else [f"p{a}" for a in range(annotators)]
        for who in people:
            felt = levels + (rng.normal(0, 40, size) if who else 0)
            ranks = tuple(int(r) for r in (-felt).argsort().argsort() + 1)
            found.append(Ranking(prompt, tuple(images), ranks, who))
    return found


def data_file(folder: Path, name: str = "train", **options: object) -> Path:
    """The same as a file beside its images."""
    rankings = world(folder / "images", **options)
    path = folder / f"{name}.jsonl"
    write_rankings(rankings, path, image_root=folder / "images")
    return path


def tiny(folder: Path, **options: object) -> TrainConfig:
    """The recipe at toy size, from random weights."""
    small = {
        "arch": str(arch_file(folder)), "base": "", "vision_free": -1, "text_free": -1, "steps": 8, "batch": 4,
        "warmup": 2, "learning_rate": 1e-3, "workers": 0, "validate_every": 4, "save_every": 2, "log_every": 1,
    }  # fmt: skip
    return with_options(PRESETS["hps-v2"], {**small, **options})


def run(*words: object, code: int = 0, env: dict[str, str] | None = None) -> commands.Done[str]:
    """`humanpref` in a process of its own."""
    done = commands.run(*words, env={"OMP_NUM_THREADS": "1", **(env or {})})
    assert done.returncode == code, done.stderr[-2000:]
    return done


def losses(out: Path) -> dict[int, float]:
    """The loss of every step, as the run logged it."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}
