"""A batch run: the shards are checked and divided, workers score, this process alone writes what they made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

from humanpref.batch.ahead import read_each_ahead
from humanpref.batch.parts import finished_shards, part_name, require_pyarrow
from humanpref.batch.places import failing_with_name, filesystem, is_local
from humanpref.batch.readers import READERS, check_shards
from humanpref.batch.records import BatchError, BatchReport, Counts, Part, Reading, Shard, Span
from humanpref.batch.score import MakeScoring, Model, model_name
from humanpref.batch.shards import find_shards
from humanpref.batch.store import ScoreFolder, check_out, parts_in
from humanpref.batch.walk import fixed_part, folders_above, is_pattern, matcher
from humanpref.engines import Engine, run_map
from humanpref.errors import DataError
from humanpref.scorers import get_spec

PART_ROWS = 2048
"""Rows of a part at most."""

TASK_SECONDS = 20.0
MOST_PARTS = 16
"""A worker is given one span at first, then as many as have the rows that it does in about so many seconds, at most so
many, and fewer towards the end, so that all end together. It need not wait between them, and its death costs at most
them."""


SHARDS_AHEAD, LOCAL_SHARDS_AHEAD = 16, 2
"""Shards that are divided at a time: far away it is waiting that takes time, here it is the cores."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: rows scored by it, those of them with errors, and the fraction of the input that is done,
    in [0, 1] by size, with what was there before; `fresh` is the fraction that this run did."""

    rows: int
    errors: int
    fraction: float
    fresh: float


def batch(
    words: Sequence[str],
    out: str,
    models: Sequence[Model],
    *,
    reading: Reading | None = None,
    embeddings: Literal["float16", "float32"] | None = None,
    prompts: bool = True,
    part_rows: int = PART_ROWS,
    engine: Engine | None = None,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> BatchReport:
    """Score every row of the shards that `words` stand for, into Parquet parts in the folder `out`.

    words: files (.parquet, .jsonl, .csv, .tsv, .tar), globs, folders of these or of images, on any file system that
        fsspec knows. `out`: a folder likewise; one that was begun is gone on with.
    embeddings: also keep the image embeddings of scorers that are a CLIP, in this number format.
    prompts: keep each row's prompt beside its scores. part_rows: rows of a part at most. A worker is given a group of
        rows of a Parquet file with images in it as a whole, and a tar file that is not local; what was made of it by a
        run that was killed in the middle is made again.
    threads: for decoding and matrix products, in each worker; None: all of this machine's cores.

    Each row has exactly one row in the output, with its score or why it has none, whatever happens on the way. Raises
    `DataError` for an input that cannot be read, `BatchError` for an output that is another run's or in use, and what
    `load_scorer` and the engine raise; what was made until then is kept, and the same call goes on.
    """
    began, reading = time.monotonic(), reading or Reading()
    _check(models, part_rows)
    require_pyarrow()
    check_out(out)
    shards = find_shards(words, reading)
    _check_outside(words, out, shards)
    unseen = _unseen(shards, finished_shards(shards, parts_in(out)), reading)
    chosen = check_shards(unseen, reading, reads_prompt=any(get_spec(m.name).reads_prompt for m in models))
    settings = {
        "models": [asdict(model) for model in models],
        **asdict(chosen),
        "embeddings": embeddings,
        "prompts": prompts,
        "part_rows": part_rows,
    }
    engine = engine or Engine()
    with ScoreFolder(out) as folder:
        folder.agree(settings, shards)
        run = _Run(folder, shards, chosen, part_rows, engine.workers, on_progress)
        make = MakeScoring(chosen, tuple(models), part_rows, embeddings, prompts, threads)
        with closing(run.tasks()) as tasks, closing(run_map(engine, make, tasks, on_note, in_order=True)) as parts:
            for part in parts:
                run.put(part)
        totals, files = folder.count(run.wanted)
        if not totals.rows:
            raise DataError(f"{', '.join(words)[:200]}: holds no rows")
        notes = _notes(folder, files)
        report = BatchReport(
            out=out,
            models=tuple(model.name for model in models),
            shards=len(shards),
            empty_shards=run.empty,
            parts=len(files),
            rows=totals.rows,
            scored=totals.scored,
            truncated=totals.truncated,
            errors=totals.errors,
            new_rows=run.added.rows,
            new_parts=run.parts,
            seconds=time.monotonic() - began,
            notes=notes,
        )
        folder.finish({name: value for name, value in asdict(report).items() if name in _LASTING})
    for note in notes:
        on_note(note)
    return report


_LASTING = {"models", "shards", "empty_shards", "parts", "rows", "scored", "truncated", "errors"}


class _Run:
    """One run over an open folder: what is to be scored, and putting away what was."""

    def __init__(
        self,
        folder: ScoreFolder,
        shards: Sequence[Shard],
        reading: Reading,
        part_rows: int,
        workers: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.folder, self.shards, self.reading, self.part_rows = folder, shards, reading, part_rows
        self.there = folder.finished()
        self.finished = finished_shards(shards, self.there)
        self.workers, self.on_progress = workers, on_progress
        self.added = Counts()
        self.parts = self.empty = 0
        self.wanted: set[str] = set()
        self._size = max(1, sum(shard.size for shard in shards))
        self._old = self._new = self._given = self._seconds = 0.0

    def tasks(self) -> Generator[list[Span], None, None]:
        """Yield what is not there yet, as it is given to workers; read only a little faster than it is used."""
        with closing(self._missing()) as remaining:
            while task := list(self._task(remaining)):
                yield task

    def _task(self, remaining: Iterator[Span]) -> Iterator[Span]:
        left = self._size - self._old - self._given
        seconds = share = 0.0
        for span in islice(remaining, MOST_PARTS):
            yield span
            seconds, share = seconds + self._seconds_of(span), share + span.share
            if seconds >= TASK_SECONDS or share >= left / (2 * self.workers):
                return

    def _seconds_of(self, span: Span) -> float:
        """How long a worker will take for a span, by all that was done so far."""
        if not (self.added.rows and self._new):
            return TASK_SECONDS
        rows = span.share * self.added.rows / self._new if span.count is None else span.count
        return rows * self._seconds / self.added.rows

    def _missing(self) -> Generator[Span, None, None]:
        for shard in self.shards:
            for name in self.finished.get(shard.name, ()):
                self._want(name, shard)
            self._old += shard.size * (shard.name in self.finished)
        rest = [shard for shard in self.shards if shard.name not in self.finished]
        at_once = SHARDS_AHEAD if any("://" in shard.url for shard in rest) else LOCAL_SHARDS_AHEAD
        with closing(read_each_ahead(self._spans, rest, at_once=at_once, size=MOST_PARTS)) as divided:
            for shard, spans in divided:
                before = len(self.wanted)
                for span in spans:
                    self._want(part_name(span), shard)
                    if part_name(span) in self.there:
                        self._old += span.share
                        continue
                    if not self._given:
                        self.folder.unfinish()
                    self._given += span.share
                    yield span
                self.empty += len(self.wanted) == before

    def _want(self, name: str, shard: Shard) -> None:
        if name in self.wanted:
            raise BatchError(f"{shard.name}: its part {name} has the name of another shard's; rename the file")
        self.wanted.add(name)

    def _spans(self, shard: Shard) -> Iterator[Span]:
        spans = READERS[shard.kind].spans(shard, self.reading, self.part_rows)
        if (span := next(spans, None)) is not None:
            for following in spans:
                yield span
                span = following
            yield replace(span, last=True)

    def put(self, part: Part) -> None:
        """Keep a part. It is complete when this returns."""
        self.folder.agree_on_scorers(part.identities)
        self.folder.put(part_name(part.span, part.piece), part.content)
        self.added += part.counts
        self.parts += 1
        if part.span.count:
            self._new += part.span.share * part.counts.rows / part.span.count
        elif part.piece is None:
            self._new += part.span.share
        self._seconds += part.seconds
        fresh = self._new / self._size
        errors = sum(self.added.errors.values())
        self.on_progress(Progress(self.added.rows, errors, min(1.0, self._old / self._size + fresh), fresh))


def _notes(folder: ScoreFolder, files: Set[str]) -> tuple[str, ...]:
    """What a person should know of the output, of whose files these are wanted."""
    strange = sorted(folder.finished() - files)
    if not strange:
        return ()
    return (f"{len(strange)} files in {folder.out} belong to no shard of the input, {strange[0]} among them",)


def _unseen(shards: Sequence[Shard], finished: Container[str], reading: Reading) -> Sequence[Shard]:
    """The shards that must be checked: not those that are finished, but the first, that names the columns of all.

    Where shards may lack the prompt's column (`Reading.prompt`), no one shard names it: all are checked.
    """
    if reading.prompt is not None and any(READERS[shard.kind].has_columns for shard in shards):
        return shards
    first = next((shard for shard in shards if shard.name in finished), None)
    return [shard for shard in shards if shard is first or shard.name not in finished]


def _check_outside(words: Sequence[str], out: str, shards: Sequence[Shard]) -> None:
    """Refuse an output within the input: its parts would be the next run's input."""
    system, path = filesystem(out)
    for word in words:
        other, given = filesystem(word)
        if type(other) is not type(system):
            continue
        within = _lies_in(path, given) or (is_local(system) and _lies_in(*map(os.path.realpath, (path, given))))
        if is_pattern(given) and _lies_in(path, fixed_part(given)):
            parts = (f"{path}/{part_name(Span(shard, 0, 0, None))}" for shard in shards)
            with failing_with_name(word):
                within = any(map(matcher(given), (path, *folders_above(path), *parts)))
        if within:
            raise BatchError(f"{out}: lies within the input {word}; choose an OUT outside it")


def _lies_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _check(models: Sequence[Model], part_rows: int) -> None:
    if not models:
        raise BatchError("nothing to score with: name a scorer")
    if part_rows < 1:
        raise BatchError(f"part_rows must be at least 1, got {part_rows}")
    columns: dict[str, Any] = {}
    for model in models:
        name = model_name(get_spec(model.name).name)
        if name in columns:
            raise BatchError(f"two scorers would have the column score_{name}; name each scorer once")
        columns[name] = model
