"""Backends by name: `KIND:WHAT,option=value,...` to a backend, its options checked against its config."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from humanpref.errors import UnknownNameError
from humanpref.generate.contract import Backend

KINDS: Mapping[str, tuple[str, str, str]] = {
    # kind: (module, backend, config)
    "diffusers": ("humanpref.generate.diffusion", "DiffusersBackend", "DiffusersConfig"),
    "openai": ("humanpref.generate.images_api", "ImagesApiBackend", "ImagesApiConfig"),
    "folder": ("humanpref.generate.folder", "FolderBackend", "FolderConfig"),
    "shapes": ("humanpref.generate.shapes", "ShapesBackend", "ShapesConfig"),
}


def make_backend(spec: str, shared: Mapping[str, Any] | None = None) -> Backend:
    """Make the backend that `KIND:WHAT[,option=value...]` names. `shared` are options for every backend that has them.

    Raises `UnknownNameError` naming the valid kinds or options, and whatever the backend raises for what it is given.
    """
    kind, what, given = parse_spec(spec)
    module = importlib.import_module(KINDS[kind][0])
    config_type = getattr(module, KINDS[kind][2])
    own = options_of(config_type)
    if unknown := [name for name in given if name not in own]:
        near = difflib.get_close_matches(unknown[0], own, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnknownNameError(f"{spec}: {kind} has no option {unknown[0]!r}{hint} (options: {', '.join(sorted(own))})")
    values = {name: value for name, value in (shared or {}).items() if name in own}
    values |= {name: _value(spec, name, text, own[name]) for name, text in given.items()}
    backend: Backend = getattr(module, KINDS[kind][1])(what, config_type(**values))
    return backend


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Split `KIND:WHAT,option=value,...`; a comma that no `option=` follows belongs to the value before it."""
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS or not colon:
        raise UnknownNameError(f"{spec!r}: a backend is KIND:WHAT, with one of {', '.join(KINDS)} as KIND")
    what, *pairs = re.split(r",(?=[a-z_-]+=)", rest)
    if not what:
        raise UnknownNameError(f"{spec!r}: names no model after {kind}:")
    given = dict(pair.split("=", 1) for pair in pairs)
    return kind, what, {name.replace("-", "_"): value for name, value in given.items()}


def options_of(config_type: Any) -> dict[str, Any]:
    """Return the options of a config and their types."""
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def users_of(option: str) -> tuple[str, ...]:
    """Return the kinds of backend that have an option."""
    return tuple(
        kind
        for kind, (module, _, config) in KINDS.items()
        if option in options_of(getattr(importlib.import_module(module), config))
    )


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
        return wanted(text) if wanted is not Path else Path(text).expanduser()
    except ValueError:
        raise UnknownNameError(f"{spec}: {name} must be a number, got {text!r}") from None


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Turn "512" or "512x768" (width x height) into numbers. Raises `UnknownNameError` for anything else."""
    if size is None:
        return None
    if not (found := re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", size)):
        raise UnknownNameError(f"size must be WIDTHxHEIGHT in pixels, as 512x768, got {size!r}")
    return int(found[1]), int(found[2] or found[1])
