"""A client of `humanpref serve` that is a `Scorer`: whatever takes one of those can be given a server instead.

Needs nothing beyond the package. Busy servers (429, 503) and broken connections are tried again, later and later, as
Retry-After asks; scoring changes nothing on the server, so that asking twice does no harm.
"""

from __future__ import annotations

import base64
import random
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx
from PIL import Image

from humanpref import metrics
from humanpref.errors import HumanprefError, ImageError, ScoreError, UnknownNameError, reason_of
from humanpref.images import EncodedImage, RemoteImage, is_url, open_image
from humanpref.records import ImageRef
from humanpref.retry_after import retry_after
from humanpref.scorers.base import ScorerSpec, align_prompts, as_images, collect, map_ahead
from humanpref.serve.errors import FINAL_IMAGE_CODES
from humanpref.serve.identity import identity_hash

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.images import ImageSource
    from humanpref.scorers.base import Images, Prompts

AGAIN = frozenset({429, 502, 503, 504})
"""Statuses that may pass; 502 and 504 are those of proxies."""
LONGEST_PAUSE = 60.0
REMEMBERED = 4096


class ClientError(HumanprefError):
    """The server refused what was asked; `code` as it says (see docs/serve.md), `status` that of HTTP."""

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class UnauthorizedError(ClientError):
    """The server wants an API key, or another one."""


class UnavailableError(ClientError):
    """No answer that helps after all tries: nobody listens, or the server is busy or being stopped."""


@dataclass(frozen=True)
class Answer:
    """What the server said of one request: `outcomes` aligned with its images, `truncated` by prompt."""

    outcomes: tuple[float | ImageError, ...]
    truncated: Mapping[str, bool]
    notes: tuple[str, ...]


