"""Selecting from scores: the same rows as a plain loop would keep, in every format, within bounded memory."""

from __future__ import annotations

import csv
import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")

import pyarrow.parquet as pq  # noqa: E402

from humanpref.batch.parts import Judged, encode_part, part_name  # noqa: E402
from humanpref.batch.records import BatchError, Problem, Row, Shard, Span  # noqa: E402
from humanpref.batch.select import select  # noqa: E402
from humanpref.errors import HumanprefError, UnknownNameError  # noqa: E402
from tests.batching import command  # noqa: E402
from tests.generating import one_line  # noqa: E402

Values = list[tuple[str, float | None]]


def scored(out: Path, values: Values, per_part: int = 5, names: tuple[str, ...] = ("lite",)) -> list[dict[str, Any]]:
    """Write an output of a batch run: (prompt, score or None) by row -> its rows."""
    out.mkdir(parents=True)
    shard = Shard("in.parquet", "/in.parquet", "parquet", 1, "/")
    for number, first in enumerate(range(0, len(values), per_part)):
        judged = [
            Judged(
                Row(first + i, f"k{first + i}", prompt, ""),
                (score,) * len(names),
                False,
                None if score is not None else Problem("no-image", "none"),
            )
            for i, (prompt, score) in enumerate(values[first : first + per_part])
        ]
        span = Span(shard, number, first, len(judged))
        (out / part_name(span)).write_bytes(encode_part(span, judged, names, {}, prompts=True)[0])
    (out / "_batch.json").write_text("{}")
    (out / "_SUCCESS").write_text("{}")
    return [{"row": n, "prompt": prompt, "score": score} for n, (prompt, score) in enumerate(values)]


SCORES = st.none() | st.sampled_from([-1.5, 0.0, 0.25, 1.0]) | st.floats(-10, 10, width=32)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), SCORES), min_size=1, max_size=30),
    st.integers(1, 4),
    st.none() | st.sampled_from([-1.5, 0.25, 3.0]),
    st.none() | st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.booleans(),
)
def test_as_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory,
    values: Values,
    top: int,
    floor: float | None,
    quantile: float | None,
    per: bool,
) -> None:
    folder = tmp_path_factory.mktemp("select")
    rows = scored(folder / "scores", values)
    report = select(
        str(folder / "scores"), str(folder / "best.parquet"), top=top, per="prompt" if per else None, min_score=floor,
        quantile=quantile,
    )  # fmt: skip
    good = [row for row in rows if row["score"] is not None]
    ordered = sorted(row["score"] for row in good)
    if quantile is not None and good:
        least = ordered[min(len(good) - 1, int(quantile * len(good)))]
        good = [row for row in good if row["score"] >= least]
    good = [row for row in good if floor is None or row["score"] >= floor]
    good.sort(key=lambda row: (-row["score"], row["row"]))
    kept, seen = [], dict.fromkeys("abc", 0)
    for row in good:
        group = row["prompt"] if per else "a"
        seen[group] += 1
        if seen[group] <= top:
            kept.append((row["row"], row["prompt"], row["score"], seen[group]))
    found = pq.read_table(folder / "best.parquet").to_pylist()
    assert [(row["row"], row["prompt"], row["score_lite"], row["rank"]) for row in found] == sorted(kept)
    assert (report.rows, report.scored, report.kept) == (len(rows), len(ordered), len(kept))


def test_formats(tmp_path: Path) -> None:
    scored(tmp_path / "it's", [("a", 1.0), ('a, "b"\n', 3.0), ("b", None), ("b", 2.0)])
    for name in ("x.parquet", "x.jsonl", "new/x.csv"):
        report = select(str(tmp_path / "it's"), str(tmp_path / name), min_score=1.5)
        assert (report.kept, report.threshold, report.complete) == (2, 1.5, True)
    expected = [(1, 'a, "b"\n', 3.0), (3, "b", 2.0)]
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [(r["row"], r["prompt"], r["score_lite"]) for r in map(json.loads, lines)] == expected
    with (tmp_path / "new/x.csv").open(newline="") as file:
        assert [(int(r["row"]), r["prompt"], float(r["score_lite"])) for r in csv.DictReader(file)] == expected
    assert not list(tmp_path.glob(".*"))


def test_refused(tmp_path: Path) -> None:
    scored(tmp_path / "s", [("a", 1.0)])
    scored(tmp_path / "two", [("a", 1.0)], names=("lite", "hps_v2_1"))
    (tmp_path / "none").mkdir()
    out = str(tmp_path / "x.parquet")
    for scores, options, kind, what in (
        ("s", {}, BatchError, "nothing to select by"),
        ("s", {"per": "prompt", "min_score": 1.0}, BatchError, "give --top, too"),
        ("s", {"top": 1, "per": "style"}, BatchError, "has no column 'style'; its columns are shard, row, key, prompt"),
        ("s", {"top": 1, "model": "hps-v2.1"}, BatchError, "has no scores of hps-v2.1; it has those of lite"),
        ("two", {"top": 1}, BatchError, r"scores of several scorers \(lite, hps_v2_1\); choose one by --model"),
        ("none", {"top": 1}, BatchError, "holds no scores of humanpref batch"),
        ("gone", {"top": 1}, BatchError, "holds no scores of humanpref batch"),
    ):
        with pytest.raises(kind, match=what):
            select(str(tmp_path / scores), out, **options)
    with pytest.raises(UnknownNameError, match="ends in .parquet, .jsonl, .csv"):
        select(str(tmp_path / "s"), str(tmp_path / "x.txt"), top=1)
    assert select(str(tmp_path / "two"), out, top=1, model="hps-v2.1").column == "score_hps_v2_1"
    with pytest.raises(BatchError, match="x.parquet: exists; name another file, or replace it"):
        select(str(tmp_path / "s"), out, top=1)
    assert select(str(tmp_path / "s"), out, top=1, overwrite=True).column == "score_lite"
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BatchError, match=r"folder\.csv: is a folder; OUT names a file"):
        select(str(tmp_path / "s"), str(tmp_path / "folder.csv"), top=1, overwrite=True)
    for bad in ({"top": 0}, {"min_score": nan}, {"min_score": inf}, {"quantile": nan}, {"quantile": 1.5}):
        with pytest.raises(BatchError, match="must be"):
            select(str(tmp_path / "s"), str(tmp_path / "y.csv"), **bad)
    with pytest.raises(BatchError, match="--memory-mib must be at least 256, got 255"):
        select(str(tmp_path / "s"), str(tmp_path / "y.csv"), top=1, memory_mib=255)
    next((tmp_path / "s").glob("*.parquet")).write_bytes(b"PAR1 damaged PAR1")
    with pytest.raises(HumanprefError, match="cannot be selected from"):
        select(str(tmp_path / "s"), str(tmp_path / "y.parquet"), top=1)
    assert not (tmp_path / "y.parquet").exists()


