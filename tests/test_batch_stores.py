"""Batch runs from and to an object store: s3fs on a server of this machine that speaks S3."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from humanpref.batch.run import batch
from humanpref.batch.score import Model
from humanpref.batch.select import select
from humanpref.errors import DataError
from tests.batching import command, encoded, folder_of_images, jsonl, parquet, scores, start, tar
from tests.generating import one_line

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

LITE = [Model("lite")]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A bucket with data/ of every kind, and the same in a local folder."""
    patch = pytest.MonkeyPatch()
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    folder = tmp_path_factory.mktemp("data")
    contents, texts = [encoded(n) for n in range(20)], [f"prompt {n}" for n in range(20)]
    parquet(folder / "a.parquet", contents, texts)
    tar(folder / "a.tar", [(str(n), {"jpg": content, "txt": b"a"}) for n, content in enumerate(contents)])
    folder_of_images(folder / "images", 9, texts=True)
    jsonl(folder / "a.jsonl", [{"file_name": f"images/{n}.jpg", "text": "a"} for n in range(12)])
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    system.put(f"{folder}/", "bucket/data/", recursive=True)
    try:
        yield "s3://bucket", folder
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        patch.undo()
        server.stop()


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what says where they lie: their shard, and the place in a message."""
    return [{**row, "shard": None, "error": row["error"] and row["error"].rpartition(":")[2]} for row in rows]


@pytest.mark.parametrize("name", ["a.parquet", "*.tar", "images", "a.jsonl"])
def test_scores_are_those_of_local_files(bucket: tuple[str, Path], name: str, tmp_path: Path) -> None:
    url, folder = bucket
    out = f"{url}/scores-{name.strip('*.')}"
    report = batch([f"{url}/data/{name}"], out, LITE, part_rows=5)
    here = batch([str(folder / name)], str(tmp_path / "here"), LITE, part_rows=5)
    assert (report.rows, report.scored, report.errors) == (here.rows, here.scored, here.errors)
    assert report.errors == ({"missing-file": 3} if name == "a.jsonl" else {})
    s3fs.S3FileSystem().get(f"{out}/", f"{tmp_path / 'there'}/", recursive=True)
    assert same(scores(tmp_path / "there")) == same(scores(tmp_path / "here"))
    assert batch([f"{url}/data/{name}"], out, LITE, part_rows=5).new_rows == 0
    kept = [select(where, str(tmp_path / f"{n}.jsonl"), top=3) for n, where in enumerate((out, str(tmp_path / "here")))]
    assert (kept[0].rows, kept[0].kept) == (kept[1].rows, kept[1].kept) == (report.rows, 3)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(bucket: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = bucket
    words = ("batch", f"{url}/data/a.parquet", f"{url}/killed", "--model", "lite", "--part-rows", "1")
    run = start(*words)
    system = s3fs.S3FileSystem(use_listings_cache=False)
    while not system.glob("bucket/killed/*.parquet"):
        assert run.poll() is None
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    before = len(system.glob("bucket/killed/*.parquet"))
    assert before < 20
    done = command(*words)
    assert done.returncode == 0, done.stderr
    batch([str(folder / "a.parquet")], str(tmp_path / "here"), LITE, part_rows=1)
    system.get("bucket/killed/", f"{tmp_path / 'there'}/", recursive=True)
    assert same(scores(tmp_path / "there")) == same(scores(tmp_path / "here"))


def test_stores_that_are_not_there_are_one_line(bucket: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = bucket
    with pytest.raises(DataError, match="s3://nobody/a.parquet: no such file or folder"):
        batch(["s3://nobody/a.parquet"], f"{url}/none", LITE)
    with pytest.raises(DataError, match="s3://nobody/out: cannot be written"):
        batch([f"{url}/data/a.parquet"], "s3://nobody/out", LITE)
    assert not s3fs.S3FileSystem(use_listings_cache=False).exists("nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    one_line(
        command("batch", f"{url}/data/a.parquet", f"{url}/none", "-m", "lite"),
        f"{url}/data/a.parquet: cannot be read (",
    )
    one_line(command("select", f"{url}/data", "best.jsonl", "--top", "1"), f"{url}/data: cannot be read (")
