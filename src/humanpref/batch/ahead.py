"""Reading ahead in threads: nothing here knows what is read."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
S = TypeVar("S")


class ReadAhead(Iterator[T], Generic[T]):
    """Items that a thread reads from now on, at most `size` ahead; what it raises is raised here.

    The thread waits until all are taken, or this is stopped or closed.
    """

    def __init__(self, items: Iterable[T], size: int) -> None:
        self._items = items
        self._waiting: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="humanpref-read", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        what, value = self._waiting.get()
        if what == "item":
            return cast("T", value)
        self._waiting.put((what, value))  # it stays so
        raise StopIteration if what == "end" else value

    def stop(self) -> None:
        """Read no further than what is being read."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and wait for it, for a while."""
        self.stop()
        self._thread.join(5)

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put("item", item):
                    return
            self._put("end", None)
        except BaseException as error:  # raised where the items are used
            self._put("error", error)

    def _put(self, what: str, value: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._waiting.put((what, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def read_each_ahead(
    read: Callable[[S], Iterable[T]], sources: Iterable[S], *, at_once: int, size: int
) -> Generator[tuple[S, Iterator[T]], None, None]:
    """Yield each source with its items, in order, while those of up to `at_once` that follow are begun to be read."""
    remaining = iter(sources)

    def begin(count: int) -> Iterator[tuple[S, ReadAhead[T]]]:
        return ((source, ReadAhead(read(source), size)) for source in islice(remaining, count))

    begun = deque(begin(at_once))
    try:
        while begun:
            source, items = begun[0]
            yield source, items
            begun.popleft()
            begun.extend(begin(1))
    finally:
        for _, items in begun:
            items.stop()
