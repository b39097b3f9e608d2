"""How fast images are made and put away, and what a run of a given size then takes.

    .venv/bin/python benchmarks/generation_rate.py                       # the tiny random pipeline of the tests, CPU
    .venv/bin/python benchmarks/generation_rate.py --model OWNER/NAME --size 512 --steps 30 --device cuda
    .venv/bin/python benchmarks/generation_rate.py --images 433760 --models 10 --workers 64 --rate 1.5

Without --rate it measures: images per second of one worker (loading apart), with and without writing them. With --rate
it only computes. The tiny pipeline has a quarter of a million parameters and makes 32 x 32 pixels: its rate says what
this package costs around a model, and nothing at all about any real model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def measure(args: argparse.Namespace, folder: Path) -> float:
    from tests.tiny_pipeline import write_pipeline

    from humanpref.generate import Prompt, Request, generate, make_backend, seed_of

    model = args.model or str(write_pipeline(folder / "tiny-random-pipeline"))
    spec = f"diffusers:{model},batch_size={args.batch_size},device={args.device}"
    for name in ("size", "steps"):
        spec += f",{name}={getattr(args, name)}" if getattr(args, name) else ""
    prompts = [Prompt(f"a cat number {n}", f"p{n}") for n in range(args.count)]
    backend = make_backend(spec)
    requests = [Request(prompt, 0, seed_of(0, prompt.id, 0), n) for n, prompt in enumerate(prompts)]
    list(backend.generate(requests[: args.batch_size]))  # loads
    began = time.perf_counter()
    list(backend.generate(requests))
    alone = args.count / (time.perf_counter() - began)
    began = time.perf_counter()
    generate(prompts, [backend], folder / "out")
    stored = args.count / (time.perf_counter() - began)
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*.png")) / args.count
    began = time.perf_counter()
    generate(prompts, [backend], folder / "out")
    resumed = time.perf_counter() - began
    what = args.model or "TINY RANDOM PIPELINE (32 x 32; no real model)"
    print(f"{what}, {backend.made_with}, batch {args.batch_size}, {args.steps or 'default'} steps, {args.count} images")
    print(f"pipeline alone {alone:.2f} images/s; with PNG, SHA-256, fsync and manifest {stored:.2f} images/s")
    print(f"a run that is complete takes {resumed:.2f} s to say so; {size / 1000:.1f} kB per image")
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--images", type=int, default=433_760, help="images of the run to be sized, of all models")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--load-seconds", type=float, default=0.0, help="until a worker has loaded a model")
    parser.add_argument("--rate", type=float, help="images per second of one worker, measured elsewhere")
    args = parser.parse_args()
    if args.rate is None:
        with tempfile.TemporaryDirectory() as folder:
            args.rate = measure(args, Path(folder))
    seconds = args.images / (args.workers * args.rate) + args.models * args.load_seconds
    print(
        f"{args.images:,} images of {args.models} models, {args.workers} workers at {args.rate:.2f} images/s: ", end=""
    )
    print(f"{seconds / 3600:.1f} hours, {args.images / args.rate / 3600:.1f} worker hours")


if __name__ == "__main__":
    main()
