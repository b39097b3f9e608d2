"""What a request is refused with: a code for programs, a line for people, HTTP's status. The same shape everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from humanpref.errors import HumanprefError

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "bad_request": 400,
        "bad_json": 400,
        "unauthorized": 401,
        "cross_site": 403,
        "url_not_allowed": 403,
        "not_found": 404,
        "unknown_model": 404,
        "method_not_allowed": 405,
        "body_too_slow": 408,
        "body_too_large": 413,
        "too_many_images": 413,
        "image_too_large": 413,
        "unsupported_media_type": 415,
        "invalid": 422,
        "bad_image": 422,
        "url_refused": 422,
        "url_failed": 422,
        "no_probabilities": 422,
        "busy": 429,
        "internal": 500,
        "model_failed": 500,
        "draining": 503,
        "failing": 503,
        "overloaded": 503,
        "timed_out": 503,
    }
)
"""HTTP's status for each code."""

FINAL_IMAGE_CODES = frozenset({"bad_image", "image_too_large", "url_refused", "url_failed"})
"""Codes that say something about one image; trying again does not help."""


class ServeError(HumanprefError):
    """A service that cannot start: a port that is taken, keys that cannot be read, settings that do not fit."""


class RequestError(HumanprefError):
    """A request, or one image of it (`image`, counted from 0), that is refused. `retry_after` in seconds."""

    def __init__(self, code: str, message: str, *, image: int | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.image = image
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """HTTP's status."""
        return STATUS[self.code]

    def plain(self) -> dict[str, Any]:
        """{"code", "message"} and, where it is about one, "image"."""
        found: dict[str, Any] = {"code": self.code, "message": str(self)}
        return found if self.image is None else {**found, "image": self.image}

    def headers(self) -> dict[str, str]:
        """The headers that belong to it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**found, "WWW-Authenticate": "Bearer"} if self.code == "unauthorized" else found
