"""The commands of `humanpref benchmark` about results that are there: tables, comparisons, a site, people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_benchmark_shared import (
    DEFAULT_OUT,
    AllowIncompleteOption,
    PublishedOption,
    ResultsArgument,
    ResultsOption,
    SeedOption,
    TableFormatOption,
    listed,
    print_tables,
)
from humanpref.cli_options import (
    FormatOption,
    only_for,
)
from humanpref.errors import DataError
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.benchmark.results import Result


def table_command(
    results: ResultsArgument = None,
    allow_incomplete: AllowIncompleteOption = False,
    published: PublishedOption = True,
    seed: SeedOption = 0,
    format: TableFormatOption = "table",
) -> None:
    """Show results as a leaderboard of each scorer, beside the published models."""
    from humanpref.benchmark import tables
    from humanpref.benchmark.leaderboard import leaderboards
    from humanpref.benchmark.results import read_results

    found = read_results(results or [DEFAULT_OUT])
    boards = leaderboards(found, allow_incomplete=allow_incomplete, published=published, seed=seed)
    if format == "json":
        print(tables.boards_json(boards))
    elif format == "csv":
        print(tables.boards_csv(boards))
    else:
        print_tables(tables.tables(boards), format)


def compare_command(
    generators: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Generators of --results, or result files or folders.")
    ],
    results: ResultsOption = None,
    allow_incomplete: AllowIncompleteOption = False,
    seed: SeedOption = 0,
    format: TableFormatOption = "table",
) -> None:
    """Is the difference real? Every two generators on the same prompts, corrected for the number of comparisons."""
    from dataclasses import asdict

    from humanpref.benchmark import tables
    from humanpref.benchmark.leaderboard import compare_results
    from humanpref.tables import to_csv, to_json

    found = compare_results(_chosen(generators, results), allow_incomplete=allow_incomplete, seed=seed)
    if format == "json":
        print(to_json([{"scorer": label, "comparisons": [asdict(one) for one in pairs]} for label, pairs in found]))
    elif format == "csv":
        rows = [{"scorer": label, **asdict(one)} for label, pairs in found for one in pairs]
        print(to_csv(list(rows[0]), [["" if v is None else v for v in one.values()] for one in rows]))
    else:
        print_tables([tables.comparison_table(label, pairs) for label, pairs in found], format)


def stability_command(
    results: ResultsArgument = None,
    allow_incomplete: AllowIncompleteOption = False,
    draws: Annotated[int, typer.Option(min=2, help="How many random subsets of each size.")] = 200,
    seed: SeedOption = 0,
    format: TableFormatOption = "table",
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
    if format == "json":
        parts = [{"scorer": label, "components": None if part is None else asdict(part)} for label, _, part in found]
        print(to_json({"subsets": rows, "components": parts}))
    elif format == "csv":
        print(to_csv(("scorer", "prompts", "spread", "kendall", "pairs_kept", "same_best"), [r.values() for r in rows]))  # type: ignore[misc]
    else:
        print_tables([tables.stability_table(*one) for one in found], format)


def _chosen(words: Sequence[str], places: Sequence[Path] | None) -> list[Result]:
    """Results by generators' names and by paths."""
    from humanpref.benchmark.results import read_results

    paths = [Path(word) for word in words if Path(word).exists()]
    names = [word for word in words if not Path(word).exists()]
    if not names:
        only_for("generators by name, and all that is named here are files or folders of their own", results=places)
    found = read_results([*(paths if not names else [*(places or [DEFAULT_OUT]), *paths])])
    if unknown := [name for name in names if all(result.generator != name for result in found)]:
        known = ", ".join(dict.fromkeys(result.generator for result in found))
        raise DataError(f"no result is of a generator called {unknown[0]!r}; there are: {known}")
    return [r for r in found if not names or r.generator in names or r.path in paths]


def report_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the site.")],
    results: ResultsOption = None,
    title: Annotated[str, typer.Option(help="The site's title.")] = "",
    thumbnail: Annotated[int, typer.Option(min=32, max=2048, help="Longest side of the images, in pixels.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that make thumbnails (default: all cores).")
    ] = None,
    allow_incomplete: AllowIncompleteOption = False,
    published: PublishedOption = True,
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
        say(f"{len(reasons)} images have no thumbnail: {listed(reasons)}")
    say(f"{report.pages:,} pages, {report.images:,} images")
    print(report.index)


def people_command(
    data: Annotated[
        list[Path], typer.Argument(metavar="RANKINGS...", help="Human rankings in any known format, sources named.")
    ],
    results: ResultsOption = None,
    plot: Annotated[Path | None, typer.Option(help="Save the scatter plot: .png, .svg or .pdf.")] = None,
    allow_incomplete: AllowIncompleteOption = False,
    seed: SeedOption = 0,
    format: FormatOption = "table",
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
    print(RENDER_GENERATORS[format]([(", ".join(map(str, data)), report)]))
    if plot is not None:
        scatter_plot(report, plot)
        say(f"the plot is in {plot}")
