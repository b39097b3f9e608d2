"""The client and the reward, against real services and servers that misbehave."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref import compare, load_scorer, rank
from humanpref.cache import ScoreCache
from humanpref.errors import ImageError, ScoreError, UnknownNameError
from humanpref.images import EncodedImage, RemoteImage
from humanpref.reward import RewardFunction
from humanpref.scorers import Scorer
from humanpref.scorers.cached import CachedScorer
from humanpref.serve.client import Client, ClientError, UnauthorizedError, UnavailableError
from humanpref.serve.config import ServeConfig
from humanpref.serve.keys import ApiKeys
from humanpref.serve.models import ServedModel
from tests.serving import Served, files_of, png, serving
from tests.test_serve import SlowScorer, slow
from tests.toys import picture


@pytest.fixture(scope="module")
def lite() -> Iterator[Served]:
    with serving() as served:
        yield served


def test_a_client_is_a_scorer(lite: Served, tmp_path: Path) -> None:
    here = load_scorer("lite")
    paths = files_of(tmp_path, 9)
    with Client(lite.url, batch=4) as client:
        assert isinstance(client, Scorer)
        assert (client.spec.name, client.logit_scale, client.identity) == ("lite", 1.0, here.identity)
        torch.testing.assert_close(client.score(paths, "a cat"), here.score(paths, "a cat"))
        assert client.score([], "a cat").shape == (0,)
        one = client.score(str(paths[0]), "a cat")
        assert one.dtype == torch.float32
        assert one.shape == (1,)
        a, b = rank(paths, "a cat", client), rank(paths, "a cat", here)
        assert [r.image for r in a.results] == [r.image for r in b.results]
        assert (a.notes, a.truncated) == (b.notes, b.truncated)
        np.testing.assert_allclose(
            compare(paths, "x", client).probabilities, compare(paths, "x", here).probabilities, atol=1e-6
        )
        np.testing.assert_allclose(client.compare(paths, "x"), compare(paths, "x", here).probabilities, atol=1e-6)


def test_pictures_and_tensors_are_scored_as_they_are_here(lite: Served) -> None:
    here = load_scorer("lite")
    images = [
        picture(64, 48, 1),
        picture(50, 70, 2).convert("RGBA"),
        torch.rand(3, 40, 50, generator=torch.manual_seed(0)),
        EncodedImage(png(3), "in memory"),
    ]
    with Client(lite.url) as client:
        torch.testing.assert_close(client.score(images, "x"), here.score(images, "x"))
        with pytest.raises(ImageError, match="int is not an image"):
            client.score([3], "x")  # type: ignore[list-item]


def test_errors_of_images_stay_with_their_images(lite: Served, tmp_path: Path) -> None:
    good, *_ = files_of(tmp_path, 1)
    (bad := tmp_path / "bad.png").write_bytes(b"no image")
    with Client(lite.url) as client:
        found = list(client.score_each([good, bad, tmp_path / "gone.png", good], "x"))
        assert isinstance(found[0], float)
        assert found[0] == found[3]
        assert isinstance(found[1], ImageError)
        assert "bad.png: not an image" in str(found[1])
        assert isinstance(found[2], ImageError)
        assert "gone.png: cannot be read" in str(found[2])
        with pytest.raises(ImageError, match=r"bad\.png"):
            client.score([good, bad], "x")
        assert all(isinstance(one, ImageError) for one in client.score_each([bad, "http://a.b/c.png"], "x"))
        with pytest.raises(ScoreError, match="2 images but 1 prompts"):
            client.score([good, good], ["x"])
        with pytest.raises(ClientError, match="--allow-url") as caught:
            client.score([RemoteImage("http://a.b/c.png")], "x")
        assert (caught.value.code, caught.value.status) == ("url_not_allowed", 403)


def test_names_of_files_may_be_any_bytes_and_prompts_are_text(lite: Served, tmp_path: Path) -> None:
    good = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    good.write_bytes(png())
    bad = good.with_name(os.fsdecode(b"\xff.png"))
    bad.write_bytes(b"no image")
    with Client(lite.url) as client:
        found = list(client.score_each([good, bad, EncodedImage(png(), "\udce9")], "x"))
        assert found[0] == found[2] == load_scorer("lite").score(good, "x").item()
        assert isinstance(found[1], ImageError)
        with pytest.raises(ScoreError, match=r"prompt or URL holds '\\udc80'"):
            client.score([good], "a \udc80")
        with pytest.raises(ScoreError, match="half a surrogate"):
            client.truncated("\ud800")


def test_prompts_that_are_cut_are_known() -> None:
    with slow() as served, Client(served.url) as client:
        assert client.truncated("x" * 31)
        assert not client.truncated("x")
        answer = client.ask([picture(), picture()], ["y" * 40, "z"])
        assert answer.truncated == {"y" * 40: True, "z": False}
        with pytest.raises(ScoreError, match="nothing to cache by"):
            _ = client.identity


def test_a_client_can_be_cached(lite: Served, tmp_path: Path) -> None:
    paths = files_of(tmp_path, 3)
    with Client(lite.url) as client, ScoreCache(tmp_path / "scores.sqlite") as cache:
        first = CachedScorer(client, cache).score(paths, "x")
        before = lite.metric("images_total", model="lite", outcome="scored")
        torch.testing.assert_close(CachedScorer(load_scorer("lite"), cache).score(paths, "x"), first)
        torch.testing.assert_close(CachedScorer(client, cache).score(paths, "x"), first)
        assert lite.metric("images_total", model="lite", outcome="scored") == before


class Weighed(SlowScorer):
    """A scorer with an identity."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.weights = weights

    def _settings(self) -> dict[str, str]:
        return {"weights": self.weights}


