"""Datasets for batch runs, and runs of them as processes of their own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.commands import run, run_anew
from tests.generating import ROOT, environment
from tests.toys import picture

TINY = (
    "--weights",
    str(ROOT.parent / "shared/data/parity/hps_layout_tiny.pt"),
    "--arch",
    str(ROOT / "tests/hps_layout_tiny.json"),
)


def encoded(seed: int, kind: str = "JPEG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    picture(*size, seed).save(buffer, kind)
    return buffer.getvalue()


def folder_of_images(folder: Path, count: int, *, texts: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"{n}.jpg").write_bytes(encoded(n))
        if texts:
            (folder / f"{n}.txt").write_text(f"prompt {n}\n")
    return folder


def parquet(path: Path, images: Sequence[Any], prompts: Sequence[str | None] | None = None, group: int = 8) -> Path:
    """A Parquet shard; images are bytes, paths, or {bytes, path}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"image": list(images)}
    if prompts is not None:
        columns["prompt"] = list(prompts)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for key, members in samples:
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores(out: Path) -> list[dict[str, Any]]:
    """The rows of an output, by shard and row; a row that is there twice is an error."""
    rows = [row for file in sorted(out.glob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]
    rows.sort(key=lambda row: (row["shard"], row["row"]))
    keys = [(row["shard"], row["row"]) for row in rows]
    assert len(set(keys)) == len(keys), "a row is there twice"
    return rows


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what says where they lie: their shard, and the place in a message."""
    return [{**row, "shard": None, "error": row["error"] and row["error"].rpartition(":")[2]} for row in rows]


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "humanpref.cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options,
    )  # fmt: skip


def command(*words: object, preexec_fn: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    if preexec_fn is None:
        return run(*words, env=environment())
    return run_anew(*words, env=environment(), preexec_fn=preexec_fn)
