"""Dividing shards ahead of the workers; going on without opening shards that are finished."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.local import LocalFileSystem  # noqa: E402

from humanpref.batch.ahead import read_each_ahead  # noqa: E402
from humanpref.batch.records import BatchError, Reading  # noqa: E402
from humanpref.batch.run import _Run, batch  # noqa: E402
from humanpref.batch.score import Model  # noqa: E402
from humanpref.batch.shards import find_shards  # noqa: E402
from humanpref.batch.store import ScoreFolder  # noqa: E402
from tests.batching import encoded, jsonl, parquet, scores  # noqa: E402

LITE = [Model("lite")]


class Distant(LocalFileSystem):  # type: ignore[misc]
    """distant://PATH: a store that takes its time to open a file, and notes which were opened."""

    protocol = "distant"
    seconds: ClassVar[float] = 0.0
    opened: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("distant://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"distant://{self._strip_protocol(name)}"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(self.seconds)
        self.opened.append(Path(path).name)
        return super()._open(path, mode, **options)


@pytest.fixture(autouse=True)
def distant() -> Iterator[None]:
    fsspec.register_implementation("distant", Distant, clobber=True)
    yield
    Distant.seconds = 0.0
    Distant.opened.clear()


def threads() -> int:
    return sum(thread.name == "humanpref-read" for thread in threading.enumerate())


def test_order_bounds_and_errors() -> None:
    begun: list[int] = []

    def read(source: int) -> Iterator[int]:
        begun.append(source)
        for n in range(source):
            if n == 7:
                raise ZeroDivisionError
            yield n

    with closing(read_each_ahead(read, range(7), at_once=3, size=1)) as found:
        source, items = next(found)
        assert (source, list(items)) == (0, [])
        time.sleep(0.05)
        assert begun == [0, 1, 2]
        assert [(source, list(items)) for source, items in found] == [(n, list(range(n))) for n in range(1, 7)]
    with closing(read_each_ahead(read, [8, 3], at_once=2, size=100)) as found:
        _, items = next(found)
        assert [next(items) for _ in range(7)] == list(range(7))
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                next(items)
    with closing(read_each_ahead(read, [5, 5, 5], at_once=3, size=1)) as found:
        next(found)
    end = time.monotonic() + 5
    while threads():  # none waits for ever
        assert time.monotonic() < end
        time.sleep(0.01)


def test_shards_far_away_are_divided_together(tmp_path: Path) -> None:
    for n in range(32):
        parquet(tmp_path / f"{n}.parquet", [b"x"], ["p"])
    shards = find_shards([f"distant://{tmp_path}"], Reading())
    with ScoreFolder(str(tmp_path / "out")) as folder:
        run = _Run(folder, shards, Reading("image", "prompt"), 5, 1, lambda _: None)
        Distant.seconds = 0.05
        began = time.monotonic()
        with closing(run.tasks()) as tasks:
            found = [span.shard.name for task in tasks for span in task]
        seconds = time.monotonic() - began
    assert found == [shard.name for shard in shards]
    assert seconds < 32 * 0.05 / 2  # one after the other it would be 1.6 s


def test_shards_that_are_finished_are_not_opened_again(tmp_path: Path) -> None:
    for n in range(6):
        parquet(tmp_path / "in" / f"{n}.parquet", [encoded(n)] * (4 * n + 1), ["p"] * (4 * n + 1), group=2)
    word, out = f"distant://{tmp_path}/in/*.parquet", tmp_path / "out"
    whole = batch([word], str(out), LITE, part_rows=4)
    expected = scores(out)
    assert len(expected) == whole.rows == 66
    ends = sorted(out.glob("*-end.parquet"))
    assert [int(path.name.split("-")[-2]) for path in ends] == list(range(6))
    first, last = next(out.glob("2-*-00000.parquet")), ends[4]
    first.unlink()
    last.unlink()
    Distant.opened.clear()
    fractions: list[float] = []
    report = batch([word], str(out), LITE, part_rows=4, on_progress=lambda p: fractions.append(p.fraction))
    assert (report.new_parts, report.new_rows, report.rows, report.notes) == (2, 5, 66, ())
    assert fractions == [pytest.approx(fractions[0]), 1.0]
    assert set(Distant.opened) == {"0.parquet", "2.parquet", "4.parquet"}  # the first names the columns
    assert scores(out) == expected
    Distant.opened.clear()
    report = batch([word], str(out), LITE, part_rows=4)
    assert (report.new_rows, report.rows, report.parts) == (0, 66, 21)
    assert set(Distant.opened) == {"0.parquet"}
    with pytest.raises(BatchError, match="holds another run: image column was"):
        batch([word], str(out), LITE, part_rows=4, reading=Reading(image_column="prompt"))


def test_empty_shards_before_one_that_is_finished(tmp_path: Path) -> None:
    """The columns are those of the first shard that has any, finished or not."""
    (tmp_path / "a.jpg").write_bytes(encoded(0))
    words = [str(tmp_path / f"{n}.jsonl") for n in range(3)]
    jsonl(tmp_path / "0.jsonl", [])
    jsonl(tmp_path / "1.jsonl", [{"image": "a.jpg", "caption": "c"}])
    jsonl(tmp_path / "2.jsonl", [{"prompt": "p", "path": "b.jpg", "image": "a.jpg", "caption": "c"}])
    batch(words, str(tmp_path / "out"), LITE)
    next((tmp_path / "out").glob("2-*-end.parquet")).unlink()
    report = batch(words, str(tmp_path / "out"), LITE)
    assert (report.new_rows, report.rows, report.empty_shards) == (1, 2, 1)
