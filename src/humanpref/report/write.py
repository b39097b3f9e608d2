"""Reports as files: whether one can be written, the templates that HTML is made of, and writing it whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from humanpref.errors import DataError, MissingExtraError
from humanpref.files import whole

if TYPE_CHECKING:
    from jinja2 import Environment

SUFFIXES = (".html", ".md", ".tex")


def check_report(path: str | Path) -> None:
    """Say before the work is done whether a report can be written there.

    Raises `DataError` for an ending that is none of `SUFFIXES` or a folder that is not there, `MissingExtraError`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: a report is written as {', '.join(SUFFIXES)}; give the file one of these endings")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent} to write the report in; make it first")
    if path.suffix.lower() == ".html":
        try:
            import jinja2
            import matplotlib as mpl
        except ImportError as error:
            raise MissingExtraError(f'an HTML report needs {error.name}: pip install "humanpref[report]"') from None
        del jinja2, mpl


def environment(package: str) -> Environment:
    """Templates of a package's `templates` folder and of this one's: the tables, the plots (`svg`), the look.

    Raises `MissingExtraError`.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError(f'a page needs {error.name}: pip install "humanpref[report]"') from None
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("humanpref.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["svg"] = lambda plot: Markup(plot.svg)  # noqa: S704 - matplotlib has escaped its text
    return made


def write_whole(path: Path, content: str) -> None:
    """Write a report's text, whole or not at all. Raises `DataError`."""
    try:
        with whole(path) as part:
            # a path's undecodable bytes (surrogates) have no UTF-8 and are shown as "?"
            part.write_bytes(content.encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(f"{path}: the report cannot be written ({error.strerror})") from None
