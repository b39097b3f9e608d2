"""A published row measured again, with both resizes: which of the two were the published numbers made with?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from humanpref.benchmark.collect import GeneratorImages, collect
from humanpref.benchmark.published import ARCHIVES, STYLES, PublishedRow
from humanpref.benchmark.results import Result
from humanpref.benchmark.statistics import Estimate, stratified_estimate
from humanpref.benchmark.suites import Suite, load_suite
from humanpref.data.fetch import Plan, fetch, get_dataset, plan_download
from humanpref.errors import DataError
from humanpref.preprocess import Resize
from humanpref.report.cells import NONE, Column, Table, brackets, row

RESIZES: tuple[Resize, ...] = ("antialias", "no-antialias")


@dataclass(frozen=True)
class Reproduction:
    """A published row beside ours, {resize: result}, all cosine x 100."""

    scorer: str
    published: PublishedRow
    results: Mapping[str, Result]

    def ours(self, resize: str, style: str | None, seed: int = 0) -> Estimate | None:
        """Our mean of a style, or over all; None where none of its images was scored."""
        result = self.results[resize]
        strata = [result.scores(one) for one in (result.suite.styles if style is None else [style])]
        return stratified_estimate(strata, seed=seed) if any(len(own) for own in strata) else None

    def distance(self, resize: str) -> float:
        """The mean over styles of how far ours is from the published figure; inf where a style is not there."""
        gaps = []
        for style, value in self.published.styles.items():
            own = self.ours(resize, style)
            gaps.append(float("inf") if own is None else abs(own.mean - value))
        return sum(gaps) / len(gaps)

    @property
    def closest(self) -> str:
        """The resize whose figures are nearer to the published ones."""
        return min(self.results, key=self.distance)


def plan_archive(generator: PublishedRow, out: str | Path | None = None) -> Plan:
    """Plan the download of a published model's images, with the benchmark's prompts: a part of `hps-benchmark`.

    Raises as `plan_download`.
    """
    whole = get_dataset("hps-benchmark")
    archive = ARCHIVES[generator.generator]
    part = replace(
        whole,
        name=f"hps-benchmark-{archive}",
        summary=f"HPS v2 benchmark: the prompts, and the images of {generator.generator}",
        files=("benchmark/*.json", f"benchmark/benchmark_imgs/{archive}.tar.gz"),
    )
    return plan_download(part, out)


def fetch_archive(
    plan: Plan, generator: PublishedRow, on_file: Callable[[], None] | None = None
) -> tuple[Suite, GeneratorImages]:
    """Fetch what was planned -> the suite and the model's images. Raises as `fetch` and `collect`."""
    folder = fetch(plan, on_file)
    suite = load_suite("hps-v2", folder)
    images = folder / "benchmark_imgs" / ARCHIVES[generator.generator]
    (found,) = collect(images, suite, generator.generator)
    return suite, found


def reproduction(scorer: str, published: PublishedRow, results: Sequence[Result]) -> Reproduction:
    """Put results of one model, each with another resize, beside its published row. Raises `DataError` otherwise."""
    by_resize = {result.scorer.resize: result for result in results}
    if len(by_resize) != len(results) or not results:
        raise DataError(f"{published.generator}: results with different resizes are needed, got {list(by_resize)}")
    return Reproduction(scorer, published, by_resize)


def reproduction_table(found: Reproduction, seed: int = 0) -> Table:
    """Styles by resizes: published, ours with its interval, and the difference."""
    rows = []
    for style in (*STYLES, None):
        value = found.published.average if style is None else found.published.styles[style]
        cells = [row("average" if style is None else style, f"{value:.2f}").cells]
        for resize in found.results:
            own = found.ours(resize, style, seed)
            if own is None:
                cells.append(((NONE, ""), (NONE, "")))
            else:
                shown = (f"{own.mean:.2f}", brackets(own.ci, lambda x: f"{x:.2f}"))
                cells.append((shown, (f"{own.mean - value:+.2f}".replace("-", "−"), "")))
        rows.append(row(*(cell for part in cells for cell in part)))
    columns = (
        Column("Style", words=True),
        Column("published"),
        *(Column(title) for resize in found.results for title in (resize, "difference")),
    )
    distances = ", ".join(f"{found.distance(resize):.2f} with {resize}" for resize in found.results)
    note = f"Mean difference from the published styles: {distances}. Nearer: {found.closest}."
    title = f"{found.published.generator} by {found.scorer}, published and measured here"
    return Table("reproduction", title, columns, tuple(rows), note=note)
