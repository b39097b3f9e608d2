"""Batch runs: every row once, with the scores of `humanpref score`, whatever happens on the way."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow.parquet as pq
from PIL import Image

from humanpref.batch.parts import part_name
from humanpref.batch.records import BatchError, Counts, Part, Reading, Span
from humanpref.batch.run import Progress, _Run, batch
from humanpref.batch.score import Model
from humanpref.batch.shards import find_shards
from humanpref.batch.store import ScoreFolder
from humanpref.engines import Engine, EngineError
from humanpref.errors import DataError
from humanpref.scorers import load_scorer
from tests.batching import TINY, command, encoded, folder_of_images, jsonl, parquet, scores, start, tar
from tests.generating import one_line
from tests.ray_processes import actors
from tests.toys import damaged_jpeg

LITE = [Model("lite")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_images(tmp_path_factory.mktemp("images") / "images", 40, texts=True)


def tiny(checkpoint: Path) -> Model:
    return Model("hps-v2.1", str(checkpoint), str(Path(__file__).with_name("hps_layout_tiny.json")), precision="fp32")


def test_scores_are_those_of_score(
    images: Path, tmp_path: Path, tiny_checkpoint: Path, load_tiny: Callable[..., Any]
) -> None:
    models = [Model("lite"), tiny(tiny_checkpoint)]
    report = batch([str(images)], str(tmp_path / "out"), models, part_rows=16, embeddings="float32")
    assert (report.rows, report.scored, report.parts, report.errors, report.new_rows) == (40, 40, 3, {}, 40)
    rows = scores(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"{n}.jpg" for n in range(40)]
    assert [row["prompt"] for row in rows] == [f"prompt {n}" for n in range(40)]
    assert {row["shard"] for row in rows} == {str(images)}
    files = [images / row["key"] for row in rows]
    assert [row["score_lite"] for row in rows] == load_scorer("lite").score(files, "").tolist()
    scorer = load_tiny()
    expected = scorer.score(files, [row["prompt"] for row in rows])
    np.testing.assert_allclose([row["score_hps_v2_1"] for row in rows], expected.numpy(), rtol=0, atol=1e-6)
    vectors = np.array([row["embedding_hps_v2_1"] for row in rows])
    assert vectors.shape == (40, 64)
    text = scorer.embed_text([row["prompt"] for row in rows]).numpy()
    np.testing.assert_allclose((vectors * text).sum(axis=1), expected.numpy(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_decoding_on_the_device_is_said_and_kept_apart(tmp_path: Path, tiny_checkpoint: Path) -> None:
    images = folder_of_images(tmp_path / "images", 12, texts=True)
    (images / "3.jpg").write_bytes(damaged_jpeg((images / "3.jpg").read_bytes()))
    (images / "5.jpg").write_bytes(encoded(5, "PNG"))
    exact = tiny(tiny_checkpoint)
    fast = replace(exact, decode="device")
    words = [str(images)], str(tmp_path / "out")
    report = batch(*words, [fast, Model("lite")], part_rows=5, embeddings="float32")
    assert report.errors == {"unreadable-image": 1}
    batch([str(images)], str(tmp_path / "exact"), [exact, Model("lite")], part_rows=5, embeddings="float32")
    for row, other in zip(scores(tmp_path / "out"), scores(tmp_path / "exact"), strict=True):
        assert (row["key"], row["error"], row["score_lite"]) == (other["key"], other["error"], other["score_lite"])
        if row["key"] == "3.jpg":
            assert "3.jpg: the image is damaged" in row["error"]
            assert row["score_hps_v2_1"] is row["embedding_hps_v2_1"] is None
        else:
            assert row["score_hps_v2_1"] == pytest.approx(other["score_hps_v2_1"], abs=1e-6)
            np.testing.assert_allclose(row["embedding_hps_v2_1"], other["embedding_hps_v2_1"], rtol=0, atol=1e-5)
    with pytest.raises(BatchError, match=r'another run: decode of hps-v2\.1 was "device", is now "exact"; choose'):
        batch(*words, [exact, Model("lite")], part_rows=5, embeddings="float32")
    done = command("batch", *words[0], str(tmp_path / "again"), *TINY, "--decode", "device", "--format", "json")
    assert json.loads(done.stdout)["errors"] == {"unreadable-image": 1}
    one_line(command("batch", *words[0], str(tmp_path / "no"), "-m", "lite", "--decode", "device"), "lite has no arch")


def test_every_kind_of_input_says_the_same(images: Path, tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(9)]
    contents, texts = [(images / name).read_bytes() for name in names], [f"prompt {n}" for n in range(9)]
    inputs = {
        "bytes": parquet(tmp_path / "bytes.parquet", contents, texts),
        "hf": parquet(tmp_path / "hf.parquet", [{"bytes": c, "path": n} for c, n in zip(contents, names, strict=True)], texts),
        "paths": parquet(tmp_path / "paths.parquet", names, texts),
        "absolute": parquet(tmp_path / "absolute.parquet", [str(images / name) for name in names], texts),
        "json": jsonl(tmp_path / "a.jsonl", [{"file_name": n, "text": t} for n, t in zip(names, texts, strict=True)]),
        "tar": tar(tmp_path / "a.tar", [(n[:-4], {"jpg": c, "txt": t.encode()}) for n, c, t in zip(names, contents, texts, strict=True)]),
    }  # fmt: skip
    found = {}
    for name, path in inputs.items():
        report = batch([str(path)], str(tmp_path / name), LITE, reading=Reading(image_root=str(images)), part_rows=4)
        assert report.errors == {}
        found[name] = [(row["row"], row["prompt"], row["score_lite"]) for row in scores(tmp_path / name)]
    assert len(found["bytes"]) == 9
    assert all(rows == found["bytes"] for rows in found.values())


def mixed(folder: Path) -> Path:
    """A shard with everything that can be wrong with a row; images as bytes."""
    bomb = Image.new("1", (20000, 20000))
    bomb.save(folder / "bomb.png")
    good = encoded(1)
    images: list[Any] = [
        good,
        good[: len(good) // 2],
        b"no image",
        None,
        (folder / "bomb.png").read_bytes(),
        good,
        b"",
        good,
    ]
    return parquet(folder / "mixed.parquet", images, ["p", "p", "p", "p", "p", None, "p", " "])


def test_errors_are_rows(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = mixed(tmp_path)
    report = batch([str(path)], str(tmp_path / "out"), [Model("lite"), tiny(tiny_checkpoint)], embeddings="float16")
    assert (report.rows, report.scored) == (8, 1)
    assert report.errors == {"no-image": 2, "no-prompt": 2, "unreadable-image": 3}
    rows = scores(tmp_path / "out")
    kinds = [
        None,
        "unreadable-image",
        "unreadable-image",
        "no-image",
        "unreadable-image",
        "no-prompt",
        "no-image",
        "no-prompt",
    ]
    assert [row["error_kind"] for row in rows] == kinds
    assert "under 89,478,485 pixels" in rows[4]["error"]
    assert "damaged or incomplete" in rows[1]["error"]
    assert [row["score_lite"] is not None for row in rows] == [n in {0, 5, 7} for n in range(8)]  # it reads no prompt
    assert [row["score_hps_v2_1"] is not None for row in rows] == [n == 0 for n in range(8)]
    assert [row["embedding_hps_v2_1"] is not None for row in rows] == [n == 0 for n in range(8)]
    assert len(rows[0]["embedding_hps_v2_1"]) == 64
    totals = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert totals == {
        "models": ["lite", "hps-v2.1"], "shards": 1, "empty_shards": 0, "parts": 1, "rows": 8, "scored": 1,
        "truncated": 0, "errors": report.errors,
    }  # fmt: skip


def test_a_long_prompt_is_marked(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [encoded(0)] * 2, ["short", "long " * 100])
    report = batch([str(path)], str(tmp_path / "out"), [tiny(tiny_checkpoint)], prompts=False)
    assert report.truncated == 1
    rows = scores(tmp_path / "out")
    assert [row["truncated"] for row in rows] == [False, True]
    assert "prompt" not in rows[0]


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.jpg" else 404)
            self.end_headers()
            self.wfile.write(encoded(3) if self.path == "/a.jpg" else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_paths_and_urls(tmp_path: Path, server: str) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(3))
    (tmp_path / "dir").mkdir()
    names = [
        "a.jpg",
        "gone.jpg",
        "a.jpg/x.jpg",
        "dir",
        f"{server}/a.jpg",
        f"{server}/b.jpg",
        "nil://x.jpg",
        f"file://{tmp_path}/a.jpg",
    ]
    path = jsonl(tmp_path / "a.jsonl", [{"image": name} for name in names])
    batch([str(path)], str(tmp_path / "no"), LITE)
    kinds = [None, "missing-file", "missing-file", "unreadable-image"]
    assert [row["error_kind"] for row in scores(tmp_path / "no")] == [*kinds, *["url-not-allowed"] * 4]
    batch([str(path)], str(tmp_path / "yes"), LITE, reading=Reading(allow_url=True))
    rows = scores(tmp_path / "yes")
    assert [row["error_kind"] for row in rows] == [*kinds, None, "unreadable-image", "unreadable-image", None]
    assert rows[0]["score_lite"] == rows[4]["score_lite"] == rows[7]["score_lite"]


def test_images_in_base64_are_said_and_not_kept(images: Path, tmp_path: Path) -> None:
    text = base64.b64encode((images / "0.jpg").read_bytes() * 9).decode()
    long = "x/" * 2000 + "a.jpg"
    path = jsonl(
        tmp_path / "a.jsonl", [{"image": image} for image in (text, f"data:image/jpeg;base64,{text[:99]}", long)]
    )
    assert len(text) > 9000
    report = batch([str(path)], str(tmp_path / "out"), LITE)
    assert report.errors == {"bad-row": 2, "missing-file": 1}
    rows = scores(tmp_path / "out")
    assert "images in base64 are not read" in rows[0]["error"]
    assert "images in base64 are not read" in rows[1]["error"]
    assert [len(row["key"]) for row in rows] == [303, 122, len(long)]
    assert max(len(row["error"]) for row in rows) < 400


def test_remote_file_systems(images: Path, tmp_path: Path) -> None:
    """Through fsspec's memory://, which has no local paths, no locks and no renames of its own."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for n in range(6):
        memory.pipe_file(f"/in/pictures/{n}.jpg", (images / f"{n}.jpg").read_bytes())
    memory.pipe_file("/in/a.csv", b"image,prompt\n" + b"".join(b"pictures/%d.jpg,p\n" % n for n in range(6)))
    memory.pipe_file(
        "/tars/a.tar", tar(tmp_path / "a.tar", [(str(n), {"jpg": encoded(n)}) for n in range(6)]).read_bytes()
    )
    expected = load_scorer("lite").score([images / f"{n}.jpg" for n in range(6)], "").tolist()
    for words, out in (
        (["memory://in/a.csv"], "a"),
        (["memory://in/*.csv"], "b"),
        (["memory://in/pictures"], "c"),
        (["memory://tars"], "d"),
    ):
        report = batch(words, f"memory://out/{out}", LITE, part_rows=4)
        assert (report.rows, report.errors) == (6, {})
        again = batch(words, f"memory://out/{out}", LITE, part_rows=4)
        assert (again.rows, again.new_rows) == (6, 0)
        target = tmp_path / out
        fsspec.filesystem("memory").get(f"/out/{out}", str(target), recursive=True)
        rows = scores(target)
        assert [row["score_lite"] for row in rows] == expected
        assert all(row["shard"].startswith("memory://") for row in rows)
        assert (target / "_SUCCESS").exists()


