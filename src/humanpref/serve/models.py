"""The scorers of a service: loaded once, each with its queue; images become scores here."""

from __future__ import annotations

import asyncio
import binascii
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pybase64

from humanpref.errors import ImageError, ScoreError, WeightsError, reason_of
from humanpref.images import EncodedImage
from humanpref.scorers import DEFAULT_SCORER, LoadOptions, get_spec, load_scorer
from humanpref.scorers.base import BatchScorer
from humanpref.scorers.devices import one_core_a_thread
from humanpref.serve.admission import Admission
from humanpref.serve.batching import Batcher
from humanpref.serve.bodies import ScoreRequest, Source
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError, ServeError
from humanpref.serve.fetch import Fetcher
from humanpref.serve.identity import identity_hash
from humanpref.serve.metrics import Metrics
from humanpref.serve.patience import Turns

logger = logging.getLogger(__name__)

READERS = 4
"""Threads that take large bodies apart."""

FETCHES = 4
"""Images of one request that are fetched and not yet prepared, at most: no request takes all turns, or all memory."""


@dataclass(frozen=True)
class ModelOptions:
    """A scorer to serve: a replica on each of `devices`, otherwise as `options` say."""

    name: str = DEFAULT_SCORER
    options: LoadOptions = field(default_factory=LoadOptions)
    devices: tuple[str, ...] = ("auto",)


