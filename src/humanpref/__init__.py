"""Which of these images would a person prefer? Public names only; importing this loads no model code."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from humanpref.errors import HumanprefError
    from humanpref.records import ImageRef, Pair, Ranking
    from humanpref.scorers import load_scorer

__version__ = "0.1.0"

_HOME = {
    "HumanprefError": "errors",
    "ImageRef": "records",
    "Pair": "records",
    "Ranking": "records",
    "load_scorer": "scorers",
}

__all__ = ["HumanprefError", "ImageRef", "Pair", "Ranking", "load_scorer"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"humanpref.{_HOME[name]}"), name)
    raise AttributeError(f"module 'humanpref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