def test_going_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = batch([str(images)], str(tmp_path / "whole"), LITE, part_rows=7)
    files = sorted(path.name for path in (tmp_path / "whole").glob("*.parquet"))
    assert len(files) == 6
    batch([str(images)], str(out), LITE, part_rows=7)
    (out / files[1]).unlink()
    (out / files[4]).unlink()
    (out / "_SUCCESS").unlink()
    kept = (out / files[0]).stat().st_mtime_ns
    (out / ".left.1.part").write_bytes(b"half")
    report = batch([str(images)], str(out), LITE, part_rows=7)
    assert (report.rows, report.new_rows, report.new_parts, report.parts) == (40, 14, 2, 6)
    assert (out / files[0]).stat().st_mtime_ns == kept
    assert not list(out.glob(".*.part"))
    assert scores(out) == scores(tmp_path / "whole")
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.parquet")
    }
    assert (whole.rows, whole.scored) == (report.rows, report.scored)
    (out / files[2]).write_bytes(b"damaged")
    with pytest.raises(DataError, match=f"{files[2]}: is damaged, or no part of a batch run"):
        batch([str(images)], str(out), LITE, part_rows=7)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_run_that_was_killed_before_it_had_a_note(images: Path, tmp_path: Path, kind: str) -> None:
    import fsspec

    system, out = fsspec.filesystem(kind), f"{kind}://{tmp_path}/out"
    system.makedirs(f"{tmp_path}/out")
    system.pipe_file(f"{tmp_path}/out/.lock", b"process 1 on here")
    system.pipe_file(f"{tmp_path}/out/._batch.json.4242.part", b"{")
    data = str(jsonl(tmp_path / "a.jsonl", [{"image": str(images / "0.jpg"), "prompt": "p"}]))
    assert batch([data], out, LITE).scored == 1
    system.makedirs(f"{tmp_path}/other")
    system.pipe_file(f"{tmp_path}/other/.mine.part", b"")
    with pytest.raises(BatchError, match="holds other files and no _batch.json"):
        batch([data], f"{kind}://{tmp_path}/other", LITE)


