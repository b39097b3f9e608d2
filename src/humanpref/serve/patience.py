"""The time that a task has for what it does, and turns among those that wait. On one event loop; knows no request."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from types import TracebackType


class Patience:
    """A block whose time may be over: then its task is cancelled up to here, and `over` is true.

    Like `asyncio.timeout`, which Python 3.10 lacks; and the end may be moved again and again at the cost of nothing,
    for every piece of a body, and come at once (`end`).
    """

    def __init__(self) -> None:
        self.over = False
        self._ended = False
        self._until = math.inf
        self._clock: asyncio.TimerHandle | None = None
        self._rings = math.inf
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> Patience:
        self._task = asyncio.current_task()
        return self

    def until(self, when: float) -> None:
        """Set the end, on the event loop's clock."""
        self._until = when
        if self._clock is not None and when < self._rings:
            self._clock.cancel()
            self._clock = None
        if self._clock is None and when < math.inf:
            self._clock, self._rings = self._loop.call_at(when, self._look), when

    def end(self) -> None:
        """End it now. Not for the task itself to call."""
        if self._task is not None and not self._ended:
            self._ended = True
            self._task.cancel()

    def _look(self) -> None:
        self._clock = None
        if self._loop.time() >= self._until:
            self.end()
        else:
            self.until(self._until)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._clock is not None:
            self._clock.cancel()
        if not self._ended:
            return False
        uncancel = getattr(task, "uncancel", None)  # since Python 3.11; before, who else cancelled it is not known
        others = uncancel() if uncancel is not None else 0
        self.over = kind is asyncio.CancelledError and not others
        return self.over


class Turns:
    """So many at a time. Those that wait are let in one of each request after the other: a small request does not wait
    for all of a large one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}

    async def take(self, request: Hashable) -> None:
        """Wait for a turn; `give` it back."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(request, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(request, turn)
            else:
                self.give()
            raise

    def give(self) -> None:
        """Give a turn back: the next request's first is let in."""
        while self._lines:
            request = next(iter(self._lines))
            line = self._lines.pop(request)
            turn = line.popleft()
            if line:
                self._lines[request] = line  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, request: Hashable, turn: asyncio.Future[None]) -> None:
        with suppress(KeyError, ValueError):
            line = self._lines[request]
            line.remove(turn)
            if not line:
                del self._lines[request]
