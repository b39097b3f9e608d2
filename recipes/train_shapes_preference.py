"""python recipes/train_shapes_preference.py --work /tmp/shapes-preference

Trains a small CLIP from scratch on simulated rankings of the shapes world and holds it against the best accuracy that
is reachable there, against `lite`, and against the same training on shuffled labels. Needs
`pip install -e ".[train]"`; no network, no GPU. The truth is known, so this shows that the procedure is
right, not how a scorer does on real pictures.

The part of the world: one large object of a named shape and colour in the flat style, on a background that is named
or not (96 scenes, up to eight wordings each); seven sources draw every caption. Each group of seven pictures is
ranked by ten people, all alike in care, for its own caption and for ten that differ from it in one word (what a
person would say of these pictures, had they been asked for something else). Pictures are judged at 64 pixels and kept
at 32. Two tests, on pictures of their own: captions that no training caption equals (their scenes may be said
otherwise there), and eight scenes that no training caption names, however worded.

Stages, each kept in --work: `images/` and `qualities.json` (drawing and judging, on --processes), a run per point of
the curve, `result.json`, `curve.svg`. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from humanpref.metrics import Array
from humanpref.records import Group, ImageRef, Ranking
from humanpref.scorers import load_scorer
from humanpref.shapes.annotators import Annotator, best_accuracy, expected_accuracy, simulate_rankings
from humanpref.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES, WORDINGS, Item, Scene, caption
from humanpref.shapes.quality import qualities
from humanpref.shapes.sources import generate
from humanpref.terminal import progress
from humanpref.training.config import TrainConfig
from humanpref.training.run import train

SOURCES = ("clean", "grainy", "washed-out", "wrong-colours", "wrong-shapes", "coarse", "deaf")
SIZE, KEPT, HELD_SCENES, HELD_SHARE, OTHERS, PEOPLE = 64, 32, 8, 0.2, 10, 10
TESTS = ("captions", "scenes")
ARCH = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1},
}


@dataclass(frozen=True)
class Drawn:
    """A group's pictures, the captions they are ranked for (their own first), and their qualities for each."""

    images: tuple[Path, ...]
    captions: tuple[str, ...]
    qualities: tuple[tuple[float, ...], ...]


def said() -> dict[str, list[tuple[Scene, str]]]:
    """All captions of this part of the world with their scenes -> {"train", "captions", "scenes"}."""
    found = [
        Scene((Item(shape, colour, "large"),), None, background, "flat")
        for shape in SHAPES
        for colour in COLOURS
        for background in (None, *BACKGROUNDS)
    ]
    rng = np.random.default_rng(7)
    order = rng.permutation(len(found))
    parts: dict[str, list[tuple[Scene, str]]] = {"train": [], "captions": [], "scenes": []}
    for place, i in enumerate(order):
        for text in dict.fromkeys(caption(found[i], wording) for wording in range(WORDINGS)):
            held = "captions" if rng.random() < HELD_SHARE else "train"
            parts["scenes" if place < HELD_SCENES else held].append((found[i], text))
    return {name: [own[i] for i in rng.permutation(len(own))] for name, own in parts.items()}


def one_word_off(scene: Scene, other: Scene) -> bool:
    """Do two scenes differ in exactly one of shape, colour and background?"""
    a, b = scene.items[0], other.items[0]
    return (a.shape != b.shape) + (a.colour != b.colour) + (scene.background != other.background) == 1


def draw_group(number: int, folder: Path, seed: int, part: str) -> Drawn:
    """Draw one group with every source and judge it."""
    parts = said()
    rng = np.random.default_rng([seed, number, len(part)])
    scene, text = parts[part][number % len(parts[part])]
    others = [other for around, other in parts["train"] if part == "train" and one_word_off(scene, around)]
    captions = (text, *(others[i] for i in rng.permutation(len(others))[:OTHERS]))
    images, judged = [], []
    for source in SOURCES:
        (image,) = generate(source, [text], [int(rng.integers(2**31))], SIZE)
        path = folder / f"{part}-{seed}-{number}-{source}.png"
        image.resize((KEPT, KEPT), Image.Resampling.BOX).save(path)
        images.append(path)
        judged.append([q.total for q in qualities(image, captions)])
    return Drawn(tuple(images), captions, tuple(zip(*judged, strict=True)))


def draw(count: int, work: Path, seed: int, processes: int, part: str) -> list[Drawn]:
    """Draw groups, or read those that are there."""
    kept = work / f"{part}-{seed}.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    found = [Drawn(tuple(map(Path, i)), tuple(c), tuple(map(tuple, q))) for i, c, q in rows]
    if len(found) < count:
        (work / "images").mkdir(parents=True, exist_ok=True)
        job = partial(draw_group, folder=work / "images", seed=seed, part=part)
        with ProcessPoolExecutor(processes) as pool:
            new = pool.map(job, range(len(found), count), chunksize=4)
            found += list(track(new, f"drawing {part}", count - len(found)))
        kept.write_text(json.dumps([(list(map(str, d.images)), d.captions, d.qualities) for d in found]))
    return found[:count]


