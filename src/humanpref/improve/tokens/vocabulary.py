"""The tokens to search among: a text file with one a line, JSON Lines with exact texts, or the named templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from humanpref.data.rows import read_rows
from humanpref.errors import DataError
from humanpref.improve.tokens.templates import Template

Place: TypeAlias = Literal["suffix", "prefix", "negative"]
FIELDS = ("name", "prefix", "suffix", "negative", "source")


def read_vocabulary(path: str | Path, place: Place | None = None) -> tuple[Template, ...]:
    """Read the tokens of a file, in order.

    A line of text is put at `place`: `PROMPT, LINE` (suffix, the default), `LINE PROMPT`, or the negative prompt. An
    object has at least one of `prefix`, `suffix` and `negative`, taken as they are, and may have `name` and `source`.
    Raises `DataError`, with the place, for a file that cannot be read or holds none, for unknown fields, for tokens
    that are there twice, and for a `place` of objects, which say their own.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    found: list[tuple[int, Template]] = []
    if text.lstrip().startswith("{"):
        if place is not None:
            raise DataError(f"{path}: its objects say where their tokens stand; leave --place out")
        for number, row in read_rows(path, "jsonl"):
            found.append((number, _template(path, number, row)))
    else:
        lines = enumerate(map(str.strip, text.splitlines()), start=1)
        found = [(number, place_token(line, place or "suffix")) for number, line in lines if line]
    if not found:
        raise DataError(f"{path}: the vocabulary is empty; it must hold tokens, one a line")
    check_vocabulary((template for _, template in found), [f"{path}: line {number}: " for number, _ in found])
    return tuple(template for _, template in found)


def place_token(text: str, place: Place) -> Template:
    """Return the template that puts a token where such tokens usually stand; it is called what it says."""
    if place == "suffix":
        return Template(text, suffix=f", {text}")
    if place == "prefix":
        return Template(text, prefix=f"{text} ")
    return Template(text, negative=text)


def check_vocabulary(templates: Iterable[Template], where: Sequence[str] = ()) -> None:
    """Raise `DataError` for an empty vocabulary, tokens that add nothing, two of a name or with the same texts."""
    names: dict[str, str] = {}
    texts: dict[tuple[str, str, str], str] = {}
    count = 0
    for count, template in enumerate(templates, start=1):
        at = where[count - 1] if where else ""
        if template.empty or not template.name:
            raise DataError(f"{at}the token {template.name!r} adds nothing, or has no name")
        if template.name in names:
            raise DataError(f"{at}the token {template.name!r} is there twice; leave one out")
        if (other := texts.get(template.texts)) is not None:
            raise DataError(f"{at}{template.name!r} and {other!r} are the same tokens; leave one out")
        names[template.name] = texts[template.texts] = template.name
    if not count:
        raise DataError("the vocabulary is empty; it must hold at least one token")


def _template(path: Path, number: int, row: Any) -> Template:
    at = f"{path}: line {number}: "
    if unknown := [name for name in row if name not in FIELDS]:
        raise DataError(f"{at}no field {unknown[0]!r} is known; there are {', '.join(FIELDS)}")
    if wrong := [name for name, value in row.items() if not isinstance(value, str)]:
        raise DataError(f"{at}{wrong[0]} must be a text")
    prefix, suffix, negative = (row.get(name, "") for name in ("prefix", "suffix", "negative"))
    name = row.get("name") or (prefix + suffix).strip(" ,") or negative.strip()
    return Template(name, prefix, suffix, negative, row.get("source", ""))
