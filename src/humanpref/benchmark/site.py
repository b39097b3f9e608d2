"""The static site of a benchmark: leaderboards, a page per prompt with every generator's image, best and worst images.

A folder that needs nothing else: HTML, one style sheet, one script, thumbnails. Pages of prompts are written one after
another, so that memory does not grow with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanpref.benchmark.leaderboard import Board, BoardRow
from humanpref.benchmark.published import SOURCE
from humanpref.benchmark.results import ImageScore, Result
from humanpref.benchmark.statistics import Estimate
from humanpref.benchmark.tables import mean, number, place, provenance
from humanpref.benchmark.thumbnails import SIZE, Source, make_thumbnails, thumbnail_name
from humanpref.errors import DataError, MissingExtraError
from humanpref.files import whole
from humanpref.generate.contract import file_name
from humanpref.report.write import environment

if TYPE_CHECKING:
    from jinja2 import Environment

MARK = ".humanpref-benchmark"
"""In the folder of a site: it is ours to write over."""

EXTREMES = 24
"""How many of a generator's best and worst images its page shows."""

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class SiteReport:
    """What was written. `failed` are the images without a thumbnail, by SHA-256, and why."""

    index: Path
    pages: int
    images: int
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Bar:
    """A mean and its interval on a scale of 0 to 100."""

    low: float
    width: float
    mark: float


@dataclass(frozen=True)
class Line:
    """A row of a shown leaderboard."""

    place: str
    generator: str
    link: str
    mean: str
    interval: str
    value: float
    std: str
    prompts: str
    bar: Bar
    published: bool = False
    shortcomings: str = ""


@dataclass(frozen=True)
class Shown:
    """One image of a prompt's page: `scores` by scorer, as shown, and `values` to sort by; best = 1 in `places`."""

    generator: str
    link: str
    thumbnail: str | None
    alt: str
    scores: tuple[str, ...]
    values: tuple[float, ...]
    places: tuple[int, ...]


def check_site(out: str | Path) -> None:
    """Say before the work is done whether a site can be written there. Raises `DataError`, `MissingExtraError`."""
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; a report is a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise DataError(f"{out}: holds other files; choose an empty or new folder for the report")
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(f'a report needs {error.name}: pip install "humanpref[report]"') from None
    del jinja2


def write_site(
    boards: Sequence[Board],
    out: str | Path,
    *,
    title: str = "",
    thumbnail: int = SIZE,
    workers: int | None = None,
    on_images: Callable[[int], None] | None = None,
    on_page: Callable[[], None] | None = None,
) -> SiteReport:
    """Write the site of leaderboards of one suite into the folder `out`; thumbnails that are there are kept.

    thumbnail: the longest side of the images, in pixels. workers: processes that make them (default: all cores).
    Raises as `check_site`, and `DataError` where it cannot be written.
    """
    out = Path(out).expanduser()
    check_site(out)
    if not boards:
        raise DataError(f"{out}: there is nothing to report on")
    site = _Site(boards, out, title or f"Benchmark: {boards[0].suite.name}", thumbnail)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
        for name in ("prompts", "generators"):
            shutil.rmtree(out / name, ignore_errors=True)  # of an older report
        failed = make_thumbnails(
            site.sources(), out / "thumbnails", size=thumbnail, workers=workers, on_image=on_images
        )
        site.failed = failed
        for name in ("site.css", "site.js"):
            shutil.copyfile(TEMPLATES / name, out / name)
        pages = 0
        for path, text in site.pages():
            _write(path, text)
            pages += 1
            if on_page is not None:
                on_page()
    except OSError as error:
        raise DataError(f"{out}: the report cannot be written ({error.strerror or error})") from None
    return SiteReport(out / "index.html", pages, len({s.sha256 for s in site.sources()}), failed)


def page_count(boards: Sequence[Board]) -> int:
    """How many pages `write_site` writes."""
    generators = {row.result.generator for board in boards for row in board.rows}
    places = {place for board in boards for row in board.rows for place in row.result.by_prompt}
    return 1 + len({style for style, _ in places}) + len(generators) + len(places)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))


