"""Images by an API that speaks OpenAI's images protocol, through the official client, several requests at a time.

Every answer is read with a deadline and a limit of size, and what it holds is decoded before it counts. Busy servers,
faults, silence and garbage are tried again, later and later; a refusal of the content is an answer, and recorded.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from humanpref.errors import HumanprefError, ImageError, MissingExtraError
from humanpref.generate.contract import GenerateError, Outcome, Request, Settings
from humanpref.images import MAX_REMOTE_BYTES, open_image
from humanpref.prompts.records import Prompt
from humanpref.retry_after import retry_after

KEY = "OPENAI_API_KEY"
MAX_ANSWER_BYTES = 2 * MAX_REMOTE_BYTES
"""Most bytes of one answer: an image in base64 and room to spare."""
MAX_WAIT = 120.0
"""Longest pause in seconds between two tries, whatever Retry-After asks for."""
REFUSALS = ("content_policy_violation", "moderation_blocked", "content_filter", "safety_violation", "sanitization")
"""What the error codes of a refused prompt or image hold."""
HOPELESS = {401: "the key is not accepted", 403: "the key may not use it", 404: "no such model or address"}
NOT_OF_THE_IMAGE = frozenset({"name", "concurrency", "timeout", "retries", "allow_url", "response_format"})


@dataclass(frozen=True)
class ImagesApiConfig:
    """Options; None leaves a thing to the server. `size` as the API takes it ("1024x1024"); `timeout` in seconds is of
    one whole try; `retries` come after the first. The key is read from the environment only (OPENAI_API_KEY)."""

    name: str | None = None
    base_url: str | None = None
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    response_format: str | None = None
    concurrency: int = 4
    timeout: float = 180.0
    retries: int = 6
    allow_url: bool = False


class _AgainError(HumanprefError):
    """A try that failed in a way that may pass. `after` seconds were asked for, or None."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _RefusedError(HumanprefError):
    """The content was refused."""


class _FailedError(HumanprefError):
    """This image cannot be had; others may."""


