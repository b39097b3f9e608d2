"""The pipeline in small, offline: prompts -> cleaned -> images by four sources -> ranked by simulated people, scored ->
a benchmark of the sources -> better images by one of them.

All in the shapes world, where the truth is known; each step is the one that `humanpref prompts`, `generate`, `annotate`
and `evaluate` take, and leaves the files that they would. Where the `annotate` extra is installed, the people use the
real pages of a real server; otherwise they are asked directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from humanpref.data.formats import read_rankings, write_rankings
from humanpref.errors import DataError
from humanpref.evaluation.evaluate import evaluate_scorers
from humanpref.files import whole
from humanpref.generate import generate, make_backend, read_groups, read_prompts
from humanpref.progress import Track, no_track
from humanpref.prompts.clean import clean_file
from humanpref.prompts.files import write_prompts
from humanpref.prompts.records import Prompt
from humanpref.prompts.rules import RuleCleaner
from humanpref.records import EvalReport, Group, Ranking
from humanpref.scorers import Scorer
from humanpref.shapes.annotators import group_qualities, people, simulate_rankings
from humanpref.shapes.grammar import captions

if TYPE_CHECKING:
    from humanpref.annotate.store import Store
    from humanpref.improve.compare.compare import CompareReport

SOURCES = ("clean", "miscounting", "wrong-colours", "coarse")
PEOPLE = 5
DATABASE = "annotate.db"
YOU = "you"
"""Whose link is printed."""
SIZE = 128
IMPROVED = 12
"""How many prompts the best image is chosen for."""
CANDIDATES = 4
BOOSTERS = (
    ", highly detailed, trending on artstation, 8 k",
    ", octane render, sharp focus, by greg rutkowski and alphonse mucha",
    ", intricate, cinematic lighting, unreal engine 5, hd",
)
"""What people append to prompts, and cleaning takes away."""


@dataclass(frozen=True)
class DemoImage:
    """One picture: who made it, what the scorer and the simulated people make of it, and the known truth."""

    path: Path
    source: str
    score: float
    mean_rank: float
    truth: float


@dataclass(frozen=True)
class DemoPrompt:
    """One prompt as it was typed and as it was cleaned, with its pictures in the order people like them."""

    typed: str
    cleaned: str
    images: tuple[DemoImage, ...]


def run_pipeline(
    out: Path,
    scorer: Scorer,
    *,
    sources: Sequence[str] = SOURCES,
    prompts: int = 6,
    seed: int = 0,
    track: Track = no_track,
) -> tuple[tuple[DemoPrompt, ...], EvalReport, str | None]:
    """Go the whole way in the folder `out` -> every prompt with its pictures, how the scorer agrees with people, and
    the token of a link to rank the pictures oneself (None without the `annotate` extra).

    Writes prompts.jsonl, cleaned.jsonl, review.html, images/ (with its manifest and groups), images/rankings.jsonl and
    annotate.db; what generation has made and people have ranked is kept, and a project that no longer fits is renamed.
    Raises `DataError`, `GenerateError` and the like.
    """
    out.mkdir(parents=True, exist_ok=True)
    typed = [
        Prompt(text + BOOSTERS[i % len(BOOSTERS)], f"shapes-{i}", "shapes")
        for i, text in enumerate(captions(prompts, seed))
    ]
    write_prompts(typed, out / "prompts.jsonl")
    clean_file(out / "prompts.jsonl", out / "cleaned.jsonl", RuleCleaner(languages=()), review=out / "review.html")
    cleaned, _ = read_prompts(out / "cleaned.jsonl")
    backends = [make_backend(f"shapes:{source}", {"size": str(SIZE)}) for source in sources]
    generate(cleaned, backends, out / "images", seed=seed, track=track)
    wanted = {prompt.id: prompt for prompt in cleaned}
    as_typed = {prompt.id: prompt.text for prompt in typed}
    groups = [group for group in read_groups(out / "images") if group.id in wanted]
    rankings, link = _ask_people(groups, out, seed, track)
    report = evaluate_scorers(rankings, [scorer], data=str(out / "images" / "rankings.jsonl"), seed=seed)
    found = []
    for group in groups:
        own = np.asarray([ranking.ranks for ranking in rankings if ranking.id == group.id])
        truths = group_qualities(group)
        scores = scorer.score(list(group.images), group.prompt).tolist()
        images = [
            DemoImage(image.path, str(image.source), float(score), float(rank), float(truth))
            for image, score, rank, truth in zip(group.images, scores, own.mean(axis=0), truths, strict=True)
        ]
        images.sort(key=lambda image: image.mean_rank)
        found.append(DemoPrompt(as_typed[str(group.id)], group.prompt, tuple(images)))
    return tuple(found), report, link


def write_benchmark(out: Path, scorer: Scorer) -> Path | None:
    """Compare the sources by the demo's images, as `humanpref benchmark run` and `report` do -> the site's page.

    Results are put in benchmark/, the site in report/, below `out`. None without the `report` extra (jinja2).
    """
    from humanpref.benchmark.collect import collect
    from humanpref.benchmark.leaderboard import leaderboards
    from humanpref.benchmark.run import run_benchmark
    from humanpref.benchmark.site import write_site
    from humanpref.benchmark.suites import ALL, Suite, SuitePrompt
    from humanpref.cache import ScoreCache

    if find_spec("jinja2") is None:
        return None
    groups = list(read_groups(out / "images"))  # of earlier demos too
    prompts = [SuitePrompt(ALL, place, group.prompt, str(group.id)) for place, group in enumerate(groups)]
    suite = Suite("demo", tuple(prompts))
    with ScoreCache(out / "benchmark" / ".scores.sqlite") as cache:
        run = run_benchmark(collect(out / "images", suite), suite, [scorer], out / "benchmark", cache=cache)
    boards = leaderboards(run.results, allow_incomplete=True)
    return write_site(boards, out / "report", title="A benchmark in the shapes world", workers=1).index


def improve_images(
    out: Path, scorer: Scorer, *, seed: int = 0, track: Track = no_track
) -> tuple[CompareReport, Path | None]:
    """Let a scorer choose among four images of each prompt, judged by it and by the known truth, as `humanpref improve
    compare` does, in improve/ below `out` -> the comparison, and its page (None without the `report` extra)."""
    from humanpref.cache import ScoreCache
    from humanpref.improve.best_of.method import BestOf
    from humanpref.improve.compare.compare import compare_methods
    from humanpref.improve.compare.output import write_report
    from humanpref.improve.compare.page import write_page as write_comparison
    from humanpref.scorers import load_scorer

    prompts = [Prompt(text, f"improve-{i}", "shapes") for i, text in enumerate(captions(IMPROVED, seed + 1))]
    backend = make_backend(f"shapes:{SOURCES[-1]}", {"size": str(SIZE)})
    method = (f"best-of-{CANDIDATES}", [BestOf(CANDIDATES, scorer=scorer)])
    judges = [scorer, load_scorer("shapes-truth")]
    (out / "improve").mkdir(parents=True, exist_ok=True)
    with ScoreCache(out / "improve" / ".scores.sqlite") as cache:
        report = compare_methods(
            prompts, backend, [method], judges, out / "improve", cache=cache, seed=seed, track=track
        )
    write_report(report)
    with_page = all(find_spec(name) is not None for name in ("jinja2", "matplotlib"))
    return report, write_comparison(report) if with_page else None


def _ask_people(groups: Sequence[Group], out: Path, seed: int, track: Track) -> tuple[list[Ranking], str | None]:
    """Let simulated people rank the groups -> their rankings, which are written too, and a link's token for a user."""
    file = out / "images" / "rankings.jsonl"
    if any(find_spec(name) is None for name in ("sqlalchemy", "alembic", "fastapi", "limits", "itsdangerous")):
        rankings = simulate_rankings(groups, people(PEOPLE, seed), seed=seed)
        write_rankings(rankings, file)
        return rankings, None
    from humanpref.annotate.export import export

    store, you = _ranked(groups, out, seed, track)
    simulated = [person for person in store.annotators() if person.number != you]
    numbers = {person.number for person in simulated}
    judgements = [judgement for judgement in store.judgements() if judgement.annotator in numbers]
    export(judgements, store.groups(), simulated, file, image_folder=store.image_root)
    link = store.renew(you)
    store.close()
    return read_rankings(file), link


