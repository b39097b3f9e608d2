"""python recipes/shapes_finetune.py --work /tmp/shapes-finetune

Fine-tunes the diffusion model of the shapes world in several ways and holds each against the known truth, which no
training sees. Needs `pip install -e ".[generate,train]"`; no network, no GPU; about half an hour on one core.

Stages, each kept in --work; a run that is stopped goes on where it was:

    pictures   four pictures of each of --captions captions, by the model itself: as they are (two), after "good
               picture." and after "bad picture."; simulated people rank them: `rankings.jsonl`
    scorer     a small CLIP learns from these rankings (each group also ranked for captions that say something else):
               the reward, as it is in life: learned from people, right more often than not
    runs       draft and refl climb that reward, hard or gently with a regulariser; dpo learns from the people's
               rankings, and once from the order that `lite`, which reads no prompt, gives the same pictures. All keep
               the step that is best by the truth on validation captions; that of the last step is measured, too
    measure    captions that neither training nor validation has: the truth and the reward before and after, with
               paired intervals: `result.json`, `result.md`
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from train_shapes_preference import ARCH

from humanpref.data.formats import write_rankings
from humanpref.errors import DataError
from humanpref.generate import make_backend
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.run import finetune
from humanpref.improve.finetune.validation import draw, gain
from humanpref.prompts.records import Prompt
from humanpref.records import Group, ImageRef, Ranking
from humanpref.scorers import Scorer, load_scorer
from humanpref.shapes.annotators import Annotator, best_accuracy, expected_accuracy, simulate_rankings
from humanpref.shapes.grammar import (
    BACKGROUNDS,
    COLOURS,
    QUALITY_WORDS,
    SHAPES,
    WORDINGS,
    caption,
    captions,
    parse,
)
from humanpref.shapes.quality import qualities
from humanpref.terminal import progress
from humanpref.training.config import TrainConfig
from humanpref.training.run import train

GOOD, BAD = QUALITY_WORDS
PREFIXES = ("", "", f"{GOOD} ", f"{BAD} ")
PEOPLE, OTHERS, TEST = 10, 6, 60
BACKEND = "diffusers:shapes,steps=10,batch_size=16"
REWARDED = {"batch": 8, "steps": 60, "learning_rate": 1e-3, "validate_every": 20}
PAIRED = {"algorithm": "dpo", "batch": 16, "steps": 80, "learning_rate": 5e-4, "validate_every": 20}
GENTLY = {"kl": 300.0, **REWARDED, "learning_rate": 3e-4, "steps": 30, "validate_every": 10}
RUNS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "draft": ("scorer", {"algorithm": "draft", **REWARDED}),
    "draft-kl": ("scorer", {"algorithm": "draft", **REWARDED, "kl": 100.0, "steps": 30, "validate_every": 10}),
    "draft-gently": ("scorer", {"algorithm": "draft", **GENTLY}),
    "refl-gently": ("scorer", {"algorithm": "refl", **GENTLY}),
    "dpo": ("people", PAIRED),
    "dpo-lite": ("lite", PAIRED),
}
"""What each run learns from, and how."""


def backend(**options: object) -> DiffusersBackend:
    made = make_backend(BACKEND, {"device": "cpu", **options})
    assert isinstance(made, DiffusersBackend)
    return made


def other_captions(text: str, rng: np.random.Generator) -> list[str]:
    """Captions that say something else of the first kind of object, or of the background."""
    scene, found = parse(text), dict[str, None]()
    first, *rest = scene.items
    while len(found) < OTHERS:
        changes = (
            {"items": (replace(first, colour=str(rng.choice(list(COLOURS)))), *rest)},
            {"items": (replace(first, shape=str(rng.choice(SHAPES))), *rest)},
            {"background": str(rng.choice(list(BACKGROUNDS)))},
        )
        try:
            other = replace(scene, **changes[int(rng.integers(len(changes)))])
        except DataError:  # the other kind of object may be just that
            continue
        if other != scene:
            found[caption(other, int(rng.integers(WORDINGS)))] = None
    return list(found)


@dataclass(frozen=True)
class Ranked:
    """Pictures of one caption, the captions they are judged for (their own first), and their qualities for each."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    qualities: tuple[tuple[float, ...], ...]


def pictures(options: argparse.Namespace) -> list[Ranked]:
    """Draw and judge, or read what is there."""
    kept = options.work / "pictures.json"
    if kept.exists():
        return [Ranked(tuple(i), tuple(c), tuple(map(tuple, q))) for i, c, q in json.loads(kept.read_text())]
    folder = options.work / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    made, found, rng = backend(), [], np.random.default_rng(options.seed)
    texts = captions(options.captions, options.seed)
    for start in track(range(0, len(texts), 8), "drawing pictures"):
        part = texts[start : start + 8]
        prompts = [
            Prompt(f"{before}{text}", f"{start + i}-{k}")
            for i, text in enumerate(part)
            for k, before in enumerate(PREFIXES)
        ]
        drawn = draw(made, prompts, options.seed)
        for i, text in enumerate(part):
            own = drawn[i * len(PREFIXES) : (i + 1) * len(PREFIXES)]
            paths = [folder / f"{start + i:05d}-{k}.png" for k in range(len(own))]
            for path, image in zip(paths, own, strict=True):
                image.save(path)
            judged = (text, *other_captions(text, rng))
            truth = zip(*[[q.total for q in qualities(image, judged)] for image in own], strict=True)
            found.append(Ranked(tuple(map(str, paths)), judged, tuple(truth)))
    kept.write_text(json.dumps([(r.images, r.captions, r.qualities) for r in found]))
    return found


