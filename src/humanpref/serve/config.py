"""How a service behaves: its limits and times. A frozen dataclass beside no code, so that anything may import it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields

from humanpref.serve.errors import ServeError

MIB = 2**20
MOST_IMAGES = 10_000
"""Of one request, whatever `max_images` is: reading of bodies ends there."""


@dataclass(frozen=True)
class ServeConfig:
    """Limits and times of a service; seconds, bytes and pixels are what their names say.

    max_batch: most images a model is given at once; 0: what suits it and its device.
    max_wait_ms: longest time a free model waits for more images that are being prepared; under load, when an image has
        been here for longer than ten times that, a tenth of it.
    max_queue: images of all requests taken in for a model and not yet scored, and as many more that are given as URLs;
        one more is refused with 429, as is what would not be done in `request_seconds` at the speed of late.
    max_pending_bytes: of all bodies held at a time; more are refused with 503.
    max_body_bytes, max_images: of one request; max_image_bytes, max_pixels: of one image.
    max_connections: open at a time, of all clients; one more is answered 503 and closed.
    threads: that decode and prepare; 0: as many as there are cores, at most 8.
    header_seconds, body_seconds: to send all of them; idle_seconds: longest silence within a body, and longest time
        in which a reader takes nothing of an answer.
    request_seconds: longest time until an answer, once the body is here.
    keep_alive_seconds: longest time between an answer and the next request on its connection; in whole seconds, at
        least 1.
    drain_seconds: longest time for what was taken in to be answered when the service is told to stop.
    allow_url, fetch_seconds: whether, and how long, images are fetched from public addresses.

    Raises `ServeError` for a value that makes no sense.
    """

    max_batch: int = 0
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_pending_bytes: int = 512 * MIB
    max_body_bytes: int = 64 * MIB
    max_images: int = 64
    max_image_bytes: int = 20 * MIB
    max_pixels: int = 40_000_000
    max_connections: int = 1000
    threads: int = 0
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 10.0
    request_seconds: float = 120.0
    drain_seconds: float = 30.0
    keep_alive_seconds: float = 15.0
    allow_url: bool = False
    fetch_seconds: float = 15.0

    def __post_init__(self) -> None:
        may_be_zero = {"max_batch", "max_wait_ms", "threads", "drain_seconds", "allow_url"}
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
                least = "at least" if field.name in may_be_zero else "above"
                raise ServeError(f"{field.name} must be {least} 0, got {value}")
        if self.max_images > MOST_IMAGES:
            raise ServeError(f"max_images must be at most {MOST_IMAGES:,}, got {self.max_images:,}")
        from humanpref.images import MAX_PIXELS

        if self.max_pixels > MAX_PIXELS:
            raise ServeError(f"max_pixels must be at most {MAX_PIXELS:,}, as everywhere, got {self.max_pixels:,}")
        if self.max_queue < self.max_images:
            raise ServeError(
                f"max_queue ({self.max_queue}) must be at least max_images ({self.max_images}), "
                "or the largest request could never be taken"
            )
        if self.max_pending_bytes < self.max_body_bytes:
            raise ServeError("max_pending_bytes must be at least max_body_bytes")

    @property
    def workers(self) -> int:
        """The number of threads that decode and prepare."""
        return self.threads or min(8, os.cpu_count() or 1)