def test_two_parts_of_one_name_are_refused(images: Path, tmp_path: Path) -> None:
    (shard,) = find_shards([str(images)], Reading())
    name = part_name(Span(shard, 3, 0, 1))
    assert re.fullmatch(r"images-[0-9a-f]{16}-00003\.parquet", name)
    with ScoreFolder(str(tmp_path / "out")) as folder:
        run = _Run(folder, [shard, shard], Reading(), 40, 1, lambda _: None)
        with pytest.raises(BatchError, match=r"has the name of another shard's; rename the file"):
            list(run.tasks())


class EnoughError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "tar.gz"])
@pytest.mark.parametrize("engine", [Engine(), Engine(workers=2)])
def test_a_span_that_cannot_be_split_gives_several_parts(
    images: Path, tmp_path: Path, kind: str, engine: Engine
) -> None:
    contents = [(images / f"{n}.jpg").read_bytes() for n in range(23)]
    if kind == "parquet":
        path = parquet(tmp_path / "a.parquet", contents, [f"prompt {n}" for n in range(23)], group=23)
    else:
        path = tar(tmp_path / "a.tar.gz", [(str(n), {"jpg": c, "txt": b"p"}) for n, c in enumerate(contents)])
    out, whole = tmp_path / "out", tmp_path / "whole"
    report = batch([str(path)], str(whole), LITE, part_rows=5)
    assert (report.rows, report.parts, report.new_parts, report.notes) == (23, 5, 5, ())
    files = {file.name: pq.read_metadata(file).num_rows for file in whole.glob("*.parquet")}
    assert sorted(files.values()) == [3, 5, 5, 5, 5]
    (last,) = (name for name, rows in files.items() if rows == 3)
    seen: list[float] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.fraction)
        if progress.rows == 15:
            raise EnoughError

    with pytest.raises(EnoughError):
        batch([str(path)], str(out), LITE, part_rows=5, engine=engine, on_progress=stop)
    assert len(list(out.glob("*.parquet"))) == 3
    assert not (out / last).exists()
    assert seen == pytest.approx([5 / 23, 10 / 23, 15 / 23] if kind == "parquet" else [0, 0, 0])
    report = batch([str(path)], str(out), LITE, part_rows=5, engine=engine)
    assert (report.rows, report.scored, report.new_rows, report.parts) == (23, 23, 23, 5)
    assert {name: (out / name).read_bytes() for name in files} == {name: (whole / name).read_bytes() for name in files}
    assert [row["row"] for row in scores(out)] == list(range(23))
    assert batch([str(path)], str(out), LITE, part_rows=5).new_rows == 0
    (out / min(files.keys() - {last})).unlink()
    with pytest.raises(DataError, match=f"00000.parquet: is gone; remove {last}, too, and run the same command again"):
        batch([str(path)], str(out), LITE, part_rows=5)


