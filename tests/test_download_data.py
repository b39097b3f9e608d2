"""Datasets from a local Hub over real HTTP; archives that want out of their folder."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from humanpref.data.formats import read_rankings
from humanpref.data.sources import DATASETS
from humanpref.data.unpack import unpack
from humanpref.errors import DataError
from tests.commands import one_line_error, run
from tests.hub import FakeDatasetHub, serving
from tests.toys import picture


def tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(16, 16, seed).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {f"test/{i}.jpg": png(i) for i in range(3)}
ROWS = [{"prompt": "p", "image_path": ["0.jpg", "1.jpg", "2.jpg"], "rank": [1, 2, 3], "raw_annotations": []}]


def test_the_table_pins_whole_commits() -> None:
    assert list(DATASETS) == [
        "hpdv2-test",
        "imagereward-test",
        "pickapic-test",
        "hps-benchmark-prompts",
        "hps-benchmark",
    ]
    for dataset in DATASETS.values():
        assert re.fullmatch(r"[0-9a-f]{40}", dataset.revision)
        assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in dataset.sha256.values())
        assert all(pattern.startswith(dataset.strip) for pattern in dataset.files)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[type[FakeDatasetHub], dict[str, str]]]:
    files = {
        "metadata-test.parquet": b"",
        "images/test/test_1.zip": zipped({f"{i}.webp": png(i) for i in range(2)}),
        "images/test/test_2.zip": zipped({f"test_2/{i}.webp": png(i) for i in (2, 3)}),
        "images/train/train_1.zip": b"not asked for",
        "README.md": b"not asked for",
    }
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image_path": f"images/test/test_{1 + i // 2}/{i}.webp", "prompt_id": f"g{i // 2}", "prompt": "p", "rank": 1 + i % 2}
        for i in range(4)
    ]  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    files["metadata-test.parquet"] = buffer.getvalue()
    handler = type("Hub", (FakeDatasetHub,), {"files": files, "lies": {}, "asked": [], "ranges": []})
    with serving(handler, tmp_path) as env:
        yield handler, env


def test_a_dataset_is_fetched_verified_and_unpacked(hub, tmp_path: Path) -> None:
    handler, env = hub
    out = tmp_path / "data"
    done = run("download", "imagereward-test", "--out", out, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert re.search(
        r"imagereward-test: 0\.00 GB in 3 files \(3 with a checksum\) from THUDM/ImageRewardDB", done.stderr
    )
    assert not [path for path in handler.asked if "train" in path or "README" in path]
    assert all(DATASETS["imagereward-test"].revision in path for path in handler.asked)
    lock = json.loads((out / "dataset.lock.json").read_text())
    assert lock["revision"] == DATASETS["imagereward-test"].revision
    assert set(lock["files"]) == {"metadata-test.parquet", "images/test/test_1.zip", "images/test/test_2.zip"}
    rankings = read_rankings(out)
    assert [(r.id, r.ranks) for r in rankings] == [("g0", (1, 2)), ("g1", (1, 2))]
    assert all(image.path.is_file() for r in rankings for image in r.images)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "hf"] or not (tmp_path / ".data.download").exists()
    asked = len(handler.asked)
    again = run("download", "imagereward-test", "--out", out, env=env)
    assert (again.stdout, len(handler.asked)) == (done.stdout, asked)
    assert "there already" in again.stderr


def test_hpdv2_in_its_published_layout(hub, tmp_path: Path) -> None:
    """The archive's checksum in our table is that of the real one: a made-up one is refused, and fetched anew later."""
    handler, env = hub
    handler.files = {"test.json": json.dumps(ROWS).encode(), "test.tar.gz": tar(IMAGES)}
    done = run("download", "hpdv2-test", "--out", tmp_path / "data", env=env)
    assert done.returncode == 1
    assert "test.tar.gz: is not the published file" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_not_what_was_listed_is_refused_and_then_fetched_anew(hub, tmp_path: Path) -> None:
    handler, env = hub
    right = handler.files["images/test/test_1.zip"]
    handler.lies = {"images/test/test_1.zip": right[:-1] + b"x"}
    done = run("download", "imagereward-test", "--out", tmp_path / "data", env=env)
    assert done.returncode == 1
    assert "test_1.zip: is not the published file" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()
    handler.lies = {}
    assert run("download", "imagereward-test", "--out", tmp_path / "data", env=env).returncode == 0