@pytest.mark.parametrize("asked_first", ["identity", "score"])
def test_another_scorer_after_a_restart_is_not_taken_for_the_one_before(asked_first: str, tmp_path: Path) -> None:
    def weighed(weights: str, port: int = 0) -> Any:
        return serving({"slow": ServedModel("slow", (Weighed(weights),))}, port=port)

    with weighed("a") as served:
        client = Client(served.url, pause=0.01)
        if asked_first == "identity":
            assert client.identity == Weighed("a").identity
        client.score(picture(seed=1), "x")
        port = served.port
    with weighed("a", port):
        client.score(picture(seed=1), "x")
    with client, weighed("b", port), ScoreCache(tmp_path / "scores.sqlite") as cache:
        with pytest.raises(ClientError, match="another scorer than before") as caught:
            CachedScorer(client, cache).score([picture(seed=2)], "x")
        assert caught.value.code == "other_scorer"
        with Client(f"http://127.0.0.1:{port}") as fresh:
            assert CachedScorer(fresh, cache).score([picture(seed=2)], "x").shape == (1,)


def test_as_many_requests_are_under_way_as_asked_for() -> None:
    scorer = SlowScorer()
    with slow(scorer, max_batch=1) as served, Client(served.url, batch=1, parallel=12) as client:
        scorer.go.clear()
        thread = threading.Thread(target=client.score, args=([picture(seed=i) for i in range(24)], "x"))
        thread.start()
        until = time.monotonic() + 5
        while served.service.admission.images < 12 and time.monotonic() < until:
            time.sleep(0.01)
        assert served.service.admission.images == 12
        scorer.go.set()
        thread.join()


def test_refusals_have_names(lite: Served) -> None:
    with Client(lite.url, "nonsense") as client:
        with pytest.raises(ClientError, match="choose from: lite") as caught:
            client.score(picture(), "x")
        assert caught.value.code == "unknown_model"
        with pytest.raises(UnknownNameError, match="choose from: lite"):
            _ = client.spec
    with serving(keys=ApiKeys(["a-key-0123456789"])) as served:
        with Client(served.url) as client, pytest.raises(UnauthorizedError, match="API key"):
            client.score(picture(), "x")
        with Client(served.url, api_key="a-key-0123456789") as client:
            assert client.score(picture(), "x").shape == (1,)
    with pytest.raises(ClientError, match="http"):
        Client("127.0.0.1:8000")


def test_nobody_there_is_one_error_after_all_tries() -> None:
    began = time.monotonic()
    with (
        Client("http://127.0.0.1:9", retries=2, pause=0.05) as client,
        pytest.raises(UnavailableError, match="no answer"),
    ):
        client.score(picture(), "x")
    assert 0.05 < time.monotonic() - began < 5


