"""WebDataset shards: which member of a sample is its image, and tar files that others write in other ways."""

from __future__ import annotations

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
