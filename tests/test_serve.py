"""The service over real HTTP: answers, refusals, limits. (Faults of processes and sockets: test_serve_faults.py.)"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from humanpref import load_scorer
from humanpref import score as score_here
from humanpref.errors import ImageError, ScoreError
from humanpref.images import ImageSource, open_image
from humanpref.scorers import LoadOptions, ScorerSpec
from humanpref.scorers.base import BatchScorer, Scores
from humanpref.serve.bodies import MAX_VALUES, ScoreBody, read_json
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import STATUS, RequestError, ServeError
from humanpref.serve.keys import ApiKeys, read_keys
from humanpref.serve.models import ModelOptions, ServedModel, load_models
from tests.conftest import TINY_ARCH
from tests.serving import Served, b64, body, files_of, png, serving
from tests.toys import damaged_jpeg


class SlowScorer(BatchScorer[float]):
    """The mean of the picture plus the length of the prompt; counts its batches, can be held, and fails when told."""

    batch_size = 8
    logit_scale = 1.0

    def __init__(self, seconds: float = 0.0, name: str = "slow", in_flight: int = 0) -> None:
        super().__init__(ScorerSpec(name, "toy", "none", reads_prompt=True, tokens=30))
        self.seconds = seconds
        self.in_flight = in_flight
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def _settings(self) -> dict[str, str]:
        raise ScoreError("no file")

    def truncated(self, prompt: str) -> bool:
        return len(prompt) > 30

    def _prepare(self, image: Any) -> float:
        return float(np.asarray(open_image(image)).mean())

    def begin(self, batch: Any, prompts: Any) -> Scores:
        self.batches.append(len(batch))
        if self.in_flight:  # as on a GPU: it is queued, and what goes wrong is said later
            return lambda: self._score(batch, prompts)
        scores = self._score(batch, prompts)
        return lambda: scores

    def _score(self, batch: Any, prompts: Any) -> list[float | ImageError]:
        time.sleep(self.seconds)
        assert self.go.wait(20)
        if "explode" in prompts:
            raise RuntimeError("CUDA error: out of memory\nat line 3")
        return [math.nan if p == "nan" else v + len(p) for v, p in zip(batch, prompts, strict=True)]

    def _score_pixels(self, pixels: Any, prompts: Any) -> torch.Tensor:
        raise NotImplementedError


def slow(scorer: SlowScorer | None = None, **config: Any) -> Any:
    scorer = scorer or SlowScorer()
    return serving({scorer.spec.name: ServedModel(scorer.spec.name, (scorer,))}, ServeConfig(**config))


@pytest.fixture(scope="module")
def lite() -> Iterator[Served]:
    with serving() as served:
        yield served


def error(response: httpx.Response) -> tuple[int, str, str]:
    """Every refusal has the same shape, and the status of its code."""
    found = response.json()
    assert set(found) == {"error"}
    assert {"code", "message"} <= set(found["error"]) <= {"code", "message", "image"}
    assert response.status_code == STATUS[found["error"]["code"]]
    assert "\n" not in found["error"]["message"]
    return response.status_code, found["error"]["code"], found["error"]["message"]


# ---- the same scores


def test_scores_are_those_of_the_command_line(lite: Served, tmp_path: Path) -> None:
    paths = files_of(tmp_path, 5)
    here = score_here([str(path) for path in paths], "a fox", "lite")
    images = [{"data": b64(path.read_bytes()), "name": str(path)} for path in paths]
    there = lite.http.post("/v1/score", json={"images": images, "prompt": "a fox"}).json()
    assert there["model"] == here.model
    assert there["prompts"] == [{"prompt": "a fox", "truncated": False}]
    assert there["notes"] == list(here.notes)
    for row, result in zip(there["results"], here.results, strict=True):
        assert (row["image"], row["rank"], row["error"]) == (result.image, result.rank, None)
        assert row["score"] == pytest.approx(result.score, abs=1e-6)
        assert row["win_probability"] == pytest.approx(result.win_probability, abs=1e-6)


@pytest.mark.parametrize("name", ["hps-v2.1", "pickscore"])
def test_scores_of_a_clip_are_those_of_the_command_line(name: str, tmp_path: Path) -> None:
    from tests import official_layouts

    if name == "pickscore":
        from safetensors.torch import save_model

        weights = tmp_path / "model.safetensors"
        save_model(official_layouts.transformers_clip(), str(weights))
    else:
        weights = tmp_path / "HPS.pt"
        torch.save({"state_dict": official_layouts.open_clip_model().state_dict()}, weights)
    arch = official_layouts.arch_file(tmp_path)
    options = {"weights": weights, "arch": arch, "precision": "fp32", "device": "cpu"}
    paths, prompts = files_of(tmp_path, 7), ["a red square", "a cat"] * 3 + ["a cat " * 90]
    here = load_scorer(name, **options).score([str(path) for path in paths], prompts)
    models = load_models([ModelOptions(name, LoadOptions(weights, arch, precision="fp32"), ("cpu",))])
    with serving(models, ServeConfig(max_batch=3)) as served:
        images = [{"data": b64(path.read_bytes())} for path in paths]
        with ThreadPoolExecutor(4) as pool:  # other people's images are in the batches
            noise = [pool.submit(served.score, png(99), prompt="something else") for _ in range(8)]
            there = served.http.post("/v1/score", json={"images": images, "prompts": prompts}).json()
        assert {job.result().status_code for job in noise} == {200}
    scores = torch.tensor([row["score"] for row in there["results"]])
    assert here.std() > 1e-3
    torch.testing.assert_close(scores, here, atol=1e-5, rtol=1e-5)
    assert [row["truncated"] for row in there["prompts"]] == [False, False, True]
    assert any("77 tokens" in note for note in there["notes"])


def test_the_official_tiny_checkpoint_is_served_by_two_replicas(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ModelOptions("hps-v2.1", LoadOptions(tiny_checkpoint, TINY_ARCH, precision="fp32"), ("cpu", "cpu"))
    paths = files_of(tmp_path, 6)
    here = load_scorer("hps-v2.1", tiny_checkpoint, TINY_ARCH, precision="fp32").score(list(paths), "a cat")
    with serving(load_models([options, ModelOptions("lite")]), ServeConfig(max_batch=1)) as served:
        assert [row["name"] for row in served.http.get("/v1/models").json()["models"]] == ["hps-v2.1", "lite"]
        there = served.score(*(path.read_bytes() for path in paths), prompt="a cat").json()
        scores = torch.tensor([row["score"] for row in there["results"]])
        torch.testing.assert_close(scores, here, atol=1e-5, rtol=1e-5)
        assert served.score(png(), model="lite").json()["model"] == "lite"


def test_decoding_on_the_device(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One JPEG is whole, one has a whole header but no decoder gets through it, and a PNG is decoded as always."""
    path = files_of(tmp_path, 1)[0]
    buffer = BytesIO()
    Image.open(path).convert("RGB").save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    own = LoadOptions(tiny_checkpoint, TINY_ARCH, precision="fp32", decode="device")
    options = ModelOptions("hps-v2.1", own, ("cpu",))
    picture = Image.open(BytesIO(whole))
    here = load_scorer("hps-v2.1", tiny_checkpoint, TINY_ARCH, precision="fp32").score([picture, path], "a cat")
    with serving(load_models([options])) as served:
        rows = served.score(whole, damaged_jpeg(whole), path.read_bytes(), prompt="a cat").json()["results"]
        assert "decode=device" in served.http.get("/v1/models").json()["models"][0]["identity"]
        assert served.metric("images_total", model="hps-v2.1", outcome="bad_image") == 1
    assert [row["score"] for row in (rows[0], rows[2])] == pytest.approx(here.tolist(), abs=1e-5)
    assert rows[1]["error"]["code"] == "bad_image"
    assert "damaged" in rows[1]["error"]["message"]


