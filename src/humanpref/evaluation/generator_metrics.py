"""What is computed of a generator's whole set of images: FID and Inception Score, for every generator of a test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from humanpref.errors import DataError, ImageError
from humanpref.evaluation.evaluate import Scores, TestSet
from humanpref.evaluation.generators import GeneratorReport, JudgedGroup, SetMetric, generator_report
from humanpref.evaluation.inception import Inception, frechet_inception_distance, inception_score, inception_splits
from humanpref.records import ImageRef


def judge_generators(
    test_set: TestSet, scores: Sequence[Scores], set_metrics: Sequence[SetMetric] = (), *, seed: int = 0
) -> GeneratorReport:
    """Correlate every scorer's, and every set metric's, ranking of the generators with the human one. Pure.

    Raises `DataError` where the data does not say which generator made an image (see `generator_report`).
    """
    groups = [
        JudgedGroup(i.consensus.prompt, tuple(image.source for image in i.consensus.images), i.consensus.ranks)
        for i in test_set.instances
    ]
    per_image = {own.spec.name: [values.tolist() for values in own.values] for own in scores}
    return generator_report(groups, per_image, set_metrics, seed=seed)


def images_by_generator(test_set: TestSet) -> dict[str, list[ImageRef]]:
    """{generator: its images, each once}; images without a source are left out."""
    found: dict[str, dict[ImageRef, None]] = {}
    for instance in test_set.instances:
        for image in instance.consensus.images:
            if image.source is not None:
                found.setdefault(image.source, {})[image] = None
    return {source: list(images) for source, images in found.items()}


def set_metrics(
    test_set: TestSet,
    inception: Inception,
    *,
    reference: Sequence[Path] = (),
    with_inception_score: bool = False,
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> tuple[list[SetMetric], list[str]]:
    """Compute FID against `reference` images, where there are any, and the Inception Score -> (metrics, notes).

    Every image goes through the network once. Both figures depend on how many images there are, so generators with
    different numbers of images are noted. Raises `DataError` for an image that cannot be read.
    """
    by_generator = images_by_generator(test_set)
    images = [image for own in by_generator.values() for image in own]
    try:
        features = inception.features([*images, *reference], on_image)
    except ImageError as error:
        raise DataError(f"an image of the data cannot be scored: {error}") from None
    places, start = {}, 0
    for generator, own in by_generator.items():
        places[generator] = range(start, start + len(own))
        start += len(own)
    real = features.select(range(start, len(features)))
    found = []
    if len(real):
        values = {g: frechet_inception_distance(features.select(p), real) for g, p in places.items()}
        found.append(SetMetric("FID", values, higher_is_better=False))
    if with_inception_score:
        values = {g: inception_score(features.select(p), seed=seed) for g, p in places.items()}
        found.append(SetMetric("Inception Score", values, higher_is_better=True))
    return found, _notes(inception, {len(p) for p in places.values()}, len(real), with_inception_score)


def _notes(inception: Inception, counts: set[int], real: int, with_inception_score: bool) -> list[str]:
    notes = []
    if not inception.official:
        notes.append("the Inception weights are not the official ones: FID and Inception Score compare with no others")
    if len(counts) > 1:
        notes.append(
            f"generators have {min(counts)} to {max(counts)} images; FID and Inception Score depend on their number"
        )
    smallest = min(counts, default=0)
    if real and min(smallest, real) < 2048:
        notes.append(f"FID of {smallest} against {real} real images is biased upwards; 2,048 or more are usual")
    if with_inception_score:
        notes.append(f"Inception Score over {inception_splits(smallest)} splits of {smallest} images")
    return notes
