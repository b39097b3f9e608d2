"""python recipes/shapes_tokens.py [--prompts 80] [--budget 1200] [--every 30] [--out DIR]

Quality tokens in the shapes world, where the truth about a picture is known: which of sixteen raise `lite`, which the
truth, and is `lite` fooled? The pipeline that comes with the package draws (25 steps), on one core 0.3 s a picture.

1. `humanpref improve tokens` by lite, checked by the truth; 2. the same by the truth, checked by lite; 3. every token
on the same --every pictures, with no search: did the searches find what there is to find?
Stop it when you like: the same command goes on. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from humanpref import load_scorer
from humanpref.cache import ScoreCache
from humanpref.generate import Prompt, make_backend
from humanpref.improve.plots import plot_gains
from humanpref.improve.tokens.output import gain_text, warnings
from humanpref.improve.tokens.records import SearchReport
from humanpref.improve.tokens.search import search_tokens
from humanpref.improve.tokens.templates import Template
from humanpref.improve.tokens.vocabulary import place_token
from humanpref.scorers import Scorer
from humanpref.shapes.grammar import captions
from humanpref.terminal import progress

VOCABULARY = (
    place_token("good picture.", "prefix"),
    place_token("bad picture.", "prefix"),
    place_token("good good picture.", "prefix"),
    place_token("picture.", "prefix"),
    place_token("good", "prefix"),
    place_token("masterpiece.", "prefix"),
    place_token("a photo of", "prefix"),
    Template("..., best quality", suffix=", best quality"),
    Template("..., sharp focus", suffix=", sharp focus"),
    Template("... good picture.", suffix=" good picture."),
    Template("... on a black background", suffix=" on a black background"),
    Template("..., red and blue and yellow", suffix=", red and blue and yellow"),
    Template("not bad picture.", negative="bad picture."),
    Template("not good picture.", negative="good picture."),
    Template("not blurry", negative="blurry"),
    Template("not Weird image.", negative="Weird image."),
)
"""What was trained (good and bad picture.), its parts, words that the tokenizer spells letter by letter, content."""


def show(title: str, report: SearchReport) -> None:
    checks = [] if report.check is None else [f"{report.check}, holdout"]
    print(f"\n{title}: {report.spent} images, holdout of {report.schedule.holdout_pairs} pairs\n")
    names = ["tokens", f"{report.scorer}, holdout", *checks, f"{report.scorer}, when chosen", "images", "result"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for one in report.candidates:
        result = one.verdict if one.left_in is None else f"left in round {one.left_in}"
        own = [gain_text(one.check_holdout)] if checks else []
        cells = [
            f"`{one.template.name}`",
            gain_text(one.holdout),
            *own,
            gain_text(one.selection),
            str(one.images),
            result,
        ]
        print("| " + " | ".join(cells) + " |")
    print(*(f"\n{line}" for line in (*warnings(report), *report.notes)), sep="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--budget", type=int, default=1200, help="images of each search")
    parser.add_argument("--every", type=int, default=30, help="pictures of every token, without a search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("shapes-tokens"))
    options = parser.parse_args()
    prompts = [Prompt(text, f"{i:03d}") for i, text in enumerate(captions(200, 777)[: options.prompts])]
    backend = make_backend("diffusers:shapes,batch_size=16")
    lite, truth = load_scorer("lite"), load_scorer("shapes-truth")
    options.out.mkdir(parents=True, exist_ok=True)

    def search(
        name: str, scorer: Scorer, check: Scorer, budget: int, finalists: int, asked: Sequence[Prompt]
    ) -> SearchReport:
        with ScoreCache(options.out / "scores.sqlite") as cache:
            return search_tokens(
                asked, backend, VOCABULARY, scorer, options.out / name, check=check, budget=budget, seeds=2,
                finalists=finalists, seed=options.seed, cache=cache, track=progress,
            )  # fmt: skip

    for name, scorer, check in (("by-lite", lite, truth), ("by-truth", truth, lite)):
        report = search(name, scorer, check, options.budget, 3, prompts)
        plot_gains(report, options.out / f"{name}.png")
        show(f"Chosen by {scorer.spec.name}", report)
    count = len(VOCABULARY)
    report = search("every", truth, lite, (count + 1) * options.every, count, prompts[: options.every])
    plot_gains(report, options.out / "every.png")
    show("Every token, no search", report)


if __name__ == "__main__":
    main()
