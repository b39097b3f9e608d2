"""The commands about generators: `humanpref benchmark ...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import (
    DeviceOption,
    Format,
    FormatOption,
    PrecisionName,
    PrecisionOption,
    ReportFormat,
    Resize,
    ResizeOption,
    common_options,
    load,
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
from humanpref.scorers import LoadOptions
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.benchmark.collect import GeneratorImages
    from humanpref.benchmark.reproduce import Reproduction
    from humanpref.benchmark.results import Result
    from humanpref.benchmark.run import RunReport
    from humanpref.benchmark.suites import Suite
    from humanpref.evaluation.report_cells import Table
    from humanpref.scorers import Scorer

benchmark_app = typer.Typer(
    name="benchmark",
    help="Text-to-image models on a suite of prompts, beside the published ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_OUT = Path("benchmark")
SHOWN = 5
"""How many missing or unreadable images are named; all of them are in the result file."""

SuiteOption = Annotated[
    str,
    typer.Option(
        metavar="hps-v2|drawbench|parti|shapes|FILE", help="The prompts: a suite, or a file or folder of them."
    ),
]
PromptsOption = Annotated[
    Path | None, typer.Option(help="Where the prompts of a named suite are, if they are not to be fetched.")
]


@benchmark_app.command("run")
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
    seed: Annotated[int, typer.Option(help="With --backend: what the seeds of the images are derived from.")] = 0,
    images_per_prompt: Annotated[int, typer.Option(help="With --backend: images of each prompt.", min=1)] = 1,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit with status 0 though images are missing or unreadable.")
    ] = False,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = Resize.antialias,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    no_cache: NoCacheOption = False,
    format: Annotated[ReportFormat, typer.Option(help="table for people, json for programs.")] = ReportFormat.table,
) -> None:
    """Score generators' images of a suite, each image once by all scorers. Stop it when you like: it goes on."""
    from humanpref.benchmark.collect import collect
    from humanpref.benchmark.run import run_benchmark
    from humanpref.benchmark.suites import load_suite

    paths, names = split_words(images or [], model, none_is_fine=True)
    if not paths and not backend:
        raise DataError("no images: name folders of them (STYLE/00000.jpg ...), or make them with --backend")
    chosen = options_by_scorer(names, weights, arch, common_options(resize, precision, device))
    if out.suffix == ".json" and backend:
        raise DataError(f"{out}: with --backend, --out names a folder; the images go below it")
    found_suite = load_suite(suite, prompts)
    check_weights(chosen)
    if backend:
        paths.append(_generate(found_suite, backend, out / "images", seed, images_per_prompt))
    generators = [own for path in paths for own in collect(path, found_suite, name)]
    scorers = [load(one, options) for one, options in chosen.items()]
    with (
        score_cache(_own_cache(out), no_cache) as cache,
        progress("Scoring", sum(len(own.images) for own in generators), "images") as advance,
    ):
        report = run_benchmark(generators, found_suite, scorers, out, cache=cache, on_image=advance)
        if cache.trouble:
            say(cache.trouble)
    _say_notes(report, scorers)
    print(_run_json(report, out) if format is ReportFormat.json else _run_table(report, out))
    incomplete = [result for result in report.results if not result.complete]
    if incomplete:
        _say_shortcomings(generators, found_suite, report)
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
        track=lambda title, total: progress(title, total, unit="images"),
        on_note=say,
    )
    say(f"{folder}: {report.made} images made, {report.already} were there, {report.failed} failed")
    return folder


def _own_cache(out: Path) -> Path:
    return (out.parent if out.suffix == ".json" else out) / f".{out.stem}.scores.sqlite"


def _say_notes(report: RunReport, scorers: Sequence[Scorer]) -> None:
    for scorer in scorers:
        if not scorer.spec.reads_prompt:
            say(f"{scorer.spec.name} does not read the prompt: it judges the pictures alone")
        if cut := max(r.truncated_prompts for r in report.results if r.scorer.name == scorer.spec.name):
            say(f"{scorer.spec.name} reads only the beginning of {cut} prompts")


