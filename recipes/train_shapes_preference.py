"""python recipes/train_shapes_preference.py --work /tmp/shapes-preference

Trains a small CLIP from scratch on simulated rankings of the shapes world and holds it against the best accuracy that
is reachable there, against `lite`, and against the same training on shuffled labels. Needs
`pip install -e ".[train]"`; no network, no GPU. The truth is known, so this shows that the procedure is
right, not how a scorer does on real pictures.

The part of the world: one object of a named shape and colour, on a background that is named or not (96 scenes, 16
wordings); eight sources draw every caption. Each group of eight pictures is ranked by ten people for its own caption
and for three that differ from it in one word (what a person would say of these pictures, had they been asked for
something else). Captions of 16 scenes are held out: no training caption says the same.

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
from rich.progress import track

from humanpref.metrics import Array
from humanpref.records import Group, ImageRef, Ranking
from humanpref.scorers import load_scorer
from humanpref.shapes.annotators import Annotator, best_accuracy, expected_accuracy, people, simulate_rankings
from humanpref.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES, WORDINGS, Item, Scene, caption
from humanpref.shapes.quality import qualities
from humanpref.shapes.sources import generate
from humanpref.training.config import TrainConfig
from humanpref.training.run import train

SOURCES = ("clean", "blocky", "grainy", "washed-out", "wrong-colours", "wrong-shapes", "coarse", "deaf")
SIZE, HELD_OUT, OTHERS, PEOPLE = 64, 16, 3, 10
ARCH = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


@dataclass(frozen=True)
class Drawn:
    """A group's pictures, the captions they are ranked for (their own first), and their qualities for each."""

    images: tuple[Path, ...]
    captions: tuple[str, ...]
    qualities: tuple[tuple[float, ...], ...]


def scenes() -> tuple[list[Scene], list[Scene]]:
    """All scenes of this part of the world -> (to train on, held out)."""
    found = [
        Scene((Item(shape, colour),), None, background)
        for shape in SHAPES
        for colour in COLOURS
        for background in (None, *BACKGROUNDS)
    ]
    order = np.random.default_rng(7).permutation(len(found))
    return [found[i] for i in order[HELD_OUT:]], [found[i] for i in order[:HELD_OUT]]


def altered(scene: Scene, rng: np.random.Generator, among: set[Scene]) -> list[Scene]:
    """Scenes that differ in one word, and are among these; each another."""
    item = scene.items[0]
    choices = [Scene((replace(item, colour=c),), None, scene.background) for c in COLOURS]
    choices += [Scene((replace(item, shape=s),), None, scene.background) for s in SHAPES]
    choices += [replace(scene, background=b) for b in BACKGROUNDS]
    choices = [c for c in dict.fromkeys(choices) if c != scene and c in among]
    return [choices[i] for i in rng.permutation(len(choices))[:OTHERS]]


def draw_group(number: int, folder: Path, seed: int, held_out: bool) -> Drawn:
    """Draw one group with every source and judge it."""
    trained, tested = scenes()
    own = tested if held_out else trained
    rng = np.random.default_rng([seed, number])
    scene = own[number % len(own)]
    others = [] if held_out else altered(scene, rng, set(own))
    captions = tuple(caption(s, int(rng.integers(WORDINGS))) for s in (scene, *others))
    images, judged = [], []
    for source in SOURCES:
        (image,) = generate(source, [captions[0]], [int(rng.integers(2**31))], SIZE)
        path = folder / f"{'test' if held_out else 'train'}-{seed}-{number}-{source}.png"
        image.save(path)
        images.append(path)
        judged.append([q.total for q in qualities(image, captions)])
    return Drawn(tuple(images), captions, tuple(zip(*judged, strict=True)))


