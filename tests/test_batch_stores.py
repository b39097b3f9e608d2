"""Batch runs from and to object stores: the real s3fs and gcsfs, on servers of this machine that speak S3 and GCS."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from humanpref.batch.run import batch
from humanpref.batch.score import Model
from humanpref.batch.select import select
from humanpref.errors import DataError, HumanprefError
from tests.batching import command, encoded, folder_of_images, jsonl, parquet, same, scores, start, tar
from tests.generating import one_line

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
gcsfs = pytest.importorskip("gcsfs")
gcp_server = pytest.importorskip("gcp_storage_emulator.server")
gcp_storage = pytest.importorskip("gcp_storage_emulator.storage")

LITE = [Model("lite")]


@contextmanager
def s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield "s3"
    server.stop()


class Google(gcp_server.RequestHandler):
    """The emulator, and errors of requests whose path has a text in it: as Google words them, so many times."""

    faults: ClassVar[list[list[Any]]] = []

    def do_GET(self) -> None:  # noqa: N802 - called so by http.server
        for fault in self.faults:
            text, status, times = fault
            if times and text in self.path:
                fault[2] -= 1
                body = json.dumps({"error": {"code": status, "message": "said by Google"}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
        super().do_GET()


@contextmanager
def gs(patch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = partial(Google, gcp_storage.Storage(use_memory_fs=True))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # of requests that gcsfs gives up, since another one answered
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield "gs"
        server.shutdown()


@dataclass(frozen=True)
class Store:
    """A bucket with data/ of every kind, and the same in a local folder."""

    url: str
    folder: Path
    open: Callable[..., Any]


S3 = pytest.param((s3, s3fs.S3FileSystem), id="s3")
GS = pytest.param((gs, gcsfs.GCSFileSystem), id="gs")
SLOW_GS = pytest.param((gs, gcsfs.GCSFileSystem), id="gs", marks=pytest.mark.slow)  # gcsfs tries for half a minute


@pytest.fixture(scope="module", params=[S3, GS])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    serving, kind = request.param
    folder = tmp_path_factory.mktemp("data")
    contents, texts = [encoded(n) for n in range(20)], [f"prompt {n}" for n in range(20)]
    parquet(folder / "a.parquet", contents, texts)
    tar(folder / "a.tar", [(str(n), {"jpg": content, "txt": b"a"}) for n, content in enumerate(contents)])
    folder_of_images(folder / "images", 9, texts=True)
    jsonl(folder / "a.jsonl", [{"file_name": f"images/{n}.jpg", "text": "a"} for n in range(12)])
    patch = pytest.MonkeyPatch()
    with serving(patch) as protocol:
        kind.clear_instance_cache()
        system = kind()
        system.mkdir("bucket")
        system.put(f"{folder}/", "bucket/data/", recursive=True)
        try:
            yield Store(f"{protocol}://bucket", folder, kind)
        finally:
            kind.clear_instance_cache()
            patch.undo()


@pytest.mark.parametrize("name", ["a.parquet", "*.tar", "images", "a.jsonl"])
def test_scores_are_those_of_local_files(store: Store, name: str, tmp_path: Path) -> None:
    out = f"{store.url}/scores-{name.strip('*.')}"
    report = batch([f"{store.url}/data/{name}"], out, LITE, part_rows=5)
    here = batch([str(store.folder / name)], str(tmp_path / "here"), LITE, part_rows=5)
    assert (report.rows, report.scored, report.errors) == (here.rows, here.scored, here.errors)
    assert report.errors == ({"missing-file": 3} if name == "a.jsonl" else {})
    store.open().get(f"{out}/", f"{tmp_path / 'there'}/", recursive=True)
    assert same(scores(tmp_path / "there")) == same(scores(tmp_path / "here"))
    assert batch([f"{store.url}/data/{name}"], out, LITE, part_rows=5).new_rows == 0
    kept = [select(where, str(tmp_path / f"{n}.jsonl"), top=3) for n, where in enumerate((out, str(tmp_path / "here")))]
    assert (kept[0].rows, kept[0].kept) == (kept[1].rows, kept[1].kept) == (report.rows, 3)


def test_what_differs_is_refused(store: Store) -> None:
    """What a folder was made with is read back from the store, and its objects are seen."""
    out = f"{store.url}/scores-differ"
    batch([f"{store.url}/data/images"], out, LITE, part_rows=5)
    with pytest.raises(HumanprefError, match="holds another run: part rows was 5, is now 6"):
        batch([f"{store.url}/data/images"], out, LITE, part_rows=6)
    with pytest.raises(HumanprefError, match=f"{store.url}/data: holds other files and no _batch.json"):
        batch([f"{store.url}/data/a.parquet"], f"{store.url}/data", LITE)
    with pytest.raises(HumanprefError, match="is a file; OUT names a folder"):
        batch([f"{store.url}/data/images"], f"{store.url}/data/a.tar", LITE)


@pytest.mark.slow
@pytest.mark.parametrize("store", [GS], indirect=True)
def test_commands_say_nothing_else(store: Store, tmp_path: Path) -> None:
    """gcsfs logs much, and DuckDB closes no file."""
    done = command("batch", f"{store.url}/data/images", f"{store.url}/scores-quiet", "-m", "lite", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    run = start("select", f"{store.url}/scores-quiet", tmp_path / "a.csv", "--top", "1")
    assert run.communicate()[1] == ""
    assert run.returncode == 0


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(store: Store, tmp_path: Path) -> None:
    words = ("batch", f"{store.url}/data/a.parquet", f"{store.url}/killed", "--model", "lite", "--part-rows", "1")
    run = start(*words)
    system = store.open(use_listings_cache=False)
    while not system.glob("bucket/killed/*.parquet"):
        assert run.poll() is None
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    before = len(system.glob("bucket/killed/*.parquet"))
    assert before < 20
    done = command(*words)
    assert done.returncode == 0, done.stderr
    batch([str(store.folder / "a.parquet")], str(tmp_path / "here"), LITE, part_rows=1)
    system.get("bucket/killed/", f"{tmp_path / 'there'}/", recursive=True)
    assert same(scores(tmp_path / "there")) == same(scores(tmp_path / "here"))


def test_buckets_that_are_not_there_are_one_line(store: Store, tmp_path: Path) -> None:
    nobody = store.url.replace("bucket", "nobody")
    with pytest.raises(DataError, match=f"{nobody}/a.parquet: no such file or folder"):
        batch([f"{nobody}/a.parquet"], f"{store.url}/none", LITE)
    one_line(
        command("batch", store.folder / "images", f"{nobody}/out", "-m", "lite"), f"{nobody}/out: cannot be written ("
    )
    assert not store.open(use_listings_cache=False).exists("nobody")
    one_line(command("select", nobody, tmp_path / "best.jsonl", "--top", "1"), f"{nobody}: holds no scores")


@pytest.mark.parametrize("store", [S3, SLOW_GS], indirect=True)
def test_a_server_that_is_not_there_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    words = {
        "batch": (f"{store.url}/data/a.parquet", f"{store.url}/none"),
        "select": (f"{store.url}/data", "best.jsonl"),
    }
    for name, option in (("batch", ("-m", "lite")), ("select", ("--top", "1"))):
        one_line(
            command(name, *words[name], *option),
            f"{words[name][0]}: cannot be read (",
            "; if that passes, run the same command again",
        )


@pytest.fixture
def google(store: Store) -> Iterator[list[list[Any]]]:
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield Google.faults
    Google.faults.clear()


@pytest.mark.parametrize("store", [GS], indirect=True)
@pytest.mark.parametrize("status", [401, 403])
def test_a_google_that_refuses_is_not_an_empty_one(
    store: Store, google: list[list[Any]], status: int, tmp_path: Path
) -> None:
    google.append(["/o/data%2Fa.tar", status, -1])
    one_line(
        command("batch", f"{store.url}/data/a.tar", tmp_path / "out", "-m", "lite"),
        f"{store.url}/data/a.tar: ",
        "said by Google" if status == 401 else "Forbidden",
        "run the same command again",
    )
    google[:] = [["/o/data%2Fimages%2F3.jpg", status, -1]]
    with pytest.raises(DataError, match=r"a\.jsonl: images/3\.jpg: reading failed \(.*run the same command again"):
        batch([f"{store.url}/data/a.jsonl"], str(tmp_path / "out"), LITE, part_rows=20)
    assert not list((tmp_path / "out").glob("*.parquet"))
    google.clear()
    report = batch([f"{store.url}/data/a.jsonl"], str(tmp_path / "out"), LITE, part_rows=20)
    assert (report.scored, report.errors) == (9, {"missing-file": 3})


@pytest.mark.slow
@pytest.mark.parametrize("store", [GS], indirect=True)
def test_what_passes_is_tried_again(store: Store, google: list[list[Any]], tmp_path: Path) -> None:
    google += [["/o/data%2Fa.tar", 503, 1], ["/download/", 429, 1]]
    report = batch([f"{store.url}/data/a.tar"], str(tmp_path / "out"), LITE)
    assert (report.rows, report.scored, report.errors) == (20, 20, {})
    assert [times for *_, times in google] == [0, 0]
