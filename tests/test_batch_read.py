"""Reading shards of every kind: the same rows in any division, damage told and never silent, drift found up front."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow.parquet as pq  # noqa: E402

from humanpref.batch.readers import READERS, check_shards  # noqa: E402
from humanpref.batch.records import Problem, Reading, Row, Span  # noqa: E402
from humanpref.batch.shards import find_shards  # noqa: E402
from humanpref.errors import DataError  # noqa: E402
from tests.batching import encoded, folder_of_images, jsonl, parquet, tar  # noqa: E402

JPEG = encoded(0)


def read(*words: object, part_rows: int = 3, reads_prompt: bool = True, **options: Any) -> tuple[list[Span], list[Row]]:
    reading = Reading(**options)
    shards = find_shards([str(word) for word in words], reading)
    chosen = check_shards(shards, reading, reads_prompt=reads_prompt)
    spans = [span for shard in shards for span in READERS[shard.kind].spans(shard, chosen, part_rows)]
    return spans, [row for span in spans for row in READERS[span.shard.kind].rows(span, chosen)]


def problems(rows: list[Row]) -> list[str | None]:
    return [row.image.kind if isinstance(row.image, Problem) else None for row in rows]


@pytest.mark.parametrize("group", [1, 4, 100])
@pytest.mark.parametrize("part_rows", [1, 3, 7, 1000])
def test_parquet_in_any_division(tmp_path: Path, group: int, part_rows: int) -> None:
    images = [f"{n}.jpg" for n in range(11)]
    path = parquet(tmp_path / "a.parquet", images, [f"p{n}" for n in range(11)], group)
    spans, rows = read(path, part_rows=part_rows)
    assert [(row.number, row.image, row.key, row.prompt) for row in rows] == [
        (n, f"{n}.jpg", f"{n}.jpg", f"p{n}") for n in range(11)
    ]
    assert all(span.count <= part_rows for span in spans)
    contents = [encoded(n) for n in range(11)]
    spans, rows = read(parquet(tmp_path / "b.parquet", contents, ["p"] * 11, group), part_rows=part_rows)
    assert [row.image for row in rows] == contents
    assert [row.number for row in rows] == list(range(11))
    assert max(span.count for span in spans) <= max(group, part_rows)  # groups with images are not split
    assert sum(span.share for span in spans) == pytest.approx(spans[0].shard.size)


def test_parquet_as_hugging_face_has_it(tmp_path: Path) -> None:
    images = [
        {"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, {"bytes": JPEG, "path": None},
        {"bytes": None, "path": None}, None, {"bytes": b"", "path": "c.jpg"},
    ]  # fmt: skip
    _, rows = read(parquet(tmp_path / "a.parquet", images, ["p"] * 6))
    assert [row.key for row in rows] == ["a.jpg", "b.jpg", None, None, None, "c.jpg"]
    assert [row.image for row in rows[:3]] == [JPEG, "b.jpg", JPEG]
    assert problems(rows) == [None, None, None, "no-image", "no-image", "no-image"]


def test_parquet_types(tmp_path: Path) -> None:
    for n, (kind, values) in enumerate(
        [
            (pa.large_binary(), [JPEG]),
            (pa.large_string(), ["a.jpg"]),
            (pa.dictionary(pa.int32(), pa.string()), ["a.jpg"]),
        ]
    ):
        table = pa.table({"picture": pa.array(values, kind), "caption": pa.array(["p"], pa.large_string())})
        pq.write_table(table, path := tmp_path / f"{n}.parquet")
        _, rows = read(path, image_column="picture")
        assert rows == [Row(0, values[0] if isinstance(values[0], str) else None, "p", values[0])]
        with pytest.raises(
            DataError, match="no column for the image is known by its name; its columns are picture, caption"
        ):
            read(path)
    pq.write_table(pa.table({"image": [[1, 2]], "prompt": ["p"]}), path)
    with pytest.raises(DataError, match=r"the column image holds list<.*>, neither the bytes"):
        read(path)
    pq.write_table(pa.table({"image": ["a.jpg"], "prompt": [3]}), path)
    with pytest.raises(DataError, match=r"the column prompt holds no text \(int64\)"):
        read(path)
    pq.write_table(pa.table({"image": ["a.jpg"]}), path)
    with pytest.raises(
        DataError, match="no column for the prompt is known by its name; its columns are image; name it by"
    ):
        read(path)
    assert read(path, reads_prompt=False)[1][0].prompt is None
    assert read(path, prompt="all")[1][0].prompt == "all"
    with pytest.raises(DataError, match="has no column 'nil'; its columns are image; choose one by --prompt-column"):
        read(path, prompt_column="nil")


def test_shards_that_differ_are_found_before_anything_is_scored(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", [JPEG], ["p"])
    parquet(tmp_path / "2.parquet", [JPEG], ["p"])
    pq.write_table(pa.table({"image": [JPEG], "caption": ["p"]}), tmp_path / "10.parquet")
    with pytest.raises(DataError, match=r"10\.parquet: has no column 'prompt'; its columns are image, caption"):
        read(tmp_path)
    pq.write_table(pa.table({"image": [3.5], "prompt": ["p"]}), tmp_path / "10.parquet")
    with pytest.raises(DataError, match=r"10\.parquet: the column image holds double"):
        read(tmp_path)
    content = (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "10.parquet").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"10\.parquet: damaged, truncated or not Parquet"):
        read(tmp_path)
    (tmp_path / "10.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"10\.parquet: damaged, truncated or not Parquet"):
        read(tmp_path)


def test_a_span_of_paths_costs_what_its_group_of_rows_does_at_most(tmp_path: Path) -> None:
    """pyarrow's groups have a million rows; a span of them has two thousand."""
    count, path = 200_000, tmp_path / "a.parquet"
    table = pa.table({"image": [f"{n:09}.jpg" for n in range(count)], "prompt": [f"prompt {n}" for n in range(count)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, data_page_size=1 << 16)
    reading = Reading("image", "prompt")
    (shard,) = find_shards([str(path)], reading)
    reader = READERS["parquet"]
    first, *_, last = reader.spans(shard, reading, 2048)

    def seconds(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    found: list[Row] = []
    whole = min(seconds(lambda: pq.read_table(path, use_threads=False)) for _ in range(3))
    assert min(seconds(lambda: found.extend(reader.rows(last, reading))) for _ in range(3)) < 6 * whole + 0.02
    assert [row.number for row in found[: last.count]] == [*range(last.first, count)]
    assert found[-1] == Row(count - 1, f"{count - 1:09}.jpg", f"prompt {count - 1}", f"{count - 1:09}.jpg")
    before = _bytes_read()
    assert len(list(reader.rows(first, reading))) == first.count
    assert _bytes_read() - before < path.stat().st_size / 2  # what follows the span is not read


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [encoded(n, "PNG") for n in range(40)], ["p"] * 40, group=10)
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(2).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))
    _, rows = read(path, part_rows=10)
    assert [row.number for row in rows] == list(range(40))
    assert problems(rows) == [None] * 20 + ["damaged-shard"] * 10 + [None] * 10


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12), st.integers(1, 5), st.sampled_from(["\n", "\r\n"]))
def test_csv_in_any_division(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], n: int, end: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(("image", "prompt"))
    writer.writerows(cells)
    path.write_bytes(buffer.getvalue().encode())
    spans, rows = read(path, part_rows=n)
    assert [(row.image, row.prompt) for row in rows] == cells
    assert [row.number for row in rows] == list(range(len(cells)))
    assert [span.count for span in spans[:-1]] == [n] * (len(spans) - 1)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12), st.integers(1, 5))
