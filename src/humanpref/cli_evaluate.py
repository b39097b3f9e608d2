"""The command `humanpref evaluate`: scorers against people, over any preference data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from humanpref.cli_options import (
    DeviceOption,
    Format,
    FormatOption,
    PrecisionName,
    PrecisionOption,
    Resize,
    ResizeOption,
    complete_model,
    load,
)
from humanpref.errors import DataError, ScoreError
from humanpref.scorers import DEFAULT_SCORER, SPECS, check_options, get_spec
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.evaluation.evaluate import TestSet, TieThreshold
    from humanpref.evaluation.generators import GeneratorReport, SetMetric
    from humanpref.evaluation.inception import Inception
    from humanpref.scorers import Scorer


class Level(str, Enum):
    """What is ranked."""

    image = "image"
    model = "model"


class TestSetName(str, Enum):
    """A published test set, by whose rule results are reported and beside whose figures they are shown."""

    auto = "auto"
    none = "none"
    hpdv2_test = "hpdv2-test"
    imagereward_test = "imagereward-test"
    pickapic_test = "pickapic-test"


def evaluate_command(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Files in any known format, or the folders that hold them.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="NAME...", help="A scorer, or several.", autocompletion=complete_model),
    ] = None,
    image_root: Annotated[
        list[Path] | None,
        typer.Option(help="Where the images are, if not beside the data: one for each DATA, or for all."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="A checkpoint file for a scorer, instead of the published one."),
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]ARCH", help="open_clip architecture name or JSON config, for other sizes."),
    ] = None,
    resize: ResizeOption = Resize.antialias,
    precision: PrecisionOption = PrecisionName.auto,
    device: DeviceOption = "auto",
    test_set: Annotated[
        TestSetName, typer.Option(help="Whose rule and published figures; auto: by the format.")
    ] = TestSetName.auto,
    tie_threshold: Annotated[
        str, typer.Option(metavar="FLOAT|best", help="Pick-a-Pic rule: the gap of probabilities that is still a tie.")
    ] = "0",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that are not on disk, and count them.")
    ] = False,
    level: Annotated[Level, typer.Option(help="image: agreement on images. model: on whole generators.")] = Level.image,
    fid: Annotated[
        Path | None, typer.Option("--fid", metavar="FOLDER", help="With --level model: FID against these real images.")
    ] = None,
    inception_score: Annotated[
        bool, typer.Option("--inception-score", help="With --level model: the Inception Score too.")
    ] = False,
    inception_weights: Annotated[Path | None, typer.Option(help="The Inception network's weights file.")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor keep scores (see: humanpref cache).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap behind the intervals.")] = 0,
    report: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write a report: .html, .md or .tex. May be repeated.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Measure how well scorers agree with human rankings, next to how well people do."""
    from humanpref.evaluation import output as output_evaluation
    from humanpref.evaluation.evaluate import judge, score_all
    from humanpref.evaluation.generator_metrics import judge_generators
    from humanpref.evaluation.report import check_report, write_report

    paths, names = _split(data, model)
    threshold = _threshold(tie_threshold)
    files, archs = _by_scorer(weights, names, "--weights"), _by_scorer(arch, names, "--arch")
    _check_level(level, fid, inception_score, inception_weights)
    for path in report or ():
        check_report(path)
    chosen = {name: _options(name, names, archs.get(name), resize, precision, device) for name in names}
    _check_weights(names, files)
    roots = _roots(image_root, len(paths))
    test_sets = [_read(path, root, test_set, allow_missing) for path, root in zip(paths, roots, strict=True)]
    inception: Inception | None = None
    reference: list[Path] = []
    if level is Level.model:
        for one in test_sets:
            judge_generators(one, ())  # what is missing is said now, not after hours of scoring
        inception, reference = _inception(fid, inception_score, inception_weights, device)
    with ExitStack() as stack:
        scorers: Iterator[Scorer] = (
            load(name, _path(files.get(name)), *chosen[name]) for name in names
        )  # one in memory at a time
        if not no_cache:
            scorers = _cached(scorers, stack)
        total = sum(t.images for t in test_sets) * len(names)
        with progress("Scoring", total) as advance:
            scores = score_all(test_sets, scorers, on_image=advance)
    by_set = [[row[k] for row in scores] for k in range(len(test_sets))]
    generators: list[tuple[str, GeneratorReport]] = []
    if level is Level.model:
        for one, own in zip(test_sets, by_set, strict=True):
            found = [] if inception is None else _set_metrics(one, inception, reference, inception_score, seed)
            generators.append((one.data, judge_generators(one, own, found, seed=seed)))
        print(output_evaluation.RENDER_GENERATORS[format.value](generators))
    if level is Level.image or report:
        reports = [judge(t, own, tie_threshold=threshold, seed=seed) for t, own in zip(test_sets, by_set, strict=True)]
        for judged in reports:
            say(*judged.notes)
        if level is Level.image:
            print(output_evaluation.RENDER_EVALUATION[format.value](reports))
        for path in report or ():
            write_report(reports, path, generators)
            say(f"the report is in {path}")