class _Site:
    def __init__(self, boards: Sequence[Board], out: Path, title: str, size: int) -> None:
        self.boards, self.out, self.title, self.size = boards, out, title, size
        self.failed: Mapping[str, str] = {}

    @cached_property
    def _environment(self) -> Environment:
        return environment("humanpref.benchmark")

    @cached_property
    def _generators(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.result.generator for board in self.boards for row in board.rows))

    @cached_property
    def _results(self) -> Mapping[str, tuple[Result | None, ...]]:
        """{generator: its result by every board's scorer}."""
        by_board = [{row.result.generator: row.result for row in board.rows} for board in self.boards]
        return {name: tuple(own.get(name) for own in by_board) for name in self._generators}

    @cached_property
    def _images(self) -> Mapping[str, Mapping[tuple[str, int], ImageScore]]:
        """{generator: {prompt's place: the first of its images}}."""
        found: dict[str, dict[tuple[str, int], ImageScore]] = {}
        for name, results in self._results.items():
            own = found.setdefault(name, {})
            for result in results:
                for image in result.images if result is not None else ():
                    own.setdefault((image.style, image.index), image)
        return found

    @cached_property
    def _places(self) -> Mapping[str, list[int]]:
        """{style: places of its prompts that have any image}, in order."""
        found: dict[str, set[int]] = {style: set() for style in self.boards[0].styles}
        for own in self._images.values():
            for style, index in own:
                found[style].add(index)
        return {style: sorted(indices) for style, indices in found.items() if indices}

    def sources(self) -> Iterator[Source]:
        """Every image that a page shows."""
        for own in self._images.values():
            for image in own.values():
                if image.sha256:
                    yield Source(image.image, image.sha256)

    def pages(self) -> Iterator[tuple[Path, str]]:
        """Every page's file and text, as it is made."""
        yield self.out / "index.html", self._render("index", "", tables=self._tables(), facts=self._facts())
        for style in self._places:
            yield self.out / "prompts" / style / "index.html", self._style(style)
            for at, index in enumerate(self._places[style]):
                yield self.out / "prompts" / style / f"{index:05d}.html", self._prompt(style, at)
        for name in self._generators:
            yield self.out / "generators" / f"{file_name(name)}.html", self._generator(name)

    def _render(self, template: str, root: str, **values: Any) -> str:
        from humanpref import __version__

        return self._environment.get_template(f"{template}.html.j2").render(
            title=self.title,
            root=root,
            labels=[board.label for board in self.boards],
            suite=self.boards[0].suite,
            styles=list(self._places),
            version=__version__,
            made=datetime.now(timezone.utc).date().isoformat(),
            **values,
        )

    def _tables(self) -> list[tuple[Board, list[tuple[str, list[Line]]]]]:
        found = []
        for board in self.boards:
            tabs: list[tuple[str, list[Line]]] = [("all", _lines(board, None))]
            if len(board.styles) > 1:
                tabs += [(style, _lines(board, at)) for at, style in enumerate(board.styles)]
            found.append((board, [(name, lines) for name, lines in tabs if lines]))
        return found

    def _facts(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(board.label, provenance(board.rows), board.notes) for board in self.boards]

    def _shown(self, place_: tuple[str, int]) -> list[Shown]:
        """The images of a prompt, best by the first scorer first."""
        rows = []
        for name, own in self._images.items():
            if (image := own.get(place_)) is None:
                continue
            values = tuple(
                result.by_prompt[place_] * result.scorer.factor
                if result is not None and place_ in result.by_prompt
                else float("-inf")
                for result in self._results[name]
            )
            rows.append((name, image, values))
        rows.sort(key=lambda row: (*(-value for value in row[2]), row[0]))
        return [
            Shown(
                name,
                f"generators/{file_name(name)}.html",
                self._thumbnail(image),
                f"{name}: {image.prompt}",
                tuple(number(value) if value > float("-inf") else "–" for value in values),
                values,
                tuple(1 + sum(other[2][i] > value for other in rows) for i, value in enumerate(values)),
            )
            for name, image, values in rows
        ]

    def _thumbnail(self, image: ImageScore) -> str | None:
        if not image.sha256 or image.sha256 in self.failed:
            return None
        return f"thumbnails/{thumbnail_name(image.sha256, self.size)}"

    def _text(self, place_: tuple[str, int]) -> str:
        return next(own[place_].prompt for own in self._images.values() if place_ in own)

    def _style(self, style: str) -> str:
        rows = []
        for index in self._places[style]:
            shown = self._shown((style, index))
            values = [one.values[0] for one in shown if one.values[0] > float("-inf")]
            spread = max(values) - min(values) if values else 0.0
            rows.append((index, self._text((style, index)), shown[0], shown[-1], number(spread), spread))
        return self._render("style", "../../", style=style, rows=rows)

    def _prompt(self, style: str, at: int) -> str:
        indices = self._places[style]
        index = indices[at]
        before = f"{indices[at - 1]:05d}.html" if at else None
        after = f"{indices[at + 1]:05d}.html" if at + 1 < len(indices) else None
        place_ = (style, index)
        return self._render(
            "prompt", "../../", style=style, index=index, text=self._text(place_), shown=self._shown(place_),
            before=before, after=after,
        )  # fmt: skip

    def _generator(self, name: str) -> str:
        rows = [(board, row) for board in self.boards for row in board.rows if row.result.generator == name]
        shown: list[tuple[str, list[tuple[ImageScore, str, str | None]], list[tuple[ImageScore, str, str | None]]]] = []
        for board, row in rows:
            factor = row.result.scorer.factor
            ordered = sorted(row.result.images, key=lambda image: -image.score)
            cells = [
                (image, number(image.score * factor), self._thumbnail(self._first(name, image))) for image in ordered
            ]
            shown.append((board.label, cells[:EXTREMES], cells[EXTREMES:][-EXTREMES:][::-1]))
        return self._render("generator", "../", name=name, rows=rows, shown=shown, mean=mean, place=place)

    def _first(self, name: str, image: ImageScore) -> ImageScore:
        return self._images[name].get((image.style, image.index), image)


