"""What the input is: the same images in every process, all shards and each once, changes and drift found up front."""

from __future__ import annotations

from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow.parquet as pq  # noqa: E402

from humanpref.batch.records import BatchError, Reading  # noqa: E402
from humanpref.batch.run import batch  # noqa: E402
from humanpref.batch.score import Model  # noqa: E402
from humanpref.errors import DataError  # noqa: E402
from tests.batching import encoded, jsonl, scores  # noqa: E402
from tests.test_batch_read import read  # noqa: E402

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


def table(path: Path, columns: dict[str, list[str]]) -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(cells) for cells in [list(columns), *(row.values() for row in rows)]))
    elif path.suffix == ".jsonl":
        jsonl(path, rows)
    else:
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shards_with_and_without_prompts(tmp_path: Path, kind: str, order: tuple[int, int]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    table(folder / f"{order[0]}.{kind}", {"image": ["a.jpg"]})
    table(folder / f"{order[1]}.{kind}", {"image": ["b.jpg"], "caption": ["a tree"]})
    _, rows = read(folder, prompt="fallback")
    assert {row.key: row.prompt for row in rows} == {"a.jpg": "fallback", "b.jpg": "a tree"}
    with pytest.raises(DataError, match=rf"{order[0]}\.{kind}: .*--prompt"):
        read(folder)
    if kind == "jsonl":  # whose rows each have the keys they have
        assert {row.key: row.prompt for row in read(folder, reads_prompt=False)[1]} == {
            "a.jpg": None,
            "b.jpg": "a tree",
        }
    else:
        with pytest.raises(DataError, match=rf"{order[0]}\.{kind}: has no column 'caption'"):
            read(folder, reads_prompt=False)
    with pytest.raises(DataError, match="has no column 'captain'"):
        read(folder, prompt="fallback", prompt_column="captain")
    table(folder / f"2.{kind}", {"image": ["c.jpg"], "text": ["a house"]})
    if kind == "jsonl":
        assert [row.prompt for row in read(folder, prompt="fallback")[1]][2] == "a house"
    else:
        with pytest.raises(DataError, match=rf"2\.{kind}: has no column 'caption'"):
            read(folder, prompt="fallback")


def test_json_lines_whose_prompts_begin_late(tmp_path: Path) -> None:
    late = [{"image": "a.jpg"}] * 150 + [{"image": "b.jpg", "prompt": "late"}, {"image": "c.jpg", "caption": "later"}]
    rows = read(jsonl(tmp_path / "a.jsonl", late), prompt="fallback", part_rows=100)[1]
    assert [row.prompt for row in rows] == ["fallback"] * 150 + ["late", "later"]
    named = read(tmp_path / "a.jsonl", prompt="fallback", image_column="image", part_rows=100)[1]
    assert named == rows
