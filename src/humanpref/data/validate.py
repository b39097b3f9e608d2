"""Is a data set what it should be? Everything that is wrong, counted and listed, in one pass over the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, groupby, islice
from pathlib import Path
from typing import Any

from humanpref.data.formats import DataFile, open_data
from humanpref.errors import DataError, ImageError
from humanpref.images import open_image
from humanpref.progress import Track, no_track
from humanpref.records import Ranking

"""Shows progress: title and number of steps -> a context that gives a function to call at each step."""

KINDS = {
    "bad_instance": "instances that are no rankings",
    "repeated_image": "rankings with the same image twice",
    "duplicate_instance": "instances that are there twice (same prompt, same images)",
    "duplicate_annotation": "second rankings by the same annotator of the same group",
    "contradicted_consensus": "pairs that all annotators order one way and the consensus the other",
    "missing_image": "images that are not on disk",
    "broken_image": "images that cannot be opened",
    "prompt_overlap": "prompts that are also in the other data",
    "image_overlap": "images (by content) that are also in the other data",
}


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong, each case on a line; `fatal` False: counted, but allowed."""

    kind: str
    title: str
    count: int
    cases: tuple[str, ...]
    fatal: bool = True


@dataclass(frozen=True)
class Validation:
    """What `validate_data` found; `ok` when nothing is wrong that is not allowed."""

    data: str
    format: str
    instances: int
    rankings: int
    images: int
    against: str | None
    problems: tuple[Problem, ...]
    ok: bool


@dataclass
class _Findings:
    cases: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, case: str) -> None:
        self.cases.setdefault(kind, []).append(case)

    def problems(self, allowed: frozenset[str]) -> tuple[Problem, ...]:
        return tuple(
            Problem(kind, KINDS[kind], len(self.cases[kind]), tuple(self.cases[kind]), kind not in allowed)
            for kind in KINDS
            if kind in self.cases
        )


def validate_data(
    data: str | Path,
    image_root: str | Path | None = None,
    *,
    against: str | Path | None = None,
    against_image_root: str | Path | None = None,
    allow_missing: bool = False,
    track: Track = no_track,
) -> Validation:
    """Check that ranks are rankings, nothing is there twice, and every image opens; compare with other data.

    `against` is the other half of a split: shared prompts (whatever their case and spacing) and shared images (by
    SHA-256 of the file) are problems. Missing images are one too, unless `allow_missing`. Raises `DataError` only
    where the file cannot be read on, and for `against_image_root` without `against`.
    """
    if against is None and against_image_root is not None:
        raise DataError("--against-image-root says where the images of --against are, which is not given; leave it out")
    file, findings = open_data(data, image_root), _Findings()
    other = None if against is None else open_data(against, against_image_root)
    counts, images, prompts = _check_rankings(file, findings, track)
    hashes = _check_images(images, findings, track, hashed=other is not None)
    if other is not None:
        _check_overlap(other, prompts, hashes, findings, track)
    problems = findings.problems(frozenset({"missing_image"} if allow_missing else ()))
    return Validation(
        data=str(data),
        format=file.format.name,
        instances=counts[0],
        rankings=counts[1],
        images=len(images),
        against=None if against is None else str(against),
        problems=problems,
        ok=not any(problem.fatal for problem in problems),
    )


def normal_prompt(prompt: str) -> str:
    """Return a prompt without what does not make it another one: case and spacing."""
    return " ".join(prompt.split()).casefold()


