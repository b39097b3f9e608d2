"""The page of a comparison: what each method gains and costs, and the images of every prompt side by side.

A folder that needs nothing else: index.html, a style sheet, a script; images by relative paths, small copies of large
ones. Needs the `report` extra (jinja2, matplotlib).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from humanpref.benchmark.thumbnails import SIZE, Source, make_thumbnails, thumbnail_name
from humanpref.errors import DataError, ImageError
from humanpref.files import whole
from humanpref.images import open_image
from humanpref.improve.compare import output as shown
from humanpref.improve.compare.compare import ComparedPrompt, CompareReport, MethodImage
from humanpref.improve.gains import signed
from humanpref.report.write import environment
from humanpref.tables import percent

TEMPLATES = Path(__file__).with_name("templates")
LIMIT = 1000
"""How many rows of images a page has at most: those that gain most and those that lose most."""
IN_ONE_PROCESS = 256
"""So many small copies are made without starting processes for them."""
TINY = 96
"""Images up to this size are shown pixel by pixel."""


@dataclass(frozen=True)
class Score:
    """A score as it is shown, with its difference to the baseline's."""

    value: str
    difference: str
    sign: str
    best: bool


@dataclass(frozen=True)
class Cell:
    """One image of a row; `reason` where there is none."""

    thumbnail: str | None
    link: str
    reason: str
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Row:
    """The images of one prompt and seed; `differences` to order by, {"d<method>-<scorer>": value}."""

    place: int
    prompt: str
    seed: int
    number: int
    cells: tuple[Cell, ...]
    differences: Mapping[str, float]


def write_page(report: CompareReport) -> Path:
    """Write index.html into the folder of the comparison -> its path.

    Raises `MissingExtraError` without the `report` extra, `DataError` where it cannot be written.
    """
    from humanpref import __version__
    from humanpref.improve import plots

    templates = environment("humanpref.improve.compare")
    rows = chosen_rows(report)
    size = _largest_side(rows)
    try:
        thumbnails = _thumbnails(report.out, rows) if size > SIZE else {}
        text = templates.get_template("compare.html.j2").render(
            report=report,
            title=shown.gains_title(report),
            rows=[_row(report, place, row, thumbnails) for place, row in rows],
            shown=len(rows),
            small=0 < size <= TINY,
            gain_plots=[
                (plots.gains(report, name, plots.WIDE), plots.gains(report, name, plots.NARROW))
                for name in report.scorers
            ],
            difference_plots=[
                plots.differences(report, m, s)
                for m in range(1, len(report.methods))
                for s in range(len(report.scorers))
            ],
            signed=signed, percent=percent, brackets=shown.brackets, percents=shown.percents, p_text=shown.p_text,
            seconds=shown.seconds, times=shown.times,
            version=__version__,
            made=datetime.now(timezone.utc).date().isoformat(),
        )  # fmt: skip
        for name in ("compare.css", "compare.js"):
            shutil.copyfile(TEMPLATES / name, report.out / name)
        path = report.out / "index.html"
        with whole(path) as part:
            part.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(f"{report.out}: the page cannot be written ({error.strerror or error})") from None
    return path


def chosen_rows(report: CompareReport) -> list[tuple[int, ComparedPrompt]]:
    """The rows of the page with their places, those first that the first method gains most by the first scorer."""

    def gained(pair: tuple[int, ComparedPrompt]) -> float:
        base, own = (pair[1].images[m].scores[0] for m in (0, 1))
        return float("-inf") if base is None or own is None else own - base

    ordered = sorted(enumerate(report.rows), key=gained, reverse=True)
    if len(ordered) <= LIMIT:
        return ordered
    paired = [pair for pair in ordered if gained(pair) > float("-inf")] or ordered
    return paired if len(paired) <= LIMIT else paired[: LIMIT // 2] + paired[-LIMIT // 2 :]


def _largest_side(rows: Sequence[tuple[int, ComparedPrompt]]) -> int:
    """The longest side of the first image that can be read; 0 where none can."""
    for _, row in rows:
        for image in row.images:
            if image.path is not None:
                try:
                    return max(open_image(image.path).size)
                except ImageError:
                    continue
    return 0


def _thumbnails(out: Path, rows: Sequence[tuple[int, ComparedPrompt]]) -> dict[str, str]:
    """Make small copies -> {SHA-256: its path below `out`}."""
    sources = [
        Source(image.path, image.sha256)
        for _, row in rows
        for image in row.images
        if image.path is not None and image.sha256 is not None
    ]
    folder = out / "thumbnails"
    failed = make_thumbnails(sources, folder, workers=1 if len(sources) <= IN_ONE_PROCESS else None)
    return {s.sha256: f"thumbnails/{thumbnail_name(s.sha256)}" for s in sources if s.sha256 not in failed}


def _row(report: CompareReport, place: int, row: ComparedPrompt, thumbnails: Mapping[str, str]) -> Row:
    base = row.images[0].scores
    best = [
        max((value for value in values if value is not None), default=None)
        for values in zip(*(image.scores for image in row.images), strict=True)
    ]
    differences = {
        f"d{m}-{s}": value - first
        for m, image in enumerate(row.images)
        for s, (value, first) in enumerate(zip(image.scores, base, strict=True))
        if m and value is not None and first is not None
    }

    def cell(m: int, image: MethodImage) -> Cell:
        scores = []
        for s, value in enumerate(image.scores):
            rise = differences.get(f"d{m}-{s}")
            text = "" if rise is None else signed(rise).replace("-", "−") if rise else "same"
            sign = "" if not rise else "up" if rise > 0 else "down"
            number = "–" if value is None else f"{value:.4f}".replace("-", "−")
            scores.append(Score(number, text, sign, value is not None and value == best[s]))
        link = "" if image.path is None else quote(Path(os.path.relpath(image.path, report.out)).as_posix())
        readable = image.status == "done"
        thumbnail = thumbnails.get(image.sha256 or "", "" if thumbnails else link) if readable else ""
        return Cell(thumbnail or (link if readable else None), link, image.reason or image.status, tuple(scores))

    cells = tuple(cell(m, image) for m, image in enumerate(row.images))
    return Row(place, row.prompt, row.seed, row.number, cells, differences)
