"""What requests and answers look like: JSON with images in base64 or as URLs, or a multipart form with files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from humanpref.serve.config import MOST_IMAGES
from humanpref.serve.errors import RequestError
from humanpref.serve.forms import FormError, TooManyPartsError, read_parts

MAX_PROMPT = 20_000
MAX_NAME = 300
MAX_VALUES = 100_000
"""Most values in a JSON body: one of many tiny values would fill memory."""

Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ImageBody(_Body):
    """An image: either `data`, its file in base64 (or a data: URL), or `url`, where the server allows it."""

    data: str | None = None
    url: str | None = Field(None, max_length=4000)
    name: str | None = Field(None, max_length=MAX_NAME, description="What it is called in the answer.")


class ScoreBody(_Body):
    """Images and the prompt they were made for: one `prompt` for all, or `prompts`, one per image."""

    model: str | None = Field(None, max_length=MAX_NAME, description="See /v1/models; the server's first by default.")
    images: list[ImageBody] = Field(max_length=MOST_IMAGES, fail_fast=True)
    prompt: Prompt | None = None
    prompts: list[Prompt] | None = Field(None, max_length=MOST_IMAGES, fail_fast=True)


class CompareBody(_Body):
    """At least two images of one prompt."""

    model: str | None = Field(None, max_length=MAX_NAME)
    images: list[ImageBody] = Field(max_length=MOST_IMAGES, fail_fast=True)
    prompt: Prompt


class ErrorDetail(BaseModel):
    """What is wrong; `image` is counted from 0."""

    code: str
    message: str
    image: int | None = None


class ErrorBody(BaseModel):
    """Every refusal looks like this."""

    error: ErrorDetail


class PromptAnswer(BaseModel):
    """A prompt, and whether the model read only its beginning."""

    prompt: str
    truncated: bool


class ImageAnswer(BaseModel):
    """One image, in the order of the request: a score on the model's published scale, or why there is none.

    `rank` (1 = best) and `win_probability` (P(preferred to the mean other image)) are among the images of its prompt.
    """

    image: str | int = Field(description="Its name, or its index where it has none.")
    index: int
    prompt: int = Field(description="Which of `prompts`.")
    score: float | None = None
    rank: int | None = None
    win_probability: float | None = None
    error: ErrorDetail | None = None


class ScoreAnswer(BaseModel):
    """Scores: one result for every image of the request."""

    model: str
    identity: str | None = Field(description="A short hash of the model's identity of /v1/models; null: it has none.")
    prompts: list[PromptAnswer]
    results: list[ImageAnswer]
    notes: list[str]


class CompareAnswer(BaseModel):
    """`probabilities[i][j]` = P(image i preferred to image j); 0.5 on the diagonal."""

    model: str
    prompt: str
    truncated: bool
    images: list[str | int]
    scores: list[float]
    probabilities: list[list[float]]
    notes: list[str]


@dataclass(frozen=True)
class Source:
    """One image as it was sent: `content` its bytes, or `data` in base64, or a `url`."""

    index: int
    name: str | int
    content: bytes | None = None
    data: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """A request that makes sense: as many `prompts` as `sources`; `distinct` has each once."""

    model: str | None
    sources: tuple[Source, ...]
    prompts: tuple[str, ...]
    distinct: tuple[str, ...]


def read_json(content: bytes, shape: type[ScoreBody] | type[CompareBody], *, max_images: int) -> ScoreRequest:
    """Read a JSON body. Raises `RequestError`: 400 for what is no JSON, 422 for what does not fit, naming the place."""
    if _most_values(content) > MAX_VALUES:
        raise RequestError("invalid", f"the body holds over {MAX_VALUES:,} values")
    try:
        body = shape.model_validate_json(content)
    except ValidationError as error:
        raise _explain(error) from None
    _check_count(len(body.images), max_images)
    sources = tuple(
        Source(i, image.name if image.name is not None else i, data=image.data, url=image.url)
        for i, image in enumerate(body.images)
    )
    for source in sources:
        if (source.data is None) == (source.url is None):
            raise RequestError("invalid", "an image has either data or url", image=source.index)
    return _request(body.model, sources, body.prompt, getattr(body, "prompts", None))


def _most_values(content: bytes) -> int:
    """Count what may begin a value, up to MAX_VALUES + 1. `find` passes over base64 ten times as fast as `count`."""
    found = 0
    for mark in (b",", b"[", b"{"):
        place = content.find(mark)
        while place >= 0 and found <= MAX_VALUES:
            found += 1
            place = content.find(mark, place + 1)
    return found


def read_form(content: bytes, content_type: str, *, max_images: int) -> ScoreRequest:
    """Read a multipart form: files `image`, texts `prompt` (one, or one per image), `model`. Raises `RequestError`."""
    sources: list[Source] = []
    texts: dict[str, list[str]] = {"prompt": [], "model": []}
    try:
        for part in read_parts(content, content_type, 2 * max_images + 3):
            if part.name == "image" and part.filename is not None:
                called = part.filename[:MAX_NAME] or len(sources)
                sources.append(Source(len(sources), called, content=part.content))
            elif part.name in texts and part.filename is None:
                if len(part.content) > 4 * MAX_PROMPT:
                    raise RequestError("invalid", f"{part.name}: over {MAX_PROMPT:,} characters")
                texts[part.name].append(part.text())
            else:
                message = f"multipart: no part {part.name[:80]!r} here: files image, texts prompt and model"
                raise RequestError("invalid", message)
    except TooManyPartsError as error:
        message = f"multipart: {error}; at most {max_images} images in one request, send several"
        raise RequestError("too_many_images", message) from None
    except FormError as error:
        raise RequestError("bad_request", f"multipart: {error}") from None
    _check_count(len(sources), max_images)
    if len(texts["model"]) > 1:
        raise RequestError("invalid", "multipart: model is given twice")
    if any(len(prompt) > MAX_PROMPT for prompt in texts["prompt"]):
        raise RequestError("invalid", f"prompt: over {MAX_PROMPT:,} characters")
    one = texts["prompt"][0] if len(texts["prompt"]) == 1 else None
    model = texts["model"][0] if texts["model"] else None
    return _request(model, tuple(sources), one, None if one is not None else texts["prompt"] or None)


def _check_count(images: int, most: int) -> None:
    """Before anything is done for each of them."""
    if images > most:
        raise RequestError("too_many_images", f"{images:,} images; at most {most:,} in one request, send several")


def _request(
    model: str | None, sources: tuple[Source, ...], prompt: str | None, prompts: Sequence[str] | None
) -> ScoreRequest:
    if (prompt is None) == (prompts is None):
        raise RequestError("invalid", "give either prompt, one for all images, or prompts, one per image")
    texts = tuple(prompts) if prompts is not None else (prompt or "",) * len(sources)
    if len(texts) != len(sources):
        raise RequestError("invalid", f"{len(sources)} images but {len(texts)} prompts; give one, or one per image")
    distinct = tuple(dict.fromkeys(texts)) if prompt is None else (prompt,)
    return ScoreRequest(model, sources, texts, distinct)


def _explain(error: ValidationError) -> RequestError:
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    place = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return RequestError("bad_json", f"the body is no JSON ({first['msg'].removeprefix('Invalid JSON: ')})")
    if first["type"] == "too_long" and place in (["images"], ["prompts"]):
        return RequestError("too_many_images", f"over {MOST_IMAGES:,} {place[0]}; send several requests")
    image = place[1] if len(place) > 1 and place[0] == "images" and isinstance(place[1], int) else None
    where = ".".join(str(part)[:80] for part in place) or "the body"
    more = f" (and {len(others)} more)" if others else ""
    return RequestError("invalid", f"{where}: {first['msg']}{more}", image=image)


def error_of(error: RequestError, index: int) -> dict[str, Any]:
    """The error of one image in an answer."""
    return {"code": error.code, "message": str(error), "image": index}
