"""python benchmarks/read_train_json.py [--pairs 645090] [--format hpdv2-train]

How long and how much memory does it take to stream a train.json as large as HPD v2's? Makes one (groups of 4 images,
6 pairs each, in a temporary folder) and reads it in a process of its own, once streaming and once as a list.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from humanpref.data.formats import write_rankings
from humanpref.records import ImageRef, Ranking

READ = """
import resource, sys, time
from humanpref.data.formats import iter_rankings, read_rankings
start = time.perf_counter()
count = len(read_rankings(sys.argv[1])) if sys.argv[2] == "list" else sum(1 for _ in iter_rankings(sys.argv[1]))
seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{sys.argv[2]:9} {count} pairs  {seconds:5.1f} s  peak {peak:.0f} MiB")
"""


def make(pairs: int, folder: Path) -> Iterator[Ranking]:
    rng = random.Random(0)
    words = [
        "a",
        "cat",
        "with",
        "two",
        "horns",
        "on",
        "the",
        "beach",
        "near",
        "an",
        "old",
        "lighthouse",
        "under",
        "stormy",
        "sky",
        "painted",
        "in",
        "oil",
    ]
    for group in range(-(-pairs // 6)):
        prompt = " ".join(rng.choices(words, k=19))
        images = [ImageRef(folder / f"{4 * group + i:08d}.jpg") for i in range(4)]
        for first, second in list(combinations(images, 2))[: pairs - 6 * group]:
            yield Ranking.of_pair(prompt, first, second, float(rng.random() < 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=645_090)
    parser.add_argument("--format", default="hpdv2-train")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "train.json"
        write_rankings(make(args.pairs, Path(name)), path, args.format)
        print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, {args.pairs} pairs, {args.format}")
        for how in ("streaming", "list"):
            subprocess.run([sys.executable, "-c", READ, path, how], check=True)


if __name__ == "__main__":
    main()