def _check_rankings(
    file: DataFile, findings: _Findings, track: Track
) -> tuple[tuple[int, int], dict[Path, None], set[str]]:
    images: dict[Path, None] = {}
    prompts: set[str] = set()
    groups: set[bytes] = set()
    judgements: set[bytes] = set()
    count = 0

    def bad(error: DataError) -> None:
        findings.add("bad_instance", str(error).removeprefix(f"{file.path}: "))

    with track("Reading", None) as advance:
        neighbours = groupby(file.rankings(bad), key=lambda ranking: (ranking.prompt, ranking.images))
        for _, members in neighbours:
            annotated: list[Ranking] = []
            consensus: Ranking | None = None
            for ranking in members:
                advance()
                count += 1
                prompts.add(normal_prompt(ranking.prompt))
                images.update((image.path, None) for image in ranking.images)
                group = _digest(ranking.prompt, *sorted(str(image) for image in ranking.images))
                judgement = group + _digest("consensus" if ranking.annotator is None else f"by {ranking.annotator}")
                _check_one(ranking, judgement in judgements, findings)
                groups.add(group)
                judgements.add(judgement)
                if ranking.annotator is None:
                    consensus = ranking
                else:
                    annotated.append(ranking)
            if consensus is not None:
                _check_consensus(consensus, annotated, findings)
    return (len(groups), count), images, prompts


def _check_one(ranking: Ranking, again: bool, findings: _Findings) -> None:
    what = f"{ranking.prompt[:80]!r} ({ranking.images[0].path.name}, ...)"
    if len({image.path for image in ranking.images}) < len(ranking.images):
        findings.add("repeated_image", what)
    if again and ranking.annotator is None:
        findings.add("duplicate_instance", what)
    elif again:
        findings.add("duplicate_annotation", f"{what} by {ranking.annotator}")


def _check_consensus(consensus: Ranking, annotated: list[Ranking], findings: _Findings) -> None:
    if len(annotated) < 2:
        return
    for i, j in combinations(range(len(consensus.ranks)), 2):
        order = consensus.ranks[i] - consensus.ranks[j]
        if all((r.ranks[i] - r.ranks[j]) * order < 0 for r in annotated):
            names = f"{consensus.images[i].path.name}, {consensus.images[j].path.name}"
            findings.add("contradicted_consensus", f"{consensus.prompt[:80]!r}: {names}")


def _check_images(images: Iterable[Path], findings: _Findings, track: Track, *, hashed: bool) -> dict[str, Path]:
    """Open every image -> {SHA-256: path} of those that are there, where asked for."""
    paths = sorted(images)
    hashes: dict[str, Path] = {}
    with track("Opening images", len(paths)) as advance, ThreadPoolExecutor() as pool:
        for path, (kind, found) in _in_order(pool, _look_at if not hashed else _look_at_and_hash, paths):
            advance()
            if kind is not None:
                findings.add(kind, found)
            elif hashed:
                hashes.setdefault(found, path)
    return hashes


def _look_at(path: Path) -> tuple[str | None, str]:
    if not path.is_file():
        return "missing_image", str(path)
    try:
        open_image(path)
    except ImageError as error:
        return "broken_image", str(error)
    return None, ""


def _look_at_and_hash(path: Path) -> tuple[str | None, str]:
    kind, found = _look_at(path)
    return (kind, found) if kind is not None else (None, hashlib.sha256(path.read_bytes()).hexdigest())


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _check_overlap(
    other: DataFile, prompts: set[str], hashes: dict[str, Path], findings: _Findings, track: Track
) -> None:
    shared: dict[str, None] = {}
    images: dict[Path, None] = {}
    with track("Reading the other data", None) as advance:
        for ranking in other:
            advance()
            images.update((image.path, None) for image in ranking.images)
            if normal_prompt(ranking.prompt) in prompts:
                shared[ranking.prompt] = None
    for prompt in shared:
        findings.add("prompt_overlap", repr(prompt[:200]))
    with track("Hashing the other images", len(images)) as advance, ThreadPoolExecutor() as pool:
        for path, digest in _in_order(pool, _hash, sorted(images)):
            advance()
            if digest is None:
                findings.add("missing_image", str(path))
            elif digest in hashes:
                findings.add("image_overlap", f"{hashes[digest]} is {path}")


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Path], object], paths: list[Path]
) -> Iterator[tuple[Path, Any]]:
    """Map in parallel, a thousand at a time, so that half a million futures are never waiting."""
    remaining = iter(paths)
    while chunk := list(islice(remaining, 1000)):
        yield from zip(chunk, pool.map(work, chunk), strict=True)


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).digest()
