"""Batch runs from repositories of the Hugging Face Hub and from and to its buckets: the real HfFileSystem and hf_xet, on a
server of this machine that speaks as the Hub does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hf_xet")
pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

from huggingface_hub import HfFileSystem, constants  # noqa: E402

from humanpref.batch.run import batch  # noqa: E402
from humanpref.batch.score import Model  # noqa: E402
from humanpref.batch.select import select  # noqa: E402
from humanpref.errors import DataError, HumanprefError  # noqa: E402
from tests.batching import command, encoded, folder_of_images, jsonl, parquet, same, scores, start, tar  # noqa: E402
from tests.generating import one_line  # noqa: E402
from tests.hub_files import GATED, Fault, HubFiles, serving_files  # noqa: E402

LITE = [Model("lite")]
REPOSITORY, GATED_ONE, BUCKET = "hf://datasets/o/n", "hf://datasets/o/gated", "hf://buckets/o/b"
COUNT = 4
NO_REVISION = {"X-Error-Code": "RevisionNotFound"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    contents, texts = [encoded(n) for n in range(COUNT)], [f"prompt {n}" for n in range(COUNT)]
    for name in ("a", "b"):
        parquet(folder / "data" / f"{name}.parquet", contents[: COUNT // 2], texts[: COUNT // 2], group=2)
    tar(folder / "a.tar", [(str(n), {"jpg": content, "txt": b"a"}) for n, content in enumerate(contents)])
    whole = (folder / "a.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    folder_of_images(folder / "images", COUNT, texts=True)
    jsonl(folder / "a.jsonl", [{"file_name": f"images/{n}.jpg", "text": "a"} for n in range(COUNT + 2)])
    return folder


@pytest.fixture
def hub(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HubFiles]]:
    with serving_files(tmp_path) as (found, url):
        files = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
        found.repositories.update({"o/n": files, "o/gated": files})
        found.buckets["o/b"] = {f"data/{name}": content for name, content in files.items()}
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": url})  # HF_ENDPOINT is read at the import
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name, value in (("HF_ENDPOINT", url), ("HF_HUB_OFFLINE", "0"), ("HF_HOME", str(tmp_path / "home"))):
            monkeypatch.setenv(name, value)
        HfFileSystem.clear_instance_cache()
        yield found
        HfFileSystem.clear_instance_cache()


def here(files: dict[str, bytes], folder: Path) -> Path:
    """The files of a bucket's folder of scores, in a local one."""
    folder.mkdir()
    for name, content in files.items():
        if name.startswith("scores/"):
            (folder / name.removeprefix("scores/")).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("root", "name"),
    [
        (REPOSITORY, "data/*.parquet"), (f"{BUCKET}/data", "data"), (f"{REPOSITORY}@main", "a.tar"), (REPOSITORY, "cut.tar"),
        (REPOSITORY, "images"), (REPOSITORY, "a.jsonl"), (f"{BUCKET}/data", "a.jsonl"),
    ],
)  # fmt: skip
def test_scores_are_those_of_local_files(hub: type[HubFiles], data: Path, root: str, name: str, tmp_path: Path) -> None:
    expected = batch([str(data / name)], str(tmp_path / "local"), LITE, part_rows=3)
    kinds = {"a.jsonl": {"missing-file": 2}, "cut.tar": {"damaged-shard": 1}}
    assert expected.errors == kinds.get(name, {})
    found = batch([f"{root}/{name}"], str(tmp_path / "out"), LITE, part_rows=3)
    assert (found.rows, found.scored, found.errors) == (expected.rows, expected.scored, expected.errors)
    rows = scores(tmp_path / "out")
    assert all(row["shard"].startswith(root) for row in rows)
    assert same(rows) == same(scores(tmp_path / "local"))


