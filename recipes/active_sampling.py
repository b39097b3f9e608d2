"""python recipes/active_sampling.py

How many rankings does it take to know the order of twelve sources, asked in random order or where it tells most?
The shapes world: twelve sources, captions dealt into groups of `--size` of them, simulated people. Writes nothing;
prints a table. `--runs` simulations of each (default 40; some minutes).
"""

from __future__ import annotations

import argparse

import numpy as np

from humanpref.annotate.active import count_wins, group_values, pair_values
from humanpref.annotate.aggregate import bradley_terry
from humanpref.shapes.annotators import TEMPERATURE
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality
from humanpref.shapes.sources import SOURCES, generate

CANDIDATES = 32
POINTS = (50, 100, 200, 300, 400, 600, 800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--captions", type=int, default=150)
    parser.add_argument("--size", type=int, default=4, help="images in a group: 2, 3, 4 or 6")
    options = parser.parse_args()
    texts = captions(options.captions, seed=11)
    drawn = {name: generate(name, texts, range(len(texts))) for name in SOURCES}
    truth = np.array(
        [[quality(image, text).total for image, text in zip(own, texts, strict=True)] for own in drawn.values()]
    )  # (sources, captions)
    strength = truth.mean(axis=1)
    order = np.sign(strength[:, None] - strength[None, :])
    right = {name: np.zeros((options.runs, len(POINTS))) for name in ("random", "active")}
    for run in range(options.runs):
        for name, table in right.items():
            table[run] = simulate(truth, order, np.random.default_rng(run), options.size, active=name == "active")
    print("share of the 66 pairs of sources in the right order, mean over runs (standard error)\n")
    print("| rankings | " + " | ".join(map(str, POINTS)) + " |")
    print("|---" * (len(POINTS) + 1) + "|")
    for name, table in right.items():
        error = table.std(axis=0, ddof=1) / np.sqrt(options.runs)
        cells = [f"{100 * m:.1f} ({100 * e:.1f})" for m, e in zip(table.mean(axis=0), error, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    random, active = (table.mean(axis=0) for table in right.values())
    for k, point in enumerate(POINTS):
        needed = np.interp(random[k], np.maximum.accumulate(active), POINTS)
        print(f"as many right pairs as {point} random rankings: {needed:.0f} active ones ({point / needed:.2f}x)")


def simulate(truth: np.ndarray, order: np.ndarray, rng: np.random.Generator, size: int, *, active: bool) -> list[float]:
    """-> the share of pairs of sources in the right order after each of `POINTS` rankings."""
    n, prompts = truth.shape
    groups = []
    for prompt in range(prompts):
        dealt = rng.permutation(n)
        groups += [(prompt, dealt[k :: n // size]) for k in range(n // size)]
    left = list(rng.permutation(len(groups)).repeat(2)[: 2 * len(groups)])
    rng.shuffle(left)
    wins, values, found = np.zeros((n, n)), None, []
    for asked in range(1, POINTS[-1] + 1):
        pick = 0
        if active:
            if values is None or asked % 5 == 0:  # as often as a busy server would
                values = pair_values(wins)
            near = left[:CANDIDATES]
            pick = int(np.argmax(group_values(values, [groups[g][1] for g in near])))
        prompt, sources = groups[left.pop(pick)]
        felt = truth[sources, prompt] / (TEMPERATURE * 2.0 ** rng.uniform(-1, 1)) + rng.gumbel(size=len(sources))
        count_wins((-felt).argsort().argsort() + 1, sources, wins)
        if asked in POINTS:
            made = bradley_terry(wins)
            upper = np.triu_indices(n, k=1)
            found.append(float((np.sign(made[:, None] - made[None, :]) == order)[upper].mean()))
    return found


if __name__ == "__main__":
    main()
