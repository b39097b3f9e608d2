"""How much is taken in: images that wait, bytes of bodies, requests under way. What is over the limits is refused."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError

WINDOW = 5.0
"""Seconds over which the speed is measured, to say when to come again."""
LONGEST_WAIT = 60


class Admission:
    """Counts of one service; used on one event loop. `draining`: nothing new is taken in."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self.images = 0
        self.bytes = 0
        self.requests = 0
        self.draining = False
        self._rate = 0.0
        self._done = 0
        self._since = time.monotonic()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request from its head to the end of its answer."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def queued(self, images: int) -> Iterator[None]:
        """Take images in. Raises `RequestError` 429 where there is no room, with when there may be."""
        if images > self._config.max_images:
            raise RequestError(
                "too_many_images", f"{images} images; at most {self._config.max_images} in one request, send several"
            )
        if self.images + images > self._config.max_queue:
            raise RequestError(
                "busy", f"{self.images} images are waiting already; try again later", retry_after=self._wait()
            )
        self.images += images
        try:
            yield
        finally:
            self.images -= images
            self._count(images)

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

    def _count(self, images: int) -> None:
        self._done += images
        if (passed := time.monotonic() - self._since) > WINDOW:
            self._rate, self._done, self._since = self._done / passed, 0, time.monotonic()

    def _wait(self) -> int:
        """Seconds in which half of what waits should be done, at the speed of late."""
        rate = self._rate or self._done / max(0.1, time.monotonic() - self._since)
        return min(LONGEST_WAIT, max(1, math.ceil(self.images / 2 / rate))) if rate else 1