@pytest.mark.parametrize(("seconds_per_row", "spans"), [(0.001, 16), (0.2, 10), (3.0, 1)])
def test_a_task_has_the_rows_of_some_seconds(tmp_path: Path, seconds_per_row: float, spans: int) -> None:
    """The time of a part with one row says what ten rows will take."""
    for n in range(100):
        jsonl(tmp_path / f"{n}.jsonl", [{"image": "a.jpg"}] * (10 if n else 1))
    with ScoreFolder(str(tmp_path / "out")) as folder:
        folder.agree({"models": []}, [])
        run = _Run(folder, find_shards([f"{tmp_path}/*.jsonl"], Reading()), Reading("image"), 10, 2, lambda _: None)
        tasks = run.tasks()
        (span,) = next(tasks)
        run.put(Part(span, None, b"", Counts(1), (), seconds_per_row))
        assert len(next(tasks)) == spans
        assert [len(task) for task in tasks][-1] == 1  # smaller towards the end


@pytest.mark.parametrize("engine", [Engine(), Engine(workers=2)])
def test_what_was_scored_before_an_error_is_kept(images: Path, tmp_path: Path, engine: Engine) -> None:
    """Also where it is the task of a worker that another part of fails, for a reason that may pass."""
    names = [str(images / "0.jpg")] * 60 + ["/proc/self/mem"] * 4 + [str(images / "0.jpg")] * 500
    path = jsonl(tmp_path / "a.jsonl", [{"image": name} for name in names])
    with pytest.raises((DataError, EngineError), match=r"/proc/self/mem: reading failed .*; what was scored is kept"):
        batch([str(path)], str(tmp_path / "out"), LITE, part_rows=4, engine=engine, threads=1)
    assert len(scores(tmp_path / "out")) >= 40  # not: one part, and then none of the task that failed


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": []},
        {"settings": {}},
        {"settings": {"models": ["lite"]}},
        {"identities": "lite"},
        {"identities": [1]},
        {"shards": ["a.jsonl"]},
        {"shards": {"a.jsonl": 12}},
    ],
)
def test_a_damaged_note_of_a_run_is_said(images: Path, tmp_path: Path, damage: dict[str, object]) -> None:
    data = str(jsonl(tmp_path / "a.jsonl", [{"image": str(images / "0.jpg"), "prompt": "p"}]))
    batch([data], str(tmp_path / "out"), LITE)
    about = tmp_path / "out" / "_batch.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | damage))
    with pytest.raises(DataError, match=r"out/_batch\.json: is damaged; choose another OUT"):
        batch([data], str(tmp_path / "out"), LITE)


