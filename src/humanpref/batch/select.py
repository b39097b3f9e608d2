"""Filter and top-k over the scores of a batch run, by DuckDB: SQL over Parquet that spills to disk what does not fit.

Not by pyarrow's datasets: these stream a filter, but the best rows of each of millions of prompts would have to be held
in memory by code of our own.
"""

from __future__ import annotations

import glob
import math
import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from humanpref.batch.places import failing_with_name, filesystem, is_local, kind_at, protocols
from humanpref.batch.records import BatchError
from humanpref.batch.score import model_name
from humanpref.batch.store import ABOUT, SUCCESS, parts_in
from humanpref.engines import cores
from humanpref.errors import DataError, MissingExtraError, UnknownNameError, reason_of
from humanpref.files import sync, whole

FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".jsonl": "FORMAT json", ".csv": "FORMAT csv, HEADER"}
"""What DuckDB is told, by the ending of the output."""

LEAST_MEMORY_MIB = 256
"""What DuckDB needs for each of its threads."""


@dataclass(frozen=True)
class SelectReport:
    """Rows of the scored dataset, those with a score of this scorer, those that were kept, and the score of the lowest
    of the rows that `min_score` and `quantile` let through (None without them). `complete`: whether the batch run had
    ended."""

    scores: str
    out: str
    column: str
    rows: int
    scored: int
    kept: int
    threshold: float | None
    complete: bool


def select(
    scores: str,
    out: str,
    *,
    model: str | None = None,
    top: int | None = None,
    per: str | None = None,
    min_score: float | None = None,
    quantile: float | None = None,
    memory_mib: int = 1024,
    overwrite: bool = False,
) -> SelectReport:
    """Write the best rows of a scored dataset, in the order of its shards and rows -> what was kept.

    scores: the folder of a batch run; `out`: a .parquet, .jsonl or .csv file; both wherever fsspec reads.
    model: by whose scores; needed where there are several.
    top: so many best rows, of all or of each value of the column `per` (ties go to the earlier row); a column `rank`,
        1 = best, is added then. min_score, quantile: only rows with at least this score; at least this quantile of all
        scores. Rows without a score are never kept. Everything is written beside each row's identity and scores.

    Memory is bounded by `memory_mib`, at least `LEAST_MEMORY_MIB`; what does not fit goes to a temporary folder beside
    `out` (where that is far away: among this machine's temporary files).
    Raises `BatchError` where nothing is selected by, a number is none, a column is not there, `out` lies in `scores` or
    exists and may not be overwritten, `DataError` for damaged files.
    """
    if top is None and min_score is None and quantile is None:
        raise BatchError("nothing to select by: give --top, --min-score or --quantile")
    if per is not None and top is None:
        raise BatchError("--per says what --top counts within; give --top, too")
    _check_numbers(top, min_score, quantile, memory_mib)
    suffix = posixpath.splitext(out)[1].lower()
    if suffix not in FORMATS:
        raise UnknownNameError(f"{out}: write to a file that ends in {', '.join(FORMATS)}")
    complete, database = _check(scores, out, overwrite), _duckdb()
    try:
        with _writing(out) as (part, spill), database.connect() as base:
            base.execute(f"SET memory_limit='{memory_mib}MiB'")
            base.execute(f"SET threads={max(1, min(cores(), memory_mib // LEAST_MEMORY_MIB))}")
            base.execute(f"SET temp_directory='{_quote(str(spill))}'")
            base.execute("SET preserve_insertion_order=false")
            rows = _source(base, scores)
            names = [name for name, *_ in base.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()]  # noqa: S608
            column = _score_column(scores, names, model)
            if per is not None and per not in names:
                why = "; score it again with --prompts" if per == "prompt" else ""
                raise BatchError(f"{scores}: has no column {per!r}; its columns are {', '.join(names)}{why}")
            chosen = _choose(base, rows, column, top, per, min_score, quantile)
            copy = f"COPY ({chosen.query} ORDER BY shard, \"row\") TO '{_quote(str(part))}' ({FORMATS[suffix]})"
            kept = base.execute(copy).fetchone()[0]
        return SelectReport(scores, out, column, chosen.rows, chosen.scored, kept, chosen.floor, complete)
    except database.Error as error:
        raise DataError(f"{scores}: cannot be selected from ({reason_of(error, 300)})") from None
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None


@dataclass(frozen=True)
class _Choice:
    query: str
    rows: int
    scored: int
    floor: float | None


