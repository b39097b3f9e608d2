"""How much is taken in: images that wait, bytes of bodies, requests under way. What is over the limits is refused."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError

WINDOW = 5.0
"""Seconds of work over which its speed is measured."""
FEWEST = 16
"""Images of which a speed is told: the first are slow."""
LONGEST_WAIT = 60


class Line:
    """The images before one model, and how fast they go. Time in which there are none does not count."""

    def __init__(self) -> None:
        self.images = 0
        self._rate = 0.0
        self._done = 0
        self._busy = 0.0
        self._since = 0.0

    def enter(self, images: int) -> None:
        """Images come."""
        if not self.images:
            self._since = time.monotonic()
        self.images += images

    def done(self) -> None:
        """One of them has its outcome."""
        now = time.monotonic()
        self._busy, self._since = self._busy + now - self._since, now
        self.images -= 1
        self._done += 1
        if self._busy > WINDOW and self._done >= FEWEST:
            self._rate = self._done / self._busy
            self._start_anew()

    def leave(self, images: int) -> None:
        """So many go without: the work on them, if any, says nothing about the speed."""
        self.images -= images
        self._start_anew()

    def seconds(self, images: int) -> float:
        """How long so many images take, at the speed of late; 0 where that is not known."""
        rate = max(self._rate, self._done / max(0.1, self._busy) if self._done >= FEWEST else 0.0)
        return images / rate if rate else 0.0

    def _start_anew(self) -> None:
        self._done, self._busy, self._since = 0, 0.0, time.monotonic()


class Admission:
    """Counts of one service; used on one event loop. `draining`: nothing new is taken in."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self.bytes = 0
        self.requests = 0
        self.draining = False
        self._lines: dict[tuple[str, bool], Line] = {}

    @property
    def images(self) -> int:
        """Images taken in and not yet scored, of all models."""
        return sum(line.images for line in self._lines.values())

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request from its head to the end of its answer."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def queued(self, model: str, images: int, *, fetched: bool = False) -> Iterator[Callable[[], None]]:
        """Take images in -> what is to be told of each that is done.

        Raises `RequestError` 429 where there is no room, or they would not be done in time, with when to come again.

        Each model has a line of `max_queue` images, and another for those that must be `fetched`: they can wait for
        long, for hosts that do not answer, which says nothing about a speed.
        """
        config = self._config
        line = self._lines.setdefault((model, fetched), Line())
        late = line.images and not fetched and line.seconds(line.images + images) > config.request_seconds
        if late or line.images + images > config.max_queue:
            again = min(LONGEST_WAIT, max(1, math.ceil(line.seconds(line.images) / 2)))
            raise RequestError("busy", f"{line.images} images are waiting already; try again later", retry_after=again)
        line.enter(images)
        left = images

        def done() -> None:
            nonlocal left
            left -= 1
            line.done()

        try:
            yield done
        finally:
            if left:
                line.leave(left)

    def take_bytes(self, count: int) -> None:
        """Hold bytes of a body, or of what a URL gave. Raises `RequestError` 503 where too many are held."""
        if self.bytes + count > self._config.max_pending_bytes:
            raise RequestError("overloaded", "too many bytes are waiting already; try again later", retry_after=1)
        self.bytes += count

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Hold what is given to `take_bytes` through this until the end of the block."""
        held = 0

        def take(count: int) -> None:
            nonlocal held
            self.take_bytes(count)
            held += count

        try:
            yield take
        finally:
            self.bytes -= held
