"""What the tables of a report are made of, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from humanpref.records import Measure

NONE = "–"
NBSP = "\N{NO-BREAK SPACE}"

_CORRELATIONS = frozenset({"kendall_tau_b", "spearman"})

Cell = tuple[str, str]
"""A figure and its interval (or nothing)."""


@dataclass(frozen=True)
class Column:
    """A column: words or numbers; `group` is the place of the heading above it in `Table.groups`."""

    title: str
    words: bool = False
    group: int | None = None


@dataclass(frozen=True)
class Row:
    """Cells, the first of which names the row. `kind` "people" sets it apart."""

    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; `key` is unique in a report; `note` explains it."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    groups: tuple[str, ...] = ()
    note: str = ""


def percent(value: float | None) -> str:
    """A share as "90.4"."""
    return NONE if value is None else minus(f"{100 * value:.1f}")


def figure(measure: Measure | None, name: str = "accuracy") -> Cell:
    """A measure and its interval: shares in %, correlations as they are."""
    if measure is None:
        return NONE, ""
    show = plain if name in _CORRELATIONS else percent
    return show(measure.value), brackets(measure.ci, show)


def brackets(ci: tuple[float, float] | None, show: Callable[[float], str] = percent) -> str:
    """An interval that does not break over two lines; nothing where there is none."""
    if ci is None:
        return ""
    return f"[{show(ci[0])},{NBSP}{show(ci[1])}]"


def plain(value: float) -> str:
    """A correlation, as "0.81"."""
    return minus(f"{value:.2f}")


def minus(text: str) -> str:
    """A number with a true minus sign, and none before zero."""
    text = text.lstrip("-") if text.strip("-0.") == "" else text  # no "-0.0"
    return text.replace("-", "−")


def row(*cells: str | Cell, kind: str = "") -> Row:
    """A row of figures and plain texts."""
    return Row(tuple((cell, "") if isinstance(cell, str) else cell for cell in cells), kind)


def count(number: int, noun: str) -> str:
    """ "1 prompt", "28 prompts"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