def test_never_into_the_folder_of_the_scores(tmp_path: Path) -> None:
    scored(tmp_path / "s", [("a", 1.0)])
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for out in ("s/x.parquet", "link/x.parquet", "s/../s/x.jsonl"):
        with pytest.raises(BatchError, match="lies in the folder of the scores; choose an OUT outside"):
            select(str(tmp_path / "s"), str(tmp_path / out), top=1)
    assert select(str(tmp_path / "s"), str(tmp_path / "s" / "best" / "x.parquet"), top=1).rows == 1
    assert select(str(tmp_path / "s"), str(tmp_path / "x.parquet"), top=1).rows == 1


@pytest.mark.parametrize("name", ["prompt=zzz/s", "shard=7/row=3/s", "model=hps/s", "run[1]*?/s", "run[1]/s"])
def test_names_of_folders_are_names(tmp_path: Path, name: str) -> None:
    scored(tmp_path / name, [("a", 1.0), ("b", 2.0)])
    if "*" in name:
        scored(tmp_path / "run1xx/s", [("not", 9.0)])  # as a pattern it would be this one
    assert select(str(tmp_path / name), str(tmp_path / "x.jsonl"), top=1, per="shard").kept == 1
    row = json.loads((tmp_path / "x.jsonl").read_text())
    assert (row["shard"], row["row"], row["prompt"], row["score_lite"]) == ("in.parquet", 1, "b", 2.0)
    assert "model" not in row


@pytest.mark.slow
def test_a_small_memory_does(tmp_path: Path) -> None:
    scored(tmp_path / "s", [("a", 1.0)])
    for part in (tmp_path / "s").glob("*.parquet"):
        part.unlink()
    base = duckdb.connect()
    base.execute(
        "COPY (SELECT 's' AS shard, i AS \"row\", 'prompt ' || (i // 4) || repeat(' word', 20) AS prompt, "
        f"hash(i) / 1e19 AS score_lite FROM range(1000000) t(i)) TO '{tmp_path / 's' / 'a.parquet'}' (FORMAT parquet)"
    )
    for number, options in enumerate(({"top": 1, "per": "prompt"}, {"top": 100}, {"quantile": 0.5})):
        report = select(str(tmp_path / "s"), str(tmp_path / f"{number}.parquet"), memory_mib=256, **options)
        assert report.kept == (250_000, 100, 500_000)[number]


def test_scores_far_away(tmp_path: Path) -> None:
    import fsspec

    scored(tmp_path / "s", [("a", 1.0), ("b", 2.0)])
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(str(tmp_path / "s"), "/far/s", recursive=True)
    assert select("memory://far/s", str(tmp_path / "x.jsonl"), top=1).kept == 1
    assert json.loads((tmp_path / "x.jsonl").read_text())["score_lite"] == 2.0
    assert select("memory://far/s", "memory://far/best.csv", min_score=1.5).kept == 1
    (row,) = csv.DictReader(memory.cat_file("/far/best.csv").decode().splitlines())
    assert (row["prompt"], row["score_lite"]) == ("b", "2.0")
    with pytest.raises(BatchError, match="memory://far/best.csv: exists"):
        select("memory://far/s", "memory://far/best.csv", min_score=1.5)
    with pytest.raises(BatchError, match="lies in the folder of the scores"):
        select("memory://far/s", "memory://far/s/best.csv", min_score=1.5)


def test_the_command(tmp_path: Path) -> None:
    scored(tmp_path / "s", [("a", 1.0), ("a", 3.0), ("b", 2.0)])
    done = command("select", tmp_path / "s", tmp_path / "x.jsonl", "--top", 1, "--per", "prompt", "--format", "json")
    report = json.loads(done.stdout)
    assert (report["rows"], report["kept"], done.returncode) == (3, 2, 0)
    (tmp_path / "s" / "_SUCCESS").unlink()
    one_line(
        command("select", tmp_path / "s", tmp_path / "x.jsonl", "--quantile", 0.5), "x.jsonl: exists; name another"
    )
    done = command("select", tmp_path / "s", tmp_path / "x.jsonl", "--quantile", 0.5, "--overwrite")
    assert "is not complete" in done.stderr
    assert done.stdout.strip().splitlines()[-1].split()[:4] == ["3", "3", "2", "2.0000"]
    one_line(command("select", tmp_path / "s", tmp_path / "x.jsonl"), "nothing to select by")
