"""What the commands of `humanpref benchmark` have in common: options, tables for people, many names in few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from humanpref.report.cells import Table

DEFAULT_OUT = Path("benchmark")
SHOWN = 5
"""How many missing or unreadable images are named; all of them are in the result file."""

TableFormat: TypeAlias = Literal["table", "markdown", "latex", "csv", "json"]
ResultsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RESULTS...", help="Result files, or folders of them (default: benchmark)."),
]
AllowIncompleteOption = Annotated[
    bool, typer.Option("--allow-incomplete", help="Show results with missing or unreadable images, marked.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap behind the intervals.")]
TableFormatOption = Annotated[TableFormat, typer.Option(help="table for people, json or csv for programs.")]
ResultsOption = Annotated[
    list[Path] | None, typer.Option(help="Result files, or folders of them (default: benchmark).")
]
PublishedOption = Annotated[
    bool, typer.Option("--published/--no-published", help="Show the published models of this suite and scorer.")
]


def print_tables(found: Sequence[Table], format: TableFormat) -> None:
    """Print tables for people."""
    from humanpref.benchmark import tables

    show = {"markdown": tables.to_markdown, "latex": tables.to_latex}.get(format, tables.terminal)
    print(show(found))


def listed(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
