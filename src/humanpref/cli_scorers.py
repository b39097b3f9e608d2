"""What commands with several scorers have in common: telling scorers from data, and each one's options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import complete_model, load
from humanpref.errors import DataError, ScoreError, UnknownNameError
from humanpref.scorers import DEFAULT_SCORER, SPECS, LoadOptions, check_options, get_spec
from humanpref.terminal import say

if TYPE_CHECKING:
    from humanpref.cache import ScoreCache
    from humanpref.scorers import Scorer

ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="NAME...", help="A scorer, or several.", autocompletion=complete_model),
]
WeightsByScorer = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]FILE", help="A checkpoint file for a scorer, instead of the published one."),
]
ArchByScorer = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]ARCH", help="open_clip architecture name or JSON config, for other sizes."),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep scores (see: humanpref cache).")]


def split_words(
    words: Sequence[str], model: Sequence[str] | None, *, none_is_fine: bool = False
) -> tuple[list[Path], list[str]]:
    """Tell data from the scorers that follow `--model` without an option of their own (`--model A B`)."""
    named = [name for word in model or () for name in word.split(",")]
    more = [word for word in words if named and word in SPECS and not Path(word).exists()]
    paths = [Path(word) for word in words if word not in more]
    names = [*named, *more] or [DEFAULT_SCORER]
    for name in names:
        get_spec(name)
    if not paths and not none_is_fine:
        raise DataError("no data to evaluate on; name a file in a known format, or a folder that holds one")
    return paths, names


def options_by_scorer(
    names: Sequence[str], weights: Sequence[str] | None, arch: Sequence[str] | None, common: LoadOptions
) -> dict[str, LoadOptions]:
    """Settle each scorer's options, refused now if it cannot have them; among others, lite keeps its only ones."""
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ScoreError(f"{twice[0]} is named twice; name each scorer once")
    files, archs = by_scorer(weights, names, "--weights"), by_scorer(arch, names, "--arch")
    found = {}
    for name in names:
        spec = get_spec(name)
        options = LoadOptions() if spec.ships and len(names) > 1 else common
        found[name] = replace(options, weights=files.get(name), arch=archs.get(name))
        check_options(spec, found[name])
    return found


def by_scorer(values: Sequence[str] | None, names: Sequence[str], option: str) -> dict[str, str]:
    """Read `[NAME=]VALUE` options -> {scorer: value}; without a name it is the only scorer's."""
    found: dict[str, str] = {}
    for value in values or ():
        name, equals, rest = value.partition("=")
        if equals and name in SPECS:
            if name not in names:
                raise ScoreError(f"{option} {value}: {name} is not among the scorers to evaluate")
        elif len(names) == 1:
            name, rest = names[0], value
        else:
            raise ScoreError(f"{option} {value}: say which scorer it belongs to, as {option} NAME={value}")
        if name in found:
            raise ScoreError(f"{option} is given twice for {name}")
        found[name] = rest
    return found


def check_weights(options: Mapping[str, LoadOptions]) -> None:
    """Say what is missing now, not after hours of scoring with the other scorers."""
    from humanpref.scorers.weights import locate_all

    for name, own in options.items():
        if not (spec := get_spec(name)).ships:
            locate_all(spec, own.weights)
        if spec.family == "imagereward":
            from humanpref.scorers.imagereward import require_tokenizers

            require_tokenizers()


def chosen_scorers(
    words: Sequence[str] | None,
    model: Sequence[str] | None,
    weights: Sequence[str] | None,
    arch: Sequence[str] | None,
    common: LoadOptions,
) -> tuple[Callable[[], list[Scorer]], list[str]]:
    """Settle which scorers there are to be, refused now if they cannot be -> how to load them, and their names.

    `words` may be more names after `--model`. Weights that are missing are fetched, or missed, now.
    """
    others, names = split_words(words or (), model, none_is_fine=True)
    if others:
        raise UnknownNameError(f"{others[0]}: is no scorer (see: humanpref models); one file of prompts comes first")
    options = options_by_scorer(names, weights, arch, common)
    check_weights(options)
    return lambda: [load(name, own) for name, own in options.items()], names


@contextmanager
def open_cache(path: Path | None = None) -> Iterator[ScoreCache]:
    """The cache of scores, or another file of them; says at the end if scores could not be kept."""
    from humanpref.cache import ScoreCache

    with ScoreCache(path) as cache:
        yield cache
    if cache.trouble:
        say(cache.trouble)


@contextmanager
def score_cache(out: Path, no_cache: bool) -> Iterator[ScoreCache]:
    """The cache of scores; with --no-cache that of a run alone, in its folder (or beside its one .json file): gone
    when the run is done, kept if it is stopped."""
    if not no_cache:
        with open_cache() as cache:
            yield cache
        return
    own = out.with_name(f".{out.stem}.scores.sqlite") if out.suffix == ".json" else out / ".scores.sqlite"
    own.parent.mkdir(parents=True, exist_ok=True)
    with open_cache(own) as cache:
        yield cache
    for suffix in ("", "-wal", "-shm"):
        own.with_name(own.name + suffix).unlink(missing_ok=True)
