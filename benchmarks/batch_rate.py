"""How much of a scorer's own speed a batch run reaches, from one run, in alternating rounds.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/batch_rate.py                          # lite, and a small random CLIP
    .venv/bin/python benchmarks/batch_rate.py --model hps-v2.1 --device cuda --count 20000 --rounds 3

For each scorer it makes a Parquet file of --count JPEGs of --size, and measures in each round:
- model: the scorer alone, in one process, on inputs that are prepared already (for lite, whose features are its work,
  on pictures that are decoded already);
- decoded: the scorer and the decoding, in one process, from bytes in memory: what no way of feeding it can be faster
  than where both share the same cores;
- batch: `humanpref batch` end to end, from the Parquet file to the scores on the disk, in one process as well (its time
  without loading the scorer), so that the three compare; and with as many processes as there are cores.
Beside images/s it prints the CPU time per image of the first three, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


class Figure(NamedTuple):
    """One measurement."""

    rate: float
    """Images per second."""
    cpu: float
    """Milliseconds of CPU time of this process per image."""


def pictures(count: int, size: int, folder: Path) -> tuple[Path, list[bytes]]:
    """A Parquet file of JPEGs (quality 90; smooth colours with texture, about 100 kB at 512 x 512), and their bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        small = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = random.normal(0, 12, (size, size, 1)).astype(np.int16)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        kinds.append(buffer.getvalue())
    images = [kinds[n % len(kinds)] for n in range(count)]
    path = folder / f"{size}.parquet"
    table = pa.table({"image": images, "prompt": [f"a cat number {n % 500}" for n in range(count)]})
    pq.write_table(table, path, row_group_size=32)
    return path, images


def timed(run: Callable[[], object], count: int) -> Figure:
    began, cpu = time.perf_counter(), time.process_time()
    run()
    return Figure(count / (time.perf_counter() - began), 1000 * (time.process_time() - cpu) / count)


def measure(name: str, options: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    import torch

    from humanpref import load_scorer
    from humanpref.batch.run import batch
    from humanpref.batch.score import Model
    from humanpref.engines import Engine, cores
    from humanpref.images import EncodedImage
    from humanpref.scorers.base import map_ahead

    path, images = pictures(args.count, args.size, folder)
    prompts = [f"a cat number {n % 500}" for n in range(args.count)]
    scorer: Any = load_scorer(name, **options)
    size = scorer.batch_size
    torch.set_num_threads(args.threads)
    decoded = {content: EncodedImage(content, "image").picture for content in dict.fromkeys(images)}
    ready = {content: scorer.prepare(picture) for content, picture in decoded.items()}

    def model_only() -> None:
        prepare: Callable[[bytes], Any] = ready.__getitem__
        if name == "lite":
            prepare = lambda content: scorer.prepare(decoded[content])  # noqa: E731
        inputs = map_ahead(prepare, images, ahead=2 * size, threads=args.threads)
        score_all(inputs)

    def with_decoding() -> None:
        prepare = lambda content: scorer.prepare(EncodedImage(content, "image"))  # noqa: E731
        score_all(map_ahead(prepare, images, ahead=2 * size, threads=args.threads))

    def score_all(inputs: Any) -> None:
        getattr(scorer, "_text_cache", {}).clear()  # a batch run encodes every prompt, too
        chunk: list[Any] = []
        for n, one in enumerate(inputs):
            chunk.append(one)
            if len(chunk) == size or n == len(images) - 1:
                scorer.begin(chunk, prompts[n + 1 - len(chunk) : n + 1])()
                chunk = []

    def run_batch(out: Path, workers: int) -> Figure:
        """From the first part's end to the last one's: loading is left out."""
        ends: list[tuple[float, float, int]] = []
        batch(
            [str(path)], str(out), [Model(name, **{k: str(v) for k, v in options.items()})], part_rows=args.part_rows,
            engine=Engine(workers=workers), threads=args.threads if workers == 1 else 1,
            on_progress=lambda progress: ends.append((time.perf_counter(), time.process_time(), progress.rows)),
        )  # fmt: skip
        (first, cpu, before), (last, cpu_then, rows) = ends[0], ends[-1]
        return Figure((rows - before) / (last - first), 1000 * (cpu_then - cpu) / (rows - before))

    model_only()
    many = f"batch x{cores()}"
    figures: dict[str, list[Figure]] = {"model": [], "decoded": [], "batch": [], many: []}
    for round_ in range(args.rounds):
        figures["model"].append(timed(model_only, args.count))
        figures["decoded"].append(timed(with_decoding, args.count))
        figures["batch"].append(run_batch(folder / f"{name}-{round_}", 1))
        figures[many].append(run_batch(folder / f"{name}-{round_}-all", cores()))
    print(f"{name}: {args.count} JPEGs of {args.size} x {args.size}, {len(images[0]) / 1000:.0f} kB each; images/s")
    for what, found in figures.items():
        rounds = ", ".join(f"{figure.rate:.1f}" for figure in found)
        cpu = "" if what == many else f"{statistics.median(f.cpu for f in found):6.2f} ms CPU per image"
        print(f"  {what:10} {statistics.median(f.rate for f in found):8.1f} {cpu:29} (rounds: {rounds})")
    for what in ("model", "decoded"):
        pairs = list(zip(figures["batch"], figures[what], strict=True))
        rate = statistics.median(b.rate / m.rate for b, m in pairs)
        cpu_ratio = statistics.median(m.cpu / b.cpu for b, m in pairs)
        print(
            f"  batch reaches {100 * rate:.1f} % of {what}, {100 * cpu_ratio:.1f} % by CPU time (medians of the rounds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="lite or small-clip alone, or another scorer; default: both of these")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", help="of another scorer")
    parser.add_argument("--arch", help="of another scorer")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part-rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    from tests.conftest import SHARED, TINY_ARCH

    from humanpref.memory import keep_freed_memory

    keep_freed_memory()  # as the commands and their workers do

    tiny = {"weights": SHARED / "parity" / "hps_layout_tiny.pt", "arch": TINY_ARCH, "precision": "fp32"}
    known: dict[str, tuple[str, dict[str, Any]]] = {"lite": ("lite", {}), "small-clip": ("hps-v2.1", tiny)}
    other = (
        args.model,
        {"device": args.device} | {k: v for k, v in (("weights", args.weights), ("arch", args.arch)) if v},
    )
    chosen = [known.get(args.model, other)] if args.model else list(known.values())
    with tempfile.TemporaryDirectory() as folder:
        for name, options in chosen:
            measure(name, options, args, Path(folder))
    print(f"{os.cpu_count()} cores, {os.uname().machine}; load when it ended: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