def test_an_output_of_another_run_is_refused(images: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    out = str(tmp_path / "out")
    data = [str(jsonl(tmp_path / f"{n}.jsonl", [{"image": str(images / "0.jpg"), "prompt": "p"}])) for n in range(3)]
    batch(data[:2], out, LITE)
    with pytest.raises(BatchError, match=r"out: holds another run: part rows was 2048, is now 3; choose another OUT"):
        batch(data[:2], out, LITE, part_rows=3)
    with pytest.raises(BatchError, match='holds another run: prompt was null, is now "x"'):
        batch(data[:2], out, LITE, reading=Reading(prompt="x"))
    with pytest.raises(BatchError, match=r'holds another run: models was \["lite"\], is now \["hps-v2\.1"\]; choose'):
        batch(data[:2], out, [tiny(tiny_checkpoint)])
    with pytest.raises(BatchError, match=r"was made with the shard .*1\.jsonl, too"):
        batch(data[:1], out, LITE)
    report = batch(data, out, LITE)  # shards may be added
    assert (report.rows, report.new_rows) == (3, 1)
    Path(data[0]).write_text(Path(data[0]).read_text() * 2)
    with pytest.raises(
        BatchError, match=r"0\.jsonl: has changed since .*out was begun \(from [0-9]+ bytes to [0-9]+ bytes\)"
    ):
        batch(data, out, LITE)
    (tmp_path / "file").write_text("")
    with pytest.raises(BatchError, match="file: is a file; OUT names a folder"):
        batch(data[1:], str(tmp_path / "file"), LITE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(BatchError, match="holds other files and no _batch.json"):
        batch(data[1:], str(tmp_path / "other"), LITE)


def test_other_weights_under_the_same_name_are_refused(images: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    import torch

    state = torch.load(tiny_checkpoint, weights_only=True)
    torch.save(state, tmp_path / "w.pt")
    data, out = folder_of_images(tmp_path / "in", 4), str(tmp_path / "out")
    model = tiny(tmp_path / "w.pt")
    batch([str(data)], out, [model], reading=Reading(prompt="p"), part_rows=2)
    next((tmp_path / "out").glob("*.parquet")).unlink()
    inner = state.get("state_dict", state)
    inner["logit_scale"] = inner["logit_scale"] + 1
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        BatchError, match=r"holds scores of other scorers: weights of hps-v2.1 was [0-9a-f]+, is now [0-9a-f]+"
    ):
        batch([str(data)], out, [model], reading=Reading(prompt="p"), part_rows=2)


def test_refused_before_anything_is_made(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, options, what in (
        ((), {}, "no rows"),
        (("a", "b"), {"embeddings": "float16"}, "none of lite is one"),
        (("a",), {"part_rows": 0}, "part_rows must be at least 1"),
    ):
        rows = [{"image": str(images / "0.jpg"), "prompt": word} for word in words]
        path = jsonl(tmp_path / "a.jsonl", rows)
        with pytest.raises((DataError, BatchError), match=what):
            batch([str(path)], str(out), LITE, **options)
        assert not (out / "_SUCCESS").exists()
        assert not list(out.glob("*.parquet"))
        path.unlink()
        for file in out.glob("*"):
            file.unlink()
    for inside in (images, images / "scores"):
        with pytest.raises(BatchError, match=r"lies within the input .*; choose an OUT outside it"):
            batch([str(images)], str(inside), LITE)
        assert not (images / "scores").exists()
    with pytest.raises(BatchError, match="two scorers would have the column score_lite"):
        batch([str(images)], str(out), [*LITE, *LITE])


def test_two_runs_at_once(images: Path, tmp_path: Path) -> None:
    out, refused = tmp_path / "out", []

    def again(_: object) -> None:
        with pytest.raises(BatchError, match=r"another run is writing there \(process [0-9]+ on "):
            batch([str(images)], str(out), LITE, part_rows=10)
        refused.append(1)

    batch([str(images)], str(out), LITE, part_rows=10, on_progress=again)
    assert len(refused) == 4


# Faults: the processes are those of a user.


def slow_input(folder: Path, images: Path, count: int = 240) -> Path:
    """Rows enough that a run takes seconds."""
    names = [str(images / f"{n % 40}.jpg") for n in range(count)]
    return parquet(folder / "slow.parquet", names, [f"p {n}" for n in range(count)])


def children(pid: int) -> list[int]:
    """The workers of a run: its children that are not the helper of `multiprocessing`."""
    found = []
    for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{word}/cmdline").read_bytes():
            found.append(int(word))
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def parts(out: Path) -> int:
    return len(list(out.glob("*.parquet")))


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    path = slow_input(folder, images)
    batch([str(path)], str(folder / "out"), LITE, part_rows=8)
    return path, scores(folder / "out")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    path, expected = undisturbed
    out, told, killed = tmp_path / "out", [], []

    def kill(_: object) -> None:
        if not killed and parts(out) >= 3:
            killed.append(children(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    report = batch(
        [str(path)],
        str(out),
        LITE,
        part_rows=8,
        engine=Engine(workers=2),
        threads=1,
        on_progress=kill,
        on_note=told.append,
    )
    assert killed
    assert told == ["a worker died (by SIGKILL); its batch is given to another"]
    assert (report.rows, report.new_rows) == (240, 240)
    assert scores(out) == expected


@pytest.mark.slow
def test_a_worker_killed_within_a_span_of_several_parts(images: Path, tmp_path: Path) -> None:
    contents = [(images / f"{n}.jpg").read_bytes() for n in range(40)]
    for name in "ab":
        samples = [(str(n), {"jpg": contents[n % 40], "txt": b"p"}) for n in range(160)]
        tar(tmp_path / "in" / f"{name}.tar.gz", samples)
    batch([str(tmp_path / "in")], str(tmp_path / "whole"), LITE, part_rows=8)
    out, told, killed = tmp_path / "out", [], []

    def kill(progress: Progress) -> None:
        if not killed and progress.rows >= 80:
            killed.extend(children(os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    report = batch(
        [str(tmp_path / "in")], str(out), LITE, part_rows=8, engine=Engine(workers=2), threads=1, on_progress=kill,
        on_note=told.append,
    )  # fmt: skip
    assert told == ["a worker died (by SIGKILL); its batch is given to another"] * 2
    assert (report.rows, report.new_rows, report.new_parts) == (320, 320, 40)  # nothing is counted twice
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.parquet")
    }


@pytest.mark.slow
def test_everything_killed_at_random_moments(undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    path, expected = undisturbed
    out, moments, reached = tmp_path / "out", random.Random(3), []
    words = ("batch", path, out, "-m", "lite", "--part-rows", 8)
    for _ in range(3):
        before = parts(out)
        process = start(*words)
        until(lambda n=before, p=process: parts(out) > n or p.poll() is not None)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached.append(parts(out))
    assert 0 < reached[0] < reached[1] < reached[2]
    done = command(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 240
    assert 0 < report["new_rows"] <= 240 - 8 * reached[2] or reached[2] == 30
    assert scores(out) == expected


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed(
    undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start("batch", undisturbed[0], out, "-m", "lite", "--part-rows", 8, "--workers", 2)
    until(lambda: parts(out) >= 1)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in workers), 30)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c(undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path, workers: int) -> None:
    path, expected = undisturbed
    out = tmp_path / "out"
    words = ("batch", path, out, "-m", "lite", "--part-rows", 8, "--workers", workers)
    # whoever starts the tests in the background may have left SIGINT ignored
    process = start(
        *words, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    until(lambda: parts(out) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers, too
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (output, errors.strip()) in {("", "humanpref: interrupted"), ("", "")}
    assert parts(out) < 30
    assert command(*words).returncode == 0
    assert scores(out) == expected


@pytest.mark.slow
def test_a_full_disk(undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the system takes no more bytes, in the middle of a part."""
    path, expected = undisturbed
    out = tmp_path / "out"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    words = ("batch", path, out, "-m", "lite", "--part-rows", 120)
    done = command(*words, preexec_fn=limit)
    one_line(done, f"{out}: the disk is full; what was scored is kept: make room and run the same command again")
    assert not list(out.glob("*.part*"))
    assert not list(out.glob(".*.part"))
    assert command(*words).returncode == 0
    assert scores(out) == expected


@pytest.mark.slow
def test_the_command(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = mixed(tmp_path)
    done = command(
        "batch", data, out, "-m", "hps-v2.1,lite", "--weights", f"hps-v2.1={TINY[1]}", "--arch", f"hps-v2.1={TINY[3]}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == [
        "rows",
        "scored",
        "errors",
        "this",
        "run",
        "rows/s",
        "parts",
        "folder",
    ]
    assert "unreadable-image" in done.stdout
    assert done.stderr == "humanpref: 7 rows have errors; the columns error_kind and error say why\n"
    one_line(command("batch", tmp_path / "gone", out, "-m", "lite"), "gone: no such file or folder")
    one_line(command("batch", data, out, "-m", "lite"), "holds another run: models was")
    one_line(command("batch", data, tmp_path / "x", "-m", "nil"), "no scorer is called 'nil'")
    one_line(command("batch", data, tmp_path / "x", "-m", "hps-v2.0"), "hps-v2.0")
    one_line(
        command("batch", data, tmp_path / "x", "-m", "lite", "--image-column", "nil"), "its columns are image, prompt"
    )
    assert command("batch", data).returncode == 2


@pytest.mark.slow
def test_on_ray_with_an_actor_that_is_killed(undisturbed: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from tests.generating import environment

    path, expected = undisturbed
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    out, told, killed = tmp_path / "out", [], []

    def kill(_: object) -> None:
        if not killed and parts(out) >= 4:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    try:
        report = batch(
            [str(path)], str(out), LITE, part_rows=8, engine=Engine("ray", workers=2), threads=1, on_progress=kill,
            on_note=told.append,
        )  # fmt: skip
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert "a worker died; its batches are given to another" in told
    assert report.rows == 240
    assert scores(out) == expected