class Client:
    """A served model, as a `Scorer`. Safe to use from several threads; close it, or use it in a `with` block.

    url: where the server is ("http://127.0.0.1:8000").
    model: one that it serves; None: its first.
    api_key: sent as a Bearer token.
    timeout: seconds of one try, from sending it to the end of its answer's silence.
    retries: tries after the first, `pause` seconds apart at first, then twice as long each time.
    batch: most images in one request; `parallel` requests are under way at once.

    All answers must come from one scorer, as its `identity` says: after a restart with other weights, `ClientError`.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        pause: float = 0.25,
        batch: int = 16,
        parallel: int = 4,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url}: a server's address begins with http:// or https://")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=2 * parallel, max_keepalive_connections=2 * parallel, keepalive_expiry=5)
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, limits=limits)
        self._model = model
        self._url = url
        self._retries = retries
        self._pause = pause
        self._batch = max(1, batch)
        self._parallel = max(1, parallel)
        self._truncated: OrderedDict[str, bool] = OrderedDict()
        self._scorer: tuple[str | None] | None = None  # the hash of its identity, once that is known

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- what a Scorer has

    @property
    def spec(self) -> ScorerSpec:
        """What the server says of the model."""
        about = self.about
        return ScorerSpec(
            name=about["name"],
            summary=about["summary"],
            licence=about["licence"],
            reads_prompt=about["reads_prompt"],
            scale=about["scale"],
            tokens=about["tokens"] or 0,
        )

    @property
    def logit_scale(self) -> float | None:
        """P(a preferred to b | prompt) = sigmoid(logit_scale * (score_a - score_b)); None: it says no probability."""
        scale: float | None = self.about["logit_scale"]
        return scale

    @property
    def identity(self) -> str:
        """That of the scorer on the server: scores may be cached as its own. Raises `ScoreError` where it has none."""
        identity = self.about["identity"]
        self._check_scorer(identity_hash(identity))
        if not identity:
            raise ScoreError(
                f"{self._url} does not say which weights its {self.about['name']} has: nothing to cache by"
            )
        return str(identity)

    def score(self, images: Images, prompts: Prompts) -> Tensor:
        """Score images -> float32 tensor (n,), aligned with `images`, on the model's published scale. No gradients.

        `images` as any scorer takes them; files are sent as they are, pictures and tensors (3, H, W) in [0, 1] as PNG
        with 8 bits a channel. `prompts`: one for all images, or one per image.
        Raises `ImageError` for the first image that cannot be read, `ClientError` (and its kinds) for what the server
        refuses or where it cannot be reached.
        """
        return collect(self.score_each(as_images(images), prompts))

    def score_each(self, images: Sequence[ImageSource | Tensor], prompts: Prompts) -> Iterator[float | ImageError]:
        """Yield a score, or the error of an image that cannot be read, per image, in order, as they are done."""
        texts = align_prompts(prompts, len(images))
        starts = range(0, len(images), self._batch)
        jobs = [(images[start : start + self._batch], texts[start : start + self._batch]) for start in starts]
        for outcomes in map_ahead(
            lambda job: self._ask_in_parts(*job), jobs, ahead=self._parallel, threads=self._parallel
        ):
            yield from outcomes

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt is longer than what the model reads."""
        if prompt not in self._truncated:
            self._remember(self._score({"model": self._model, "prompt": prompt, "images": []}))
        return self._truncated[prompt]

    # ---- what a server has

    @cached_property
    def server(self) -> dict[str, Any]:
        """What /v1/models says: "models", "limits", "urls". Asked for once."""
        found: dict[str, Any] = self._send("GET", "/v1/models", None)
        return found

    @property
    def about(self) -> dict[str, Any]:
        """The row of /v1/models of this client's model. Raises `UnknownNameError`, which lists those there are."""
        rows: list[dict[str, Any]] = self.server["models"]
        for row in rows:
            if self._model in {None, row["name"]}:
                return row
        names = ", ".join(row["name"] for row in rows)
        raise UnknownNameError(f"{self._url} serves no model called {self._model!r}; choose from: {names}")

    def ask(self, images: Sequence[ImageSource | Tensor], prompts: Prompts) -> Answer:
        """Send one request, of at most as many images as the server takes -> what it says of each."""
        texts = align_prompts(prompts, len(images))
        outcomes: list[float | ImageError | None] = [None] * len(images)
        bodies = []
        places = []
        for i, image in enumerate(images):
            try:
                bodies.append(_body(image))
                places.append(i)
            except ImageError as error:
                outcomes[i] = error
        if not places:
            return Answer(tuple(o for o in outcomes if o is not None), {}, ())
        sent = {"model": self._model, "prompts": [texts[i] for i in places], "images": bodies}
        reply = self._score(sent)
        for i, result in zip(places, reply["results"], strict=True):
            outcomes[i] = result["score"] if result["error"] is None else self._image_error(result["error"], images[i])
        self._remember(reply)
        cut = {row["prompt"]: row["truncated"] for row in reply["prompts"]}
        return Answer(tuple(o for o in outcomes if o is not None), cut, tuple(reply["notes"]))

    def compare(self, images: Sequence[ImageSource | Tensor], prompt: str) -> list[list[float]]:
        """Return P(image i preferred to image j) for every two images of one prompt; 0.5 on the diagonal.

        Raises `ImageError`, or `ScoreError` for a model that gives no probabilities.
        """
        if (scale := self.logit_scale) is None:
            raise ScoreError(f"{self.about['name']} gives scores but no probabilities to compare by")
        scores = [float(score) for score in self.score(list(images), prompt)]
        found: list[list[float]] = metrics.pairwise_probabilities(scores, scale).tolist()
        return found

    # ---- asking

    def _ask_in_parts(
        self, images: Sequence[ImageSource | Tensor], prompts: Sequence[str]
    ) -> tuple[float | ImageError, ...]:
        """Ask, in halves where it is too much for the server at once."""
        try:
            return self.ask(images, prompts).outcomes
        except ClientError as error:
            if error.code not in {"body_too_large", "too_many_images"} or len(images) < 2:
                raise
        half = len(images) // 2
        return self._ask_in_parts(images[:half], prompts[:half]) + self._ask_in_parts(images[half:], prompts[half:])

    def _image_error(self, error: Mapping[str, Any], image: object) -> ImageError:
        """The error of one image; what is no fault of the image is raised."""
        if error["code"] in FINAL_IMAGE_CODES:
            return ImageError(f"{error['message']} ({self._url})")
        raise ClientError(f"{self._url}: {error['message']} ({image})", code=error["code"], status=200)

    def _remember(self, reply: Mapping[str, Any]) -> None:
        for row in reply["prompts"]:
            self._truncated[row["prompt"]] = row["truncated"]
        while len(self._truncated) > REMEMBERED:
            self._truncated.popitem(last=False)

    def _score(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to /v1/score. Raises `ClientError` where another scorer answers than before."""
        reply = self._send("POST", "/v1/score", {name: value for name, value in body.items() if value is not None})
        self._check_scorer(reply.get("identity"))
        return reply

    def _check_scorer(self, found: str | None) -> None:
        """Scores of two scorers are not to be mixed, nor cached as each other's."""
        if self._scorer is None:
            self._scorer = (found,)
        elif self._scorer != (found,):
            raise ClientError(
                f"{self._url}: the server has another scorer than before; make a new client", code="other_scorer"
            )

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask until there is an answer, or no try is left."""
        pause = self._pause
        for left in range(self._retries, -1, -1):
            after = None
            try:
                response = self._http.request(method, path, json=body)
            except (httpx.TransportError, httpx.DecodingError) as error:
                failure = UnavailableError(f"{self._url}: no answer ({reason_of(error)})")
            else:
                if response.status_code == 200:
                    return self._read(response)
                if response.status_code not in AGAIN:
                    raise self._refusal(response)
                refusal = self._refusal(response)
                failure = UnavailableError(str(refusal), code=refusal.code, status=refusal.status)
                after = retry_after(response.headers)
            if left:
                wait = pause * random.uniform(0.5, 1.5) if after is None else after + random.uniform(0, pause)  # noqa: S311
                time.sleep(min(wait, LONGEST_PAUSE))
                pause *= 2
        raise failure

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            found: dict[str, Any] = response.json()
        except ValueError:
            found = {}
        if not isinstance(found, dict) or not ({"results", "models"} & found.keys()):
            raise ClientError(
                f"{self._url}: is no humanpref server (its answer is another)", status=response.status_code
            )
        return found

    def _refusal(self, response: httpx.Response) -> ClientError:
        try:
            error = response.json()["error"]
            code, message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            code, message = "", response.text[:200]
        kind = UnauthorizedError if response.status_code == 401 else ClientError
        return kind(f"{self._url}: {message} ({response.status_code})", code=code, status=response.status_code)


def _body(image: ImageSource | Tensor) -> dict[str, str]:
    """An image as the server takes it. Raises `ImageError` for a file that cannot be read."""
    if isinstance(image, RemoteImage):
        return {"url": image.url, "name": image.url[:300]}
    if isinstance(image, (str, Path, ImageRef)):
        if isinstance(image, str) and is_url(image):
            raise ImageError(f"{image}: URLs are not sent unless you mean it (RemoteImage)")
        path = image.path if isinstance(image, ImageRef) else Path(image)
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        return {"data": base64.b64encode(content).decode(), "name": path.name[-300:]}
    if isinstance(image, EncodedImage):
        return {"data": base64.b64encode(image.content).decode(), "name": image.name[-300:]}
    picture = open_image(image) if isinstance(image, Image.Image) else _picture(image)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"data": base64.b64encode(buffer.getvalue()).decode()}


def _picture(pixels: Any) -> Image.Image:
    """Pixels (3, H, W) in [0, 1] -> a picture of 8 bits a channel."""
    import torch

    from humanpref.preprocess import check_pixels, to_8_bit

    if not isinstance(pixels, torch.Tensor):
        raise ImageError(
            f"{type(pixels).__name__} is not an image: give a path, a PIL image or a float tensor (3, H, W)"
        )
    check_pixels(pixels[None])
    return Image.fromarray(to_8_bit(pixels))
