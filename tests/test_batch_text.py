"""JSON Lines and CSV that is wrong in places: a row for each line that cannot be read, and none of the others lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fsspec")

from humanpref.errors import DataError
from tests.batching import tar
from tests.test_batch_read import problems, read


@pytest.mark.parametrize("part_rows", [7, 5000])
@pytest.mark.parametrize(
    "stray", ['{n}.jpg,"tall tree', '"{n}.jpg,tall tree', '{n}.jpg,"tall "tree"', '"{n}.jpg",tall tree,"x']
)
def test_a_stray_quote_is_one_row(tmp_path: Path, stray: str, part_rows: int) -> None:
    lines = [f"{n}.jpg,prompt {n}" for n in range(1000)]
    for place in (3, 500, 999):
        lines[place] = stray.format(n=place)
    (tmp_path / "a.csv").write_text("image,prompt\n" + "\n".join(lines) + "\n")
    _, rows = read(tmp_path / "a.csv", part_rows=part_rows)
    assert [row.number for row in rows] == list(range(1000))
    assert [n for n, problem in enumerate(problems(rows)) if problem == "bad-row"] == [3, 500, 999]
    assert all(row.image == f"{n}.jpg" for n, row in enumerate(rows) if n not in (3, 500, 999))


def test_a_quote_that_swallows_cells_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('image,prompt\na.jpg,"tall tree\nb.jpg,p\nc.jpg,",p\nd.jpg,p\n')
    _, rows = read(tmp_path / "a.csv")
    assert [row.image for row in rows if row.prompt == "p"] == ["b.jpg", "d.jpg"]
    assert problems(rows) == ["bad-row", None, "bad-row", None]


def test_long_cells_of_csv(tmp_path: Path) -> None:
    long = "long\n" * 40_000
    (tmp_path / "a.csv").write_text(f'image,prompt\na.jpg,"{long}"\nb.jpg,p\n')
    assert [row.prompt for row in read(tmp_path / "a.csv")[1]] == [long, "p"]
    (tmp_path / "a.csv").write_text(f"image,prompt\na.jpg,{'x' * (1 << 20)}x\nb.jpg,p\n")
    _, rows = read(tmp_path / "a.csv")
    assert problems(rows) == ["bad-row", None]


@given(st.text('a",\n', max_size=60), st.integers(1, 4))
def test_csv_of_any_quotes_is_the_same_in_any_division(
    tmp_path_factory: pytest.TempPathFactory, text: str, part_rows: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("image,prompt\n" + text)
    assert read(path, part_rows=part_rows)[1] == read(path, part_rows=100)[1]


def test_half_a_surrogate_pair_is_a_row(tmp_path: Path) -> None:
    """Cutting JSON in the middle of an emoji leaves one; no tokenizer takes it."""
    lines = [json.dumps({"image": "a.jpg", "prompt": prompt}) for prompt in ("a cat \ud83d", "a cat \U0001f431")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    _, rows = read(tmp_path / "a.jsonl")
    assert problems(rows) == ["bad-row", None]
    assert rows[1].prompt == "a cat \U0001f431"
    path = tar(tmp_path / "a.tar", [(str(n), {"jpg": b"jpg", "json": lines[n].encode()}) for n in range(2)])
    assert problems(read(path)[1]) == ["bad-row", None]
    with pytest.raises(DataError, match="--prompt: is not in UTF-8"):
        read(path, prompt="\udcff")
