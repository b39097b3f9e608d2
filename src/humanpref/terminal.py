"""What the command line says beside its results: progress bars and notes, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def progress(title: str, total: int | None, unit: str | None = None) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr for more than a few steps (`total` None: how many is not known), if a person is looking.

    With a `unit` ("images"), it also shows how many are done in a second.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else f"{task.speed:.2f} {unit}/s")

    console = Console(stderr=True)
    speed: tuple[ProgressColumn, ...] = () if unit is None else (Speed(),)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *speed, TimeRemainingColumn())
    off = (total is not None and total <= 4) or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def image_progress(title: str, total: int | None) -> AbstractContextManager[Callable[[], None]]:
    """`progress` of images, with how many are done in a second."""
    return progress(title, total, unit="images")


def say(*lines: str) -> None:
    """Print notes on stderr."""
    for line in lines:
        print(f"humanpref: {line}", file=sys.stderr)