def _say_shortcomings(generators: Sequence[GeneratorImages], suite: Suite, report: RunReport) -> None:
    for own in generators:
        if own.missing:
            stems = [suite.prompts[place].stem for place in own.missing]
            say(f"{own.generator}: {len(stems)} images are missing: {_listed(stems)}")
        unreadable = {one.error: None for r in report.results if r.generator == own.generator for one in r.unreadable}
        if unreadable:
            say(f"{own.generator}: {len(unreadable)} images cannot be read: {_listed(list(unreadable))}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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


class TableFormat(str, Enum):
    """How tables are printed."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


ResultsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RESULTS...", help="Result files, or folders of them (default: benchmark)."),
]
AllowIncompleteOption = Annotated[
    bool, typer.Option("--allow-incomplete", help="Show results with missing or unreadable images, marked.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap behind the intervals.")]
TableFormatOption = Annotated[TableFormat, typer.Option(help="table for people, json or csv for programs.")]


@benchmark_app.command("table")
def table_command(
    results: ResultsArgument = None,
    allow_incomplete: AllowIncompleteOption = False,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Show the published models of this suite and scorer.")
    ] = True,
    seed: SeedOption = 0,
    format: TableFormatOption = TableFormat.table,
) -> None:
    """Show results as a leaderboard of each scorer, beside the published models."""
    from humanpref.benchmark import tables
    from humanpref.benchmark.leaderboard import leaderboards
    from humanpref.benchmark.results import read_results

    found = read_results(results or [DEFAULT_OUT])
    boards = leaderboards(found, allow_incomplete=allow_incomplete, published=published, seed=seed)
    if format is TableFormat.json:
        print(tables.boards_json(boards))
    elif format is TableFormat.csv:
        print(tables.boards_csv(boards))
    else:
        _print_tables(tables.tables(boards), format)


@benchmark_app.command("compare")
def compare_command(
    generators: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Generators of --results, or result files or folders.")
    ],
    results: Annotated[
        list[Path] | None, typer.Option(help="Result files, or folders of them (default: benchmark).")
    ] = None,
    allow_incomplete: AllowIncompleteOption = False,
    seed: SeedOption = 0,
    format: TableFormatOption = TableFormat.table,
) -> None:
    """Is the difference real? Every two generators on the same prompts, corrected for the number of comparisons."""
    from dataclasses import asdict

    from humanpref.benchmark import tables
    from humanpref.benchmark.leaderboard import compare_results
    from humanpref.tables import to_csv, to_json

    found = compare_results(_chosen(generators, results), allow_incomplete=allow_incomplete, seed=seed)
    if format is TableFormat.json:
        print(to_json([{"scorer": label, "comparisons": [asdict(one) for one in pairs]} for label, pairs in found]))
    elif format is TableFormat.csv:
        rows = [{"scorer": label, **asdict(one)} for label, pairs in found for one in pairs]
        print(to_csv(list(rows[0]), [["" if v is None else v for v in one.values()] for one in rows]))
    else:
        _print_tables([tables.comparison_table(label, pairs) for label, pairs in found], format)


@benchmark_app.command("stability")
def stability_command(
    results: ResultsArgument = None,
    allow_incomplete: AllowIncompleteOption = False,
    draws: Annotated[int, typer.Option(min=2, help="How many random subsets of each size.")] = 200,
    seed: SeedOption = 0,
    format: TableFormatOption = TableFormat.table,
) -> None:
    """How many prompts does this benchmark need? The spread of means and order over subsets of its prompts."""
    from dataclasses import asdict

    from humanpref.benchmark import tables
    from humanpref.benchmark.leaderboard import study_stability
    from humanpref.benchmark.results import read_results
    from humanpref.tables import to_csv, to_json

    found = study_stability(
        read_results(results or [DEFAULT_OUT]), allow_incomplete=allow_incomplete, draws=draws, seed=seed
    )
    rows = [{"scorer": label, **asdict(one)} for label, sizes, _ in found for one in sizes]
    if format is TableFormat.json:
        parts = [{"scorer": label, "components": None if part is None else asdict(part)} for label, _, part in found]
        print(to_json({"subsets": rows, "components": parts}))
    elif format is TableFormat.csv:
        print(to_csv(("scorer", "prompts", "spread", "kendall", "pairs_kept", "same_best"), [r.values() for r in rows]))  # type: ignore[misc]
    else:
        _print_tables([tables.stability_table(*one) for one in found], format)


def _print_tables(found: Sequence[Table], format: TableFormat) -> None:
    from humanpref.benchmark import tables

    show = {TableFormat.markdown: tables.to_markdown, TableFormat.latex: tables.to_latex}.get(format, tables.terminal)
    print(show(found))


def _chosen(words: Sequence[str], places: Sequence[Path] | None) -> list[Result]:
    """Results by generators' names and by paths."""
    from humanpref.benchmark.results import read_results

    paths = [Path(word) for word in words if Path(word).exists()]
    names = [word for word in words if not Path(word).exists()]
    found = read_results([*(paths if not names else [*(places or [DEFAULT_OUT]), *paths])])
    if unknown := [name for name in names if all(result.generator != name for result in found)]:
        known = ", ".join(dict.fromkeys(result.generator for result in found))
        raise DataError(f"no result is of a generator called {unknown[0]!r}; there are: {known}")
    return [r for r in found if not names or r.generator in names or r.path in paths]


@benchmark_app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the site.")],
    results: Annotated[
        list[Path] | None, typer.Option(help="Result files, or folders of them (default: benchmark).")
    ] = None,
    title: Annotated[str, typer.Option(help="The site's title.")] = "",
    thumbnail: Annotated[int, typer.Option(min=32, max=2048, help="Longest side of the images, in pixels.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that make thumbnails (default: all cores).")
    ] = None,
    allow_incomplete: AllowIncompleteOption = False,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Show the published models of this suite and scorer.")
    ] = True,
    seed: SeedOption = 0,
) -> None:
    """Write a static site: leaderboards, every prompt with all generators' images, best and worst images."""
    from humanpref.benchmark.leaderboard import leaderboards
    from humanpref.benchmark.results import read_results
    from humanpref.benchmark.site import check_site, page_count, write_site

    check_site(out)
    found = read_results(results or [DEFAULT_OUT])
    boards = leaderboards(found, allow_incomplete=allow_incomplete, published=published, seed=seed)
    images = len({image.sha256 for result in found for image in result.images})
    with progress("Report", images + page_count(boards)) as advance:

        def several(count: int) -> None:
            for _ in range(count):
                advance()

        report = write_site(
            boards, out, title=title, thumbnail=thumbnail, workers=workers, on_images=several, on_page=advance
        )
    if report.failed:
        reasons = list(report.failed.values())
        say(f"{len(reasons)} images have no thumbnail: {_listed(reasons)}")
    say(f"{report.pages:,} pages, {report.images:,} images")
    print(report.index)


