"""Text from values: the JSON, CSV and terminal tables that all output is made of. Prints nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def to_json(value: Any) -> str:
    """JSON for programs; a number that JSON does not have (nan) raises `ValueError`."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def to_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a header."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def percent(probability: float | None) -> str:
    """A probability as a percentage, "-" where there is none."""
    return "-" if probability is None else f"{100 * probability:.1f} %"


def make_table(title: str | None, *columns: str) -> Table:
    """Make a table; a heading that starts with ">" is text (left-aligned, folded), the others are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        if column.startswith(">"):
            table.add_column(Text(column[1:]), overflow="fold", min_width=12)
        else:
            table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row as it is: file names may hold square brackets, which rich would take for markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))


def render(table: Table) -> str:
    """The table as text, as wide as the terminal, or as wide as its numbers need: none is ever cut off."""
    import shutil

    from rich.cells import cell_len
    from rich.console import Console

    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    needed = Console(width=1000).measure(table).minimum
    width = max(60, needed, shutil.get_terminal_size((110, 24)).columns)
    console = Console(file=StringIO(), width=width, color_system=None)
    title, table.title = table.title, None  # rich would set it in from the edge
    if title:
        console.print(title)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
