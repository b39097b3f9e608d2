"""A run: every image of every generator by every scorer, in one pass; what is known is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from humanpref.benchmark.collect import GeneratorImages
from humanpref.benchmark.results import ImageScore, Result, ScorerInfo, SuiteInfo, Unreadable, write_result
from humanpref.benchmark.suites import Suite
from humanpref.cache import ScoreCache
from humanpref.errors import DataError, ImageError
from humanpref.generate.contract import file_name
from humanpref.scorers import Scorer
from humanpref.scorers.together import Judged, Together


@dataclass(frozen=True)
class RunReport:
    """What a run did: `computed` scores were not known before; of `seconds`, the models waited `waited` for images."""

    results: tuple[Result, ...]
    images: int
    computed: int
    seconds: float
    waited: float

    @property
    def waiting_share(self) -> float:
        """The share of the time in which no model had work because images were not yet decoded, in [0, 1]."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


def result_path(out: Path, generator: str, scorer: ScorerInfo) -> Path:
    """Where a result is in the folder of results."""
    return out / f"{file_name(generator)}.{file_name(scorer.label)}.json"


def run_benchmark(
    generators: Sequence[GeneratorImages],
    suite: Suite,
    scorers: Sequence[Scorer],
    out: str | Path,
    *,
    cache: ScoreCache,
    on_image: Callable[[], None] | None = None,
) -> RunReport:
    """Score generators and write a result file per generator and scorer, each as its generator is done.

    out: a folder, or a file name ending in .json for a single result. cache: what was scored before is looked up there,
    so that a run that was stopped goes on where it was. Raises `DataError` where nothing can be scored or the results
    cannot be written, `ScoreError` for a score that is no finite number; missing and unreadable images are in the
    results.
    """
    out = Path(out).expanduser()
    infos = [ScorerInfo.of(scorer.spec.name, scorer.spec.scale, scorer.identity) for scorer in scorers]
    _check(generators, infos, out, suite)
    together = Together(scorers, cache)
    results = []
    for own in generators:
        found = []
        for judged in together.score([(image.path, suite.prompts[image.prompt].text) for image in own.images]):
            found.append(judged)
            if on_image is not None:
                on_image()
        for i, (scorer, info) in enumerate(zip(scorers, infos, strict=True)):
            result = _result(own, suite, scorer, info, i, found)
            write_result(result, out if out.suffix == ".json" else result_path(out, own.generator, info))
            results.append(result)
    images = sum(len(own.images) for own in generators)
    return RunReport(tuple(results), images, together.computed, together.seconds, together.waited)


def _check(generators: Sequence[GeneratorImages], infos: Sequence[ScorerInfo], out: Path, suite: Suite) -> None:
    names = [own.generator for own in generators]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"two generators are called {twice[0]!r}; score them apart, with --name")
    if out.suffix == ".json" and len(generators) * len(infos) > 1:
        raise DataError(
            f"{out}: {len(generators)} generators by {len(infos)} scorers are several results; give a folder"
        )
    if out.is_file() and out.suffix != ".json":
        raise DataError(f"{out}: is a file; --out names a folder, or a file that ends in .json")
    if empty := [own.generator for own in generators if not own.images]:
        raise DataError(f"{empty[0]}: has not one image of the {len(suite.prompts)} prompts of the suite {suite.name}")


def _result(
    own: GeneratorImages, suite: Suite, scorer: Scorer, info: ScorerInfo, i: int, found: Sequence[Judged]
) -> Result:
    from humanpref import __version__

    images, unreadable = [], []
    for image, judged in zip(own.images, found, strict=True):
        prompt, outcome = suite.prompts[image.prompt], judged.outcomes[i]
        if isinstance(outcome, ImageError):
            unreadable.append(Unreadable(prompt.style, prompt.index, image.path, str(outcome)))
            continue
        sha256 = judged.sha256 or ""
        images.append(ImageScore(prompt.style, prompt.index, image.number, prompt.text, image.path, sha256, outcome))
    seen = {image.prompt for image in own.images}
    return Result(
        generator=own.generator,
        scorer=info,
        suite=SuiteInfo(suite.name, suite.revision, dict(suite.styles)),
        images=tuple(images),
        missing=tuple(suite.prompts[place].stem for place in own.missing),
        unreadable=tuple(unreadable),
        truncated_prompts=sum(scorer.truncated(suite.prompts[place].text) for place in seen),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        humanpref=__version__,
    )
