"""Errors of reading that may pass end a run and are never stored; rows that cannot be read are rows."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

import pyarrow.parquet as pq  # noqa: E402
from fsspec.implementations.local import LocalFileSystem  # noqa: E402

from humanpref.batch.places import is_passing, read_bytes  # noqa: E402
from humanpref.batch.readers import READERS, check_shards  # noqa: E402
from humanpref.batch.records import Problem, Reading, Row  # noqa: E402
from humanpref.batch.run import batch  # noqa: E402
from humanpref.batch.score import MakeScoring, Model  # noqa: E402
from humanpref.batch.shards import find_shards  # noqa: E402
from humanpref.errors import DataError, MissingExtraError  # noqa: E402
from tests.batching import encoded, folder_of_images, jsonl, parquet, scores, tar  # noqa: E402

LITE = [Model("lite")]
EIO = "/proc/self/mem"  # a file that is there, and whose first byte cannot be read


class _Cut(io.FileIO):
    """A file that can be read so many times; then its connection is lost."""

    def _count(self) -> None:
        if Flaky.left == 0:
            raise Flaky.error
        Flaky.left -= 1

    def read(self, size: int | None = -1) -> bytes:
        self._count()
        return super().read(size) or b""

    def readinto(self, buffer: Any) -> int:
        self._count()
        return super().readinto(buffer) or 0


class Flaky(LocalFileSystem):  # type: ignore[misc]
    """flaky://PATH: a store that the connection to is lost after `left` reads (-1: never)."""

    protocol = "flaky"
    left: ClassVar[int] = -1
    error: ClassVar[Exception] = ConnectionResetError("connection reset by peer")

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("flaky://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"flaky://{self._strip_protocol(name)}"

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return _Cut(path, mode)


@pytest.fixture(autouse=True)
def flaky() -> Iterator[None]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    yield
    Flaky.left, Flaky.error = -1, ConnectionResetError("connection reset by peer")


def read(word: object, **options: Any) -> list[Row]:
    reading = Reading(**options)
    shards = find_shards([str(word)], reading)
    chosen = check_shards(shards, reading, reads_prompt=False)
    spans = [span for shard in shards for span in READERS[shard.kind].spans(shard, chosen, 8)]
    return [row for span in spans for row in READERS[span.shard.kind].rows(span, chosen)]


def noise(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(40_000)


def shard(folder: Path, kind: str) -> Path:
    if kind == "parquet":
        return parquet(folder / "a.parquet", [noise(n) for n in range(30)], ["p"] * 30, group=10)
    if kind == "jsonl":
        return jsonl(folder / "a.jsonl", [{"image": noise(n).hex()} for n in range(30)])
    return tar(folder / f"a.{kind}", [(str(n), {"jpg": noise(n), "txt": b"p"}) for n in range(30)])


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), RuntimeError("a client's own")])
@pytest.mark.parametrize("kind", ["parquet", "tar", "tar.gz", "jsonl"])
def test_a_lost_connection_is_no_damage(tmp_path: Path, kind: str, error: Exception) -> None:
    path = f"flaky://{shard(tmp_path, kind)}"
    expected = read(path)
    assert len(expected) == 30
    Flaky.error, told, reads = error, [], 0
    while True:
        Flaky.left = reads
        try:
            found = read(path)
        except DataError as stop:
            told.append(str(stop))
            reads += 1 + reads // 4
        else:
            break
    assert found == expected
    assert len(told) > 3
    assert all(f"a.{kind}: reading failed" in text and "run the same command again" in text for text in told)


@pytest.mark.parametrize(("kind", "left"), [("parquet", 9), ("tar", 14)])
def test_the_same_command_goes_on_after_a_lost_connection(tmp_path: Path, kind: str, left: int) -> None:
    images = [encoded(n, "PNG", (200, 200)) for n in range(30)]
    if kind == "parquet":
        path = parquet(tmp_path / "a.parquet", images, group=5)
    else:
        path = tar(tmp_path / "a.tar", [(str(n), {"png": image}) for n, image in enumerate(images)])
    Flaky.left = left
    with pytest.raises(DataError, match=r"a\.\w+: reading failed \(connection reset by peer\); what was scored is"):
        batch([f"flaky://{path}"], str(tmp_path / "out"), LITE, part_rows=5)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert len(list((tmp_path / "out").glob("*.parquet"))) < 6
    Flaky.left = -1
    report = batch([f"flaky://{path}"], str(tmp_path / "out"), LITE, part_rows=5)
    assert (report.rows, report.scored, report.errors) == (30, 30, {})


def test_spans_that_were_read_before_a_lost_connection_are_scored(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [encoded(n, "PNG", (64, 64)) for n in range(30)], group=5)
    reading = Reading("image")
    (shard,) = find_shards([f"flaky://{path}"], reading)
    spans = list(READERS["parquet"].spans(shard, reading, 5))
    work = MakeScoring(reading, tuple(LITE), 5, threads=1)()
    made: list[int] = []
    while not made or made[-1] < 6:
        Flaky.left = len(made)
        made.append(0)
        try:
            for part in work(spans):
                made[-1] += part.counts.rows == 5
        except DataError:
            continue
    assert made == sorted(made)
    assert set(made) >= {1, 2, 3, 4, 5, 6}, made