def _choose(
    base: Any,
    rows: str,
    column: str,
    top: int | None,
    per: str | None,
    min_score: float | None,
    quantile: float | None,
) -> _Choice:
    name, floor = _name(column), min_score
    total, scored = base.execute(f"SELECT count(*), count({name}) FROM {rows}").fetchone()  # noqa: S608
    if quantile is not None and scored:
        # by rank and not by a quantile function, which would hold all scores in memory
        place = min(scored - 1, int(quantile * scored))
        ordered = f"SELECT {name} FROM {rows} WHERE {name} IS NOT NULL ORDER BY {name} LIMIT 1 OFFSET {place}"  # noqa: S608
        cut = float(base.execute(ordered).fetchone()[0])
        floor = cut if floor is None else max(floor, cut)
    where = f"{name} IS NOT NULL" + ("" if floor is None else f" AND {name} >= CAST({floor!r} AS DOUBLE)")
    query = f"SELECT * FROM {rows} WHERE {where}"  # noqa: S608
    if top is not None:
        group = "" if per is None else f"PARTITION BY {_name(per)} "
        order = f'row_number() OVER ({group}ORDER BY {name} DESC, shard, "row")'
        query = f"SELECT *, {order} AS rank FROM ({query}) QUALIFY rank <= {top}"  # noqa: S608
    return _Choice(query, total, scored, floor)


def _check_numbers(top: int | None, min_score: float | None, quantile: float | None, memory_mib: int) -> None:
    if top is not None and top < 1:
        raise BatchError(f"--top must be at least 1, got {top}")
    if min_score is not None and not math.isfinite(min_score):
        raise BatchError(f"--min-score must be a number, got {min_score}")
    if quantile is not None and not 0 <= quantile <= 1:
        raise BatchError(f"--quantile must be within 0 to 1, got {quantile}")
    if memory_mib < LEAST_MEMORY_MIB:
        raise BatchError(f"--memory-mib must be at least {LEAST_MEMORY_MIB}, got {memory_mib}")


@contextmanager
def _writing(out: str) -> Iterator[tuple[Path, Path]]:
    """Give a file to write, which comes to its place when all is well, and a folder for what memory does not hold."""
    system, path = filesystem(out)
    if not is_local(system):
        with tempfile.TemporaryDirectory(prefix="select-") as folder:
            yield Path(folder, "rows"), Path(folder)
            with failing_with_name(out, "cannot be written"):
                system.put_file(str(Path(folder, "rows")), path)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".select-", dir=target.parent) as folder, whole(target) as part:
        yield part, Path(folder)
        sync(part)


def _check(scores: str, out: str, overwrite: bool) -> bool:
    """See that a folder is of a batch run, and that `out` is free and not in it -> whether the run is complete."""
    system, path = filesystem(scores)
    there, target = filesystem(out)
    with failing_with_name(scores):
        if kind_at(system, posixpath.join(path, ABOUT)) is None:
            raise BatchError(f"{scores}: holds no scores of humanpref batch (no {ABOUT})")
        if not parts_in(scores):
            raise BatchError(f"{scores}: holds no scores yet")
        if is_local(system):
            inside = is_local(there) and Path(target).parent.resolve() == Path(path).resolve()
        else:
            inside = there == system and posixpath.dirname(target) == path.rstrip("/")
        if inside:  # it would be read back as scores
            raise BatchError(f"{out}: lies in the folder of the scores; choose an OUT outside {scores}")
        complete = kind_at(system, posixpath.join(path, SUCCESS)) is not None
    with failing_with_name(out):
        kind = kind_at(there, target)
        if kind == "directory":
            raise BatchError(f"{out}: is a folder; OUT names a file")
        if kind is not None and not overwrite:
            raise BatchError(f"{out}: exists; name another file, or replace it (--overwrite)")
    return complete


def _source(base: Any, scores: str) -> str:
    """The rows of all parts as DuckDB names them; those of a far file system come through fsspec."""
    system, path = filesystem(scores)
    prefix = "" if is_local(system) else f"{protocols(system)[0]}://"
    if prefix:
        # an instance of its own: gcsfs by default reads ahead in tasks, and files that DuckDB never closes leave them
        own = type(system)(*system.storage_args, **system.storage_options, skip_instance_cache=True)
        own.open = partial(own.open, cache_type="readahead")
        base.register_filesystem(own)
    folder = path if not prefix else prefix + path.lstrip("/")
    parts = posixpath.join(glob.escape(folder), "*.parquet")
    return f"read_parquet('{_quote(parts)}', hive_partitioning=false)"  # names of folders are no columns


def _score_column(scores: str, names: list[str], model: str | None) -> str:
    found = [name for name in names if name.startswith("score_")]
    listed = ", ".join(name.removeprefix("score_") for name in found)
    if model is None:
        if len(found) != 1:
            raise BatchError(f"{scores}: has scores of several scorers ({listed}); choose one by --model")
        return found[0]
    wanted = f"score_{model_name(os.path.basename(model.rstrip('/')))}"  # noqa: PTH119 - a name, or a path
    if wanted not in found:
        raise BatchError(f"{scores}: has no scores of {model}; it has those of {listed}")
    return wanted


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError('select needs DuckDB: pip install "humanpref[batch]"') from None
    return duckdb


def _quote(text: str) -> str:
    return text.replace("'", "''")


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
