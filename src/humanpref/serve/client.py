"""A client of `humanpref serve` that is a `Scorer`: whatever takes one of those can be given a server instead.

Needs nothing beyond the package. Busy servers (429, 503) and broken connections are tried again, later and later, as
Retry-After asks; scoring changes nothing on the server, so that asking twice does no harm.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from humanpref import metrics
from humanpref.errors import ImageError, ScoreError, UnknownNameError
from humanpref.images import EncodedImage, RemoteImage, describe, is_url, open_image
from humanpref.records import ImageRef
from humanpref.scorers.base import ScorerSpec, align_prompts, as_images, collect, map_ahead
from humanpref.serve.errors import FINAL_IMAGE_CODES
from humanpref.serve.identity import identity_hash
from humanpref.serve.transport import ClientError, Transport, UnauthorizedError, UnavailableError, encode

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.images import ImageSource
    from humanpref.scorers.base import Images, Prompts

Body: TypeAlias = "dict[str, str] | ImageError"

__all__ = ["Answer", "Client", "ClientError", "UnauthorizedError", "UnavailableError"]

REMEMBERED = 4096
SMALL = 2**20
"""Bytes of a body, or of an image, that no server's limits need to be asked for: it refuses them with an answer."""


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
    timeout: seconds of one try without a byte of its answer.
    retries: tries after the first, `pause` seconds apart at first, then twice as long each time.
    deadline: seconds of all tries of one request together.
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
        deadline: float = 600.0,
        batch: int = 16,
        parallel: int = 4,
    ) -> None:
        self._transport = Transport(
            url,
            api_key,
            timeout=timeout,
            retries=retries,
            pause=pause,
            deadline=deadline,
            connections=2 * max(1, parallel),
        )
        self._model = model
        self._url = url
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
        """End what is under way, in whatever thread (it raises `ClientError` there), and close the connections."""
        self._transport.close()

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

        def ask(job: tuple[Sequence[ImageSource | Tensor], Sequence[str]]) -> tuple[float | ImageError, ...]:
            return self._ask_in_parts(job[0], list(map(self._body_or_error, job[0])), job[1])

        texts = align_prompts(prompts, len(images))
        starts = range(0, len(images), self._batch)
        jobs = [(images[start : start + self._batch], texts[start : start + self._batch]) for start in starts]
        try:
            for outcomes in map_ahead(ask, jobs, ahead=self._parallel, threads=self._parallel):
                yield from outcomes
        except KeyboardInterrupt:  # Python waits for its threads before it ends
            self._transport.interrupt()
            raise

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt is longer than what the model reads."""
        if prompt not in self._truncated:
            self._remember(self._score({"model": self._model, "prompt": prompt, "images": []}))
        return self._truncated[prompt]

    # ---- what a server has

    @cached_property
    def server(self) -> dict[str, Any]:
        """What /v1/models says: "models", "limits", "urls". Asked for once."""
        found: dict[str, Any] = self._transport.send("GET", "/v1/models")
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
        return self._ask(images, list(map(self._body_or_error, images)), align_prompts(prompts, len(images)))

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

    def _body_or_error(self, image: ImageSource | Tensor) -> Body:
        """An image as it is sent, or why it is not: it cannot be read, or the server would not take it."""
        try:
            body = _body(image)
        except ImageError as error:
            return error
        size = len(body.get("data", "")) * 3 // 4 - 2
        if size > SMALL and size > (limit := self.server["limits"]["image_bytes"]):
            return ImageError(f"{describe(image)}: the image is over {limit:,} bytes ({self._url})")
        return body

    def _ask(self, images: Sequence[object], bodies: Sequence[Body], texts: Sequence[str]) -> Answer:
        outcomes: list[float | ImageError | None] = [one if isinstance(one, ImageError) else None for one in bodies]
        places = [i for i, outcome in enumerate(outcomes) if outcome is None]
        if not places:
            return Answer(tuple(o for o in outcomes if o is not None), {}, ())
        sent = {"model": self._model, "prompts": [texts[i] for i in places], "images": [bodies[i] for i in places]}
        reply = self._score(sent)
        for i, result in zip(places, reply["results"], strict=True):
            outcomes[i] = result["score"] if result["error"] is None else self._image_error(result["error"], images[i])
        self._remember(reply)
        cut = {row["prompt"]: row["truncated"] for row in reply["prompts"]}
        return Answer(tuple(o for o in outcomes if o is not None), cut, tuple(reply["notes"]))

    def _ask_in_parts(
        self, images: Sequence[object], bodies: Sequence[Body], prompts: Sequence[str]
    ) -> tuple[float | ImageError, ...]:
        """Ask, in halves where it is too much for the server at once."""
        try:
            return self._ask(images, bodies, prompts).outcomes
        except ClientError as error:
            if error.status != 413 or len(images) < 2:
                raise
        half = len(images) // 2
        first = self._ask_in_parts(images[:half], bodies[:half], prompts[:half])
        return first + self._ask_in_parts(images[half:], bodies[half:], prompts[half:])

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
        content = encode({name: value for name, value in body.items() if value is not None})
        # a server that does not read on may break the connection before its refusal is here
        if len(content) > SMALL and len(content) > (limit := self.server["limits"]["body_bytes"]):
            raise ClientError(f"{self._url}: the body is over {limit:,} bytes", code="body_too_large", status=413)
        reply = self._transport.send("POST", "/v1/score", content)
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


def _body(image: ImageSource | Tensor) -> dict[str, str]:
    """An image as the server takes it. Raises `ImageError` for a file that cannot be read."""
    if isinstance(image, RemoteImage):
        return {"url": image.url, "name": _name(image.url[:300])}
    if isinstance(image, (str, Path, ImageRef)):
        if isinstance(image, str) and is_url(image):
            raise ImageError(f"{image}: URLs are not sent unless you mean it (RemoteImage)")
        path = image.path if isinstance(image, ImageRef) else Path(image)
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        return {"data": base64.b64encode(content).decode(), "name": _name(path.name[-300:])}
    if isinstance(image, EncodedImage):
        return {"data": base64.b64encode(image.content).decode(), "name": _name(image.name[-300:])}
    picture = open_image(image) if isinstance(image, Image.Image) else _picture(image)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return {"data": base64.b64encode(buffer.getvalue()).decode()}


def _name(name: str) -> str:
    """A name as text: a file's may be any bytes, which Python keeps as halves of surrogate pairs."""
    return name.encode("utf-8", "replace").decode()


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
