"""Collecting: prompts of public sets, filtered, without duplicates, sampled by quota, each with where it comes from.

One pass over the files filters and drops exact duplicates; what is left is compared for near-duplicates all at once;
then each source is sampled. So quotas are drawn from distinct prompts, and no topping up is needed.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from humanpref.errors import DataError, UnknownNameError
from humanpref.prompts.chunks import Chunk, Source
from humanpref.prompts.files import PromptWriter
from humanpref.prompts.filters import REASONS, CollectOptions, LanguageFilter, unsafe
from humanpref.prompts.near import NearDuplicates
from humanpref.prompts.records import Prompt
from humanpref.prompts.sources import open_source


@dataclass(frozen=True)
class SourceCount:
    """What became of one source: `read` = `kept` + all of `dropped`. `short` is how many the quota lacks."""

    source: str
    read: int
    dropped: Mapping[str, int]
    kept: int
    quota: int | None
    short: int


@dataclass(frozen=True)
class CollectReport:
    """What became of all rows, by source."""

    out: str
    seed: int
    sources: tuple[SourceCount, ...]

    @property
    def read(self) -> int:
        """How many rows were read."""
        return sum(source.read for source in self.sources)

    @property
    def kept(self) -> int:
        """How many prompts were kept."""
        return sum(source.kept for source in self.sources)


@dataclass
class _Pool:
    """The rows that have passed so far, as parallel lists."""

    chunks: list[Chunk] = field(default_factory=list)  # without their texts
    chunk: array[int] = field(default_factory=lambda: array("q"))
    row: array[int] = field(default_factory=lambda: array("q"))
    key: array[int] = field(default_factory=lambda: array("Q"))  # a hash of the text
    text: list[str] = field(default_factory=list)
    source: list[str] = field(default_factory=list)


def collect(
    sources: Sequence[str | Path],
    out: str | Path,
    options: CollectOptions | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> CollectReport:
    """Collect prompts from files in any known layout and write them -> what became of every row.

    A source may be given as "name=path", which names the set. `on_rows` is told of every chunk of rows read. Raises
    `DataError` for what is not readable, and `UnknownNameError` for a quota of a source that is not there.
    """
    options = options or CollectOptions()
    opened = [_named(source) for source in sources]
    read: Counter[str] = Counter()
    dropped: Counter[tuple[str, str]] = Counter()
    pool = _filter(opened, options, read, dropped, on_rows)
    _check_quotas(options.quotas, read)
    keep = _distinct(pool, options, dropped)
    keep = _sample(pool, keep, options, dropped)
    with PromptWriter(out) as writer:
        for prompt in _prompts(pool, keep):
            writer.write(prompt)
    kept = Counter(pool.source[number] for number in keep)
    counts = tuple(
        SourceCount(
            name,
            read[name],
            {reason: dropped[name, reason] for reason in REASONS if dropped[name, reason]},
            kept[name],
            options.quotas.get(name),
            max(0, options.quotas.get(name, 0) - kept[name]),
        )
        for name in read
    )
    return CollectReport(str(out), options.seed, counts)


def _named(given: str | Path) -> Source:
    text = str(given)
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name and not Path(text).expanduser().exists():
        return open_source(path, name)
    return open_source(text)


def _filter(
    opened: Sequence[Source],
    options: CollectOptions,
    read: Counter[str],
    dropped: Counter[tuple[str, str]],
    on_rows: Callable[[int], None],
) -> _Pool:
    pool = _Pool()
    seen: set[int] = set()
    language = LanguageFilter(options.languages, options.language_certainty) if options.languages else None
    for source in opened:
        read.setdefault(source.name, 0)
        for chunk in source.chunks():
            names = chunk.columns.get("source")
            flags = unsafe(chunk, options)
            pool.chunks.append(replace(chunk, texts=()))
            texts = getattr(chunk.texts, "array", None)
            for row, raw in enumerate(chunk.texts if texts is None else texts.to_pylist()):
                name = (names[row] if names is not None else None) or source.name
                read[name] += 1
                text = " ".join(raw.split()) if raw else ""
                reason = _why_not(text, flags[row], options)
                if reason is None:
                    key = _hash(text.lower().encode("utf-8", "replace"))
                    if key in seen:
                        reason = "duplicate"
                    elif language is not None and language.foreign(text):
                        reason = "language"
                    seen.add(key)
                if reason is not None:
                    dropped[name, reason] += 1
                    continue
                pool.chunk.append(len(pool.chunks) - 1)
                pool.row.append(row)
                pool.text.append(text)
                pool.source.append(name)
                pool.key.append(key)
            on_rows(len(chunk.texts))
    for name in [name for name in read if not read[name]]:
        del read[name]  # a file whose rows all name another source
    return pool


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _why_not(text: str, flag: str | None, options: CollectOptions) -> str | None:
    if not text:
        return "empty"
    if flag is not None:
        return flag
    if len(text) < options.min_chars:
        return "too_short"
    return "too_long" if len(text) > options.max_chars else None


def _check_quotas(quotas: Mapping[str, int], read: Mapping[str, int]) -> None:
    if not read:
        raise DataError("the sources hold no prompts")
    if unknown := [name for name in quotas if name not in read]:
        raise UnknownNameError(f"a quota for {unknown[0]!r}, but the sources are: {', '.join(read)}")


def _distinct(pool: _Pool, options: CollectOptions, dropped: Counter[tuple[str, str]]) -> list[int]:
    if not options.near:
        return list(range(len(pool.text)))
    finder = NearDuplicates(options.near)
    for start in range(0, len(pool.text), 1 << 16):
        finder.add([text.lower() for text in pool.text[start : start + (1 << 16)]])
    keep = []
    for number, of in enumerate(finder.find().tolist()):
        if of < 0:
            keep.append(number)
        else:
            dropped[pool.source[number], "near_duplicate"] += 1
    return keep


def _sample(pool: _Pool, keep: list[int], options: CollectOptions, dropped: Counter[tuple[str, str]]) -> list[int]:
    """Draw each quota: the prompts with the least hash of seed and text, whatever their order in the files."""
    groups: dict[str, list[int]] = {}
    for number in keep:
        groups.setdefault(pool.source[number], []).append(number)
    chosen: list[int] = []
    for name, numbers in groups.items():
        quota = options.quotas.get(name, len(numbers))
        if quota < len(numbers):
            chance = [_hash(b"%d %d" % (options.seed, pool.key[n])) for n in numbers]
            drawn = np.argsort(np.array(chance, dtype=np.uint64), kind="stable")[:quota]
            dropped[name, "not_sampled"] += len(numbers) - quota
            numbers = [numbers[index] for index in drawn]  # noqa: PLW2901
        chosen.extend(numbers)
    return sorted(chosen)


def _prompts(pool: _Pool, keep: Sequence[int]) -> Iterator[Prompt]:
    for number in keep:
        yield pool.chunks[pool.chunk[number]].prompt(pool.row[number], pool.text[number])