def _ranked(groups: Sequence[Group], out: Path, seed: int, track: Track) -> tuple[Store, int]:
    """Let simulated people rank the groups in a project, or take that of the last demo, where a reader's own rankings
    may be -> the project and the reader's number."""
    from humanpref.annotate.project import prepare_groups
    from humanpref.annotate.records import ProjectConfig
    from humanpref.annotate.simulate import crowd, let_rank, local_server
    from humanpref.annotate.store import Store

    found = prepare_groups(groups, out / "images", practice=False)
    config = ProjectConfig(
        rankings_per_group=PEOPLE + 1, gold_share=0.0, repeat_share=0.0, minimum_seconds=0.0, seed=seed
    )
    database = out / DATABASE
    if database.exists():
        store = Store(str(database))
        you = [person.number for person in store.annotators() if person.name == YOU]
        if you and store.config == config and store.groups() == {group.key: group for group in found}:
            return store, you[0]
        store.close()
        kept = _free_name(database)
        for suffix in ("", "-wal", "-shm"):
            if (file := database.with_name(database.name + suffix)).exists():
                file.rename(kept.with_name(kept.name + suffix))
    store, _ = Store.create(str(database), config, out / "images", found)
    crowd_ = crowd(PEOPLE, seed=seed)
    tokens = [store.invite(person.name)[1] for person in crowd_]
    with local_server(store) as url, track("Ranking", PEOPLE * len(found)) as advance:
        let_rank(url, tokens, crowd_, seed=seed, on_answer=advance)
    return store, store.invite(YOU)[0].number