def test_json_lines_in_any_division(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], n: int
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    lines = [json.dumps({"image": a, "prompt": b}, ensure_ascii=False) for a, b in cells]
    path.write_bytes(("\ufeff" + "\n\n".join(lines)).encode())
    _, rows = read(path, part_rows=n)
    assert [(row.image, row.prompt) for row in rows] == cells
    assert [row.number for row in rows] == list(range(len(cells)))


def test_lines_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"image": "a.jpg", "prompt": "p"}\n{"image": \n[1]\n{"image": 3, "prompt": "p"}\n\xff\xfe\n'
        b'{"prompt": "p"}\n{"image": "b.jpg", "prompt": 3}\n{"image": "c.jpg"}\n{"image": "d.jpg", "prompt": "p"'
    )
    _, rows = read(path)
    assert problems(rows) == [
        None, "bad-row", "bad-row", "bad-row", "bad-row", "no-image", "bad-row", None, "bad-row"
    ]  # fmt: skip
    assert rows[7].prompt is None
    path = tmp_path / "a.csv"
    path.write_bytes(b'image,prompt\na.jpg,p\nb.jpg\n"c"x.jpg,p\nd.jpg,\n,p\n\xff.jpg,p\ne.jpg,"open\n')
    _, rows = read(path, part_rows=2)
    assert problems(rows) == [None, "bad-row", "bad-row", None, "no-image", "bad-row", "bad-row"]
    assert [row.number for row in rows] == list(range(7))
    path = tmp_path / "t.tsv"
    path.write_text("image\tprompt\na.jpg\ta, b\n")
    assert read(path)[1] == [Row(0, "a.jpg", "a, b", "a.jpg")]
    for content, what in (("", "is empty"), ("a,a\n", "named twice"), ('"x', "not readable as CSV")):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(DataError, match=what):
            read(tmp_path / "b.csv")
    (tmp_path / "b.jsonl").write_text("nothing\n")
    with pytest.raises(DataError, match="not JSON Lines"):
        read(tmp_path / "b.jsonl")


