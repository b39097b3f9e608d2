"""Result files: what one scorer said of one generator's images of one suite, with all that it takes to trust it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from humanpref.errors import DataError
from humanpref.files import whole
from humanpref.metrics import Array

FORMAT = "humanpref-benchmark"
VERSION = 1

FACTORS: Mapping[str, float] = {"cosine": 100.0}
"""By what scores of a scale are multiplied in tables: HPS v2's tables are of cosine x 100."""


@dataclass(frozen=True)
class ScorerInfo:
    """Which scorer it was, exactly. `weights` is the SHA-256 of its file, "" where it has none; the others are "" where
    the scorer has no such choice. `identity` is the whole of `Scorer.identity`."""

    name: str
    scale: str
    identity: str
    weights: str = ""
    resize: str = ""
    precision: str = ""

    @classmethod
    def of(cls, name: str, scale: str, identity: str) -> ScorerInfo:
        """Read the parts of an identity."""
        parts = dict(part.split("=", 1) for part in identity.split() if "=" in part)
        own = {key: parts.get(key, "") for key in ("weights", "resize", "precision")}
        return cls(name, scale, identity, **own)

    @property
    def label(self) -> str:
        """What a column of a table is called: the name, and a resize that is not the default."""
        return self.name if self.resize in {"", "antialias"} else f"{self.name} ({self.resize})"

    @property
    def factor(self) -> float:
        """By what its scores are multiplied in tables."""
        return FACTORS.get(self.scale, 1.0)

    @property
    def comparable(self) -> tuple[str, ...]:
        """Scores are on one scale where this is equal: precision and versions may differ."""
        return (self.name, self.weights, self.resize)


@dataclass(frozen=True)
class SuiteInfo:
    """The suite, by its revision, and {style: number of prompts}."""

    name: str
    revision: str
    styles: Mapping[str, int]


@dataclass(frozen=True)
class ImageScore:
    """One scored image: `index` its prompt's place in the style, `number` which of the prompt's images it is (from 0);
    `score` on the scorer's own scale."""

    style: str
    index: int
    number: int
    prompt: str
    image: Path
    sha256: str
    score: float


@dataclass(frozen=True)
class Unreadable:
    """An image that is there and cannot be read, and why."""

    style: str
    index: int
    image: Path
    error: str


@dataclass(frozen=True)
class Result:
    """One row of a benchmark. `missing` are the prompts without an image, as "style/00000". `date` is ISO 8601, UTC."""

    generator: str
    scorer: ScorerInfo
    suite: SuiteInfo
    images: tuple[ImageScore, ...]
    missing: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    truncated_prompts: int = 0
    date: str = ""
    humanpref: str = ""
    path: Path | None = field(default=None, compare=False)

    @property
    def complete(self) -> bool:
        """Whether every prompt has an image and every image was scored."""
        return not self.missing and not self.unreadable

    @cached_property
    def by_prompt(self) -> Mapping[tuple[str, int], float]:
        """{(style, index): mean score of the prompt's images}, on the scorer's own scale, in the suite's order."""
        sums: dict[tuple[str, int], list[float]] = {}
        for image in self.images:
            sums.setdefault((image.style, image.index), []).append(image.score)
        return {place: float(np.mean(scores)) for place, scores in sums.items()}

    def scores(self, style: str | None = None) -> Array:
        """Scores by prompt (prompts,) of one style or of all, as tables show them (x 100 for cosines)."""
        own = [score for (s, _), score in self.by_prompt.items() if style in {None, s}]
        return np.asarray(own, dtype=np.float64) * self.scorer.factor

    @property
    def shortcomings(self) -> str:
        """What is not there, for people; "" for a complete row."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} images missing")
        if self.unreadable:
            parts.append(f"{len(self.unreadable)} unreadable")
        return ", ".join(parts)


def write_result(result: Result, path: Path) -> None:
    """Write a result, whole or not at all; images are named from the file's own folder. Raises `DataError`."""
    folder = path.absolute().parent

    def named(image: Path) -> str:
        return Path(os.path.relpath(image.absolute(), folder)).as_posix()

    head = {
        "format": FORMAT,
        "version": VERSION,
        "generator": result.generator,
        "scorer": asdict(result.scorer),
        "suite": {**asdict(result.suite), "styles": dict(result.suite.styles)},
        "date": result.date,
        "humanpref": result.humanpref,
        "truncated_prompts": result.truncated_prompts,
        "missing": list(result.missing),
        "unreadable": [{**asdict(one), "image": named(one.image)} for one in result.unreadable],
    }
    rows = (json.dumps({**vars(one), "image": named(one.image)}, ensure_ascii=True) for one in result.images)
    text = json.dumps(head, indent=1, allow_nan=False)
    text = text[:-2] + ',\n "images": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: the result cannot be written ({error.strerror or error})") from None


def read_result(path: str | Path) -> Result:
    """Read a result file. Raises `DataError` for a file of another version, with the reason, or that is none at all."""
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: cannot be read: no such file; humanpref benchmark run makes results") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); run the benchmark again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: is not a result of humanpref benchmark run")
    if (version := content.get("version")) != VERSION:
        newer = isinstance(version, int) and version > VERSION
        mend = "update humanpref" if newer else "run the benchmark again"
        raise DataError(f"{path}: is a result of version {version!r}, this humanpref reads version {VERSION}; {mend}")
    try:
        return _result(content, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {error}); run the benchmark again") from None


def _result(content: Mapping[str, Any], path: Path) -> Result:
    images = tuple(ImageScore(**{**row, "image": path.parent / row["image"]}) for row in content["images"])
    if not all(math.isfinite(image.score) for image in images):
        raise ValueError("a score is no finite number")
    suite = SuiteInfo(**content["suite"])
    seen = {(image.style, image.index, image.number) for image in images}
    if len(seen) != len(images) or any(not 0 <= i < suite.styles[style] for style, i, _ in seen):
        raise ValueError("its images do not fit its suite")
    return Result(
        generator=str(content["generator"]),
        scorer=ScorerInfo(**content["scorer"]),
        suite=suite,
        images=images,
        missing=tuple(map(str, content["missing"])),
        unreadable=tuple(Unreadable(**{**row, "image": path.parent / row["image"]}) for row in content["unreadable"]),
        truncated_prompts=int(content["truncated_prompts"]),
        date=str(content["date"]),
        humanpref=str(content["humanpref"]),
        path=path,
    )


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """Read result files, and all that lie in folders. Raises `DataError` where there are none, or twice."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(f for f in path.glob("*.json") if not f.name.startswith(".") and _is_result(f))
            if not found:
                raise DataError(f"{path}: holds no results; humanpref benchmark run --out {path} writes them")
            files += found
        else:
            files.append(path)
    results = [read_result(file) for file in files]
    _refuse_twice(results)
    return results


def _is_result(path: Path) -> bool:
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(200)


def _refuse_twice(results: Sequence[Result]) -> None:
    seen: dict[tuple[str, str, str], Result] = {}
    for result in results:
        key = (result.generator, result.scorer.label, result.suite.revision)
        if (other := seen.get(key)) is not None:
            raise DataError(
                f"{result.path} and {other.path}: both are {result.generator} by {result.scorer.label}; leave one out, "
                "or give the generator another name (run --name)"
            )
        seen[key] = result
