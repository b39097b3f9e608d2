"""The service's routes, thin: read a request, let the engine judge its images, write the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from humanpref import metrics as statistics
from humanpref.ranking import prompt_notes
from humanpref.serve import examples
from humanpref.serve.admission import Admission
from humanpref.serve.bodies import (
    CompareBody,
    ScoreBody,
    ScoreRequest,
    error_of,
    read_form,
    read_json,
)
from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError
from humanpref.serve.fetch import Fetcher
from humanpref.serve.guard import Guard, body_of, error_response
from humanpref.serve.keys import ApiKeys
from humanpref.serve.metrics import Metrics
from humanpref.serve.models import FETCHES, Engine, ServedModel
from humanpref.web import LastingFiles, static_version

STATIC = Path(__file__).parent / "static"
PARSED_HERE = 256 * 1024
"""Larger bodies are parsed in a thread, so that the event loop goes on."""

router = APIRouter()


@dataclass(frozen=True)
class Service:
    """What every route works with."""

    engine: Engine
    admission: Admission
    metrics: Metrics
    config: ServeConfig


@router.post("/v1/score", **examples.SCORE)
async def score(request: Request) -> Response:
    """Score images for the prompt, or prompts, they were made for."""
    service = _service(request)
    asked = await _read(request, ScoreBody)
    model = service.engine.get(asked.model)
    outcomes, cut = await _judge(service, model, asked)
    return _json(score_answer(model, asked, outcomes, cut))


@router.post("/v1/compare", **examples.COMPARE)
async def compare(request: Request) -> Response:
    """Put images of one prompt head to head: how likely is each preferred to each other one?"""
    service = _service(request)
    asked = await _read(request, CompareBody)
    model = service.engine.get(asked.model)
    if len(asked.sources) < 2:
        raise RequestError("invalid", f"a comparison needs at least two images, got {len(asked.sources)}")
    if len(asked.distinct) != 1:
        raise RequestError("invalid", "a comparison is of images of one prompt")
    if (scale := model.scorer.logit_scale) is None:
        raise RequestError("no_probabilities", f"{model.name} gives scores but no probabilities; use /v1/score")
    outcomes, cut = await _judge(service, model, asked)
    for source, outcome in zip(asked.sources, outcomes, strict=True):
        if isinstance(outcome, RequestError):
            raise RequestError(outcome.code, str(outcome), image=source.index)
    scores = [float(outcome) for outcome in outcomes if not isinstance(outcome, RequestError)]
    answer = {
        "model": model.name,
        "prompt": asked.distinct[0],
        "truncated": cut[0],
        "images": [source.name for source in asked.sources],
        "scores": scores,
        "probabilities": statistics.pairwise_probabilities(scores, scale).tolist(),
        "notes": prompt_notes(model.scorer, asked.distinct[0], cut[0]),
    }
    return _json(answer)


@router.get("/v1/models", **examples.MODELS)
async def models(request: Request) -> Response:
    """List the models that are served, the default first, and the limits of a request."""
    service = _service(request)
    rows = [model.plain() for model in service.engine.models.values()]
    config = service.config
    limits = {
        "images": config.max_images,
        "body_bytes": config.max_body_bytes,
        "image_bytes": config.max_image_bytes,
        "pixels": config.max_pixels,
    }
    return _json({"models": rows, "limits": limits, "urls": config.allow_url})


@router.get("/healthz", summary="Is the process alive?")
async def healthz(_: Request) -> Response:
    """Answer as long as the process lives, also while it is being stopped."""
    return _json({"status": "ok"})


@router.get("/readyz", summary="Are requests taken in?")
async def readyz(request: Request) -> Response:
    """Answer 200 where requests are taken in, 503 where the server is being stopped or a model fails on everything."""
    service = _service(request)
    if service.admission.draining:
        raise RequestError("draining", "the server is being stopped", retry_after=2)
    if failing := [name for name, model in service.engine.models.items() if model.batcher.is_failing]:
        raise RequestError("failing", f"{', '.join(failing)} fails on every image (the log says why)", retry_after=60)
    return _json({"status": "ready"})


@router.get("/metrics", summary="For Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(_: Request) -> Response:
    """Say all of this for programs."""
    return _json(description())


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """A page to drop images on."""
    return HTMLResponse(request.app.state.page)


# ---- what the routes share


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _read(request: Request, shape: type[ScoreBody] | type[CompareBody]) -> ScoreRequest:
    content, content_type = body_of(request), request.headers["content-type"]
    max_images = _service(request).config.max_images
    if content_type.lower().startswith("multipart/"):
        read: Callable[[bytes], ScoreRequest] = partial(read_form, content_type=content_type, max_images=max_images)
    else:
        read = partial(read_json, shape=shape, max_images=max_images)
    given = [content]
    del content
    return await _service(request).engine.read(read, given) if len(given[0]) > PARSED_HERE else read(given[0])


async def _judge(
    service: Service, model: ServedModel, asked: ScoreRequest
) -> tuple[Sequence[float | RequestError], list[bool]]:
    """Judge all images of a request at once -> outcomes, and whether each distinct prompt is cut."""
    urls = [source.index for source in asked.sources if source.url is not None]
    if urls and service.engine.fetcher is None:
        message = "this server fetches no URLs (--allow-url); send the image itself"
        raise RequestError("url_not_allowed", message, image=urls[0])
    with service.admission.queued(model.name, len(asked.sources), fetched=bool(urls)) as done:
        judge = partial(service.engine.judge, model, object(), asyncio.Semaphore(FETCHES), done)
        jobs = list(map(judge, asked.sources, asked.prompts))
        outcomes = [await jobs[0]] if len(jobs) == 1 else await asyncio.gather(*jobs)
        cut = await service.engine.truncated(model, asked.distinct)
    for outcome in outcomes:
        if isinstance(outcome, RequestError) and outcome.code == "overloaded":
            raise outcome  # no fault of an image's: the request may come again
    return outcomes, cut


def score_answer(
    model: ServedModel, asked: ScoreRequest, outcomes: Sequence[float | RequestError], cut: Sequence[bool]
) -> dict[str, Any]:
    """Make the answer of /v1/score: ranks and probabilities are among the images of a prompt that have a score."""
    results: list[dict[str, Any]] = [
        {
            "image": source.name,
            "index": source.index,
            "prompt": 0,
            "score": None if isinstance(outcome, RequestError) else outcome,
            "rank": None,
            "win_probability": None,
            "error": error_of(outcome, source.index) if isinstance(outcome, RequestError) else None,
        }
        for source, outcome in zip(asked.sources, outcomes, strict=True)
    ]
    members: dict[str, list[dict[str, Any]]] = {prompt: [] for prompt in asked.distinct}
    for result, prompt in zip(results, asked.prompts, strict=True):
        members[prompt].append(result)
    for number, rows in enumerate(members.values()):
        good = [row for row in rows if row["error"] is None]
        scores = [row["score"] for row in good]
        chances = statistics.win_probabilities(scores, model.scorer.logit_scale)
        for row, rank, chance in zip(good, statistics.competition_ranks(scores), chances, strict=True):
            row |= {"rank": rank, "win_probability": chance}
        for row in rows:
            row["prompt"] = number
    judged = zip(asked.distinct, cut, strict=True)
    notes = dict.fromkeys(note for prompt, over in judged for note in prompt_notes(model.scorer, prompt, over))
    return {
        "model": model.name,
        "identity": model.short_identity,
        "prompts": [{"prompt": p, "truncated": t} for p, t in zip(asked.distinct, cut, strict=True)],
        "results": results,
        "notes": list(notes),
    }


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _json(value: Mapping[str, Any]) -> Response:
    return Response(_encode(value).encode("utf-8", "replace"), media_type="application/json")


# ---- the application


@cache
def description() -> dict[str, Any]:
    """Return the OpenAPI description. FastAPI writes it, Starlette serves: the routes need nothing more than that."""
    from humanpref import __version__

    about = "Which of these images would a person prefer?"
    return get_openapi(title="humanpref", version=__version__, description=about, routes=router.routes)


def create_app(
    models: Mapping[str, ServedModel],
    config: ServeConfig | None = None,
    keys: ApiKeys | None = None,
    *,
    fetcher: Fetcher | None = None,
) -> Starlette:
    """Make the application that serves models of `load_models`. `fetcher` replaces the one for public addresses."""
    config = config or ServeConfig()
    counters, admission = Metrics(), Admission(config)
    if config.allow_url and fetcher is None:
        fetcher = Fetcher(max_bytes=config.max_image_bytes, seconds=config.fetch_seconds)
    engine = Engine(models, config, counters, admission, fetcher if config.allow_url else None)
    for name, text, value in (
        ("queue_images", "Images taken in and not yet scored.", lambda: admission.images),
        ("requests_in_flight", "Requests under way.", lambda: admission.requests),
        ("body_bytes", "Bytes of bodies, and of what URLs gave, that are held.", lambda: admission.bytes),
        ("draining", "1 while the server is being stopped.", lambda: int(admission.draining)),
    ):
        counters.gauge(name, text, value)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # it may read the whole of a weights file, once; every answer of /v1/score says it
        await anyio.to_thread.run_sync(lambda: [model.identity for model in models.values()])
        engine.start()
        yield
        await engine.stop()

    version = static_version(STATIC)
    routes = [
        Route(route.path, route.endpoint, methods=route.methods)
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    app = Starlette(
        routes=[*routes, Mount(f"/static/{version}", LastingFiles(directory=STATIC))],
        middleware=[
            Middleware(
                Guard,
                config=config,
                keys=keys or ApiKeys(),
                admission=admission,
                metrics=counters,
                handlers={route.path: route.endpoint for route in routes if "POST" in (route.methods or ())},
                routes=[route.path for route in routes],
            )
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = Service(engine, admission, counters, config)
    app.state.page = (STATIC / "index.html").read_text(encoding="utf-8").replace("{static}", f"/static/{version}")
    return app


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
    path = request.url.path[:200]
    messages = {"not_found": f"there is no {path}", "method_not_allowed": f"{path} does not take {request.method}"}
    refusal = error_response(RequestError(code, messages.get(code, "the request cannot be served")))
    refusal.headers.update(error.headers or {})
    return refusal
