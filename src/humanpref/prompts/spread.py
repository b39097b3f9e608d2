"""A cleaner whose work is done by the workers of an engine, in batches; results keep the order of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeAlias

from humanpref.engines import Engine, run_map
from humanpref.prompts.records import Cleaned, Cleaner

BATCH = 500

Numbered: TypeAlias = "tuple[int, list[str]]"
CleanedBatch: TypeAlias = "tuple[int, list[Cleaned]]"


@dataclass(frozen=True)
class _MakeWorker:
    """Makes the function that a worker runs; the cleaner is made in the worker."""

    make_cleaner: Callable[[], Cleaner]

    def __call__(self) -> Callable[[Numbered], Sequence[CleanedBatch]]:
        cleaner = self.make_cleaner()
        return lambda batch: [(batch[0], list(cleaner.clean(batch[1])))]


class SpreadCleaner:
    """Cleans with the workers of an engine; `make_cleaner` (a class, say) is called once in each of them."""

    def __init__(
        self, make_cleaner: Callable[[], Cleaner], name: str, engine: Engine, on_note: Callable[[str], None]
    ) -> None:
        self.name = name
        self.engine = engine
        self._make_worker = _MakeWorker(make_cleaner)
        self._on_note = on_note

    def clean(self, prompts: Iterable[str]) -> Iterator[Cleaned]:
        """Clean prompts; only as many are held as the workers have in hand, and those that wait for an earlier one."""
        remaining = iter(prompts)
        batches = zip(count(), iter(lambda: list(islice(remaining, BATCH)), []), strict=False)
        waiting: dict[int, list[Cleaned]] = {}
        following = 0
        for number, results in run_map(self.engine, self._make_worker, batches, self._on_note):
            waiting[number] = results
            while following in waiting:
                yield from waiting.pop(following)
                following += 1
