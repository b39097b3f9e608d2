"""What the input is: the same images in every process, all shards and each once, changes and drift found up front."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow.parquet as pq  # noqa: E402

from humanpref.batch.records import BatchError, Reading  # noqa: E402
from humanpref.batch.run import batch  # noqa: E402
from humanpref.batch.score import Model  # noqa: E402
from humanpref.batch.shards import find_shards  # noqa: E402
from humanpref.errors import DataError  # noqa: E402
from tests.batching import encoded, folder_of_images, jsonl, scores  # noqa: E402
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


def names(*words: str) -> list[str]:
    return [shard.name for shard in find_shards(words, Reading())]


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        jsonl(folder / name, [{"image": "a.jpg", "prompt": name}])


def test_folders_that_a_glob_matches_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(
        tmp_path, "d/a.jsonl", "d/x.jsonl/part-0.jsonl", "d/x.jsonl/part-1.jsonl", "d/x.jsonl/_SUCCESS", "other/1.jsonl"
    )
    spark = ["d/x.jsonl/part-0.jsonl", "d/x.jsonl/part-1.jsonl"]
    assert names("d/*.jsonl") == ["d/a.jsonl", *spark]
    assert names("d/x*") == spark
    assert names("d/**/*.jsonl") == names("d/**") == ["d/a.jsonl", *spark]  # and none of them twice
    assert names("[do]*") == ["d/a.jsonl", *spark, "other/1.jsonl"]
    assert names("**/part-?.jsonl") == spark
    folder_of_images(tmp_path / "runs/2", 1)
    folder_of_images(tmp_path / "runs/10", 1)
    assert names("runs/*") == ["runs/2", "runs/10"]
    with pytest.raises(DataError, match=r"d/\*\*x: .*\*\*"):
        names("d/**x")


def test_what_programs_leave_behind_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hidden = (".ipynb_checkpoints/a-checkpoint.jsonl", "_temporary/0/a.jsonl", ".a.jsonl", "sub/_delta_log/0.jsonl")
    files(tmp_path, "d/a.jsonl", "d/sub/b.jsonl", *(f"d/{name}" for name in hidden))
    for word in ("d", "d/**", "d/**/*.jsonl", str(tmp_path / "d"), "[d]"):
        assert [Path(name).name for name in names(word)] == ["a.jsonl", "b.jsonl"], word
    assert (
        names("d/_temp*/*/*.jsonl") == names("d/_temporary/0/*") == names("d/_temporary") == ["d/_temporary/0/a.jsonl"]
    )
    assert names("d/.a*") == ["d/.a.jsonl"]
    folder = folder_of_images(tmp_path / "images", 2)
    folder_of_images(folder / ".thumbnails", 2)
    assert [row.key for row in read(folder, prompt="p")[1]] == ["0.jpg", "1.jpg"]


def test_links_to_folders_are_followed_and_each_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "d/z/a.jsonl", "far/b.jsonl", "far/sub/c.jsonl")
    (tmp_path / "d/link").symlink_to("../far")
    (tmp_path / "d/loop").symlink_to("..")
    (tmp_path / "d/again").symlink_to("z")
    (tmp_path / "far/back").symlink_to("../d")
    (tmp_path / "d/z/gone").symlink_to("nowhere")
    (tmp_path / "d/z/self").symlink_to("self")
    expected = ["d/link/b.jsonl", "d/link/sub/c.jsonl", "d/z/a.jsonl"]
    assert names("d") == names("d/**/*.jsonl") == expected
    assert names("d/*/*.jsonl") == ["d/again/a.jsonl", "d/link/b.jsonl", "d/z/a.jsonl"]  # as the pattern says
    (tmp_path / "far/back").unlink()
    assert names("d/lin*/**/*.jsonl") == names("d/link") == ["d/link/b.jsonl", "d/link/sub/c.jsonl"]
    folder = folder_of_images(tmp_path / "images", 1)
    folder_of_images(tmp_path / "elsewhere", 1)
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.jpg").symlink_to("nowhere")
    assert [row.key for row in read(folder, prompt="p")[1]] == ["gone.jpg", "more/0.jpg", "0.jpg"]


@pytest.mark.parametrize("ending", ["jsonl.gz", "csv.zst", "parquet.bz2", "tar.xz"])
def test_packed_shards_beside_others_are_refused(tmp_path: Path, ending: str) -> None:
    files(tmp_path, "0.jsonl", f"1.{ending}", "notes.txt", "readme.gz")
    with pytest.raises(
        DataError, match=rf"holds 1\.{ending}, which is packed; unpack it, or name the files that are the"
    ):
        names(str(tmp_path))
    with pytest.raises(DataError, match=rf"1\.{ending}, which is none of"):
        names(f"{tmp_path}/?.*")


def test_folders_of_other_file_systems(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for name in ("a.jsonl", "x.jsonl/part-0.jsonl", "_temporary/0/b.jsonl", ".hidden/c.jsonl", "sub/d.jsonl"):
        system.pipe_file(f"/found/{name}", b'{"image": "a.jpg", "prompt": "p"}\n')
    try:
        url = "memory:///found"
        expected = [f"memory:///found/{name}" for name in ("a.jsonl", "sub/d.jsonl", "x.jsonl/part-0.jsonl")]
        assert [n.replace("memory://found", url) for n in names(url)] == expected
        assert [n.replace("memory://found", url) for n in names(f"{url}/**/*.jsonl")] == expected
        assert len(names(f"{url}/*.jsonl")) == 2
    finally:
        system.rm("/found", recursive=True)


@pytest.mark.parametrize(
    ("word", "out"),
    [
        ("d/**/*", "d/scores"),
        ("d/**", "d/x/scores"),
        ("d/*/a*", "d/scores"),
        ("d/*", "d/scores"),
        ("d/*", "d/x/y/scores"),
        ("**/a-*", "d/scores"),
    ],
)
def test_an_output_that_a_glob_would_find_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "d/x/a-1.jsonl")
    for written in (out, f"./{out}/", str(tmp_path / out)):
        with pytest.raises(BatchError, match=r"lies within the input .*; choose an OUT outside it"):
            batch([word], written, LITE)
    assert not (tmp_path / "d/scores").exists()


def test_an_output_beside_what_a_glob_finds_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path, "d/a.jsonl")
    for word in ("d/*.jsonl", "d/**/*.jsonl", "[d]/*.jsonl", "d/a*"):
        for _ in range(2):
            assert batch([word], "d/scores", LITE).rows == 1
        shutil.rmtree("d/scores")
    for _ in range(2):
        assert batch(["d/**/*"], "d/.scores", LITE).rows == 1


def test_shards_that_are_no_files_are_named(tmp_path: Path) -> None:
    files(tmp_path, "0.jsonl")
    os.mkfifo(tmp_path / "1.jsonl")  # which would never be read to its end
    for word in (str(tmp_path), f"{tmp_path}/*"):
        with pytest.raises(DataError, match=r"/1\.jsonl: is no regular file"):
            names(word)
    (tmp_path / "1.jsonl").unlink()
    (tmp_path / "1.jsonl").symlink_to("nowhere")
    for word in (str(tmp_path), f"{tmp_path}/*"):
        with pytest.raises(DataError, match=r"/1\.jsonl: no such file"):
            names(word)


def test_a_finished_shard_without_a_column_does_not_hide_the_others_column(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(encoded(1))
    words = [str(jsonl(tmp_path / "0.jsonl", [{"image": str(image)}]))]
    words += [str(jsonl(tmp_path / f"{n}.jsonl", [{"image": str(image), "caption": "c"}])) for n in (1, 2)]
    out, reading = tmp_path / "out", Reading(prompt="all")
    assert batch(words, str(out), LITE, reading=reading).rows == 3
    assert batch(words, str(out), LITE, reading=reading).new_rows == 0
    max(out.glob("2*.parquet")).unlink()
    assert batch(words, str(out), LITE, reading=reading).new_rows == 1
    assert [row["prompt"] for row in scores(out)] == ["all", "c", "c"]


def test_a_shard_whose_name_is_hidden_is_finished_when_it_is(tmp_path: Path) -> None:
    """It is named, so it is input; its parts are not hidden, neither from this program nor from readers of folders."""
    image = tmp_path / "a.jpg"
    image.write_bytes(encoded(1))
    shard, out = jsonl(tmp_path / "_x.jsonl", [{"image": str(image), "prompt": "p"}] * 5), tmp_path / "out"
    assert batch([str(shard)], str(out), LITE, part_rows=2).new_rows == 5
    assert all(path.name[0] not in "._" for path in out.glob("*.parquet"))
    assert batch([str(shard)], str(out), LITE, part_rows=2).new_rows == 0


def test_an_output_within_the_input_by_another_name_is_refused(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "real", 2, texts=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "scores").mkdir()
    (tmp_path / "real" / "scores").symlink_to(tmp_path / "scores")
    for out in ("real/out", "link/out"):
        with pytest.raises(BatchError, match=f"{out}: lies within the input .*link; choose an OUT outside it"):
            batch([str(tmp_path / "link")], str(tmp_path / out), LITE)
    assert batch([str(tmp_path / "link")], str(tmp_path / "elsewhere"), LITE).rows == 2
