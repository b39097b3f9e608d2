"""WebDataset shards: which member of a sample is its image, and tar files that others write in other ways."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("fsspec")

from humanpref.batch.records import Problem
from tests.batching import encoded, tar
from tests.test_batch_read import problems, read

JPEG, OTHER = encoded(0), encoded(1, "PNG")


def test_the_image_of_a_sample(tmp_path: Path) -> None:
    samples = [
        ("a", {"depth.png": OTHER, "jpg": JPEG, "txt": b"p"}),
        ("b", {"JPG": JPEG, "TXT": b"p", "Seg.PNG": OTHER}),
        ("c", {"seg.png": OTHER}),
        ("d", {"jpg": JPEG, "png": OTHER}),
        ("e", {"depth.png": OTHER, "seg.png": OTHER}),
        ("f", {"JPG": JPEG, "jpg": OTHER}),
    ]
    path = tar(tmp_path / "a.tar", samples)
    _, rows = read(path, prompt="all")
    assert [row.image for row in rows[:3]] == [JPEG, JPEG, OTHER]
    assert [row.prompt for row in rows[:3]] == ["p", "p", "all"]
    assert problems(rows[3:]) == ["bad-row"] * 3
    told = [row.image.message for row in rows[3:] if isinstance(row.image, Problem)]
    assert told[0] == "the sample has several images (.jpg, .png); choose one by --image-column"
    assert told[1] == "the sample has several images (.depth.png, .seg.png); choose one by --image-column"
    assert told[2] == "the sample has two members .jpg"
    _, rows = read(path, prompt="all", image_column="SEG.png")
    assert [row.image for row in rows if not isinstance(row.image, Problem)] == [OTHER] * 3


def samples(first: int, end: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"{n:04}", {"jpg": encoded(n), "txt": f"prompt {n}".encode()}) for n in range(first, end)]


@pytest.mark.parametrize("part_rows", [1, 3, 100])
def test_tar_files_one_after_the_other(tmp_path: Path, part_rows: int) -> None:
    """As `cat a.tar b.tar` makes them, or tar with --concatenate on a tape: nothing of the second is lost."""
    whole = b"".join(tar(tmp_path / f"{n}.part", samples(n, n + 4)).read_bytes() for n in (0, 4))
    (tmp_path / "a.tar").write_bytes(whole)
    assert [row.prompt for row in read(tmp_path / "a.tar", part_rows=part_rows)[1]] == [f"prompt {n}" for n in range(8)]
    (tmp_path / "a.tar").write_bytes(whole + b"no zeros" * 64)
    rows = read(tmp_path / "a.tar", part_rows=part_rows)[1]
    assert problems(rows) == [None] * 8 + ["damaged-shard"]
    (tmp_path / "a.tar").write_bytes(
        whole[: len(whole) // 2] + tar(tmp_path / "c.part", samples(4, 8)).read_bytes()[:-9000]
    )
    assert problems(read(tmp_path / "a.tar", part_rows=part_rows)[1])[4:][-1] == "damaged-shard"


@pytest.mark.parametrize("block", [700, 60_000])
def test_gzip_in_several_members(tmp_path: Path, block: int) -> None:
    """As bgzip and pigz write it, and `cat` of packed files."""
    content = tar(tmp_path / "a.part", samples(0, 40)).read_bytes()
    packed = [gzip.compress(content[at : at + block]) for at in range(0, len(content), block)]
    (tmp_path / "a.tar.gz").write_bytes(b"".join(packed))
    rows = read(tmp_path / "a.tar.gz")[1]
    assert [row.prompt for row in rows] == [f"prompt {n}" for n in range(40)]
    (tmp_path / "a.tar.gz").write_bytes(b"".join(packed)[:-30])  # the end of the last member, after the tar's own
    assert problems(read(tmp_path / "a.tar.gz")[1]) == [None] * 40 + ["damaged-shard"]
    (tmp_path / "a.tar.gz").write_bytes(b"".join(packed[:-1]))
    assert problems(read(tmp_path / "a.tar.gz")[1])[-1] == "damaged-shard"
    (tmp_path / "b.tar.gz").write_bytes(content)  # not packed, whatever its name says
    assert read(tmp_path / "b.tar.gz")[1] == rows


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_members_that_are_links_are_bad_rows(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        for key, kind in (
            ("0", tarfile.REGTYPE),
            ("1", tarfile.SYMTYPE),
            ("2", tarfile.LNKTYPE),
            ("3", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(f"dir/{key}.jpg")
            info.type, info.linkname = kind, "" if kind == tarfile.REGTYPE else "dir/0.jpg"
            info.size = len(JPEG) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(JPEG) if info.size else None)
        archive.add(tmp_path, "dir", recursive=False)
    _, rows = read(tmp_path / name, prompt="p", part_rows=2)
    assert [row.key for row in rows] == ["dir/0", "dir/1", "dir/2", "dir/3"]
    assert problems(rows) == [None, "bad-row", "bad-row", None]
    assert isinstance(rows[1].image, Problem)
    assert rows[1].image.message == "dir/1.jpg: is a link or a device, whose content the tar file does not hold here"