@dataclass
class ImagesApiBackend:
    """The client is made when it is first asked for images."""

    model: str
    config: ImagesApiConfig
    name: str = ""
    revision: str = "unknown"  # an API does not say
    settings: Settings = field(default_factory=dict)
    chunk: int = 0
    local: bool = False
    made_with: str = ""

    def __post_init__(self) -> None:
        openai = _openai()
        if self.config.concurrency < 1 or self.config.retries < 0 or self.config.timeout <= 0:
            raise GenerateError(f"openai:{self.model}: concurrency, timeout must be above 0, retries at least 0")
        base = self.config.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        if urlsplit(base).scheme not in {"http", "https"} or not urlsplit(base).hostname:
            raise GenerateError(f"openai:{self.model}: the base URL must be http(s)://HOST/..., got {base!r}")
        if not self.config.base_url and not os.environ.get(KEY):
            raise GenerateError(f"openai:{self.model}: {KEY} is not set; set it, or name your own server (--base-url)")
        self.base = base
        self.name = self.config.name or self.model.rsplit("/", 1)[-1]
        wanted = {key: value for key, value in asdict(self.config).items() if key not in NOT_OF_THE_IMAGE}
        self.settings = {"backend": "openai", "model": self.model, **wanted, "base_url": base}
        self.chunk = 32 * self.config.concurrency
        self.made_with = f"openai {openai.__version__}"

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Nothing needs to be known of the prompts."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield outcomes as the answers come."""
        stop = threading.Event()
        client = _openai().OpenAI(
            api_key=os.environ.get(KEY) or "none", base_url=self.base, max_retries=0, timeout=self.config.timeout
        )
        pool = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="images-api")
        try:
            futures = [pool.submit(self._make, client, request, stop) for request in requests]
            for future in as_completed(futures):
                yield future.result()
        finally:  # after an error, or when the caller has had enough: no further requests
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()

    def _make(self, client: Any, request: Request, stop: threading.Event) -> Outcome:
        began, pause = time.monotonic(), 1.0
        for tried in range(self.config.retries + 1):
            try:
                image = self._try(client, request, time.monotonic() + self.config.timeout)
                return Outcome(request, "done", image=image, seconds=time.monotonic() - began)
            except _RefusedError as error:
                return Outcome(request, "refused", reason=str(error), seconds=time.monotonic() - began)
            except _FailedError as error:
                return Outcome(request, "failed", reason=str(error), seconds=time.monotonic() - began)
            except _AgainError as error:
                reason = str(error)
                wait = error.after if error.after is not None else pause * random.uniform(0.75, 1.25)  # noqa: S311
                pause = min(2 * pause, 60.0)
            if tried < self.config.retries and stop.wait(min(wait, MAX_WAIT)):
                break
        reason = f"{reason} ({tried + 1} tries)"
        return Outcome(request, "failed", reason=reason, seconds=time.monotonic() - began)

    def _try(self, client: Any, request: Request, deadline: float) -> Image.Image:
        openai = _openai()
        options = {name: getattr(self.config, name) for name in ("size", "quality", "style", "response_format")}
        options = {name: value for name, value in options.items() if value is not None}
        call = client.images.with_streaming_response.generate
        try:
            with call(model=self.model, prompt=request.prompt.text, n=1, **options) as response:
                body = _read(response.iter_bytes(), deadline, MAX_ANSWER_BYTES)
        except openai.APIStatusError as error:
            raise self._judge(error) from None
        except openai.APITimeoutError:
            raise _AgainError(f"no answer in {self.config.timeout:g} s") from None
        except HumanprefError:
            raise
        except Exception as error:  # broken connections, by the names of whichever library the client uses
            raise _AgainError(f"the connection failed ({error or type(error).__name__})") from None
        return self._decode(body, deadline)

    def _judge(self, error: Any) -> HumanprefError:
        """Say what an error status means: stop, refused, failed or again."""
        status, text = error.status_code, _message(error)
        codes = " ".join(str(x) for x in (error.code, error.type, text)).lower()
        if status in HOPELESS:
            return GenerateError(f"{self.name} at {self.base}: {HOPELESS[status]} ({status}: {text})")
        if "insufficient_quota" in codes or "billing" in codes:
            return GenerateError(f"{self.name} at {self.base}: nothing left to spend ({text})")
        if any(word in codes for word in REFUSALS):
            return _RefusedError(text)
        if status in {408, 409, 425, 429} or status >= 500:
            return _AgainError(f"{status}: {text}", retry_after(error.response.headers))
        return _FailedError(f"{status}: {text}")

    def _decode(self, body: bytes, deadline: float) -> Image.Image:
        try:
            (entry, *_) = json.loads(body)["data"]
            content, url = entry.get("b64_json"), entry.get("url")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _AgainError(f"the answer is not what an images API gives ({body[:60]!r})") from None
        try:
            if isinstance(content, str) and content:
                return open_image(Image.open(BytesIO(base64.b64decode(content, validate=True))))
            if isinstance(url, str) and url:
                return open_image(Image.open(BytesIO(self._fetch(url, deadline))))
        except (ImageError, OSError, ValueError, binascii.Error, Image.DecompressionBombError) as error:
            raise _AgainError(f"the image of the answer cannot be read ({error})") from None
        raise _AgainError("the answer holds neither b64_json nor a url")

    def _fetch(self, url: str, deadline: float) -> bytes:
        """Fetch an image from the API's own host; from elsewhere only where it is allowed. No redirects."""
        import httpx

        there, here = urlsplit(url), urlsplit(self.base)
        if there.scheme not in {"http", "https"}:
            raise _FailedError(f"{url[:100]}: only http and https URLs are fetched")
        if (there.hostname, there.port) != (here.hostname, here.port) and not self.config.allow_url:
            raise _FailedError(f"{url[:100]}: is not on {here.hostname}; allow it (--allow-url), or ask for b64_json")
        try:
            with httpx.stream("GET", url, timeout=max(0.1, deadline - time.monotonic())) as response:
                response.raise_for_status()
                return _read(response.iter_bytes(), deadline, MAX_REMOTE_BYTES)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _AgainError(f"{url[:100]}: could not be fetched ({error or type(error).__name__})") from None


def _read(blocks: Iterator[bytes], deadline: float, limit: int) -> bytes:
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > limit:
            raise _FailedError(f"the answer is over {limit // 2**20} MiB")
        if time.monotonic() > deadline:
            raise _AgainError("the answer was not complete in time")
    return bytes(content)


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, Mapping) else {}
    return " ".join(str(body.get("message") or error.message).split())[:300]


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise MissingExtraError('openai backends need the client: pip install "humanpref[openai]"') from None
    return openai
