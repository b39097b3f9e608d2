"""The command `humanpref benchmark run`: score generators' images of a suite, or make them first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_benchmark_shared import DEFAULT_OUT, listed
from humanpref.cli_options import (
    DeviceOption,
    PrecisionOption,
    ReportFormatOption,
    ResizeOption,
    common_options,
    load,
    only_for,
)
from humanpref.cli_scorers import (
    ArchByScorer,
    ModelsOption,
    NoCacheOption,
    WeightsByScorer,
    check_weights,
    options_by_scorer,
    score_cache,
    split_words,
)
from humanpref.errors import DataError, HumanprefError
from humanpref.terminal import image_progress, progress, say

if TYPE_CHECKING:
    from humanpref.benchmark.collect import GeneratorImages
    from humanpref.benchmark.run import RunReport
    from humanpref.benchmark.suites import Suite
    from humanpref.scorers import Scorer

SuiteOption = Annotated[
    str,
    typer.Option(
        metavar="hps-v2|drawbench|parti|shapes|FILE", help="The prompts: a suite, or a file or folder of them."
    ),
]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Where the prompts of a named suite are, if they are not to be fetched.")
]


def run_command(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES...", help="Folders: STYLE/00000.jpg, several of those, or of humanpref generate."
        ),
    ] = None,
    suite: SuiteOption = "hps-v2",
    model: ModelsOption = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="Where results go: a folder, or one file that ends in .json.")
    ] = DEFAULT_OUT,
    prompts: PromptsOption = None,
    name: Annotated[str | None, typer.Option(help="What to call the generator (default: its folder's name).")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", "-b", metavar="KIND:WHAT", help="Generate the images first, as humanpref generate."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With --backend: what the seeds of the images are derived from (0).")
    ] = None,
    images_per_prompt: Annotated[
        int | None, typer.Option(help="With --backend: images of each prompt (1).", min=1)
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit with status 0 though images are missing or unreadable.")
    ] = False,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    no_cache: NoCacheOption = False,
    format: ReportFormatOption = "table",
) -> None:
    """Score generators' images of a suite, each image once by all scorers. Stop it when you like: it goes on."""
    from humanpref.benchmark.collect import collect
    from humanpref.benchmark.run import run_benchmark
    from humanpref.benchmark.suites import load_suite

    words, names = split_words(images or [], model)
    paths = [Path(word) for word in words]
    if not paths and not backend:
        raise DataError("no images: name folders of them (STYLE/00000.jpg ...), or make them with --backend")
    if not backend:
        only_for("--backend, which makes images", seed=seed, images_per_prompt=images_per_prompt)
    chosen = options_by_scorer(names, weights, arch, common_options(resize, precision, device))
    if out.suffix == ".json" and backend:
        raise DataError(f"{out}: with --backend, --out names a folder; the images go below it")
    found_suite = load_suite(suite, prompts)
    check_weights(chosen)
    if backend:
        paths.append(_generate(found_suite, backend, out / "images", seed or 0, images_per_prompt or 1))
    generators = [own for path in paths for own in collect(path, found_suite, name)]
    scorers = [load(one, options) for one, options in chosen.items()]
    with (
        score_cache(out, no_cache) as cache,
        progress("Scoring", sum(len(own.images) for own in generators), "images") as advance,
    ):
        report = run_benchmark(generators, found_suite, scorers, out, cache=cache, on_image=advance)
    say_notes(report, scorers)
    print(_run_json(report, out) if format == "json" else _run_table(report, out))
    incomplete = [result for result in report.results if not result.complete]
    if incomplete:
        say_shortcomings(generators, found_suite, report)
        if not allow_incomplete:
            rows = len({result.generator for result in incomplete})
            raise HumanprefError(
                f"{rows} of {len(generators)} generators are incomplete; their results are kept, but tables refuse "
                "them unless --allow-incomplete"
            )


def _generate(suite: Suite, backends: Sequence[str], folder: Path, seed: int, images_per_prompt: int) -> Path:
    """Make the suite's images by backends, in a folder that a later run goes on with -> the folder."""
    from humanpref.generate import generate, make_backend

    report = generate(
        suite.to_generate(),
        [make_backend(spec, {}) for spec in backends],
        folder,
        seed=seed,
        images_per_prompt=images_per_prompt,
        track=image_progress,
        on_note=say,
    )
    say(f"{folder}: {report.made} images made, {report.already} were there, {report.failed} failed")
    return folder


def say_notes(report: RunReport, scorers: Sequence[Scorer]) -> None:
    """Say what scorers do not read."""
    from humanpref.ranking import cut_notes

    for scorer in scorers:
        cut = max(r.truncated_prompts for r in report.results if r.scorer.name == scorer.spec.name)
        say(*cut_notes(scorer.spec, cut))


def say_shortcomings(generators: Sequence[GeneratorImages], suite: Suite, report: RunReport) -> None:
    """Say which images are missing or cannot be read."""
    for own in generators:
        if own.missing:
            stems = [suite.prompts[place].stem for place in own.missing]
            say(f"{own.generator}: {len(stems)} images are missing: {listed(stems)}")
        unreadable = {one.error: None for r in report.results if r.generator == own.generator for one in r.unreadable}
        if unreadable:
            say(f"{own.generator}: {len(unreadable)} images cannot be read: {listed(list(unreadable))}")


def _run_table(report: RunReport, out: Path) -> str:
    from humanpref.tables import add_row, make_table, render

    title = (
        f"{report.images:,} images, {report.computed:,} scores computed in {report.seconds:.1f} s; the models waited "
        f"for images {100 * report.waiting_share:.0f} % of it"
    )
    table = make_table(title, ">generator", ">scorer", "mean", "images", ">not there")
    for result in report.results:
        mean = float(result.scores().mean()) if result.images else float("nan")
        cells = (result.generator, result.scorer.label, f"{mean:.3f}", f"{len(result.images):,}")
        add_row(table, *cells, result.shortcomings or "-")
    return f"{render(table)}\n\nhumanpref benchmark table {out}"


def _run_json(report: RunReport, out: Path) -> str:
    from humanpref.benchmark.run import result_path
    from humanpref.tables import to_json

    rows: list[Mapping[str, object]] = [
        {
            "generator": r.generator,
            "scorer": r.scorer.label,
            "mean": float(r.scores().mean()) if r.images else None,
            "images": len(r.images),
            "missing": list(r.missing),
            "unreadable": [one.error for one in r.unreadable],
            "complete": r.complete,
            "file": str(out if out.suffix == ".json" else result_path(out, r.generator, r.scorer)),
        }
        for r in report.results
    ]
    return to_json(
        {
            "results": rows,
            "images": report.images,
            "computed": report.computed,
            "seconds": report.seconds,
            "waiting_share": report.waiting_share,
        }
    )