def _split(words: Sequence[str], model: Sequence[str] | None) -> tuple[list[Path], list[str]]:
    """Tell data from the scorers that follow `--model` without an option of their own (`--model A B`)."""
    named = [name for word in model or () for name in word.split(",")]
    more = [word for word in words if named and word in SPECS and not Path(word).exists()]
    paths = [Path(word) for word in words if word not in more]
    names = [*named, *more] or [DEFAULT_SCORER]
    for name in names:
        get_spec(name)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ScoreError(f"{twice[0]} is named twice; name each scorer once")
    if not paths:
        raise DataError("no data to evaluate on; name a file in a known format, or a folder that holds one")
    return paths, names


def _threshold(text: str) -> TieThreshold:
    from humanpref.evaluation.evaluate import check_threshold

    try:
        threshold: TieThreshold = "best" if text == "best" else float(text)
    except ValueError:
        raise DataError(f"--tie-threshold is a number from 0 to 1, or best; got {text!r}") from None
    check_threshold(threshold)
    return threshold


def _check_level(level: Level, fid: Path | None, inception_score: bool, inception_weights: Path | None) -> None:
    if level is not Level.model and (fid or inception_score):
        raise ScoreError("--fid and --inception-score are for --level model")
    if inception_weights and not (fid or inception_score):
        raise ScoreError("--inception-weights is for --fid and --inception-score")


def _roots(image_root: Sequence[Path] | None, count: int) -> Sequence[Path | None]:
    if not image_root:
        return [None] * count
    if len(image_root) not in {1, count}:
        raise DataError(f"{len(image_root)} --image-root for {count} data sets; give one for all, or one for each")
    return image_root if len(image_root) == count else [image_root[0]] * count


def _options(
    name: str, names: Sequence[str], arch: str | None, resize: Resize, precision: PrecisionName, device: str
) -> tuple[str | None, Resize, PrecisionName, str]:
    """Choose a scorer's options, refused now if it cannot have them; among others, lite keeps its only ones."""
    spec = get_spec(name)
    if spec.ships and len(names) > 1:
        resize, precision, device = Resize.antialias, PrecisionName.auto, "auto"
    check_options(spec, arch, resize.value, precision.value, device)
    return arch, resize, precision, device


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _by_scorer(values: Sequence[str] | None, names: Sequence[str], option: str) -> dict[str, str]:
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


def _cached(scorers: Iterator[Scorer], stack: ExitStack) -> Iterator[Scorer]:
    """Look scores up before they are computed, and keep those that are."""
    from humanpref.cache import ScoreCache
    from humanpref.scorers.cached import CachedScorer

    cache = stack.enter_context(ScoreCache())
    for scorer in scorers:
        yield CachedScorer(scorer, cache)
    if cache.trouble:
        say(cache.trouble)


def _inception(
    fid: Path | None, inception_score: bool, weights: Path | None, device: str
) -> tuple[Inception | None, list[Path]]:
    """Load the Inception network, where FID or the Inception Score is asked for, and find FID's real images."""
    if fid is None and not inception_score:
        return None, []
    from humanpref.evaluation.inception import load_inception
    from humanpref.images import expand_sources

    reference = [] if fid is None else [Path(str(source)) for source in expand_sources([str(fid)])]
    return load_inception(weights, device, on_download=say), reference


def _set_metrics(
    test_set: TestSet, inception: Inception, reference: list[Path], with_inception_score: bool, seed: int
) -> list[SetMetric]:
    from humanpref.evaluation.generator_metrics import images_by_generator, set_metrics

    total = sum(map(len, images_by_generator(test_set).values())) + len(reference)
    with progress("Inception", total) as advance:
        found, notes = set_metrics(
            test_set,
            inception,
            reference=reference,
            with_inception_score=with_inception_score,
            seed=seed,
            on_image=advance,
        )
    say(*notes)
    return found


def _check_weights(names: Sequence[str], files: dict[str, str]) -> None:
    """Say what is missing now, not after hours of scoring with the other scorers."""
    from humanpref.scorers.weights import locate_all

    for name in names:
        if not (spec := get_spec(name)).ships:
            locate_all(spec, files.get(name))
        if spec.family == "imagereward":
            from humanpref.scorers.imagereward import require_tokenizers

            require_tokenizers()


def _read(path: Path, root: Path | None, test_set: TestSetName, allow_missing: bool) -> TestSet:
    from humanpref.data.formats import open_data
    from humanpref.evaluation.evaluate import prepare

    published = {"hpdv2-test": "hpdv2-test", "imagereward": "imagereward-test", "pickapic": "pickapic-test"}
    file = open_data(path, root)
    name = published.get(file.format.layout.name) if test_set is TestSetName.auto else test_set.value
    return prepare(file, data=str(path), test_set=None if name == "none" else name, allow_missing=allow_missing)