def test_buckets_take_the_scores(hub: type[HubFiles], data: Path, tmp_path: Path) -> None:
    words, out, files = [str(data / "images")], f"{BUCKET}/scores", hub.buckets["o/b"]
    report = batch(words, out, LITE, part_rows=2)
    batch(words, str(tmp_path / "local"), LITE, part_rows=2)
    assert (report.rows, report.parts) == (COUNT, 2)
    assert scores(here(files, tmp_path / "first")) == scores(tmp_path / "local")
    assert batch(words, out, LITE, part_rows=2).new_rows == 0
    lost = next(name for name in files if name.endswith("-00001-end.parquet"))
    del files[lost]
    assert batch(words, out, LITE, part_rows=2).new_rows == 2
    assert scores(here(files, tmp_path / "second")) == scores(tmp_path / "local")
    with pytest.raises(HumanprefError, match="holds another run: part rows was 2, is now 4"):
        batch(words, out, LITE, part_rows=4)
    with pytest.raises(HumanprefError, match=f"{BUCKET}: holds other files"):
        batch(words, BUCKET, LITE)
    hub.repositories["o/scores"] = {name: content for name, content in files.items() if name.startswith("scores/")}
    kept = [
        select(where, str(tmp_path / f"{n}.jsonl"), top=2)
        for n, where in enumerate((str(tmp_path / "local"), out, "hf://datasets/o/scores/scores"))
    ]
    assert {(one.rows, one.kept, one.complete) for one in kept} == {(COUNT, 2, True)}
    assert len({(tmp_path / f"{n}.jsonl").read_text() for n in range(3)}) == 1