@dataclass
class ServedModel:
    """A scorer (its replicas are alike) and the queue before it."""

    name: str
    replicas: tuple[BatchScorer[Any], ...]
    devices: tuple[str, ...] = ("auto",)
    batcher: Batcher = field(init=False)

    @property
    def scorer(self) -> BatchScorer[Any]:
        """The first replica: what they share, one answers."""
        return self.replicas[0]

    @cached_property
    def identity(self) -> str | None:
        """What scores depend on (`Scorer.identity`); None where that is not known. May read the whole weights file."""
        try:
            return self.scorer.identity
        except (ScoreError, WeightsError):
            return None

    @cached_property
    def short_identity(self) -> str | None:
        """The hash of its identity, which every answer says."""
        return identity_hash(self.identity)

    def plain(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        spec = self.scorer.spec
        return {
            "name": self.name,
            "summary": spec.summary,
            "licence": spec.licence,
            "scale": spec.scale,
            "reads_prompt": spec.reads_prompt,
            "tokens": spec.tokens if spec.reads_prompt else None,
            "logit_scale": self.scorer.logit_scale,
            "max_batch": self.batcher.max_batch,
            "devices": [str(getattr(replica, "device", "cpu")) for replica in self.replicas],
            "precision": getattr(self.scorer, "precision", "fp32"),
            "identity": self.identity,
        }


def load_models(options: Sequence[ModelOptions]) -> dict[str, ServedModel]:
    """Load every scorer once per device. Raises what `load_scorer` raises, `ServeError` for a name given twice."""
    if not options:
        raise ServeError("name at least one scorer (--model)")
    one_core_a_thread((get_spec(one.name), device) for one in options for device in one.devices)
    found: dict[str, ServedModel] = {}
    for one in options:
        if one.name in found:
            raise ServeError(
                f"{one.name} is named twice; name each scorer once (--device NAME=cuda:0,cuda:1: replicas)"
            )
        replicas = []
        for device in one.devices:
            scorer = load_scorer(one.name, **vars(replace(one.options, device=device)))
            if not isinstance(scorer, BatchScorer):
                raise ServeError(f"{one.name} cannot be served: it prepares no images ahead")
            replicas.append(scorer)
        _check_alike(one, replicas)
        found[one.name] = ServedModel(one.name, tuple(replicas), one.devices)
    return found


def _check_alike(model: ModelOptions, replicas: Sequence[BatchScorer[Any]]) -> None:
    """Raise `ServeError` where it would be chance how an image is scored."""
    kinds = {
        f"{getattr(scorer, 'precision', 'fp32')} on {str(getattr(scorer, 'device', 'cpu')).partition(':')[0]}"
        for scorer in replicas
    }
    if len(kinds) > 1:
        raise ServeError(
            f"{model.name}: its replicas would differ ({', '.join(sorted(kinds))}), and so would their scores; "
            "name devices of one kind"
        )


class Engine:
    """All models of a service and the threads that prepare images for them. Used on one event loop."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        config: ServeConfig,
        metrics: Metrics,
        admission: Admission,
        fetcher: Fetcher | None = None,
    ) -> None:
        self.models = dict(models)
        self.config = config
        self.metrics = metrics
        self.fetcher = fetcher
        self._admission = admission
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="humanpref-prepare")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="humanpref-read")
        self._ahead: dict[str, Turns] = {}
        self._scored = {name: metrics.images.labels(name, "scored") for name in models}

    def start(self) -> None:
        """Begin to work on the running event loop."""
        for name, model in self.models.items():
            model.batcher = Batcher(
                model.replicas,
                max_batch=self.config.max_batch,
                max_wait=self.config.max_wait_ms / 1000,
                observe=self.metrics.observe_batch(name),
            )
            model.batcher.start()
            # what is prepared takes memory: no more of it than keeps threads and replicas busy
            batches = 2 + sum(1 + replica.in_flight for replica in model.replicas)
            ahead = self.config.workers + batches * model.batcher.max_batch
            self._ahead[name] = Turns(ahead)

    async def stop(self) -> None:
        """End the threads; what is not done is cancelled."""
        for model in self.models.values():
            await model.batcher.stop()
        for pool in (self._threads, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.fetcher is not None:
            await self.fetcher.close()

    def get(self, name: str | None) -> ServedModel:
        """Return a model; the first where none is named. Raises `RequestError`, which lists the names."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(
                "unknown_model", f"no model is called {name!r} here; choose from: {', '.join(self.models)}"
            )
        return self.models[name]

    async def read(self, read: Callable[[bytes], ScoreRequest], given: list[bytes]) -> ScoreRequest:
        """Read a large body in a thread, a few at a time, so that the event loop goes on. Raises `RequestError`.

        given: the body. It is taken out when it is read, or when its request has gone before its turn.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: read(given.pop()))
        finally:
            given.clear()

    async def truncated(self, model: ServedModel, prompts: Sequence[str]) -> list[bool]:
        """Tell of each prompt whether the model reads only its beginning."""
        if not model.scorer.spec.reads_prompt:
            return [False] * len(prompts)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: [model.scorer.truncated(text) for text in prompts])

    async def judge(
        self,
        model: ServedModel,
        request: Hashable,
        fetches: asyncio.Semaphore,
        done: Callable[[], None],
        source: Source,
        prompt: str,
    ) -> float | RequestError:
        """Decode, prepare and score one image -> its score, or why there is none.

        request: whose image it is; requests take turns. fetches: the turns (`FETCHES`) of those of its images that must
        be fetched. done: is told when it has its outcome.
        """
        outcome = await self._outcome(model, request, fetches, source, prompt)
        done()
        return outcome

    async def _outcome(
        self, model: ServedModel, request: Hashable, fetches: asyncio.Semaphore, source: Source, prompt: str
    ) -> float | RequestError:
        try:
            if source.url is None:
                score = await self._judge(model, request, source, prompt, source.content)
            else:
                score = await self._fetch_and_judge(model, request, fetches, source, prompt)
        except RequestError as error:
            return self._failed(model, error)
        except Exception as error:  # of whatever kind: it is this image's alone
            logger.exception("%s: an image failed", model.name, exc_info=error)
            message = f"{model.name} failed on this image ({reason_of(error)})"
            return self._failed(model, RequestError("model_failed", message))
        self._scored[model.name].inc()
        return score

    async def _fetch_and_judge(
        self, model: ServedModel, request: Hashable, fetches: asyncio.Semaphore, source: Source, prompt: str
    ) -> float:
        """What is fetched counts, in bytes and as one of the request's fetches, until it is prepared: no longer, unless
        it waits for the model as a file."""
        if self.fetcher is None:
            raise RequestError("url_not_allowed", "this server fetches no URLs (--allow-url); send the image itself")
        with ExitStack() as held:
            await fetches.acquire()
            held.callback(fetches.release)
            take = held.enter_context(self._admission.holding())
            fetched = [await self.fetcher.fetch(source.url or "", take)]
            return await self._judge(model, request, source, prompt, fetched.pop(), held)

    async def _judge(
        self,
        model: ServedModel,
        request: Hashable,
        source: Source,
        prompt: str,
        content: bytes | None,
        held: ExitStack | None = None,
    ) -> float:
        began, turns = time.monotonic(), self._ahead[model.name]
        await turns.take(request)
        try:
            model.batcher.begin()
            given = [(source, content)]
            content = None
            try:
                prepared = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._prepare, model.scorer, given
                )
            finally:
                given.clear()  # a job whose request has gone stays in the threads' queue, without the image
                model.batcher.end()
            if held is not None and not isinstance(prepared, EncodedImage):
                held.close()
            return await model.batcher.score(prepared, prompt, began)
        finally:
            turns.give()

    def _failed(self, model: ServedModel, error: RequestError) -> RequestError:
        self.metrics.images.labels(model.name, error.code).inc()
        return error

    def _prepare(self, scorer: BatchScorer[Any], given: list[tuple[Source, bytes | None]]) -> Any:
        """In a thread. Raises `RequestError`."""
        source, content = given.pop()
        limit = self.config.max_image_bytes
        if content is None:
            content = decode_base64(source.data or "", limit)
        if len(content) > limit:
            raise RequestError("image_too_large", f"the image is over {limit:,} bytes")
        name = str(source.name) if isinstance(source.name, str) else f"image {source.name}"
        try:
            prepared = scorer.prepare(EncodedImage(content, name, self.config.max_pixels))
        except MemoryError:
            raise RequestError("bad_image", f"{name}: does not fit into memory") from None
        if isinstance(prepared, ImageError):
            raise RequestError("bad_image", str(prepared))
        return prepared


def decode_base64(text: str, limit: int) -> bytes:
    """Decode base64, also of a data: URL. Raises `RequestError`."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise RequestError("bad_image", "a data: URL must be base64")
    if "\n" in text:  # as `base64` breaks its lines
        text = "".join(text.split())
    if len(text) > limit * 4 // 3 + 4:
        raise RequestError("image_too_large", f"the image is over {limit:,} bytes")
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("bad_image", "the data is not base64") from None
