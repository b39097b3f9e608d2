"""python benchmarks/benchmark_report.py [--generators 22] [--prompts 800] [--size 64] [--folder DIR]

How long does `humanpref benchmark report` take, and how much memory, on a suite the size of HPS v2's benchmark
(22 generators x 4 styles x 800 prompts = 70,400 images, made small)? Images are noise over a colour, scores
are made up.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from humanpref.benchmark.results import ImageScore, Result, ScorerInfo, SuiteInfo, write_result

STYLES = ("anime", "concept-art", "paintings", "photo")


def make(generator: int, folder: Path, prompts: int, size: int) -> None:
    rng = np.random.default_rng(generator)
    images = []
    for style in STYLES:
        own = folder / f"model-{generator:02d}" / style
        own.mkdir(parents=True, exist_ok=True)
        for index in range(prompts):
            path = own / f"{index:05d}.jpg"
            if not path.exists():
                pixels = rng.integers(0, 230, 3) + rng.integers(0, 25, (size, size, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            score = float(rng.normal(0.28 - generator / 500, 0.02))
            images.append(ImageScore(style, index, 0, f"{style} prompt number {index}", path, digest, score))
    scorer = ScorerInfo.of("hps-v2.1", "cosine", f"scorer=hps-v2.1 weights={'0' * 64} resize=antialias precision=fp32")
    suite = SuiteInfo("hps-v2", "0" * 16, dict.fromkeys(STYLES, prompts))
    result = Result(f"model-{generator:02d}", scorer, suite, tuple(images), date="2026-01-01T00:00:00+00:00")
    write_result(result, folder / "results" / f"model-{generator:02d}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", type=int, default=22)
    parser.add_argument("--prompts", type=int, default=800, help="in each of the four styles")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        began = time.perf_counter()
        with ProcessPoolExecutor() as pool:
            work = partial(make, folder=folder, prompts=options.prompts, size=options.size)
            list(pool.map(work, range(options.generators)))
        total = options.generators * 4 * options.prompts
        print(f"made {total:,} images of {options.size} pixels in {time.perf_counter() - began:.0f} s", flush=True)
        for what in ("first report", "again, thumbnails kept"):
            command = ["benchmark", "report", str(folder / "site"), "--results", str(folder / "results")]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "humanpref.cli", *command], check=True)
            seconds = time.perf_counter() - began
            largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            print(f"{what}: {seconds:.0f} s, at most {largest:.2f} GB in a process", flush=True)


if __name__ == "__main__":
    main()
