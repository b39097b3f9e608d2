"""python recipes/shapes_benchmark.py [--prompts 100] [--plot FILE.png] [--inception-weights FILE]

Ten sources of the shapes world, whose order is known: do simulated people, lite, FID and the Inception Score find it?
FID is against `--prompts` other pictures of the clean renderer. With `--inception-weights` (the official file, see
humanpref.evaluation.inception) these two are computed as well; otherwise they are left out. A minute or two
for 100 prompts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from humanpref import load_scorer
from humanpref.benchmark.people import scatter_plot
from humanpref.evaluation.evaluate import prepare, score_all
from humanpref.evaluation.generator_metrics import judge_generators, set_metrics
from humanpref.evaluation.generators import SetMetric
from humanpref.evaluation.inception import load_inception
from humanpref.evaluation.output import generators_table
from humanpref.records import Group, ImageRef
from humanpref.shapes.annotators import group_qualities, people, simulate_rankings
from humanpref.shapes.grammar import captions
from humanpref.shapes.sources import SOURCES, generate

LEFT_OUT = ("soft", "washed-out")
"""Ten are left: sources as good as others of the table."""


def draw(names: Sequence[str], texts: Sequence[str], folder: Path, size: int, seed: int) -> list[Group]:
    """Draw every caption by every source -> a group per caption."""
    paths: dict[str, list[Path]] = {}
    for name in names:
        seeds = range(seed, seed + len(texts))
        for i, picture in enumerate(generate(name, texts, seeds, size)):
            path = folder / f"{name}-{seed}-{i:05d}.png"
            picture.save(path)
            paths.setdefault(name, []).append(path)
    return [
        Group(text, tuple(ImageRef(paths[name][i], name) for name in names), str(i)) for i, text in enumerate(texts)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--inception-weights", type=Path)
    options = parser.parse_args()
    names = [name for name in SOURCES if name not in LEFT_OUT]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        groups = draw(names, captions(options.prompts, seed=1), folder, options.size, seed=0)
        known = dict(zip(names, np.mean([group_qualities(group) for group in groups], axis=0), strict=True))
        test_set = prepare(simulate_rankings(groups, people(options.people)), data="shapes")
        scores = score_all([test_set], [load_scorer("lite")])
        metrics = [SetMetric("known quality", {n: float(q) for n, q in known.items()}, higher_is_better=True)]
        if options.inception_weights is not None:
            others = draw(["clean"], captions(2 * options.prompts, seed=2), folder, options.size, seed=10_000)
            reference = [group.images[0].path for group in others]
            inception = load_inception(options.inception_weights)
            found, notes = set_metrics(test_set, inception, reference=reference, with_inception_score=True)
            metrics += found
            print(*notes, sep="\n")
        report = judge_generators(test_set, [row[0] for row in scores], metrics)
        print(generators_table([("shapes", report)]))
        if options.plot is not None:
            scatter_plot(report, options.plot)


if __name__ == "__main__":
    main()
