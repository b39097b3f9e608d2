"""Who waits for whom in a service: turns, places, patience, and how long it takes."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.serve.admission import Admission, Line
from humanpref.serve.batching import FAILED_BATCHES, Batcher
from humanpref.serve.bodies import Source
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError, ServeError
from humanpref.serve.metrics import Metrics
from humanpref.serve.models import Engine, ModelOptions, ServedModel, load_models
from humanpref.serve.patience import Patience, Turns
from tests.serving import png, serving, soon
from tests.test_serve import SlowScorer, error, slow


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


# ---- turns


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=6), st.integers(1, 3), st.data())
def test_turns_are_given_to_one_request_after_the_other(
    requests: list[tuple[str, int]], count: int, data: st.DataObject
) -> None:
    """Never more at a time than may be; each waits for at most one image of every other request; who leaves is skipped."""

    async def run() -> None:
        turns, at_work, order = Turns(count), 0, list[str]()
        most = 0
        go = asyncio.Event()

        async def image(name: str) -> None:
            nonlocal at_work, most
            await turns.take(name)
            at_work += 1
            most = max(most, at_work)
            order.append(name)
            try:
                await go.wait()
                await asyncio.sleep(0)
            finally:
                at_work -= 1
                turns.give()

        jobs = [asyncio.create_task(image(name)) for name, images in requests for _ in range(images)]
        await asyncio.sleep(0)
        gone = data.draw(st.lists(st.sampled_from(jobs), unique=True)) if jobs else []
        for job in gone:
            job.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert most <= count
        assert at_work == 0
        assert not turns._lines
        for _ in range(count):  # all turns are there again
            await asyncio.wait_for(turns.take("d"), 1)

    asyncio.run(run())


def test_a_small_request_does_not_wait_for_all_of_a_large_one() -> None:
    async def run() -> list[str]:
        turns, order = Turns(1), list[str]()

        async def image(name: str) -> None:
            await turns.take(name)
            order.append(name)
            await asyncio.sleep(0)
            turns.give()

        await asyncio.gather(*(image("large") for _ in range(50)), image("small"), image("other"))
        return order

    assert asyncio.run(run())[:4] == ["large", "large", "small", "other"]


def test_a_small_request_is_answered_before_a_large_one() -> None:
    scorer = SlowScorer(seconds=0.05)
    scorer.batch_size = 2
    with slow(scorer, threads=1) as served, ThreadPoolExecutor(2) as pool:
        large = pool.submit(served.score, *[png()] * 60)
        assert soon(lambda: len(scorer.batches) > 1, 5)
        assert served.score(png()).status_code == 200
        assert not large.done()
        assert sum(scorer.batches) < 40
        assert large.result().status_code == 200


# ---- patience


def test_patience() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with Patience() as patience:  # in time
            patience.until(loop.time() + 5)
            await asyncio.sleep(0)
        assert not patience.over
        with Patience() as patience:
            patience.until(loop.time() + 5)
            patience.until(loop.time() + 0.02)
            await asyncio.sleep(5)
            raise AssertionError
        assert patience.over
        with Patience() as patience:  # an end that moves on
            for _ in range(5):
                patience.until(loop.time() + 0.05)
                await asyncio.sleep(0.02)
            patience.until(math.inf)
            await asyncio.sleep(0.1)
        assert not patience.over
        with Patience() as patience:
            loop.call_soon(patience.end)
            await asyncio.sleep(5)
        assert patience.over
        with pytest.raises(KeyError), Patience() as patience:  # errors are not taken for the end
            loop.call_soon(patience.end)
            try:
                await asyncio.sleep(5)
            finally:
                raise KeyError
        await asyncio.sleep(0)  # nothing is left to be cancelled

    asyncio.run(run())


def test_whoever_else_cancels_is_not_swallowed() -> None:
    async def waiting() -> None:
        with Patience() as patience:
            patience.until(asyncio.get_running_loop().time() + 5)
            await asyncio.sleep(5)

    async def run() -> None:
        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


# ---- places


def test_idle_time_says_nothing_about_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, line = Clock(monkeypatch), Line()
    assert line.seconds(100) == 0.0
    line.enter(100)
    for _ in range(100):
        clock.now += 0.1
        line.done()
    assert line.seconds(100) == pytest.approx(10)
    clock.now += 600  # nobody is here
    line.enter(65)
    clock.now += 0.1
    line.done()
    assert line.seconds(100) == pytest.approx(10)
    clock.now += 30
    line.leave(64)  # they went away: that is no speed
    assert line.images == 0
    assert line.seconds(100) == pytest.approx(10)


def test_the_speed_is_of_images_and_not_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a single image that ends beside a large one says nothing else than the large one; the first are slow."""
    clock, line = Clock(monkeypatch), Line()
    line.enter(64)
    clock.now += 8  # the first batch
    line.done()
    assert line.seconds(64) == 0.0  # of one image nothing is told
    line.enter(1)
    for _ in range(31):
        clock.now += 0.2
        line.done()
    assert line.seconds(34) == pytest.approx(34 * 0.2)  # the faster of the windows
    for _ in range(33):
        clock.now += 0.2
        line.done()
    assert line.seconds(30) == pytest.approx(6, rel=0.01)


