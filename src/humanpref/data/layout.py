"""What a format is: the fields of its rows, what it can hold, and how rows become rankings and back.

A format is a layout (which fields; one small module each) in a container (JSON, JSON Lines, CSV, Parquet; `rows.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from humanpref.data.folder import ImageFolder
from humanpref.errors import DataError
from humanpref.records import Ranking

Row: TypeAlias = Mapping[str, Any]
Numbered: TypeAlias = tuple[int, Row]


@dataclass(frozen=True)
class Layout:
    """One foreign layout. Its functions raise `DataError` without saying where; the caller knows the row.

    `holds` lists what it can keep of a ranking besides prompt, images and ranks: "id", "annotator", "source" (of an
    image), "soft" (labels), "prompt_source", "style", "groups" (of more than two images), "ties".
    """

    name: str
    title: str
    fields: tuple[str, ...]
    containers: tuple[str, ...]
    holds: frozenset[str]
    read: Callable[[Row, ImageFolder], Iterable[Ranking]]
    write: Callable[[Iterable[Ranking], ImageFolder], Iterator[dict[str, Any]]]
    optional: tuple[str, ...] = ()
    is_it: Callable[[Row], bool] = bool  # tells apart layouts with the same fields; gets the first row
    gather: Callable[[Iterable[Numbered]], Iterator[Numbered]] | None = None  # several rows that make one instance
    makes_images: bool = False  # holds the images themselves: reading writes them beside it
    columns: Mapping[str, str] = field(default_factory=dict)  # their types, where CSV or Parquet is a container

    def matches(self, row: Row) -> bool:
        """Tell whether a file whose first row is this one has this layout."""
        return set(self.fields) <= row.keys() and self.is_it(row)

    def check(self, row: object) -> Row:
        """Return the row if it has the fields of the layout."""
        if not isinstance(row, Mapping) or not set(self.fields) <= row.keys():
            *most, last = self.fields
            raise DataError(f"expected {', '.join(most)} and {last}, as in {self.title}")
        return row


def text(row: Row, key: str) -> str:
    """Return a field that must be text."""
    if not isinstance(row[key], str):
        raise DataError(f"{key} must be text, got {str(row[key])[:40]!r}")
    return row[key]  # type: ignore[no-any-return]


def optional_text(row: Row, key: str) -> str | None:
    """Return a field that may be text, a number, or not there."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{key} must be text, got {str(value)[:40]!r}")


def two_lists(row: Row, first: str, second: str) -> tuple[list[Any], list[Any]]:
    """Return two fields that must be lists."""
    if not isinstance(row[first], list) or not isinstance(row[second], list):
        raise DataError(f"{first} and {second} must be lists")
    return row[first], row[second]


def share(value: object, what: str) -> float:
    """Return a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"{what} must be a number from 0 to 1, got {str(value)[:40]!r}")
    return float(value)


def first_share(first: object, second: object, what: str) -> float:
    """Return the first of two shares that must add up to 1."""
    one, other = share(first, what), share(second, what)
    if abs(one + other - 1) > 1e-6:
        raise DataError(f"{what} must add up to 1, got {one:g} and {other:g}")
    return one


def preferred(ranking: Ranking) -> float:
    """Return the probability that the first of two images is preferred."""
    return next(ranking.pairs()).first_preferred


def whole_number(value: str, what: str) -> int:
    """Return text as the whole number that a format asks for."""
    if not value.isascii() or not value.isdigit() or str(int(value)) != value:
        raise DataError(f"{what} must be a whole number in this format, got {value[:40]!r}")
    return int(value)