def _lines(board: Board, style: int | None) -> list[Line]:
    """A leaderboard of one style (by its place), or over all prompts, best first, published rows among them, marked."""

    def estimate(row: BoardRow) -> Estimate | None:
        return row.overall if style is None else row.styles[style]

    own = [(row, found) for row in board.rows if (found := estimate(row)) is not None]
    known = [(p.generator, p.average if style is None else p.styles[board.styles[style]]) for p in board.published]
    ends = [end for _, found in own for end in (found.ci or (found.mean, found.mean))] + [value for _, value in known]
    if not own:
        return []
    low, span = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float) -> float:
        return round(2 + 96 * (value - low) / span, 2)

    lines = []
    order = sorted(own, key=lambda pair: -pair[1].mean)
    for n, (row, found) in enumerate(order):
        left, right = found.ci or (found.mean, found.mean)
        value, interval = mean(found)
        lines.append(
            Line(
                place=place(row.rank) if style is None else str(n + 1),
                generator=row.result.generator,
                link=f"generators/{file_name(row.result.generator)}.html",
                mean=value,
                interval=interval,
                value=found.mean,
                std=number(found.chunk_std),
                prompts=f"{found.prompts:,}",
                bar=Bar(at(left), round(at(right) - at(left), 2), at(found.mean)),
                shortcomings=row.result.shortcomings,
            )
        )
    for name, score in known:
        bar = Bar(at(score), 0.0, at(score))
        lines.append(Line("–", name, SOURCE.split(",")[0], f"{score:.2f}", "", score, "–", "–", bar, published=True))
    return lines