def draw(count: int, work: Path, seed: int, processes: int, *, held_out: bool) -> list[Drawn]:
    """Draw groups, or read those that are there."""
    kept = work / f"{'test' if held_out else 'train'}-{seed}.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    found = [Drawn(tuple(map(Path, i)), tuple(c), tuple(map(tuple, q))) for i, c, q in rows]
    if len(found) < count:
        (work / "images").mkdir(parents=True, exist_ok=True)
        job = partial(draw_group, folder=work / "images", seed=seed, held_out=held_out)
        with ProcessPoolExecutor(processes) as pool:
            new = pool.map(job, range(len(found), count), chunksize=4)
            found += list(track(new, f"drawing {kept.stem}", count - len(found)))
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


def config(work: Path, options: argparse.Namespace) -> TrainConfig:
    arch = work / "arch.json"
    if not arch.exists():
        arch.write_text(json.dumps(ARCH))
    return TrainConfig(
        arch=str(arch), base="", vision_free=-1, text_free=-1, unit="groups", labels="share", steps=options.steps,
        batch=12, learning_rate=2e-3, weight_decay=0.1, warmup=50, seed=options.seed, workers=0, validate_every=0,
        save_every=200, log_every=20, keep=1,
    )  # fmt: skip


def measure(folder: Path | str, groups: list[Group], truth: list[Array], who: list[Annotator]) -> float:
    """Expected accuracy of a scorer against these people, over all pairs."""
    scorer = load_scorer(str(folder)) if folder == "lite" else load_scorer(str(folder), precision="fp32", device="cpu")
    scores = [np.asarray(scorer.score(list(g.images), g.prompt), dtype=np.float64) for g in groups]
    return expected_accuracy(scores, truth, who)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("shapes-preference"))
    parser.add_argument("--groups", type=int, nargs="+", default=[75, 150, 300, 600], help="points of the curve")
    parser.add_argument("--test-groups", type=int, default=64)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    who = people(PEOPLE, seed=options.seed)
    drawn = draw(max(options.groups), options.work, options.seed, options.processes, held_out=False)
    tested = draw(options.test_groups, options.work, options.seed, options.processes, held_out=True)
    test_groups = [Group(d.captions[0], tuple(ImageRef(p) for p in d.images)) for d in tested]
    truth = [np.asarray(d.qualities[0]) for d in tested]
    result: dict[str, object] = {
        "pairs in the test": sum(len(t) * (len(t) - 1) // 2 for t in truth),
        "best reachable": best_accuracy(truth, who),
        "lite": measure("lite", test_groups, truth, who),
    }
    points = []
    for count in options.groups:
        rankings, _ = ranked(drawn[:count], who, options.seed)
        report = train(
            rankings, options.work / f"run-{count}", config(options.work, options), device="cpu", trackers=(), say=print
        )
        pairs = sum(len(d.captions) * len(d.images) * (len(d.images) - 1) // 2 for d in drawn[:count])
        accuracy = measure(report.exported.folder, test_groups, truth, who)
        points.append({"groups": count, "pairs": pairs, "choices": pairs * PEOPLE, "accuracy": accuracy})
        print(points[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    chance, _ = ranked(drawn, who, options.seed)
    report = train(
        shuffled(chance, 1), options.work / "run-shuffled", config(options.work, options), device="cpu", trackers=()
    )
    result["shuffled labels"] = measure(report.exported.folder, test_groups, truth, who)
    result |= {"curve": points, "seconds": time.perf_counter() - began, "steps": options.steps}
    (options.work / "result.json").write_text(json.dumps(result, indent=1))
    plot(result, options.work / "curve.svg")
    print(json.dumps(result, indent=1))


def plot(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    pairs = [p["pairs"] for p in result["curve"]]
    axis.plot(pairs, [100 * p["accuracy"] for p in result["curve"]], marker="o", label="trained from scratch")
    for name, style in (("best reachable", "--"), ("lite", ":"), ("shuffled labels", "-.")):
        axis.axhline(100 * result[name], linestyle=style, linewidth=1, color="0.4")
        axis.annotate(name, (pairs[0], 100 * result[name]), textcoords="offset points", xytext=(0, 3), fontsize=8)
    axis.set_xscale("log")
    axis.set_xlabel("labelled pairs of training pictures")
    axis.set_ylabel("% of held-out pairs")
    axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
