"""Running a function over batches: in this process, in several, or by actors on a Ray cluster. Knows nothing of what is
run.

The contract is the same for all: `make_worker()` is called once in each worker and returns a function from a batch to
its results; results are handed to the caller, in any order, and each batch's results exactly once, also when a worker
is killed on the way. The caller alone keeps what is made, so that nothing is written twice. Workers send each result
when it is made, so that none holds what a long batch comes to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from humanpref.errors import HumanprefError, reason_of
from humanpref.memory import keep_freed_memory

B = TypeVar("B")
R = TypeVar("R")
Worker: TypeAlias = Callable[[B], Iterable[R]]
MakeWorker: TypeAlias = Callable[[], Worker[B, R]]

MAX_LOSSES = 5
"""A batch whose workers died this many times is taken for the cause."""


class EngineError(HumanprefError):
    """Workers that cannot be had, or that die again and again."""


@dataclass(frozen=True)
class Engine:
    """Where work is done.

    local: in this process, or in `workers` processes of this machine, which share its cores; with `gpus_per_worker`
    each sees its own GPU (a half: two share one). ray: by `workers` actors, each with `cpus_per_worker` and
    `gpus_per_worker` of the cluster at `address` (None: the one of this machine or RAY_ADDRESS, else a new local one).
    Raises `EngineError` for what an engine cannot have, or would not use.
    """

    kind: Literal["local", "ray"] = "local"
    workers: int = 1
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    object_store_mib: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise EngineError(f"workers must be at least 1, got {self.workers}")
        if self.kind == "local" and self.gpus_per_worker > 1:
            raise EngineError(f"a local worker has at most one GPU, got gpus_per_worker {self.gpus_per_worker}")
        if self.kind == "local" and self.workers == 1 and self.gpus_per_worker:
            raise EngineError(
                "one local worker is this process, on the device it is told; leave gpus_per_worker out, or take more"
            )
        for name, option in (("address", "--ray-address"), ("cpus_per_worker", "--cpus-per-worker"),
                             ("object_store_mib", "object_store_mib")):  # fmt: skip
            if self.kind == "local" and getattr(self, name) != getattr(Engine, name):
                raise EngineError(f"{option} is for a Ray cluster; leave it out, or choose --engine ray")

    @property
    def threads_per_worker(self) -> int:
        """The cores that each worker has, at least one."""
        if self.kind == "ray":
            return max(1, int(self.cpus_per_worker))
        return max(1, cores() // self.workers)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_map(
    engine: Engine,
    make_worker: MakeWorker[B, R],
    batches: Iterable[B],
    on_note: Callable[[str], None] = lambda _: None,
    *,
    in_order: bool = False,
) -> Generator[R, None, None]:
    """Yield the results of all batches, as they come. `batches` is read only a little ahead of the workers.

    in_order: the results of a batch always come in the same order. They are yielded as they are made then; after the
    death of a worker another one makes them again, and those that were yielded are passed over. Otherwise, outside this
    process, they are yielded when the batch is done or has failed. `make_worker` must be picklable where it goes to
    processes of our own. A named error of a worker is raised here, as is `EngineError` when Ray cannot be reached or a
    batch's workers die `MAX_LOSSES` times. `on_note` hears of losses.
    """
    given = (Task(batch, in_order) for batch in batches)
    if engine.kind == "ray":
        from humanpref.ray_actors import run_on_ray

        yield from run_on_ray(engine, make_worker, given, on_note)
    elif engine.workers > 1:
        from humanpref.processes import ProcessPool

        yield from ProcessPool(make_worker, _environments(engine), on_note).run(given)
    else:
        worker: Worker[B, R] | None = None
        for batch in batches:
            worker = worker or make_worker()  # not before there is work
            yield from worker(batch)


def _environments(engine: Engine) -> list[Mapping[str, str]]:
    """What each process of the local engine has in its environment: its share of the cores, its GPU."""
    threads = os.environ.get("OMP_NUM_THREADS", str(engine.threads_per_worker))
    shared = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    if not engine.gpus_per_worker:
        return [shared] * engine.workers
    here = _gpus()
    if len(here) < engine.workers * engine.gpus_per_worker:
        raise EngineError(
            f"{engine.workers} workers with {engine.gpus_per_worker:g} GPUs each, but there are {len(here)} GPUs here"
        )
    places = [int(worker * engine.gpus_per_worker) for worker in range(engine.workers)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": here[place]} for place in places]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name for name in visible.split(",") if name] if visible is not None else None
    count = torch.cuda.device_count()
    return [str(i) for i in range(count)] if names is None else names[:count]


Answer: TypeAlias = "tuple[Literal['result', 'done', 'failed'], Any]"
"""What a worker says of its batch: a result, that these were all, or why there will be no more."""


@dataclass
class Task:
    """A batch and what is known of it where results are taken: `losses` are workers that died on it."""

    batch: Any
    in_order: bool
    losses: int = 0
    handed: int = 0
    made: int = 0
    waiting: list[Any] = field(default_factory=list)

    def take(self, answer: Answer) -> list[Any]:
        """Take what a worker says -> the results that can be handed over now."""
        what, value = answer
        if what == "result":
            self.made += 1
            if self.made > self.handed:
                self.waiting.append(value)
            if not self.in_order:
                return []
        ready, self.waiting = self.waiting, []
        self.handed += len(ready)
        return ready

    def lose(self, how: str) -> None:
        """Its worker is gone: another one begins it anew. Raises `EngineError` where that was tried often enough."""
        self.losses, self.made, self.waiting = self.losses + 1, 0, []
        if self.losses >= MAX_LOSSES:
            raise EngineError(f"workers died {self.losses} times on the same batch ({how}); is memory short?")


class Holder:
    """Holds a worker, in another process than the caller's: makes it when the first batch comes."""

    def __init__(self, make_worker: MakeWorker[Any, Any]) -> None:
        keep_freed_memory()
        self.make_worker = make_worker
        self.worker: Worker[Any, Any] | None = None

    def run(self, batch: Any) -> Iterator[Answer]:
        """Run a batch. Errors are values, since classes may not be picklable, and this process has more to come."""
        try:
            if self.worker is None:
                self.worker = self.make_worker()
            for result in self.worker(batch):
                yield "result", result
        except HumanprefError as error:
            yield "failed", str(error)
        except Exception as error:  # a fault of the worker's code
            yield "failed", f"a worker failed: {reason_of(error, 300)}"
        else:
            yield "done", None
