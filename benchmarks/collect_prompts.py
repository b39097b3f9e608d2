"""Collect from two million DiffusionDB rows: seconds and memory, near-duplicate search included.

    python benchmarks/collect_prompts.py [--rows 2000000] [--sample ../shared/data/prompts/diffusiondb_sample.txt]

Makes a metadata.parquet with DiffusionDB's columns from a sample of its real prompts: a quarter of the rows repeat an
earlier prompt (as there: several images per prompt), the others join the beginning of one prompt with the end of
another or change a few words, so that there are near-duplicates as well as new prompts. Then runs the command, as a
process of its own, and reports its time and its peak memory; and datasketch's MinHashLSH on the first 20,000 texts.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]


def vary(prompts: list[str], chance: random.Random) -> str:
    words = chance.choice(prompts).split()
    if chance.random() < 0.8:
        words = words[: max(1, int(len(words) * chance.random()) + 1)]
        other = chance.choice(prompts).split()
        words += other[int(len(other) * chance.random()) :]
    for _ in range(chance.randrange(3)):
        words[chance.randrange(len(words))] = chance.choice(chance.choice(prompts).split() or ["cat"])
    return " ".join(words)


def make(path: Path, prompts: list[str], rows: int) -> None:
    chance = random.Random(0)
    made: list[str] = []
    flag = pa.float32()
    kinds = {
        "image_name": pa.string(),
        "prompt": pa.string(),
        "seed": pa.int64(),
        "image_nsfw": flag,
        "prompt_nsfw": flag,
    }
    with pq.ParquetWriter(path, pa.schema(kinds)) as writer:
        for start in range(0, rows, 100_000):
            size = min(100_000, rows - start)
            batch = [chance.choice(made) if made and chance.random() < 0.25 else vary(prompts, chance)
                     for _ in range(size)]  # fmt: skip
            made.extend(batch[:20_000])
            flags = [[min(1.0, chance.expovariate(8)) for _ in range(size)] for _ in range(2)]
            names = [f"{n:08x}.png" for n in range(start, start + size)]
            writer.write_table(pa.table({"image_name": names, "prompt": batch,
                                         "seed": [chance.randrange(2**32) for _ in range(size)],
                                         "image_nsfw": pa.array(flags[0], pa.float32()),
                                         "prompt_nsfw": pa.array(flags[1], pa.float32())}))  # fmt: skip


def peer(prompts: list[str], size: int) -> None:
    from datasketch import MinHash, MinHashLSH

    from humanpref.prompts.near import NearDuplicates

    texts = [" ".join(text.lower().split()) for text in prompts[:size]]
    start = time.perf_counter()
    finder = NearDuplicates(0.8)
    finder.add(texts)
    ours = int((finder.find() >= 0).sum())
    took = time.perf_counter() - start
    start = time.perf_counter()
    index, theirs = MinHashLSH(threshold=0.8, num_perm=32, params=(8, 4)), 0
    kept = {}
    for number, text in enumerate(texts):
        words = text.split()
        signature = MinHash(num_perm=32)
        signature.update_batch([w.encode() for w in [*words, *map(" ".join, pairwise(words))]])
        if any(signature.jaccard(kept[other]) >= 0.8 for other in index.query(signature)):
            theirs += 1
        else:
            index.insert(number, signature)
            kept[number] = signature
    other = time.perf_counter() - start
    print(f"{len(texts):,} texts: ours {took:.2f} s, {ours} near-duplicates (checked exactly); "
          f"datasketch MinHashLSH {other:.2f} s, {theirs} (estimated); {other / took:.0f} times as fast")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--sample", type=Path, default=ROOT.parent / "shared/data/prompts/diffusiondb_sample.txt")
    options = parser.parse_args()
    prompts = [line for line in options.sample.read_text(encoding="utf-8").split("\n") if line.strip()]
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / "metadata.parquet", Path(folder) / "prompts.jsonl"
        make(path, prompts, options.rows)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB of Parquet")
        command = [sys.executable, "-m", "humanpref.cli", "prompts", "collect", str(path), "--out", str(out)]
        for more in ([], ["--quota", "diffusiondb=300"]):
            start = time.perf_counter()
            done = subprocess.run([*command, "--format", "json", *more], check=True, capture_output=True, text=True)
            took = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # KiB on Linux
            print(f"{' '.join(more) or 'no quota'}: {took:.0f} s, {peak:.2f} GB at most; {json.loads(done.stdout)}")
    peer([vary(prompts, random.Random(n)) for n in range(20_000)], 20_000)


if __name__ == "__main__":
    main()
