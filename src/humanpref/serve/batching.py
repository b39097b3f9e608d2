"""Dynamic batching: images of whatever requests are here go to the model together, none waiting longer than it must.

A batch begins as soon as a replica of the model is free (on a GPU: has one batch or none before it) and has `max_batch`
images, or nothing more is being prepared, or the oldest image has waited long enough: `max_wait` seconds, or a tenth of
the time it has been here, so that under load, when all wait for long anyway, batches are full. While the model works,
images gather for the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from humanpref.errors import ImageError, reason_of
from humanpref.scorers.base import BatchScorer
from humanpref.serve.errors import RequestError

logger = logging.getLogger(__name__)

FAILED_BATCHES, FAILING_SECONDS = 10, 60.0
"""A model fails that gave no score in so many batches one after the other. Once the last of them is so long ago, it is
taken to work again: who sends it nothing while it fails would never know."""

PATIENCE = 0.1
"""The share of the time it has been here that an image may wait for others."""

Outcomes: TypeAlias = "list[float | RequestError]"
Observe = Callable[[int, float, float], None]
"""Told of every batch: images in it, seconds the model took, seconds the oldest image had waited."""


@dataclass(eq=False)
class _Waiting:
    prepared: Any
    prompt: str
    arrived: float
    until: float
    done: asyncio.Future[float]


class Batcher:
    """The queue of one model before its replicas, each of which has a thread of its own. Used on one event loop."""

    def __init__(
        self,
        replicas: Sequence[BatchScorer[Any]],
        *,
        max_batch: int = 0,
        max_wait: float = 0.005,
        observe: Observe = lambda *_: None,
    ) -> None:
        self.max_batch = max_batch or max(scorer.batch_size for scorer in replicas)
        self.preparing = 0
        self._replicas = tuple(replicas)
        self._max_wait = max_wait
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._finishing: set[asyncio.Task[None]] = set()
        self._threads: list[ThreadPoolExecutor] = []
        self._kicked: set[asyncio.Event] = set()
        self._failed = 0
        self._failed_at = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the model fails on whatever it is given, as a GPU does after some errors."""
        return self._failed >= FAILED_BATCHES and time.monotonic() - self._failed_at < FAILING_SECONDS

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Begin to work; the event loop must be running."""
        for scorer in self._replicas:
            name = f"humanpref-{scorer.spec.name}"
            thread, waiter = ThreadPoolExecutor(1, name), ThreadPoolExecutor(1, f"{name}-wait")
            self._threads += [thread, waiter]
            self._workers.append(asyncio.create_task(self._work(scorer, thread, waiter)))

    async def stop(self) -> None:
        """End the workers; what waits is cancelled."""
        jobs = [*self._workers, *self._finishing]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for waiting in self._waiting:
            waiting.done.cancel()
        self._waiting.clear()
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def begin(self) -> None:
        """Say that one more image is being prepared for this model."""
        self.preparing += 1

    def end(self) -> None:
        """Say that one image is prepared, or will never be."""
        self.preparing -= 1
        if not self.preparing:
            self._kick()

    async def score(self, prepared: Any, prompt: str, began: float | None = None) -> float:
        """Score one prepared image in the next batch that has room. Raises `RequestError` if the model fails.

        `began`: when the image came to the service, on `time.monotonic`'s clock.
        """
        now = time.monotonic()
        until = now + max(self._max_wait, PATIENCE * (now - (began or now)))
        waiting = _Waiting(prepared, prompt, now, until, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._kick()
        try:
            return await waiting.done
        except asyncio.CancelledError:
            with suppress(ValueError):  # a replica has it already
                self._waiting.remove(waiting)
            raise

    def _kick(self) -> None:
        for event in self._kicked:
            event.set()

    async def _work(self, scorer: BatchScorer[Any], thread: ThreadPoolExecutor, waiter: ThreadPoolExecutor) -> None:
        """Give a replica batches: the next when the one before is done, on a GPU while it is busy with that."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._kicked.add(event)
        turns = asyncio.Semaphore(1 + scorer.in_flight)
        while True:
            await turns.acquire()
            while not (batch := await self._next(event)):
                pass
            began = time.monotonic()
            if not scorer.in_flight:
                await self._finish(partial(loop.run_in_executor, thread, _judge, scorer, batch), batch, began, turns)
                continue
            try:
                wait = await loop.run_in_executor(thread, _begin, scorer, batch)
            except Exception as error:
                wait = partial(_all_failed, scorer.spec.name, len(batch), error)
            job = asyncio.create_task(self._finish(partial(loop.run_in_executor, waiter, wait), batch, began, turns))
            self._finishing.add(job)
            job.add_done_callback(self._finishing.discard)

    async def _finish(
        self, work: Callable[[], Awaitable[Outcomes]], batch: list[_Waiting], began: float, turns: asyncio.Semaphore
    ) -> None:
        """Wait for a batch's outcomes and hand them out; whatever goes wrong, nobody waits for ever."""
        try:
            self._settle(batch, await work(), began)
        except Exception as error:
            self._settle(batch, _all_failed("the model", len(batch), error), began)
        finally:
            turns.release()

    def _settle(self, batch: list[_Waiting], outcomes: Outcomes, began: float) -> None:
        now = time.monotonic()
        self._observe(len(batch), now - began, began - batch[0].arrived)
        if all(isinstance(outcome, RequestError) and outcome.code == "model_failed" for outcome in outcomes):
            self._failed, self._failed_at = self._failed + 1, now
        else:
            self._failed = 0
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.done.done():
                continue  # whoever asked has gone
            if isinstance(outcome, RequestError):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)

    async def _next(self, event: asyncio.Event) -> list[_Waiting]:
        """Wait until a batch should begin -> its images, without those nobody waits for any more."""
        while not self._waiting:
            event.clear()
            await event.wait()
        while self._waiting and len(self._waiting) < self.max_batch and self.preparing:
            left = min(waiting.until for waiting in self._waiting) - time.monotonic()
            if left <= 0:
                break
            event.clear()
            timer = asyncio.get_running_loop().call_later(left, event.set)
            await event.wait()
            timer.cancel()
        taken = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
        return [waiting for waiting in taken if not waiting.done.done()]


