"""The commands about the score cache: `humanpref cache ...`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import ReportFormatOption, complete_model
from humanpref.errors import CacheError
from humanpref.scorers import get_spec

if TYPE_CHECKING:
    from humanpref.cache import CacheInfo

cache_app = typer.Typer(
    name="cache",
    help="Look into the cache of scores ($HUMANPREF_CACHE), or empty it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cache_app.command("info")
def info_command(
    format: ReportFormatOption = "table",
) -> None:
    """Say where the cache is, how large, and how many scores of which scorer it holds."""
    from humanpref.cache import ScoreCache

    with ScoreCache() as cache:
        info = cache.info()
    print(_json(info) if format == "json" else _table(info))


@cache_app.command("clear")
def clear_command(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Only the scores of this scorer.", autocompletion=complete_model),
    ] = None,
) -> None:
    """Remove the scores that are kept, and print how many they were. A damaged cache is removed, too."""
    from humanpref.cache import ScoreCache, default_path, discard

    cache = None
    try:
        with ScoreCache() as cache:
            removed = cache.clear(model)
    except CacheError:
        if model is not None or (cache is not None and cache.trouble is not None):
            raise
        aside = discard(default_path())
        print("the unusable cache was removed" if aside is None else f"the unusable cache was moved to {aside}")
        return
    if model is not None and not removed:
        get_spec(model)  # a name that never was is an error
    print(f"{removed} scores removed")


def _json(info: CacheInfo) -> str:
    return json.dumps({**asdict(info), "path": str(info.path)}, indent=2, ensure_ascii=False)


def _table(info: CacheInfo) -> str:
    lines = [f"{info.path}", f"  {info.scores:,} scores, {info.bytes / 1e6:.1f} MB"]
    for row in info.scorers:
        lines.append(f"  {row.name}: {row.scores:,} scores, first used {row.first_used}, last {row.last_used}")
        lines.append(f"      {row.identity}")
    return "\n".join(lines)