def test_many_prompts_are_ranked_apart(lite: Served) -> None:
    contents = [png(i) for i in range(4)]
    sent = {"images": [{"data": b64(c)} for c in contents], "prompts": ["a", "b", "a", "b"]}
    found = lite.http.post("/v1/score", json=sent).json()
    rows = found["results"]
    assert [row["prompt"] for row in rows] == [0, 1, 0, 1]
    assert sorted(rows[i]["rank"] for i in (0, 2)) == sorted(rows[i]["rank"] for i in (1, 3)) == [1, 2]
    assert rows[0]["win_probability"] + rows[2]["win_probability"] == pytest.approx(1)


def test_a_form_is_scored_as_json_is(lite: Served) -> None:
    contents = [png(i) for i in range(3)]
    files = [("image", (f"{i}.png", content)) for i, content in enumerate(contents)]
    form = lite.http.post("/v1/score", files=files, data={"prompt": "a", "model": "lite"}).json()
    plain = lite.score(*contents, prompt="a").json()
    assert [row["image"] for row in form["results"]] == ["0.png", "1.png", "2.png"]
    assert [row["score"] for row in form["results"]] == pytest.approx([row["score"] for row in plain["results"]])
    each = lite.http.post("/v1/score", files=files, data={"prompt": ["a", "b", "c"]}).json()
    assert [row["prompt"] for row in each["prompts"]] == ["a", "b", "c"]
    for bad, code in (
        ({"files": files, "data": {"prompt": ["a", "b"]}}, "invalid"),
        ({"files": files, "data": {"prompt": "a", "colour": "red"}}, "invalid"),
        ({"files": [("picture", files[0][1])], "data": {"prompt": "a"}}, "invalid"),
        ({"files": files * 30, "data": {"prompt": "a"}}, "too_many_images"),
        (
            {"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            "bad_request",
        ),
        ({"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}}, "bad_request"),
    ):
        assert error(lite.http.post("/v1/score", **bad))[1] == code


def test_images_are_compared(lite: Served) -> None:
    found = lite.http.post("/v1/compare", json=body(png(0), png(1), png(2))).json()
    p = np.array(found["probabilities"])
    assert p.shape == (3, 3)
    np.testing.assert_allclose(p + p.T, 1)
    assert p[0, 1] == pytest.approx(1 / (1 + math.exp(found["scores"][1] - found["scores"][0])))
    status, code, _ = error(reply := lite.http.post("/v1/compare", json=body(png(0), b"no image", png(2))))
    assert (status, code, reply.json()["error"]["image"]) == (422, "bad_image", 1)
    assert error(lite.http.post("/v1/compare", json=body(png(0))))[1] == "invalid"
    scorer = SlowScorer()
    scorer.logit_scale = None  # type: ignore[assignment]
    with slow(scorer) as served:
        assert error(served.http.post("/v1/compare", json=body(png(0), png(1))))[1] == "no_probabilities"
        assert served.score(png(0), png(1)).json()["results"][0]["win_probability"] is None


# ---- images that are none


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def test_a_bad_image_has_its_error_and_the_others_their_scores(lite: Served) -> None:
    good = png(5)
    contents = [good, b"no image", good[: len(good) // 2], bomb(), b"", png(6)]
    found = lite.score(*contents)
    assert found.status_code == 200
    rows = found.json()["results"]
    assert [row["index"] for row in rows] == list(range(6))
    assert [None if row["error"] is None else row["error"]["code"] for row in rows] == [None, *["bad_image"] * 4, None]
    assert all(row["error"]["image"] == row["index"] for row in rows[1:5])
    assert "20000x20000" in rows[3]["error"]["message"] or "pixels" in rows[3]["error"]["message"]
    assert rows[0]["score"] == pytest.approx(lite.score(good).json()["results"][0]["score"])
    assert sorted([rows[0]["rank"], rows[5]["rank"]]) == [1, 2]
    bad = lite.http.post("/v1/score", json={"prompt": "x", "images": [{"data": "%%%"}, {"data": "data:image/png,abc"}]})
    assert [row["error"]["code"] for row in bad.json()["results"]] == ["bad_image"] * 2
    wrapped = "\n".join(b64(good)[i : i + 76] for i in range(0, len(b64(good)), 76))
    ways = [{"data": wrapped}, {"data": f"data:image/png;base64,{b64(good)}"}]
    rows = lite.http.post("/v1/score", json={"prompt": "x", "images": ways}).json()["results"]
    assert rows[0]["score"] == rows[1]["score"] == pytest.approx(lite.score(good).json()["results"][0]["score"])


def test_limits_of_an_image_are_the_services_own() -> None:
    with serving(config=ServeConfig(max_pixels=2000, max_image_bytes=20_000)) as served:
        rows = served.score(png(0, 40, 50), png(1, 41, 50), bytes(20_001)).json()["results"]
        assert [row["error"] and row["error"]["code"] for row in rows] == [None, "bad_image", "image_too_large"]
        assert "41x50" in rows[1]["error"]["message"]


# ---- requests that do not fit


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        ({"json": {"prompt": "x"}}, "invalid", "images"),
        ({"json": {"images": [{"data": ""}]}}, "invalid", "prompt"),
        ({"json": body(png()) | {"prompts": ["x"]}}, "invalid", "either prompt"),
        ({"json": {"images": [{"data": ""}], "prompts": ["a", "b"]}}, "invalid", "1 images but 2 prompts"),
        ({"json": body(png(), colour="red")}, "invalid", "colour"),
        ({"json": body(png(), prompt=7)}, "invalid", "prompt"),
        ({"json": body(png(), prompt="x" * 20_001)}, "invalid", "20000"),
        ({"json": {"prompt": "x", "images": [{"data": "", "url": "http://a"}]}}, "invalid", "either data or url"),
        ({"json": {"prompt": "x", "images": [{"url": "http://127.0.0.1/"}]}}, "url_not_allowed", "--allow-url"),
        ({"json": body(*[b"x"] * 65)}, "too_many_images", "at most 64"),
        ({"json": body(png(), model="nonsense")}, "unknown_model", "choose from: lite"),
        ({"json": [1]}, "invalid", "body"),
        ({"content": b'{"prompt": ', "headers": {"Content-Type": "application/json"}}, "bad_json", "JSON"),
        ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, "bad_json", "JSON"),
        ({"content": b"[" * 5000, "headers": {"Content-Type": "application/json"}}, "bad_json", "JSON"),
        ({"content": b"[{}" + b",{}" * (4 * MAX_VALUES) + b"]", "headers": {"Content-Type": "application/json"}}, "invalid", "values"),
        ({"content": b"[{}" + b",{}" * 340_000 + b"]", "headers": {"Content-Type": "application/json"}}, "invalid", "values"),
        ({"json": {"prompt": "x", "images": [{}] * 65}}, "too_many_images", "65 images; at most 64"),
        ({"json": {"prompt": "x", "images": [{}] * 10_001}}, "too_many_images", "over 10,000 images"),
        ({"json": {"prompts": ["x"] * 10_001, "images": []}}, "too_many_images", "over 10,000 prompts"),
        ({"files": {"image": png()}, "data": {"prompt": "x" * 20_001}}, "invalid", "over 20,000 characters"),
        ({"files": {"image": png()}, "data": {"prompt": "x" * 80_001}}, "invalid", "over 20,000 characters"),
        ({"content": b'{"prompt":"\\ud800","images":[]}', "headers": {"Content-Type": "application/json"}}, "bad_json", "JSON"),
        ({"content": b"x"}, "unsupported_media_type", "application/json"),
        ({"content": b"x", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, "unsupported_media_type", "json"),
        ({"content": b"x", "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"}}, "unsupported_media_type", "compressed"),
        ({"json": {}, "headers": {"Sec-Fetch-Site": "cross-site"}}, "cross_site", "other sites"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(lite: Served, sent: dict[str, Any], code: str, says: str) -> None:
    _, found, message = error(lite.http.post("/v1/score", **sent))
    assert (found, says in message) == (code, True), message


def test_refusals_name_the_image(lite: Served) -> None:
    sent = {"prompt": "x", "images": [{"data": ""}, {"data": 3}]}
    assert lite.http.post("/v1/score", json=sent).json()["error"]["image"] == 1


def test_no_images_ask_only_about_the_prompt() -> None:
    with slow() as served:
        found = served.score(prompt="x" * 31).json()
        assert (found["results"], found["prompts"][0]["truncated"]) == ([], True)


@pytest.mark.parametrize("route", ["score", "compare"])
def test_prompts_are_tokenized_once_and_never_on_the_event_loop(route: str) -> None:
    asked = []

    class Tokenizing(SlowScorer):
        def truncated(self, prompt: str) -> bool:
            asked.append((prompt, threading.current_thread()))
            return super().truncated(prompt)

    prompt = "x" * 31
    with slow(Tokenizing()) as served:
        reply = served.http.post(f"/v1/{route}", json=body(png(), png(1), prompt=prompt)).json()
        assert reply["notes"] == ["the prompt is longer than 30 tokens: only its first 30 were read"]
        assert [text for text, _ in asked] == [prompt]
        assert asked[0][1] is not served.thread


def test_other_routes_and_methods(lite: Served) -> None:
    assert error(lite.http.get("/nope"))[:2] == (404, "not_found")
    assert error(lite.http.get("/docs"))[:2] == (404, "not_found")
    assert error(lite.http.post("/v1/nope", json={}))[:2] == (404, "not_found")
    assert error(lite.http.get("/v1/score"))[:2] == (405, "method_not_allowed")
    assert error(lite.http.delete("/healthz"))[:2] == (405, "method_not_allowed")
    assert error(lite.http.get("/static/../app.py"))[0] == 404


def test_bodies_over_the_limit_are_refused_whatever_they_say() -> None:
    config = ServeConfig(max_body_bytes=100_000, max_image_bytes=50_000)
    with serving(config=config) as served:
        assert error(served.http.post("/v1/score", json=body(bytes(90_000))))[:2] == (413, "body_too_large")

        def chunks() -> Iterator[bytes]:
            for _ in range(300):
                yield bytes(1000)

        headers = {"Content-Type": "application/json"}
        assert error(served.http.post("/v1/score", content=chunks(), headers=headers))[:2] == (413, "body_too_large")
        assert served.service.admission.bytes == 0
        assert served.score(png()).status_code == 200


def test_api_keys() -> None:
    keys = ["first-key-0123456789", "second-key-0123456789"]
    with serving(keys=ApiKeys(keys)) as served:
        for header in (
            None,
            "Bearer wrong-key-0123456789",
            keys[0],
            f"Basic {keys[0]}",
            "Bearer",
            f"Bearer {keys[0]}x",
        ):
            headers = {} if header is None else {"Authorization": header}
            reply = served.http.post("/v1/score", json=body(png()), headers=headers)
            assert error(reply)[:2] == (401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "0123456789" not in reply.text
        assert error(served.http.get("/v1/models"))[0] == 401
        assert error(served.http.get("/v1/nope"))[0] == 401
        for key in keys:
            headers = {"Authorization": f"Bearer {key}"}
            assert served.http.post("/v1/score", json=body(png()), headers=headers).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics", "/"):
            assert served.http.get(path).status_code == 200


def test_keys_are_read_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\nfirst-key-0123456789\nsecond-key-0123456789\n")
    keys = read_keys(path)
    assert len(keys) == 2
    assert keys.accept("Bearer second-key-0123456789")
    assert keys.accept("bearer first-key-0123456789")
    assert not keys.accept("Bearer # ours")
    assert "key-0123" not in repr(vars(keys))
    monkeypatch.setenv("HUMANPREF_API_KEYS", "third-key-0123456789,fourth-key-0123456789")
    assert read_keys(None).accept("Bearer fourth-key-0123456789")
    monkeypatch.delenv("HUMANPREF_API_KEYS")
    assert not read_keys(None)
    assert read_keys(None).accept(None)
    for text in ("short-secret\n", "with a space in the secret\n", "gehäim-0123456789abc\n", "# none\n"):
        path.write_text(text)
        with pytest.raises(ServeError) as caught:
            read_keys(path)
        assert "secret" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(ServeError, match="No such file"):
        read_keys(tmp_path / "none")


# ---- batching, load


def test_images_of_many_requests_go_to_the_model_together() -> None:
    scorer = SlowScorer()
    with slow(scorer, max_batch=8) as served:
        scorer.go.clear()
        with ThreadPoolExecutor(17) as pool:
            jobs = [pool.submit(served.score, png(0), prompt="x" * (i + 1)) for i in range(17)]
            deadline = time.monotonic() + 10
            model = served.service.engine.models["slow"]
            while len(model.batcher) + sum(scorer.batches) < 17 and time.monotonic() < deadline:
                time.sleep(0.01)
            scorer.go.set()
            replies = [job.result() for job in jobs]
    first = replies[0].json()["results"][0]["score"]
    assert [reply.json()["results"][0]["score"] for reply in replies] == pytest.approx([first + i for i in range(17)])
    assert max(scorer.batches) == 8
    assert len(scorer.batches) <= 4  # one with those that came first, then full ones


def test_a_single_image_waits_for_nobody() -> None:
    scorer = SlowScorer()
    with slow(scorer, max_wait_ms=3000.0) as served:
        began = time.monotonic()
        assert served.score(png()).status_code == 200
        assert time.monotonic() - began < 2


def test_an_image_waits_no_longer_than_it_must() -> None:
    """While another image takes long to prepare, what is ready goes ahead after `max_wait_ms`."""

    class Sleepy(SlowScorer):
        def _prepare(self, image: ImageSource) -> float:
            found = super()._prepare(image)
            time.sleep(2.0 if open_image(image).width == 99 else 0)
            return found

    with slow(Sleepy(), max_wait_ms=50.0, threads=2) as served, ThreadPoolExecutor(1) as pool:
        late = pool.submit(served.score, png(0, 99))
        time.sleep(0.3)
        began = time.monotonic()
        assert served.score(png(1)).status_code == 200
        assert 0.04 < time.monotonic() - began < 1.5
        assert late.result().status_code == 200


def test_long_words_up_to_the_limit_are_scored(lite: Served) -> None:
    assert lite.score(png(), prompt="x" * 1000 + " " + "y" * 1000).status_code == 200


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    scorer = SlowScorer()
    with slow(scorer, max_queue=8, max_images=8) as served:
        scorer.go.clear()
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(served.score, *[png(0)] * 4) for _ in range(2)]
            while served.service.admission.images < 8:
                time.sleep(0.01)
            reply = served.score(png(0))
            assert error(reply)[:2] == (429, "busy")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert served.http.get("/healthz").status_code == 200
            scorer.go.set()
            assert [job.result().status_code for job in waiting] == [200, 200]
        assert served.score(png(0)).status_code == 200
        assert served.metric("refused_total", code="busy") == 1
        assert served.service.admission.images == 0


def test_bytes_that_are_held_are_bounded() -> None:
    scorer = SlowScorer()
    big = png(0) + bytes(60_000)  # what follows a PNG's end is not read
    with slow(scorer, max_body_bytes=100_000, max_pending_bytes=150_000, max_image_bytes=90_000) as served:
        scorer.go.clear()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(served.score, big)
            while served.service.admission.images < 1:
                time.sleep(0.01)
            reply = served.score(big)
            assert error(reply)[:2] == (503, "overloaded")
            assert reply.headers["retry-after"] == "1"
            scorer.go.set()
            assert waiting.result().status_code == 200
        for _ in range(500):  # they are let go when the answer is sent, which may come before
            if not served.service.admission.bytes:
                break
            time.sleep(0.01)
        assert served.service.admission.bytes == 0
        assert served.score(big).status_code == 200


def test_a_gpu_is_given_the_next_batch_while_it_is_busy() -> None:
    scorer = SlowScorer(in_flight=1)
    with slow(scorer, max_batch=2) as served:
        scorer.go.clear()
        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(served.score, png(n), prompt="a" * n) for n in range(6)]
            while len(scorer.batches) < 2 or served.service.admission.images < 6:
                time.sleep(0.01)
            time.sleep(0.2)
            assert len(scorer.batches) == 2  # one that is done, one after it, and no more
            scorer.go.set()
            replies = [job.result() for job in jobs]
        assert [reply.status_code for reply in replies] == [200] * 6
        for n, reply in enumerate(replies):
            mean = float(np.asarray(Image.open(BytesIO(png(n))).convert("RGB")).mean())
            assert reply.json()["results"][0]["score"] == pytest.approx(mean + n)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_model_that_fails_on_one_image_scores_the_others(in_flight: int) -> None:
    scorer = SlowScorer(in_flight=in_flight)
    with slow(scorer, max_batch=8) as served:
        prompts = ["a", "explode", "nan", "bb"]
        sent = {"images": [{"data": b64(png(0))}] * 4, "prompts": prompts}
        rows = served.http.post("/v1/score", json=sent).json()["results"]
        assert [row["error"] and row["error"]["code"] for row in rows] == [None, "model_failed", "model_failed", None]
        assert rows[3]["score"] == pytest.approx(rows[0]["score"] + 1)
        assert rows[1]["error"]["message"] == "slow failed on this image (CUDA error: out of memory)"
        assert served.metric("images_total", model="slow", outcome="model_failed") == 2


class Miscounting(SlowScorer):
    """Says one score too few, now and then."""

    def _score(self, batch: Any, prompts: Any) -> list[float | ImageError]:
        return super()._score(batch, prompts)[: -1 if "miscount" in prompts else None]


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_model_that_miscounts_fails_alone_and_goes_on(in_flight: int) -> None:
    with slow(Miscounting(in_flight=in_flight)) as served:
        sent = {"images": [{"data": b64(png(0))}] * 3, "prompts": ["a", "miscount", "bb"]}
        for _ in range(2):
            rows = served.http.post("/v1/score", json=sent).json()["results"]
            assert [row["error"] and row["error"]["code"] for row in rows] == [None, "model_failed", None]
            assert rows[2]["score"] == pytest.approx(rows[0]["score"] + 1)


class ClumsyScorer(SlowScorer):
    """Fails on white pictures, with no error of ours."""

    def _prepare(self, image: Any) -> float:
        if (mean := super()._prepare(image)) == 255:
            raise RuntimeError("no kernel image\nof that size")
        return mean


def test_an_image_that_fails_in_an_unforeseen_way_fails_alone_and_is_counted() -> None:
    buffer = BytesIO()
    Image.new("RGB", (40, 40), "white").save(buffer, "PNG")
    with slow(ClumsyScorer()) as served:
        rows = served.score(png(0), buffer.getvalue(), png(1)).json()["results"]
        assert [row["error"] and row["error"]["code"] for row in rows] == [None, "model_failed", None]
        assert rows[1]["error"]["message"] == "slow failed on this image (no kernel image)"
        assert served.metric("images_total", model="slow", outcome="model_failed") == 1
        assert served.metric("images_total", model="slow", outcome="scored") == 2


def test_a_request_that_takes_too_long_is_answered() -> None:
    scorer = SlowScorer()
    with slow(scorer, request_seconds=0.2) as served:
        scorer.go.clear()
        reply = served.score(png(0))
        assert error(reply)[:2] == (503, "timed_out")
        assert "retry-after" in reply.headers
        scorer.go.set()
        assert served.score(png(0)).status_code == 200
        assert served.service.admission.images == 0


# ---- what is said of it


def test_metrics_can_be_read_and_add_up(lite: Served) -> None:
    before = lite.metric("images_total", model="lite", outcome="scored")
    lite.score(png(0), png(1), b"x")
    text = lite.http.get("/metrics").text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "humanpref_requests",
        "humanpref_request_seconds",
        "humanpref_batch_images",
        "humanpref_queue_images",
    } <= families
    assert {"process_resident_memory_bytes", "humanpref_draining"} <= families
    assert lite.metric("images_total", model="lite", outcome="scored") == before + 2
    assert lite.metric("images_total", model="lite", outcome="bad_image") >= 1
    assert lite.metric("batch_images_sum", model="lite") == before + 2
    assert lite.metric("queue_images") == 0
    assert lite.metric("requests_total", route="/v1/score", status="200") >= 1
    assert lite.metric("request_seconds_count", route="/v1/score") >= 1


def test_models_and_limits(lite: Served) -> None:
    found = lite.http.get("/v1/models").json()
    (row,) = found["models"]
    assert (row["name"], row["logit_scale"], row["reads_prompt"]) == ("lite", 1.0, False)
    assert row["identity"] == load_scorer("lite").identity
    assert found["limits"]["images"] == 64
    assert found["urls"] is False


def test_openapi_describes_what_is_answered(lite: Served) -> None:
    import jsonschema

    api = lite.http.get("/openapi.json").json()
    assert {"/v1/score", "/v1/compare", "/v1/models", "/healthz", "/readyz", "/metrics"} == set(api["paths"])
    components = {"components": api["components"]}
    for path in ("/v1/score", "/v1/compare"):
        post = api["paths"][path]["post"]
        content = post["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        for example in content["application/json"]["examples"].values():
            jsonschema.validate(example["value"], content["application/json"]["schema"])
            if "url" not in json.dumps(example["value"]):
                reply = lite.http.post(path, json=example["value"])
                assert reply.status_code == 200
                assert all(not row["error"] for row in reply.json().get("results", []))
                schema = post["responses"]["200"]["content"]["application/json"]["schema"]
                jsonschema.validate(reply.json(), schema | components)
        shown = post["responses"]["200"]["content"]["application/json"]
        jsonschema.validate(shown["example"], shown["schema"] | components)
        for status in ("400", "401", "413", "422", "429", "503"):
            assert post["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_every_answer_has_the_guards_headers(lite: Served) -> None:
    for reply in (lite.http.get("/"), lite.http.get("/nope"), lite.http.post("/v1/score"), lite.score(png())):
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers


def test_tiny_values_below_a_mebibyte_are_refused_before_they_are_parsed() -> None:
    import tracemalloc

    content = b'{"prompt":"x","images":[' + b",".join([b"{}"] * 340_000) + b"]}"
    assert len(content) < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="values"):
            read_json(content, ScoreBody, max_images=64)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_settings_that_make_no_sense_are_refused() -> None:
    for bad in (
        {"max_queue": 3},
        {"max_wait_ms": -1.0},
        {"max_images": 0},
        {"max_images": 10_001, "max_queue": 10_001},
        {"max_pixels": 89_478_486},
        {"body_seconds": math.nan},
    ):
        with pytest.raises(ServeError):
            ServeConfig(**bad)
    with pytest.raises(TypeError):
        ServeConfig(colour=1)  # type: ignore[call-arg]
    with pytest.raises(ServeError, match="twice"):
        load_models([ModelOptions("lite"), ModelOptions("lite")])


def test_importing_the_command_and_the_client_loads_no_server() -> None:
    code = (
        "import sys, humanpref.cli, humanpref.serve.client; "
        "print([m for m in ('torch', 'fastapi', 'uvicorn', 'prometheus_client', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_code_without_a_status_cannot_be() -> None:
    assert RequestError("busy", "x", retry_after=3).headers() == {"Retry-After": "3"}
    with pytest.raises(KeyError):
        _ = RequestError("nonsense", "x").status


def test_pictures_of_all_kinds_arrive_as_they_do_on_the_command_line(lite: Served, tmp_path: Path) -> None:
    base = Image.open(BytesIO(png(3, 64, 64)))
    ways = {"a.png": base.convert("RGBA"), "b.gif": base.convert("P"), "c.jpg": base.convert("CMYK"), "d.webp": base}
    for name, image in ways.items():
        image.save(tmp_path / name)
        here = score_here([str(tmp_path / name)], "x", "lite").results[0].score
        assert lite.score((tmp_path / name).read_bytes()).json()["results"][0]["score"] == pytest.approx(here, abs=1e-6)
