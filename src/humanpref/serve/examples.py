"""What the OpenAPI description says of the routes: bodies, answers, errors, with examples."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from humanpref.serve.bodies import CompareAnswer, CompareBody, ErrorBody, ScoreAnswer, ScoreBody

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQBAMAAADt3eJSAAAAGFBMVEWXt5ewg7BUtFQ8gzyqYaqRL5FBYUFaMlr4cgMDAAAATklE"
    "QVR42i3JwQ0DIRRDwVmzSkQ3SLSQ/mv4JSQNsDmAT0/ja/J8WbFXJ5bMDWJiEQZFaGMhuAvt0/vr/es9qLavxY5ikAOi0MgBKTD8"
    "Ad+rEs7D3perAAAAAElFTkSuQmCC"
)

_ONE = {"prompt": "A lighthouse at sunset.", "images": [{"name": "a.png", "data": PICTURE}]}
_MANY = {
    "model": "lite",
    "images": [{"data": PICTURE}, {"url": "https://example.org/b.jpg"}],
    "prompts": ["A lighthouse.", "A red fox."],
}
_TWO = {"prompt": "A lighthouse.", "images": [{"name": "a.png", "data": PICTURE}, {"name": "b.png", "data": PICTURE}]}
_SCORED = {
    "model": "lite",
    "identity": "0123456789abcdef",
    "prompts": [{"prompt": "A lighthouse at sunset.", "truncated": False}],
    "results": [
        {
            "image": "a.png",
            "index": 0,
            "prompt": 0,
            "score": -1.7379,
            "rank": 1,
            "win_probability": 0.7995,
            "error": None,
        },
        {
            "image": "b.png",
            "index": 1,
            "prompt": 0,
            "score": None,
            "rank": None,
            "win_probability": None,
            "error": {
                "code": "bad_image",
                "message": "b.png: not an image, or of a kind that cannot be read",
                "image": 1,
            },
        },
    ],
    "notes": ["lite does not read the prompt: it judges the pictures alone"],
}
_COMPARED = {
    "model": "lite",
    "prompt": "A lighthouse.",
    "truncated": False,
    "images": ["a.png", "b.png"],
    "scores": [-1.7379, -3.1213],
    "probabilities": [[0.5, 0.7995], [0.2005, 0.5]],
    "notes": ["lite does not read the prompt: it judges the pictures alone"],
}
_FORM = {
    "type": "object",
    "required": ["image", "prompt"],
    "properties": {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "prompt": {
            "type": "array",
            "items": {"type": "string"},
            "description": "One for all images, or one per image.",
        },
        "model": {"type": "string"},
    },
}
_REFUSALS: Mapping[int, str] = MappingProxyType(
    {
        400: "The body is no JSON, or no form.",
        401: "An API key is needed.",
        403: "URLs are not fetched here, or a page of another site asks.",
        404: "No such model; the message lists those there are.",
        408: "The body did not come in time.",
        413: "Too many bytes, or too many images.",
        415: "Neither JSON nor a multipart form.",
        422: "What was sent does not fit; the message names the place.",
        429: "Too many images are waiting; Retry-After says when to come again.",
        503: "The server is being stopped or overloaded; Retry-After says when to come again.",
    }
)


def _json(schema: Mapping[str, Any], **named: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in named.items()}
    return {"application/json": {"schema": schema, "examples": shown}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _REFUSALS[status]} for status in statuses}


def _body(schema: Mapping[str, Any], **named: Mapping[str, Any]) -> dict[str, Any]:
    content = {**_json(schema, **named), "multipart/form-data": {"schema": _FORM}}
    return {"requestBody": {"required": True, "content": content}}


def _schema(shape: type[ScoreBody] | type[CompareBody]) -> dict[str, Any]:
    """A schema that stands by itself: what it refers to is put in its place."""
    schema = shape.model_json_schema()
    parts = schema.pop("$defs", {})
    schema["properties"]["images"]["items"] = parts["ImageBody"]
    return schema


SCORE: Mapping[str, Any] = MappingProxyType(
    {
        "summary": "Score images",
        "openapi_extra": _body(_schema(ScoreBody), one_prompt=_ONE, many_prompts=_MANY),
        "responses": {
            200: {"model": ScoreAnswer, "content": {"application/json": {"example": _SCORED}}},
            **_errors(*_REFUSALS),
        },
    }
)
COMPARE: Mapping[str, Any] = MappingProxyType(
    {
        "summary": "Compare images of one prompt",
        "openapi_extra": _body(_schema(CompareBody), two=_TWO),
        "responses": {
            200: {"model": CompareAnswer, "content": {"application/json": {"example": _COMPARED}}},
            **_errors(*_REFUSALS),
        },
    }
)
MODELS: Mapping[str, Any] = MappingProxyType({"summary": "What is served", "responses": _errors(401)})