def ranked(drawn: list[Drawn], who: list[Annotator], seed: int) -> tuple[list[Ranking], list[Array]]:
    """Everybody ranks every group for each of its captions -> (rankings, the qualities of each (group, caption))."""
    groups, truth = [], []
    for d in drawn:
        for text, own in zip(d.captions, d.qualities, strict=True):
            groups.append(Group(text, tuple(ImageRef(path) for path in d.images)))
            truth.append(np.asarray(own))
    return simulate_rankings(groups, who, seed=seed, qualities=truth), truth


def shuffled(rankings: list[Ranking], seed: int) -> list[Ranking]:
    """The same rankings with their ranks in random order."""
    rng = np.random.default_rng(seed)
    return [replace(r, ranks=tuple(int(x) for x in rng.permutation(r.ranks))) for r in rankings]


def config(work: Path, options: argparse.Namespace, count: int) -> TrainConfig:
    """The largest point takes --steps; the others as many passes over their data, but at least 400 steps."""
    steps = max(min(400, options.steps), options.steps * count // max(options.groups))
    arch = work / "arch.json"
    if not arch.exists():
        arch.write_text(json.dumps(ARCH))
    return TrainConfig(
        arch=str(arch), base="", logit_scale=20.0, vision_free=-1, text_free=-1, unit="groups", labels="share",
        steps=steps, batch=8, learning_rate=2e-3, weight_decay=0.1, warmup=50, seed=options.seed, workers=0,
        validate_every=0, save_every=200, log_every=20, keep=1,
    )  # fmt: skip


@dataclass(frozen=True)
class Test:
    """Held-out groups, the qualities of their pictures, and the people who judge them."""

    groups: list[Group]
    truth: list[Array]
    who: list[Annotator]

    @property
    def best(self) -> float:
        """What the best scorer would reach."""
        return best_accuracy(self.truth, self.who)

    def accuracy(self, model: Path | str) -> float:
        """Expected accuracy of a scorer against these people, over all pairs."""
        scorer = load_scorer("lite") if model == "lite" else load_scorer(str(model), precision="fp32", device="cpu")
        scores = [np.asarray(scorer.score(list(g.images), g.prompt), dtype=np.float64) for g in self.groups]
        return expected_accuracy(scores, self.truth, self.who)


def run(options: argparse.Namespace) -> dict:
    began = time.perf_counter()
    options.work.mkdir(parents=True, exist_ok=True)
    who = [Annotator(f"person-{i}") for i in range(PEOPLE)]
    drawn = draw(max(options.groups), options.work, options.seed, options.processes, "train")
    tests = {}
    for part in TESTS:
        own = draw(options.test_groups, options.work, options.seed, options.processes, part)
        groups = [Group(d.captions[0], tuple(ImageRef(p) for p in d.images)) for d in own]
        tests[part] = Test(groups, [np.asarray(d.qualities[0]) for d in own], who)
    drawing = time.perf_counter() - began
    result: dict = {
        "best": {part: test.best for part, test in tests.items()},
        "lite": {part: test.accuracy("lite") for part, test in tests.items()},
        "curve": [], "steps": options.steps, "seconds": {"drawing": drawing},
    }  # fmt: skip
    jobs = [(f"{count}", count, False) for count in sorted(options.groups, reverse=True)]
    for name, count, mixed in [jobs[0], ("shuffled", min(count for _, count, _ in jobs), True), *jobs[1:]]:
        started = time.perf_counter()
        rankings, _ = ranked(drawn[:count], who, options.seed)
        report = train(
            shuffled(rankings, 1) if mixed else rankings,
            options.work / f"run-{name}",
            config(options.work, options, count),
            device="cpu",
            trackers=(),
            track=progress,
        )
        found = {part: test.accuracy(report.exported.folder) for part, test in tests.items()}
        result["seconds"][name] = time.perf_counter() - started
        if mixed:
            result["shuffled"] = found
        else:
            pictures = count * len(SOURCES)
            result["curve"].insert(0, {"groups": count, "pictures": pictures, "pairs": report.counts.pairs, **found})
        (options.work / "result.json").write_text(json.dumps(result, indent=1))
        print(name, found, f"{result['seconds'][name]:.0f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("shapes-preference"))
    parser.add_argument("--groups", type=int, nargs="+", default=[75, 300, 1200], help="points of the curve")
    parser.add_argument("--test-groups", type=int, default=60)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = run(options)
    plot(result, options.work / "curve.svg")
    print(json.dumps(result, indent=1))


def plot(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    pairs = [p["pairs"] for p in result["curve"]]
    for part, label in (("captions", "captions held out"), ("scenes", "scenes held out")):
        axis.plot(pairs, [100 * p[part] for p in result["curve"]], marker="o", label=label)
    for name, text, style in (("best", "best reachable", "--"), ("lite", "lite", ":"), ("shuffled", "shuffled", "-.")):
        value = 100 * result[name]["captions"]
        axis.axhline(value, linestyle=style, linewidth=1, color="0.4")
        axis.annotate(text, (pairs[0], value), textcoords="offset points", xytext=(0, 3), fontsize=8)
    axis.set_xscale("log")
    axis.set_xlabel("labelled pairs in training")
    axis.set_ylabel("% of held-out pairs")
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