def rank(found: Sequence[Ranked], seed: int, *, own_only: bool) -> list[Ranking]:
    """Everybody ranks every group, for its own caption or for all of them."""
    who = [Annotator(f"person-{i}") for i in range(PEOPLE)]
    groups, truth = [], []
    for one in found:
        for text, values in list(zip(one.captions, one.qualities, strict=True))[: 1 if own_only else None]:
            groups.append(Group(text, tuple(ImageRef(Path(path)) for path in one.images)))
            truth.append(np.asarray(values))
    return simulate_rankings(groups, who, seed=seed, qualities=truth)


def rank_by(scorer: Scorer, found: Sequence[Ranked]) -> list[Ranking]:
    """A scorer's order of the same pictures, one ranking a group."""
    rankings = []
    for one in found:
        scores = scorer.score(list(one.images), one.captions[0]).numpy()
        ranks = tuple(int(x) + 1 for x in np.argsort(np.argsort(-scores)))
        rankings.append(Ranking(one.captions[0], tuple(ImageRef(Path(p)) for p in one.images), ranks, scorer.spec.name))
    return rankings


def learn_reward(found: Sequence[Ranked], options: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """Train the reward on nine tenths of the groups -> where it is, and how well it does on the last tenth."""
    cut = len(found) * 9 // 10
    arch = options.work / "arch.json"
    arch.write_text(json.dumps(ARCH))
    config = TrainConfig(
        arch=str(arch), base="", logit_scale=20.0, vision_free=-1, text_free=-1, unit="groups", labels="share",
        steps=options.scorer_steps, batch=8, learning_rate=2e-3, weight_decay=0.1, warmup=50, seed=options.seed,
        workers=0, validate_every=0, save_every=200, log_every=20, keep=1,
    )  # fmt: skip
    rankings = rank(found[:cut], options.seed, own_only=False)
    report = train(rankings, options.work / "scorer", config, device="cpu", trackers=(), track=progress)
    assert report.exported is not None
    folder, who = report.exported.folder, [Annotator(f"person-{i}") for i in range(PEOPLE)]
    truth = [np.asarray(one.qualities[0]) for one in found[cut:]]
    accuracy = {"best reachable": best_accuracy(truth, who)}
    for name, scorer in (("scorer", load_scorer(str(folder), device="cpu")), ("lite", load_scorer("lite"))):
        scores = [scorer.score(list(one.images), one.captions[0]).double().numpy() for one in found[cut:]]
        accuracy[name] = expected_accuracy(scores, truth, who)
    return folder, accuracy


def measure(lora: Path | None, prompts: Sequence[Prompt], scorers: Sequence[Scorer]) -> dict[str, list[float]]:
    """What each scorer says of the test captions' pictures, with a LoRA or without."""
    methods = make_methods("none" if lora is None else f"lora:{lora}")
    made = apply_methods(methods, backend())
    assert isinstance(made, DiffusersBackend)
    images = draw(made, prompts, 99)
    return {s.spec.name: s.score(images, [p.text for p in prompts]).tolist() for s in scorers}


def run(options: argparse.Namespace) -> dict:
    options.work.mkdir(parents=True, exist_ok=True)
    found = pictures(options)
    write_rankings(rank(found, options.seed, own_only=True), options.work / "rankings.jsonl")
    folder, accuracy = learn_reward(found, options)
    print(accuracy, flush=True)
    scorer, lite = load_scorer(str(folder), device="cpu"), load_scorer("lite")
    trained = {one.captions[0] for one in found}
    held = [Prompt(t, t) for t in captions(TEST + 60, options.seed + 1) if t not in trained]
    val, test = held[:32], held[32 : 32 + TEST]
    judges = (load_scorer("shapes-truth"), scorer, lite)
    before = measure(None, test, judges)
    result: dict = {"accuracy": accuracy, "test captions": len(test), "runs": {}}
    data = {
        "scorer": [Prompt(one.captions[0], one.captions[0]) for one in found],
        "people": rank(found, options.seed, own_only=True),
        "lite": rank_by(lite, found),
    }
    for name in options.runs:
        source, given = RUNS[name]
        began = time.perf_counter()
        out = options.work / name
        report = finetune(
            data[source],
            out,
            FinetuneConfig(**given, seed=options.seed),  # type: ignore[arg-type]
            backend=backend(),
            scorer=lite if source == "lite" else scorer,
            check_scorer=load_scorer("shapes-truth"),
            val=val,
            trackers=(),
            track=progress,
            say=print,
        )
        row = {"best step": report.state.best_step, "steps": report.state.step, "seconds": time.perf_counter() - began}
        for which, lora in (("best", report.lora), ("last", report.lora_last)):
            after = measure(lora, test, judges)
            row[which] = {key: asdict(gain(before[key], after[key])) for key in before}
        result["runs"][name] = row
        print(name, json.dumps(row), flush=True)
        (options.work / "result.json").write_text(json.dumps(result, indent=1))
    (options.work / "result.md").write_text(table(result, scorer.spec.name))
    return result


def table(result: dict, scorer: str) -> str:
    """The result as a Markdown table: gains on test captions, with paired 95 % intervals."""
    names = ("shapes-truth", scorer, "lite")
    text = f"| run | step | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}\n"
    for name, row in result["runs"].items():
        for which, step in (("best", row["best step"]), ("last", row["steps"])):
            cells = []
            for key in names:
                found = row[which][key]
                low, high = found["ci"]
                cells.append(f"{found['baseline']:.3f} to {found['mean']:.3f} [{low:+.3f}, {high:+.3f}]")
            text += f"| {name} | {which}, {step} | {' | '.join(cells)} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("shapes-finetune"))
    parser.add_argument("--captions", type=int, default=240)
    parser.add_argument("--scorer-steps", type=int, default=700)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(table(run(options), "scorer"))


if __name__ == "__main__":
    main()