def test_what_would_not_be_done_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    admission = Admission(ServeConfig(request_seconds=60))
    with admission.queued("slow", 20) as done:
        for _ in range(20):
            clock.now += 1
            done()
    assert admission.images == 0
    with admission.queued("slow", 50):
        with admission.queued("slow", 10):
            pass
        with (
            pytest.raises(RequestError, match="50 images are waiting already") as refused,
            admission.queued("slow", 11),
        ):
            pass
        assert (refused.value.code, refused.value.retry_after) == ("busy", 25)
        with admission.queued("fast", 64), admission.queued("slow", 64, fetched=True):
            assert admission.images == 178
    with admission.queued("slow", 64):  # alone it may try: the speed is of other images
        pass
    assert admission.images == 0


def test_each_model_has_places_of_its_own() -> None:
    heavy, light = SlowScorer(name="heavy"), SlowScorer(name="light")
    heavy.go.clear()
    models = {scorer.spec.name: ServedModel(scorer.spec.name, (scorer,)) for scorer in (heavy, light)}
    with serving(models, ServeConfig(max_queue=8, max_images=8, threads=2)) as served, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.score, *[png()] * 8, model="heavy")
        assert soon(lambda: served.service.admission.images == 8, 5)
        assert error(served.score(png(), model="heavy"))[:2] == (429, "busy")
        assert served.score(*[png()] * 8, model="light").status_code == 200
        heavy.go.set()
        assert waiting.result().status_code == 200


# ---- batches, replicas, failures


def test_a_fresh_image_waits_no_longer_behind_an_old_one() -> None:
    async def run() -> float:
        scorer = SlowScorer()
        batcher = Batcher([scorer], max_batch=8, max_wait=0.01)
        batcher.start()
        batcher.begin()  # one is being prepared, for long
        now = time.monotonic()
        old = asyncio.create_task(batcher.score(1.0, "old", now - 100))
        await asyncio.sleep(0)
        await batcher.score(1.0, "fresh", now)
        waited = time.monotonic() - now
        assert await old == 4.0
        assert scorer.batches == [2]
        await batcher.stop()
        return waited

    assert asyncio.run(run()) < 5  # the old one alone would wait for ten seconds


def test_an_image_whose_request_has_gone_is_not_kept_by_the_threads() -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    async def run() -> None:
        scorer, config = SlowScorer(), ServeConfig(threads=1)
        model = ServedModel("slow", (scorer,))
        engine = Engine({"slow": model}, config, Metrics(), Admission(config))
        engine.start()
        hold = asyncio.Event()
        loop = asyncio.get_running_loop()
        engine._threads.submit(lambda: asyncio.run_coroutine_threadsafe(hold.wait(), loop).result())
        text = Text("A" * 1000)
        seen = weakref.ref(text)
        source = Source(0, 0, data=text)
        job = asyncio.create_task(engine.judge(model, "request", asyncio.Semaphore(1), lambda: None, source, "p"))
        del text, source
        await asyncio.sleep(0.05)
        assert seen() is not None
        job.cancel()
        await asyncio.wait([job])
        del job
        await asyncio.sleep(0)
        gc.collect()
        assert seen() is None
        hold.set()
        await engine.stop()

    asyncio.run(run())


def test_replicas_that_would_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Any] = [SlowScorer(), SlowScorer(), SlowScorer()]
    for scorer, precision in zip(kinds, ("fp32", "fp16", "fp32"), strict=True):
        scorer.precision = precision
    made = iter(kinds)
    monkeypatch.setattr("humanpref.serve.models.load_scorer", lambda *_, **__: next(made))
    with pytest.raises(ServeError, match=r"lite: its replicas would differ \(fp16 on cpu, fp32 on cpu\)"):
        load_models([ModelOptions("lite", devices=("cpu", "cpu"))])


def test_a_model_that_fails_on_everything_is_not_ready() -> None:
    scorer = SlowScorer()
    with slow(scorer) as served:
        for _ in range(FAILED_BATCHES):
            assert served.http.get("/readyz").status_code == 200
            (row,) = served.score(png(), prompt="explode").json()["results"]
            assert row["error"]["code"] == "model_failed"
        assert error(served.http.get("/readyz"))[:2] == (503, "failing")
        assert served.http.get("/healthz").status_code == 200
        assert served.score(png()).json()["results"][0]["error"] is None
        assert served.http.get("/readyz").status_code == 200