def test_images_that_cannot_be_read_now_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(1))
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    names = ["a.jpg", "gone.jpg", "a.jpg/b.jpg", "dir.jpg", "loop.jpg", "x" * 300 + ".jpg"]
    path = jsonl(tmp_path / "a.jsonl", [{"image": name} for name in names])
    batch([str(path)], str(tmp_path / "rows"), LITE)
    assert [row["error_kind"] for row in scores(tmp_path / "rows")] == [
        None, "missing-file", "missing-file", "unreadable-image", "unreadable-image", "unreadable-image"
    ]  # fmt: skip
    jsonl(path, [{"image": name} for name in ["a.jpg", EIO]])
    with pytest.raises(DataError, match=r"a\.jsonl: /proc/self/mem: reading failed \(Input/output error\)"):
        batch([str(path)], str(tmp_path / "stopped"), LITE)
    assert not list((tmp_path / "stopped").glob("*.parquet"))


def test_what_is_no_file_is_a_row(tmp_path: Path) -> None:
    """A socket can never be opened, a pipe without a writer never ends, a device gives bytes without end."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))  # whose path must be short
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "a.jpg").write_bytes(encoded(1))
        names = ["socket.jpg", "pipe.jpg", "/dev/zero", "a.jpg"]
        path = jsonl(tmp_path / "a.jsonl", [{"image": name, "prompt": "p"} for name in names])
        batch([str(path)], str(tmp_path / "out"), LITE)
    found = scores(tmp_path / "out")
    assert [row["error_kind"] for row in found] == ["unreadable-image"] * 3 + [None]
    assert found[0]["error"] == "socket.jpg: cannot be read (it is no regular file)"


def test_files_are_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_bytes(str(tmp_path / "a"), 100) == b"x" * 100
    assert b"Name:" in read_bytes("/proc/self/status", 1 << 20)  # a file that says that it is empty
    for path in (str(tmp_path / "a"), f"flaky://{tmp_path}/a", "/proc/self/status"):
        with pytest.raises(DataError, match="the file is over 99 bytes"):
            read_bytes(path, 99)


def test_prompts_that_cannot_be_read_now_end_the_run(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", 2, texts=True)
    (folder / "1.txt").write_bytes(b"x" * (2 << 20))
    assert [isinstance(row.image, Problem) for row in read(folder)] == [False, True]  # too large, as ever
    (folder / "1.txt").unlink()
    (folder / "1.txt").symlink_to(EIO)
    with pytest.raises(DataError, match=r"1\.txt: reading failed \(Input/output error\)"):
        read(folder)


def test_errors_of_clients_of_their_own_may_pass() -> None:
    """Most clients of stores call a lost connection no `OSError`."""
    aiohttp, httpx = pytest.importorskip("aiohttp"), pytest.importorskip("httpx2")
    retry = pytest.importorskip("gcsfs.retry")
    for error in (aiohttp.ServerDisconnectedError(), httpx.ConnectError("x"), retry.HttpError({"code": 503})):
        assert not isinstance(error, OSError)
        assert is_passing(error)
    for lasting in (
        ValueError(),
        PermissionError(),
        FileNotFoundError(),
        DataError("too large"),
        NotImplementedError(),
    ):
        assert not is_passing(lasting)


def test_text_of_parquet_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    bad = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    good = pa.array(["a.jpg", "b.jpg", "c.jpg"])
    inside = pa.StructArray.from_arrays([pa.array([b"x"] * 3), bad], ["bytes", "path"])
    for images, prompts in ((good, bad), (bad, good), (inside, good), (good, bad.dictionary_encode())):
        pq.write_table(pa.table({"image": images, "prompt": prompts}), tmp_path / "a.parquet")
        rows = read(tmp_path / "a.parquet")
        kinds = [row.image.kind if isinstance(row.image, Problem) else None for row in rows]
        assert kinds == [None, "bad-row", None]


def test_json_that_is_too_deep_is_a_bad_row(tmp_path: Path) -> None:
    deep = b'{"caption": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    path = tar(tmp_path / "a.tar", [("a", {"jpg": encoded(0), "json": deep}), ("b", {"jpg": encoded(0), "txt": b"p"})])
    rows = read(path)
    assert [isinstance(row.image, Problem) for row in rows] == [True, False]
    assert rows[0].image.kind == "bad-row"
    (tmp_path / "a.jsonl").write_bytes(b'{"image": "a.jpg"}\n' + deep + b"\n")
    assert [isinstance(row.image, Problem) for row in read(tmp_path / "a.jsonl")] == [False, True]


def test_names_of_shards_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    jsonl(Path(name), [{"image": "a.jpg"}])
    for word in (name, tmp_path, f"{tmp_path}/*.jsonl"):
        with pytest.raises(DataError, match=r"\\udcff\.jsonl: the name is not in UTF-8") as error:
            find_shards([str(word)], Reading())
        str(error.value).encode()


@pytest.mark.parametrize(("code", "passes"), [("ExpiredToken", True), ("AccessDenied", False)])
def test_a_key_that_has_run_out_is_no_rows_fault(code: str, passes: bool) -> None:
    """s3fs makes either a PermissionError; a file that is not there is denied, too, to who may not list."""
    botocore = pytest.importorskip("botocore.exceptions")
    translated = pytest.importorskip("s3fs.errors").translate_boto_error
    error = translated(botocore.ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject"))
    assert isinstance(error, PermissionError)
    assert is_passing(error) is passes


def test_a_client_that_is_not_installed_is_no_rows_fault() -> None:
    assert is_passing(MissingExtraError("s3:// needs s3fs"))
    assert not is_passing(DataError("another"))
