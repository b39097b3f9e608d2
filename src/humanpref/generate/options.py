"""Backends by name: the table of kinds, and what `KIND:WHAT,option=value,...` makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from humanpref import specs
from humanpref.errors import UnknownNameError
from humanpref.generate.contract import Backend
from humanpref.specs import Kind

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "diffusers": Kind("humanpref.generate.diffusion", "DiffusersBackend", "DiffusersConfig", "MODEL"),
        "openai": Kind("humanpref.generate.images_api", "ImagesApiBackend", "ImagesApiConfig", "MODEL"),
        "folder": Kind("humanpref.generate.folder", "FolderBackend", "FolderConfig", "DIR"),
        "shapes": Kind("humanpref.generate.shapes", "ShapesBackend", "ShapesConfig", "SOURCE"),
    }
)


def make_backend(spec: str, shared: Mapping[str, Any] | None = None) -> Backend:
    """Make the backend that `KIND:WHAT[,option=value...]` names. `shared` are options for every backend that has them.

    Raises `UnknownNameError` naming the valid kinds or options, and whatever the backend raises for what it is given.
    """
    backend: Backend = specs.make(spec, KINDS, "a backend", shared)
    return backend


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Split a backend's spec -> kind, what stands behind the colon, options as they are written."""
    return specs.parse_spec(spec, KINDS, "a backend")


def users_of(option: str) -> tuple[str, ...]:
    """Return the kinds of backend that have an option."""
    return specs.users_of(option, KINDS)


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Turn "512" or "512x768" (width x height) into numbers. Raises `UnknownNameError` for anything else."""
    if size is None:
        return None
    if not (found := re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", size)):
        raise UnknownNameError(f"size must be WIDTHxHEIGHT in pixels, as 512x768, got {size!r}")
    return int(found[1]), int(found[2] or found[1])
