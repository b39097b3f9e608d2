"""What the input is: the same images in every process, all shards and each once, changes and drift found up front."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from humanpref.batch.records import BatchError, Reading
from humanpref.batch.run import batch
from humanpref.batch.score import Model
from tests.batching import encoded, scores
from tests.test_batch_read import read

LITE = [Model("lite")]


def test_images_of_one_number_are_in_the_same_order_in_every_process(tmp_path: Path) -> None:
    names = ["0" * n + "7.jpg" for n in range(9)]  # a set of names has another order in each process
    for name in names:
        (tmp_path / name).write_bytes(b"")
    spans, rows = read(tmp_path, prompt="p", part_rows=4)
    assert [row.key for row in rows] == sorted(names)
    assert len(spans) == 3


def test_a_folder_that_has_changed_is_refused(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", str(tmp_path / "out")
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(encoded(1))
    (folder / "a.txt").write_text("p")
    reading = Reading(prompt="all")
    assert batch([str(folder)], out, LITE, reading=reading).rows == 2
    (folder / "notes.txt").write_text("no image has this name")
    assert batch([str(folder)], out, LITE, reading=reading).new_rows == 0
    for was, now, what in (
        ("b.jpg", "c.jpg", r"\(from 2 images of digest \w{16} to 2 images of digest \w{16}\); choose another OUT"),
        ("a.txt", "b.txt", "from 2 images of digest .* to 2 images"),
        (None, "c.jpg", "from 2 images of digest .* to 3 images"),
    ):
        if was is None:
            (folder / now).write_bytes(encoded(1))
        else:
            (folder / was).rename(folder / now)
        with pytest.raises(BatchError, match=what):
            batch([str(folder)], out, LITE, reading=reading)
        if was is not None:
            (folder / now).rename(folder / was)
    assert [row["prompt"] for row in scores(tmp_path / "out")] == ["p", "all"]
