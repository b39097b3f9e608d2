"""Turning what the store says into responses: templates in the reader's language, errors as one kind sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from humanpref.annotate.languages import LANGUAGES, choose, script_texts, texts
from humanpref.annotate.records import AnnotateError, ProjectGroup
from humanpref.annotate.security import Limiter, RequestError, csrf_token
from humanpref.annotate.store import Store

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
RETRY_SECONDS = 5

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "unknown": 404,
        "not_found": 404,
        "expired": 409,
        "image_changed": 409,
        "image_gone": 410,
        "bad_answer": 422,
        "bad_name": 422,
        "bad_reason": 422,
        "bad_request": 422,
        "revoked": 403,
        "unreachable": 503,
    }
)
"""HTTP's status for the codes of `AnnotateError`; 500 for any other."""


@dataclass
class Site:
    """What every route works with: the project, the rate limits, the templates."""

    store: Store
    limiter: Limiter
    version: str
    practice: Mapping[str, ProjectGroup]
    """The groups for practice by their prompt, to say after an answer what most people prefer."""
    _templates: jinja2.Environment = field(init=False)

    def __post_init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def html(self, request: Request, template: str, **values: Any) -> str:
        """Fill in a template."""
        language = language_of(request)
        common = {
            "t": texts(language),
            "script_texts": script_texts(language),
            "language": language,
            "languages": LANGUAGES,
            "csrf": csrf_token(request),
            "static": f"/static/{self.version}",
            "title": self.store.config.title,
            "config": self.store.config,
            "path": request.url.path,
            "signed_in": "link" in request.session,
        }
        return self._templates.get_template(template).render(**(common | values))

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        return HTMLResponse(self.html(request, template, **values), status)

    def error(self, request: Request, code: str, status: int, retry_after: int | None = None) -> Response:
        """Return an error: JSON for the page's script, a page for people."""
        known = texts(language_of(request))
        message = known.get(f"error.{code}", known["error.internal"])
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if request.url.path.startswith(("/api/", "/image/")):
            return JSONResponse({"error": code, "message": message}, status, headers)
        again = retry_after if status in {429, 503} and request.method == "GET" else None
        html = self.html(request, "error.html", message=message, again=again, code=code)
        return HTMLResponse(html, status, headers)

    def failed(self, request: Request, error: AnnotateError) -> Response:
        """Return the response to a request that could not be done."""
        if isinstance(error, RequestError):
            return self.error(request, error.code, error.status, error.retry_after)
        status = STATUS.get(error.code, 500)
        return self.error(request, error.code, status, RETRY_SECONDS if status == 503 else None)


def site_of(request: Request) -> Site:
    """Return the site that a request is for."""
    site: Site = request.app.state.site
    return site


def language_of(request: Request) -> str:
    """Return the language that was chosen on the page, or else the one the browser asks for."""
    chosen = request.session.get("language")
    return str(chosen) if chosen in LANGUAGES else choose(request.headers.get("accept-language", ""))


def embed(value: Any) -> str:
    """Write plain values for a `data-` attribute (the template escapes them)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