@pytest.mark.slow
def test_a_command_that_writes_to_a_bucket_says_nothing_else(hub: type[HubFiles], data: Path) -> None:
    done = command("batch", data / "images", f"{BUCKET}/scores", "-m", "lite", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(hub: type[HubFiles], data: Path, tmp_path: Path) -> None:
    words = ("batch", data / "images", f"{BUCKET}/scores", "--model", "lite", "--part-rows", "1")
    run, files = start(*words), hub.buckets["o/b"]
    while not any(name.startswith("scores/images") for name in list(files)):
        assert run.poll() is None
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert sum(name.startswith("scores/images") for name in list(files)) < COUNT
    done = command(*words)
    assert done.returncode == 0, done.stderr
    batch([str(data / "images")], str(tmp_path / "local"), LITE, part_rows=1)
    assert scores(here(files, tmp_path / "there")) == scores(tmp_path / "local")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hf://datasets/o/none/a.tar", "a.tar: no such file or folder; a private or gated repository asks for a login"),
        ("hf://datasets/o/none/*.tar", r"\*.tar: no such file or folder; a private or gated repository asks"),
        (f"{REPOSITORY}/none.tar", "none.tar: no such file or folder"),
        (f"{REPOSITORY}/none/*.tar", "nothing matches this pattern"),
        (f"{REPOSITORY}@old/none.tar", "none.tar: no such file or folder"),
        (f"{GATED_ONE}/data/*.parquet", "gated/data/a.parquet: reading failed .Access to dataset o/gated is restricted.*log in"),
        (f"{GATED_ONE}/a.tar", "gated/a.tar: reading failed .Access to dataset o/gated is restricted.*log in"),
        ("hf://datasets/o", "hf://datasets/o: cannot be read .*Repository id must be 'namespace/name'"),
        ("hf://", "hf://: cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_a_line(hub: type[HubFiles], word: str, message: str, tmp_path: Path) -> None:
    hub.faults += [Fault("/o/gated/resolve/", 401, headers=GATED), Fault("/o/n/revision/old", 404, headers=NO_REVISION)]
    with pytest.raises(DataError, match=message):
        batch([word], str(tmp_path / "out"), LITE)


def test_repositories_take_no_scores(hub: type[HubFiles], data: Path) -> None:
    one_line(
        command("batch", data / "images", f"{REPOSITORY}/out", "-m", "lite"), f"{REPOSITORY}/out: a repo", "hf upload"
    )
    one_line(
        command("batch", data / "images", "hf://buckets/o/none/out", "-m", "lite"),
        "hf://buckets/o/none/out: cannot be written (no such bucket or folder)",
    )


@pytest.mark.parametrize("status", [403, 503])
def test_a_hub_that_fails_is_not_an_empty_one(hub: type[HubFiles], data: Path, status: int, tmp_path: Path) -> None:
    """Neither input that cannot be listed nor output that cannot be read back passes for one that is not there."""
    batch([str(data / "images")], f"{BUCKET}/scores", LITE, part_rows=3)
    before = dict(hub.buckets["o/b"])
    hub.faults.append(Fault("^/api/(datasets/o/n|buckets/o/b)$", status))
    with pytest.raises(DataError, match=rf"a.tar: cannot be read \(.*{status}") as stopped:
        batch([f"{REPOSITORY}/a.tar"], str(tmp_path / "out"), LITE)
    assert "if that passes, run the same command again" in str(stopped.value)
    HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=rf"scores: cannot be read \(.*{status}"):
        batch([str(data / "images")], f"{BUCKET}/scores", LITE, part_rows=4)
    assert hub.buckets["o/b"] == before


def test_what_passes_is_tried_again(hub: type[HubFiles], data: Path, tmp_path: Path) -> None:
    now = {"Retry-After": "0"}
    hub.faults += [Fault("/tree/", 503, 1, now), Fault("/resolve/", 429, 1, now)]
    report = batch([f"{REPOSITORY}/data"], str(tmp_path / "out"), LITE)
    assert (report.rows, report.scored, report.errors) == (COUNT, COUNT, {})
    assert [fault.times for fault in hub.faults] == [0, 0]


def test_images_that_cannot_be_had_now_are_no_errors_of_rows(hub: type[HubFiles], tmp_path: Path) -> None:
    hub.faults.append(Fault("/images/3.jpg", 403))
    with pytest.raises(DataError, match=r"a\.jsonl: images/3\.jpg: reading failed \(.*403.*run the same command again"):
        batch([f"{REPOSITORY}/a.jsonl"], str(tmp_path / "out"), LITE, part_rows=20)
    assert not list((tmp_path / "out").glob("*.parquet"))
    hub.faults.clear()
    report = batch([f"{REPOSITORY}/a.jsonl"], str(tmp_path / "out"), LITE, part_rows=20)
    assert (report.scored, report.errors) == (COUNT, {"missing-file": 2})


def test_parts_that_cannot_be_read_now_are_not_damaged(hub: type[HubFiles], data: Path) -> None:
    words, out = [str(data / "images")], f"{BUCKET}/scores"
    batch(words, out, LITE)
    hub.faults.append(Fault("/scores/images.*parquet", 403))
    with pytest.raises(DataError, match=r"scores/images-.*parquet: reading failed \(.*run the same command again"):
        batch(words, out, LITE)
    hub.faults.clear()
    part = next(name for name in hub.buckets["o/b"] if name.endswith(".parquet") and name.startswith("scores"))
    hub.buckets["o/b"][part] = hub.buckets["o/b"][part][:-9]
    HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="is damaged, or no part of a batch run"):
        batch(words, out, LITE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tar", "data/a.parquet", "a.jsonl"])
def test_a_connection_that_stays_lost_is_no_damage(hub: type[HubFiles], name: str, tmp_path: Path) -> None:
    """The client tries for half a minute."""
    hub.faults.append(Fault("/cdn/.*(tar|parquet|3.jpg)", None))
    with pytest.raises(DataError, match=r"reading failed \(peer closed connection.*run the same command again"):
        batch([f"{REPOSITORY}/{name}"], str(tmp_path / "out"), LITE)
    assert not list((tmp_path / "out").glob("*.parquet"))
    hub.faults.clear()
    batch([f"{REPOSITORY}/{name}"], str(tmp_path / "out"), LITE)
    assert {row["error_kind"] for row in scores(tmp_path / "out")} <= {None, "missing-file"}


def test_a_hub_that_is_not_there_is_one_line(
    hub: type[HubFiles], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    words = ("batch", f"{REPOSITORY}/a.tar", tmp_path / "out", "-m", "lite")
    one_line(command(*words), f"{REPOSITORY}/a.tar: cannot be read (", "refused", "run the same command again")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one_line(command(*words), f"{REPOSITORY}/a.tar: cannot be read (", "offline mode is enabled")
