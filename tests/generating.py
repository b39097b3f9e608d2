"""A toy backend, and runs of it as processes of their own:  python -m tests.generating OUT PROMPTS IMAGES DELAY [ray]"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from humanpref.generate import Outcome, Prompt, Request
from tests.commands import Done, run

ROOT = Path(__file__).parents[1]


@dataclass
class ToyBackend:
    """Noise of the image's seed. Prompts with "refuse" or "fail" in them are refused or fail while `broken` exists."""

    name: str = "toy"
    revision: str = "1"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"steps": 3})
    chunk: int = 4
    local: bool = False
    made_with: str = "numpy"
    delay: float = 0.0
    size: int = 16
    broken: Path | None = None
    pids: Path | None = None

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        if self.pids is not None:
            (self.pids / str(os.getpid())).touch()
        for request in requests:
            time.sleep(self.delay)
            if "refuse" in request.prompt.text:
                yield Outcome(request, "refused", reason="not that")
            elif "fail" in request.prompt.text and (self.broken is None or self.broken.exists()):
                yield Outcome(request, "failed", reason="broken")
            else:
                noise = np.random.default_rng(request.seed).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
                yield Outcome(request, "done", image=Image.fromarray(noise), seconds=self.delay)


def prompts(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"prompt number {n}", f"p{n}", "toys", "photo" if n % 2 else None) for n in range(count))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(out: Path) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    """What a run made, by image; two rows of one image are an error, as is a file that is not what its row says."""
    import hashlib

    found = {}
    for row in rows(out):
        key = (row["model"], row["prompt_id"], row["number"])
        assert key not in found, f"{key} is there twice"
        if row["status"] == "done":
            assert hashlib.sha256((out / row["path"]).read_bytes()).hexdigest() == row["sha256"]
        found[key] = tuple(row.get(name) for name in ("prompt", "seed", "status", "sha256", "path", "settings_hash"))
    images = {*out.glob("*/*"), *out.glob(".*.part")}
    assert images == {out / row["path"] for row in rows(out) if row["status"] == "done"}
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.generating", *map(str, words)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*words: object, env: dict[str, str] | None = None) -> Done[str]:
    """Run `humanpref generate` as a user does."""
    return run("generate", *words, env={**environment(), **(env or {})})


def one_line(done: Done[str], *parts: str, status: int = 1) -> None:
    assert done.returncode == status, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def main(out: str, count: str, images: str, delay: str, size: str = "16") -> None:
    from humanpref.errors import HumanprefError
    from humanpref.generate import generate

    try:
        backends = [ToyBackend("a", delay=float(delay), size=int(size)), ToyBackend("b", size=int(size))]
        generate(prompts(int(count)), backends, out, images_per_prompt=int(images))
    except HumanprefError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