def _free_name(path: Path) -> Path:
    return next(free for n in count(1) if not (free := path.with_name(f"{path.stem}-{n}{path.suffix}")).exists())


def write_page(prompts: Sequence[DemoPrompt], report: EvalReport, path: Path) -> None:
    """Write the page of pictures; it names them relative to its own folder. Raises `DataError`."""
    result = report.scorers[0]
    rows = "\n".join(_section(prompt, path.parent) for prompt in prompts)
    page = _PAGE.format(
        style=_STYLE,
        prompts=len(prompts),
        people=PEOPLE,
        sources=len({image.source for prompt in prompts for image in prompt.images}),
        model=escape(result.model),
        accuracy=f"{100 * result['pair_accuracy'].value:.0f}",
        summary=_summary(prompts),
        rows=rows,
    )
    try:
        with whole(path) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def _summary(prompts: Sequence[DemoPrompt]) -> str:
    images = [image for prompt in prompts for image in prompt.images]
    lines = []
    for source in dict.fromkeys(image.source for image in sorted(images, key=lambda image: image.mean_rank)):
        own = [image for image in images if image.source == source]
        ranks, truths, scores = (
            float(np.mean([getattr(image, name) for image in own])) for name in ("mean_rank", "truth", "score")
        )
        lines.append((ranks, f"<tr><th scope=row>{escape(source)}<td>{ranks:.2f}<td>{truths:.2f}<td>{scores:.2f}"))
    return "\n".join(line for _, line in sorted(lines))


def _section(prompt: DemoPrompt, folder: Path) -> str:
    kept = escape(prompt.cleaned)
    tail = escape(prompt.typed.removeprefix(prompt.cleaned)) if prompt.typed.startswith(prompt.cleaned) else ""
    figures = "\n".join(
        f'<figure><img src="{escape(image.path.relative_to(folder).as_posix(), quote=True)}" width="{SIZE}" '
        f'height="{SIZE}" alt="{escape(image.source)}: {kept}"><figcaption><b>{escape(image.source)}</b><br>'
        f"people {image.mean_rank:.1f} · truth {image.truth:.2f}<br>score {image.score:.2f}</figcaption></figure>"
        for image in prompt.images
    )
    return f"<section><h2>{kept}<del>{tail}</del></h2><div class=row>{figures}</div></section>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1b19; --paper: #fbfaf7; --line: #dedad0; --soft: #5f5b52; --gone: #9c2f1f; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceae4; --paper: #171614; --line: #3a372f; --soft: #aaa599;
  --gone: #ffab9b; } }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
p, figcaption { color: var(--soft); }
del { color: var(--gone); font-weight: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
img { width: 100%; height: auto; border: 1px solid var(--line); image-rendering: pixelated; }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .3rem; }
figcaption b { color: var(--ink); }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file:">
<title>From prompts to preferences</title><style>{style}</style></head><body>
<h1>From prompts to preferences, in a world whose truth is known</h1>
<p>{prompts} prompts, cleaned of their <del>style words</del>; {sources} sources drew each; {people} simulated people
ranked the pictures, liking best what does what the prompt says and is cleanly drawn. {model} does not know the prompt
and has never seen this world: it orders {accuracy} % of the pairs as they do.</p>
<table><thead><tr><th scope="col">source<th scope="col">mean rank by people<th scope="col">known truth
<th scope="col">score by {model}</thead><tbody>{summary}</tbody></table>
{rows}
</body></html>
"""
