"""How a long piece of work tells how far it is, and notes, to whoever asked for it; by default to nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

Track: TypeAlias = "Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]"
"""Begins to show a piece of work, by its title and how many steps it has (None: not known) -> to call after each."""


def no_track(title: str, total: int | None) -> AbstractContextManager[Callable[[], None]]:  # noqa: ARG001
    """Show nothing."""
    return nullcontext(lambda: None)


def no_note(note: str) -> None:
    """Tell nobody."""