def test_a_broken_connection_is_taken_up_again(hub, tmp_path: Path) -> None:
    handler, env = hub
    big = zipped({"0.webp": png(0), "1.webp": png(1)})
    with zipfile.ZipFile(buffer := io.BytesIO(big), "a") as archive:  # stored, so that it is large
        archive.writestr("noise.bin", bytes(range(256)) * 80_000, zipfile.ZIP_STORED)
    handler.files["images/test/test_1.zip"] = buffer.getvalue()
    handler.break_after = 15_000_000
    done = run("download", "imagereward-test", "--out", tmp_path / "data", env=env)
    assert done.returncode == 0, done.stderr
    assert any(asked and asked.startswith("bytes=1") for asked in handler.ranges)
    assert (tmp_path / "data/images/test/test_1/noise.bin").stat().st_size == 256 * 80_000


def test_a_malicious_archive_from_the_hub_writes_nothing(hub, tmp_path: Path) -> None:
    handler, env = hub
    handler.files["images/test/test_1.zip"] = zipped({"0.webp": b"x", "../../../../../../escaped": b"x"})
    done = run("download", "imagereward-test", "--out", tmp_path / "data", env=env)
    assert done.returncode == 1
    assert "leads out of its folder; refused" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_what_cannot_be_fetched(hub, tmp_path: Path) -> None:
    handler, env = hub
    handler.files = {"README.md": b""}
    one_line_error(run("download", "pickapic-test", env=env, cwd=tmp_path), "has no data/test_unique-*.parquet")
    (tmp_path / "data").mkdir()
    one_line_error(run("download", "hpdv2-test", "--out", tmp_path / "data", env=env), "is there already")
    dead = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    one_line_error(run("download", "hpdv2-test", env=dead, cwd=tmp_path), "could not be downloaded", "huggingface.co/")
    one_line_error(run("download", "hpdv2-test", env={**env, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path), "could not be")
    one_line_error(run("download", "nonsense", env=env), "choose from: hps-v2.1", "or a dataset: hpdv2-test")
    one_line_error(run("download", "lite", "--out", tmp_path / "x", env=env), "--out is for datasets")


def special(kind: bytes, **fields: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("thing")
        info.type = kind
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info)
    return buffer.getvalue()


def zip_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (tar({"a": b"1", "../escaped": b"2"}), "leads out"),
        (tar({"/tmp/escaped": b"2"}), "leads out"),
        (tar({"x/../../escaped": b"2"}), "leads out"),
        (tar({"..\\escaped": b"2"}), "leads out"),
        (zipped({"../escaped": b"2"}), "leads out"),
        (zipped({"/escaped": b"2"}), "leads out"),
        (special(tarfile.SYMTYPE, linkname="/etc"), "link, a device"),
        (special(tarfile.LNKTYPE, linkname="/etc/passwd"), "link, a device"),
        (special(tarfile.CHRTYPE), "link, a device"),
        (special(tarfile.FIFOTYPE), "link, a device"),
        (zip_link(), "link, a device"),
        (tar({"a": bytes(2_000_000)}), "a bomb"),
        (zipped({"a": bytes(2_000_000)}), "a bomb"),
        (tar({"a": b"1", "./a": b"2"}), "same name twice"),
        (tar({"a": bytes(range(256)) * 99}, "w:gz")[:-40], "damaged, truncated"),
        (tar({"a": bytes(range(256)) * 99}, "w")[:9000], "damaged, truncated"),
        (b"hello", "damaged, truncated or not an archive"),
        (zipped({"a": b"content"}, zipfile.ZIP_STORED).replace(b"content", b"xontent"), "damaged, truncated"),
    ],
)  # fmt: skip
def test_unsafe_and_damaged_archives_leave_nothing(tmp_path: Path, archive: bytes, message: str) -> None:
    (path := tmp_path / "a").write_bytes(archive)
    with pytest.raises(DataError, match=message):
        unpack(path, tmp_path / "out", max_bytes=1_000_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_named_like_the_archive_is_lifted(tmp_path: Path) -> None:
    (path := tmp_path / "test.tar.gz").write_bytes(tar(IMAGES))
    assert unpack(path, tmp_path / "test") == 3
    assert sorted(p.name for p in (tmp_path / "test").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    (path := tmp_path / "CM.tar.gz").write_bytes(tar({"anime/0.jpg": b"1", "photo/0.jpg": b"2"}))
    unpack(path, tmp_path / "CM")
    assert sorted(p.name for p in (tmp_path / "CM").iterdir()) == ["anime", "photo"]


def test_datasets_are_listed_in_the_help() -> None:
    assert "hps-benchmark" in run("download", "--help").stdout