@contextmanager
def answering(answer: Callable[[int, BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[float]]]:
    """A server that does as it is told with the n-th request -> its address and when requests came."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            times.append(time.monotonic())
            answer(len(times), self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", times
    finally:
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, value: Any, **headers: str) -> None:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    for name, text in ({"Content-Length": str(len(content))} | headers).items():
        handler.send_header(name.replace("_", "-"), text)
    handler.end_headers()
    handler.wfile.write(content)


SCORED = {
    "model": "m", "prompts": [{"prompt": "x", "truncated": False}], "notes": [],
    "results": [{"image": 0, "index": 0, "prompt": 0, "score": 1.5, "rank": 1, "win_probability": None, "error": None}],
}  # fmt: skip


def test_busy_servers_are_asked_again_when_they_say() -> None:
    def answer(n: int, handler: BaseHTTPRequestHandler) -> None:
        if n == 1:
            say(handler, 429, {"error": {"code": "busy", "message": "later"}}, Retry_After="1")
        elif n == 2:
            say(handler, 503, b"<html>a proxy's page</html>")
        elif n == 3:
            handler.connection.close()  # in the middle
        else:
            say(handler, 200, SCORED)

    with answering(answer) as (url, times), Client(url, pause=0.05) as client:
        assert client.score(picture(), "x").tolist() == [1.5]
        assert len(times) == 4
        assert times[1] - times[0] >= 1.0
        assert times[2] - times[1] < 1.0


def test_a_server_that_stays_busy_is_given_up() -> None:
    def answer(_: int, handler: BaseHTTPRequestHandler) -> None:
        say(handler, 429, {"error": {"code": "busy", "message": "later"}}, Retry_After="0")

    with answering(answer) as (url, times), Client(url, retries=3, pause=0.01) as client:
        with pytest.raises(UnavailableError, match="later") as caught:
            client.score(picture(), "x")
        assert (caught.value.code, caught.value.status, len(times)) == ("busy", 429, 4)


def test_what_will_not_pass_is_not_asked_again() -> None:
    def answer(_: int, handler: BaseHTTPRequestHandler) -> None:
        say(handler, 422, {"error": {"code": "invalid", "message": "no"}})

    with answering(answer) as (url, times), Client(url) as client:
        with pytest.raises(ClientError, match="no"):
            client.score(picture(), "x")
        assert len(times) == 1
    with (
        answering(lambda _, handler: say(handler, 200, b"hello")) as (url, _),
        Client(url) as client,
        pytest.raises(ClientError, match="no humanpref server"),
    ):
        client.score(picture(), "x")


def test_a_silent_server_is_not_waited_for() -> None:
    with (
        answering(lambda _, handler: time.sleep(2)) as (url, _),
        Client(url, timeout=0.2, retries=1, pause=0.01) as client,
        pytest.raises(UnavailableError, match="timed out"),
    ):
        client.score(picture(), "x")


def test_all_tries_together_have_a_deadline() -> None:
    def busy(_: int, handler: BaseHTTPRequestHandler) -> None:
        say(handler, 429, {"error": {"code": "busy", "message": "later"}}, Retry_After="30")

    for answer, says in ((busy, "later"), (lambda _, handler: time.sleep(2), "timed out")):
        with (
            answering(answer) as (url, times),
            Client(url, timeout=0.3, retries=100, pause=0.01, deadline=1.0) as client,
        ):
            began = time.monotonic()
            with pytest.raises(UnavailableError, match=says):
                client.score(picture(), "x")
            assert len(times) <= 5  # of 101
            assert time.monotonic() - began < 10  # a wait was of 30 s, and there were 100 of them


WAITING = """
import sys
from humanpref.serve.client import Client
from tests.toys import picture
client = Client(sys.argv[1], timeout=120, parallel=2, batch=1)
print("asking", flush=True)
client.score([picture(seed=s) for s in range(4)], "x")
"""


@contextmanager
def silent() -> Iterator[socket.socket]:
    """Somebody who listens, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def test_ctrl_c_ends_a_program_that_waits_for_a_server() -> None:
    with silent() as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        program = subprocess.Popen([sys.executable, "-c", WAITING, url], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            taken = [listening.accept()[0] for _ in range(2)]
            assert all(one.recv(10) for one in taken)  # both requests are under way
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=12)  # of the 120 that its threads would wait
            assert b"KeyboardInterrupt" in said
        finally:
            program.kill()
            program.communicate()
        for one in taken:
            one.close()


@pytest.mark.parametrize("what", ["silence", "pause"])
def test_closing_ends_what_is_under_way(what: str) -> None:
    def answer(_: int, handler: BaseHTTPRequestHandler) -> None:
        say(handler, 503, {"error": {"code": "draining", "message": "later"}}, Retry_After="60")

    failed: list[Exception] = []

    def ask(client: Client) -> None:
        try:
            client.truncated("x")
        except ClientError as error:
            failed.append(error)

    with silent() as listening, answering(answer) as (busy, times):
        url = f"http://127.0.0.1:{listening.getsockname()[1]}" if what == "silence" else busy
        client = Client(url, timeout=120)
        thread = threading.Thread(target=ask, args=(client,), daemon=True)
        thread.start()
        if what == "silence":
            taken = listening.accept()[0]
            assert taken.recv(10)
        else:
            while not times:
                time.sleep(0.01)
        client.close()
        thread.join(20)
        assert not thread.is_alive()
        assert failed[0].code == "interrupted"  # type: ignore[attr-defined]
        with pytest.raises(ClientError, match="the client is closed"):
            client.truncated("x")


def test_what_is_over_the_servers_limits_is_not_sent(tmp_path: Path) -> None:
    config = ServeConfig(max_body_bytes=4 * 2**20, max_image_bytes=2 * 2**20)
    noise = np.random.default_rng(0).integers(0, 256, (6, 500, 600, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in noise]  # of 0.9 MB as PNG
    (large := tmp_path / "large.png").write_bytes(bytes(2 * 2**20 + 100))
    with serving(config=config) as served, Client(served.url, batch=8) as client:
        *found, refused = client.score_each([*images, large], "x")
        torch.testing.assert_close(torch.tensor(found), load_scorer("lite").score(images, "x"))
        assert isinstance(refused, ImageError)
        assert "large.png: the image is over 2,097,152 bytes" in str(refused)
        assert served.metric("requests_total", route="/v1/score", status="200") == 2
        assert served.metric("refused_total", code="body_too_large") == 0


def test_a_real_server_that_is_full_is_waited_for() -> None:
    scorer = SlowScorer(0.02)
    with (
        slow(scorer, max_queue=4, max_images=4, max_batch=2) as served,
        Client(served.url, batch=3, parallel=8, pause=0.05) as client,
    ):
        found = client.score([picture(seed=i) for i in range(40)], "x")
        assert served.metric("refused_total", code="busy") > 0
    here = torch.tensor([float(np.asarray(picture(seed=i)).mean()) + 1 for i in range(40)])
    torch.testing.assert_close(found, here)


# ---- the reward


def test_a_served_model_is_a_reward(lite: Served) -> None:
    pixels = torch.rand(5, 3, 32, 40, generator=torch.manual_seed(1))
    prompts = [f"prompt {i}" for i in range(5)]
    with Client(lite.url) as client:
        scores, info = RewardFunction(client)(pixels, prompts, [{}] * 5)
        assert (scores.shape, scores.dtype, info.keys()) == ((5,), np.float32, {"lite"})
        np.testing.assert_allclose(RewardFunction(load_scorer("lite"))(pixels, prompts)[0], scores, atol=1e-6)
        with pytest.raises(ScoreError, match="5 images but 4 prompts"):
            RewardFunction(client)(pixels, prompts[:4], {})


def test_a_service_with_small_limits_is_fed_in_small_requests() -> None:
    config = ServeConfig(max_images=3, max_body_bytes=30_000, max_image_bytes=30_000)
    images = [picture(seed=i) for i in range(10)]
    with serving(config=config) as served, Client(served.url, batch=16) as client:
        torch.testing.assert_close(client.score(images, "x"), load_scorer("lite").score(images, "x"))
        with pytest.raises(ClientError, match="over 30,000 bytes"):
            client.score(picture(500, 500).effect_spread(50), "x")
