"""The command `humanpref evaluate`: scorers against people, over any preference data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from humanpref.cli_options import (
    DeviceOption,
    FormatOption,
    PrecisionOption,
    ResizeOption,
    common_options,
    load,
)
from humanpref.cli_scorers import (
    ArchByScorer,
    ModelsOption,
    NoCacheOption,
    WeightsByScorer,
    check_weights,
    open_cache,
    options_by_scorer,
    split_words,
)
from humanpref.errors import DataError, ScoreError
from humanpref.terminal import progress, say

if TYPE_CHECKING:
    from humanpref.evaluation.evaluate import TestSet, TieThreshold
    from humanpref.evaluation.generators import GeneratorReport, SetMetric
    from humanpref.evaluation.inception import Inception
    from humanpref.scorers import Scorer


def evaluate_command(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Files in any known format, or the folders that hold them.")
    ],
    model: ModelsOption = None,
    image_root: Annotated[
        list[Path] | None,
        typer.Option(help="Where the images are, if not beside the data: one for each DATA, or for all."),
    ] = None,
    weights: WeightsByScorer = None,
    arch: ArchByScorer = None,
    resize: ResizeOption = "antialias",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    test_set: Annotated[
        Literal["auto", "none", "hpdv2-test", "imagereward-test", "pickapic-test"],
        typer.Option(help="Whose rule and published figures; auto: by the format."),
    ] = "auto",
    tie_threshold: Annotated[
        str, typer.Option(metavar="FLOAT|best", help="Pick-a-Pic rule: the gap of probabilities that is still a tie.")
    ] = "0",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that are not on disk, and count them.")
    ] = False,
    level: Annotated[
        Literal["image", "model"], typer.Option(help="image: agreement on images. model: on whole generators.")
    ] = "image",
    fid: Annotated[
        Path | None, typer.Option("--fid", metavar="FOLDER", help="With --level model: FID against these real images.")
    ] = None,
    inception_score: Annotated[
        bool, typer.Option("--inception-score", help="With --level model: the Inception Score too.")
    ] = False,
    inception_weights: Annotated[Path | None, typer.Option(help="The Inception network's weights file.")] = None,
    no_cache: NoCacheOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap behind the intervals.")] = 0,
    report: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write a report: .html, .md or .tex. May be repeated.")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """Measure how well scorers agree with human rankings, next to how well people do."""
    from humanpref.evaluation import output as output_evaluation
    from humanpref.evaluation.evaluate import judge, score_all
    from humanpref.evaluation.generator_metrics import judge_generators
    from humanpref.evaluation.report import write_report
    from humanpref.report.write import check_report
    from humanpref.scorers.cached import CachedScorer

    words, names = split_words(data, model)
    if not (paths := [Path(word) for word in words]):
        raise DataError("no data to evaluate on; name a file in a known format, or a folder that holds one")
    threshold = _threshold(tie_threshold)
    chosen = options_by_scorer(names, weights, arch, common_options(resize, precision, device))
    _check_level(level, fid, inception_score, inception_weights)
    for path in report or ():
        check_report(path)
    check_weights(chosen)
    roots = _roots(image_root, len(paths))
    test_sets = [_read(path, root, test_set, allow_missing) for path, root in zip(paths, roots, strict=True)]
    inception: Inception | None = None
    reference: list[Path] = []
    if level == "model":
        for one in test_sets:
            judge_generators(one, ())  # what is missing is said now, not after hours of scoring
        inception, reference = _inception(fid, inception_score, inception_weights, device)
    with ExitStack() as stack:
        scorers: Iterator[Scorer] = (load(name, own) for name, own in chosen.items())  # one in memory at a time
        if not no_cache:
            scorers = map(partial(CachedScorer, cache=stack.enter_context(open_cache())), scorers)
        total = sum(t.images for t in test_sets) * len(names)
        with progress("Scoring", total) as advance:
            scores = score_all(test_sets, scorers, on_image=advance)
    by_set = [[row[k] for row in scores] for k in range(len(test_sets))]
    generators: list[tuple[str, GeneratorReport]] = []
    if level == "model":
        for one, own in zip(test_sets, by_set, strict=True):
            found = [] if inception is None else _set_metrics(one, inception, reference, inception_score, seed)
            generators.append((one.data, judge_generators(one, own, found, seed=seed)))
        print(output_evaluation.RENDER_GENERATORS[format](generators))
    if level == "image" or report:
        reports = [judge(t, own, tie_threshold=threshold, seed=seed) for t, own in zip(test_sets, by_set, strict=True)]
        for judged in reports:
            say(*judged.notes)
        if level == "image":
            print(output_evaluation.RENDER_EVALUATION[format](reports))
        for path in report or ():
            write_report(reports, path, generators)
            say(f"the report is in {path}")


def _threshold(text: str) -> TieThreshold:
    from humanpref.evaluation.evaluate import check_threshold

    try:
        threshold: TieThreshold = "best" if text == "best" else float(text)
    except ValueError:
        raise DataError(f"--tie-threshold is a number from 0 to 1, or best; got {text!r}") from None
    check_threshold(threshold)
    return threshold


def _check_level(level: str, fid: Path | None, inception_score: bool, inception_weights: Path | None) -> None:
    if level != "model" and (fid or inception_score):
        raise ScoreError("--fid and --inception-score are for --level model")
    if inception_weights and not (fid or inception_score):
        raise ScoreError("--inception-weights is for --fid and --inception-score")


def _roots(image_root: Sequence[Path] | None, count: int) -> Sequence[Path | None]:
    if not image_root:
        return [None] * count
    if len(image_root) not in {1, count}:
        raise DataError(f"{len(image_root)} --image-root for {count} data sets; give one for all, or one for each")
    return image_root if len(image_root) == count else [image_root[0]] * count


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


def _read(path: Path, root: Path | None, test_set: str, allow_missing: bool) -> TestSet:
    from humanpref.data.formats import open_data
    from humanpref.evaluation.evaluate import prepare

    published = {"hpdv2-test": "hpdv2-test", "imagereward": "imagereward-test", "pickapic": "pickapic-test"}
    file = open_data(path, root)
    name = published.get(file.format.layout.name) if test_set == "auto" else test_set
    return prepare(file, data=str(path), test_set=None if name == "none" else name, allow_missing=allow_missing)