class HpsVersion(str, Enum):
    """A published benchmark table."""

    v2_0 = "v2.0"
    v2_1 = "v2.1"


@benchmark_app.command("reproduce")
def reproduce_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A published model, or its archive: glide, sdv2 ...")],
    hps_version: Annotated[HpsVersion, typer.Option(help="Which published table.")] = HpsVersion.v2_1,
    out: Annotated[Path, typer.Option(help="Where results go.")] = DEFAULT_OUT,
    data: Annotated[
        Path | None, typer.Option(help="Where the images are put (default: humanpref-data/hps-benchmark-ARCHIVE).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A checkpoint file, instead of the published one.")] = None,
    arch: Annotated[str | None, typer.Option(help="open_clip architecture name or JSON config.")] = None,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    allow_incomplete: AllowIncompleteOption = False,
    no_cache: NoCacheOption = False,
    seed: SeedOption = 0,
    format: TableFormatOption = TableFormat.table,
) -> None:
    """Measure a published model again, from its authors' images, with both resizes: which one was it?"""
    from humanpref.benchmark.leaderboard import check_results
    from humanpref.benchmark.published import published_row
    from humanpref.benchmark.reproduce import (
        RESIZES,
        fetch_archive,
        plan_archive,
        reproduction,
        reproduction_table,
    )
    from humanpref.benchmark.run import run_benchmark

    scorer = f"hps-{hps_version.value}"
    row = published_row(scorer, model)
    options = LoadOptions(weights, arch, precision=precision.value, device=device)
    check_weights({scorer: options})
    plan = plan_archive(row, data)
    say(f"{plan.out} is there already" if plan.done else str(plan))
    with progress("Downloading", len(plan.files), "files") as advance:
        suite, images = fetch_archive(plan, row, advance)
    scorers = [load(scorer, replace(options, resize=resize)) for resize in RESIZES]
    with score_cache(_own_cache(out), no_cache) as cache, progress("Scoring", len(images.images), "images") as advance:
        report = run_benchmark([images], suite, scorers, out, cache=cache, on_image=advance)
    _say_notes(report, scorers)
    _say_shortcomings([images], suite, report)
    check_results(report.results, allow_incomplete=allow_incomplete)
    found = reproduction(scorer, row, report.results)
    if format in {TableFormat.json, TableFormat.csv}:
        _print_reproduction(found, format, seed)
    else:
        _print_tables([reproduction_table(found, seed)], format)


