"""What commands with several scorers have in common: telling scorers from data, and each one's options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import complete_model, load
from humanpref.errors import ScoreError, UnknownNameError
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


def named_scorers(model: Sequence[str] | None) -> list[str]:
    """The scorers of `--model A --model B,C`; the default one without any. Raises `UnknownNameError`."""
    names = [name for word in model or (DEFAULT_SCORER,) for name in word.split(",")]
    for name in names:
        get_spec(name)
    return names


def split_words(words: Sequence[str], model: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Tell the scorers that follow `--model` without an option of their own (`--model A B`) -> (other words, scorers).

    A word that is also the name of something on disk is no scorer.
    """
    more = [word for word in words if model and word in SPECS and not Path(word).exists()]
    return [word for word in words if word not in more], named_scorers([*(model or ()), *more])


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
        name, rest = addressed(value, names, option)
        if name is None and len(names) > 1:
            raise ScoreError(f"{option} {value}: say which scorer it belongs to, as {option} NAME={value}")
        if (name := name or names[0]) in found:
            raise ScoreError(f"{option} is given twice for {name}")
        found[name] = rest
    return found


def addressed(value: str, names: Sequence[str], option: str) -> tuple[str | None, str]:
    """Read `[NAME=]VALUE`, NAME one of `names` -> (the name or None, the value)."""
    for name in names:  # a trained model's is a path, in which = may stand
        if value.startswith(f"{name}="):
            return name, value.removeprefix(f"{name}=")
    if (name := value.partition("=")[0]) != value and name in SPECS:
        raise ScoreError(f"{option} {value}: {name} is not among the scorers of this command")
    return None, value


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
    others, names = split_words(words or (), model)
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
