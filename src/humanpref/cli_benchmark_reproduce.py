"""The command `humanpref benchmark reproduce`: a published model, measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.cli_benchmark_run import say_notes, say_shortcomings
from humanpref.cli_benchmark_shared import (
    DEFAULT_OUT,
    AllowIncompleteOption,
    SeedOption,
    TableFormat,
    TableFormatOption,
    print_tables,
)
from humanpref.cli_options import (
    DeviceOption,
    PrecisionOption,
    load,
)
from humanpref.cli_scorers import (
    NoCacheOption,
    check_weights,
    score_cache,
)
from humanpref.scorers import LoadOptions
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.benchmark.reproduce import Reproduction


def reproduce_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A published model, or its archive: glide, sdv2 ...")],
    hps_version: Annotated[Literal["v2.0", "v2.1"], typer.Option(help="Which published table.")] = "v2.1",
    out: Annotated[Path, typer.Option(help="Where results go.")] = DEFAULT_OUT,
    data: Annotated[
        Path | None, typer.Option(help="Where the images are put (default: humanpref-data/hps-benchmark-ARCHIVE).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A checkpoint file, instead of the published one.")] = None,
    arch: Annotated[str | None, typer.Option(help="open_clip architecture name or JSON config.")] = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    allow_incomplete: AllowIncompleteOption = False,
    no_cache: NoCacheOption = False,
    seed: SeedOption = 0,
    format: TableFormatOption = "table",
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

    scorer = f"hps-{hps_version}"
    row = published_row(scorer, model)
    options = LoadOptions(weights, arch, precision=precision, device=device)
    check_weights({scorer: options})
    plan = plan_archive(row, data)
    say(f"{plan.out} is there already" if plan.done else str(plan))
    with progress("Downloading", len(plan.files), "files") as advance:
        suite, images = fetch_archive(plan, row, advance)
    scorers = [load(scorer, replace(options, resize=resize)) for resize in RESIZES]
    with score_cache(out, no_cache) as cache, progress("Scoring", len(images.images), "images") as advance:
        report = run_benchmark([images], suite, scorers, out, cache=cache, on_image=advance)
    say_notes(report, scorers)
    say_shortcomings([images], suite, report)
    check_results(report.results, allow_incomplete=allow_incomplete)
    found = reproduction(scorer, row, report.results)
    if format in {"json", "csv"}:
        _print_reproduction(found, format, seed)
    else:
        print_tables([reproduction_table(found, seed)], format)


def _print_reproduction(found: Reproduction, format: TableFormat, seed: int) -> None:
    from humanpref.tables import to_csv, to_json

    rows = []
    for style, published in (*found.published.styles.items(), ("average", found.published.average)):
        for resize in found.results:
            own = found.ours(resize, None if style == "average" else style, seed)
            low, high = (own.ci if own is not None else None) or (None, None)
            rows.append((style, published, resize, own.mean if own is not None else None, low, high))
    names = ("style", "published", "resize", "ours", "low", "high")
    if format == "csv":
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