def sample(n: int) -> tuple[str, dict[str, bytes]]:
    return f"{n:04}", {"jpg": encoded(n), "txt": f"prompt {n}".encode()}


@pytest.mark.parametrize("part_rows", [1, 4, 100])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tar_in_any_division(tmp_path: Path, name: str, part_rows: int) -> None:
    path = tar(tmp_path / name, [sample(n) for n in range(10)])
    spans, rows = read(path, part_rows=part_rows)
    assert [(row.number, row.key, row.prompt) for row in rows] == [(n, f"{n:04}", f"prompt {n}") for n in range(10)]
    assert [row.image for row in rows] == [encoded(n) for n in range(10)]
    assert len(spans) == (1 if name == "a.tar.gz" else -(-10 // part_rows))


def test_what_samples_of_a_tar_hold(tmp_path: Path) -> None:
    samples = [
        ("dir/a", {"jpg": JPEG, "json": b'{"caption": "in json", "url": 3}'}),
        ("b.c", {"seg.png": encoded(1, "PNG")}),
        ("d", {"txt": b"no image"}),
        ("e", {"jpg": JPEG, "json": b"{"}),
        ("f", {"jpg": JPEG, "json": b'{"caption": 3}'}),
        ("g", {"jpg": JPEG, "txt": b"\xff"}),
        ("long/" + "x" * 200, {"jpeg": JPEG, "txt": "long ünïcode".encode()}),
        ("h", {"jpg": JPEG, "__key__": b"h"}),
    ]
    path = tar(tmp_path / "a.tar", samples)
    _, rows = read(path, part_rows=2)
    assert [row.key for row in rows] == ["dir/a", "b", "d", "e", "f", "g", "long/" + "x" * 200, "h"]
    assert problems(rows) == [None, None, "no-image", "bad-row", "bad-row", "bad-row", None, None]
    assert [rows[i].prompt for i in (0, 1, 6, 7)] == ["in json", None, "long ünïcode", None]
    _, rows = read(path, image_column="seg.png", prompt="all")
    assert [i for i, row in enumerate(rows) if isinstance(row.image, bytes)] == []
    _, rows = read(path, image_column="c.seg.png", prompt="all")
    assert [(i, row.prompt) for i, row in enumerate(rows) if isinstance(row.image, bytes)] == [(1, "all")]


@pytest.mark.parametrize("part_rows", [2, 100])
@pytest.mark.parametrize("how", ["cut in an image", "cut in a header", "cut at a border", "damaged header"])
def test_a_damaged_tar_ends_in_a_row_that_says_so(tmp_path: Path, how: str, part_rows: int) -> None:
    import tarfile

    path = tar(tmp_path / "a.tar", [sample(n) for n in range(8)])
    with tarfile.open(path) as archive:
        fourth = next(member for member in archive if member.name == "0004.jpg")
    content = bytearray(path.read_bytes())
    ends = {
        "cut in an image": fourth.offset_data + 10,
        "cut in a header": fourth.offset + 100,
        "cut at a border": fourth.offset,
    }
    if how in ends:
        del content[ends[how] :]
    else:
        content[fourth.offset : fourth.offset + 100] = b"\xee" * 100
    path.write_bytes(bytes(content))
    _, rows = read(path, part_rows=part_rows)
    assert problems(rows) == [None] * 4 + ["damaged-shard"]
    assert [row.number for row in rows] == list(range(5))
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(bytes(content)))
    assert problems(read(packed)[1]) == [None] * 4 + ["damaged-shard"]
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    assert problems(read(packed)[1])[-1] == "damaged-shard"


def test_empty_shards_and_no_tar(tmp_path: Path) -> None:
    assert read(tar(tmp_path / "a.tar", [])) == ([], [])
    assert read(parquet(tmp_path / "a.parquet", [], [])) == ([], [])
    (tmp_path / "a.jsonl").write_text("")
    assert read(tmp_path / "a.jsonl") == ([], [])
    for content in (b"", b"no tar" * 300):
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(DataError, match="no tar file"):
            read(tmp_path / "b.tar")


def test_folders(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", 11, texts=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "x.png").write_bytes(encoded(1, "PNG"))
    (folder / "3.txt").write_bytes(b"\xff")
    (folder / "._5.jpg").write_bytes(b"what another system left")
    (folder / "notes.md").write_text("not an image")
    spans, rows = read(folder, part_rows=5, prompt="all")
    assert [row.image if isinstance(row.image, str) else row.key for row in rows] == [
        "sub/x.png", *(f"{n}.jpg" for n in range(11))
    ]  # fmt: skip
    assert [row.prompt for row in rows] == ["all", *(f"prompt {n}" if n != 3 else None for n in range(11))]
    assert problems(rows) == [None] * 4 + ["bad-row"] + [None] * 7
    assert len(spans) == 3
    with pytest.raises(DataError, match="is a folder of images and has no columns"):
        read(folder, image_column="image")


def test_the_folder_of_a_generation(tmp_path: Path) -> None:
    from humanpref.generate import generate
    from tests.generating import ToyBackend, prompts

    generate(prompts(3), [ToyBackend()], tmp_path / "run")
    spans, rows = read(tmp_path / "run")
    assert spans[0].shard.name == f"{tmp_path / 'run'}/manifest.jsonl"
    assert [(row.prompt, row.image) for row in rows] == [(f"prompt number {n}", f"toy/p{n}-0.png") for n in range(3)]


def test_what_words_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/2.jsonl", "data/10.jsonl", "data/sub/1.jsonl", "data/_meta.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        jsonl(tmp_path / name, [{"image": "a.jpg", "prompt": name}])

    def names(*words: str) -> list[str]:
        return [shard.name for shard in find_shards(words, Reading())]

    monkeypatch.chdir(tmp_path)
    assert names("data") == names("data/") == ["data/2.jsonl", "data/10.jsonl", "data/sub/1.jsonl"]
    assert names("data/*.jsonl") == ["data/2.jsonl", "data/10.jsonl"]
    assert names("da*/1?.jsonl", "data/2.jsonl") == ["data/10.jsonl", "data/2.jsonl"]
    assert names("./data/2.jsonl") == ["./data/2.jsonl"]
    assert names(f"{tmp_path}/data/*0.jsonl") == [f"{tmp_path}/data/10.jsonl"]
    (tmp_path / "data/x.csv").write_text("image,prompt\n")
    (tmp_path / "empty").mkdir()
    for word, what in (
        ("data", "holds csv and jsonl files"), ("empty", "neither shards .* nor images"), ("gone", "no such file or folder"),
        ("*.nil", "nothing matches this pattern"), ("", "not a possible file name"), ("no://x", "no"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=what):
            names(word)
    with pytest.raises(DataError, match="named twice"):
        names("data/2.jsonl", "data/2.jsonl")
    with pytest.raises(DataError, match=r"of several kinds \(csv, jsonl\)"):
        names("data/2.jsonl", "data/x.csv")
