"""Things by name: `KIND:WHAT,option=value,...` made by a table of kinds; options are checked against each config."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from humanpref.errors import UnknownNameError


@dataclass(frozen=True)
class Kind:
    """One row of a table of kinds: `maker(what, config)` of a module that is imported when it is wanted.

    `what` says in messages what stands behind the colon; empty: nothing does, and `maker` is given an empty text.
    """

    module: str
    maker: str
    config: str
    what: str = ""

    @property
    def config_type(self) -> Any:
        """The dataclass of the kind's options."""
        return getattr(importlib.import_module(self.module), self.config)


def make(spec: str, kinds: Mapping[str, Kind], noun: str, shared: Mapping[str, Any] | None = None) -> Any:
    """Make what a spec names. `shared` are options for every kind that has them; `noun` is for messages ("a backend").

    Raises `UnknownNameError` naming the valid kinds or options, and whatever the maker raises for what it is given.
    """
    name, what, given = parse_spec(spec, kinds, noun)
    kind = kinds[name]
    own = options_of(kind.config_type)
    if unknown := [option for option in given if option not in own]:
        near = difflib.get_close_matches(unknown[0], own, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        options = ", ".join(sorted(own)) or "none"
        raise UnknownNameError(f"{spec}: {name} has no option {unknown[0]!r}{hint} (options: {options})")
    values = {option: value for option, value in (shared or {}).items() if option in own}
    values |= {option: _value(spec, option, text, own[option]) for option, text in given.items()}
    return getattr(importlib.import_module(kind.module), kind.maker)(what, kind.config_type(**values))


def parse_spec(spec: str, kinds: Mapping[str, Kind], noun: str) -> tuple[str, str, dict[str, str]]:
    """Split `KIND:WHAT,option=value,...`; a comma that no `option=` follows belongs to the value before it."""
    head, *pairs = re.split(r",(?=[a-z_-]+=)", spec)
    name, colon, what = head.partition(":")
    if name not in kinds or (kinds[name].what and not colon):
        forms = ", ".join(f"{key}:{kind.what}" if kind.what else key for key, kind in kinds.items())
        raise UnknownNameError(f"{spec!r}: {noun} is one of {forms}, then options as ,option=value")
    if bool(what) != bool(kinds[name].what):
        wanted = kinds[name].what
        raise UnknownNameError(f"{spec!r}: " + (f"names no {wanted} after {name}:" if wanted else f"{name} takes no :"))
    given: dict[str, str] = {}
    for option, _, value in (pair.partition("=") for pair in pairs):
        if (own := option.replace("-", "_")) in given:
            raise UnknownNameError(f"{spec}: {own} is given twice")
        given[own] = value
    return name, what, given


def options_of(config_type: Any) -> dict[str, Any]:
    """Return the options of a config and their types."""
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def users_of(option: str, kinds: Mapping[str, Kind]) -> tuple[str, ...]:
    """Return the kinds that have an option."""
    return tuple(name for name, kind in kinds.items() if option in options_of(kind.config_type))


def _value(spec: str, name: str, text: str, kind: Any) -> Any:
    choices = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    wanted = next(choice for choice in choices if choice is not type(None))
    if get_origin(wanted) is Literal:
        if text not in get_args(wanted):
            raise UnknownNameError(f"{spec}: {name} is one of {', '.join(get_args(wanted))}, not {text!r}")
        return text
    if wanted is bool:
        if text.lower() not in {"true", "false", "yes", "no", "1", "0"}:
            raise UnknownNameError(f"{spec}: {name} is true or false, not {text!r}")
        return text.lower() in {"true", "yes", "1"}
    try:
        value = wanted(text) if wanted is not Path else Path(text).expanduser()
    except ValueError:
        value = math.nan
    if isinstance(value, float) and not math.isfinite(value):
        raise UnknownNameError(f"{spec}: {name} must be a number, got {text!r}")
    return value