def _judge(scorer: BatchScorer[Any], batch: Sequence[_Waiting]) -> Outcomes:
    """Score a batch, in the replica's thread."""
    return _begin(scorer, batch)()


def _begin(scorer: BatchScorer[Any], batch: Sequence[_Waiting]) -> Callable[[], Outcomes]:
    """Begin to score a batch, in the replica's thread -> what waits for its outcomes. Raises nothing, nor does that."""
    try:
        scores = scorer.begin([one.prepared for one in batch], [one.prompt for one in batch])
    except Exception as error:
        outcomes = _singly(scorer, batch, error)
        return lambda: outcomes

    def wait() -> Outcomes:
        try:
            return [_outcome(scorer.spec.name, score) for _, score in zip(batch, scores(), strict=True)]
        except Exception as error:
            return _singly(scorer, batch, error)

    return wait


def _singly(scorer: BatchScorer[Any], batch: Sequence[_Waiting], error: Exception) -> Outcomes:
    """Score images one by one after the batch has failed, with whatever a network raises (out of memory, a tokenizer's
    complaint): others' images are not to suffer."""
    if len(batch) > 1:
        logger.warning("%s failed on %d images, trying them singly", scorer.spec.name, len(batch), exc_info=error)
        return [outcome for one in batch for outcome in _judge(scorer, [one])]
    return _all_failed(scorer.spec.name, 1, error)


def _all_failed(name: str, count: int, error: Exception) -> Outcomes:
    logger.error("%s failed", name, exc_info=error)
    return [RequestError("model_failed", f"{name} failed on this image ({reason_of(error)})") for _ in range(count)]


def _outcome(name: str, score: float | ImageError) -> float | RequestError:
    if isinstance(score, ImageError):
        return RequestError("bad_image", str(score))
    if math.isfinite(score):
        return score
    return RequestError("model_failed", f"{name} returned {score}; its weights may be damaged")