def _print_reproduction(found: Reproduction, format: TableFormat, seed: int) -> None:
    from humanpref.tables import to_csv, to_json

    rows = []
    for style, published in (*found.published.styles.items(), ("average", found.published.average)):
        for resize in found.results:
            own = found.ours(resize, None if style == "average" else style, seed)
            low, high = (own.ci if own is not None else None) or (None, None)
            rows.append((style, published, resize, own.mean if own is not None else None, low, high))
    names = ("style", "published", "resize", "ours", "low", "high")
    if format is TableFormat.csv:
        print(to_csv(names, [["" if value is None else value for value in one] for one in rows]))
        return
    print(
        to_json(
            {
                "generator": found.published.generator,
                "scorer": found.scorer,
                "rows": [dict(zip(names, one, strict=True)) for one in rows],
                "distance": {resize: found.distance(resize) for resize in found.results},
                "closest": found.closest,
            }
        )
    )


@benchmark_app.command("people")
def people_command(
    data: Annotated[
        list[Path], typer.Argument(metavar="RANKINGS...", help="Human rankings in any known format, sources named.")
    ],
    results: Annotated[
        list[Path] | None, typer.Option(help="Result files, or folders of them (default: benchmark).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Save the scatter plot: .png, .svg or .pdf.")] = None,
    allow_incomplete: AllowIncompleteOption = False,
    seed: SeedOption = 0,
    format: FormatOption = Format.table,
) -> None:
    """Do the scorers order the generators as people do? Rank correlations with people's rankings."""
    from humanpref.benchmark.leaderboard import leaderboards
    from humanpref.benchmark.people import agreement, scatter_plot
    from humanpref.benchmark.results import read_results
    from humanpref.data.formats import read_rankings
    from humanpref.evaluation.output import RENDER_GENERATORS

    boards = leaderboards(read_results(results or [DEFAULT_OUT]), allow_incomplete=allow_incomplete, seed=seed)
    rankings = [ranking for path in data for ranking in read_rankings(path)]
    report, notes = agreement(rankings, boards, seed=seed)
    say(*notes)
    print(RENDER_GENERATORS[format.value]([(", ".join(map(str, data)), report)]))
    if plot is not None:
        scatter_plot(report, plot)
        say(f"the plot is in {plot}")
