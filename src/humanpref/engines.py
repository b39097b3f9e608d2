"""Running a function over batches: in this process, in several, or by actors on a Ray cluster. Knows nothing of what is
run.

The contract is the same for all: `make_worker()` is called once in each worker and returns a function from a batch to
its results; results are handed to the caller, in any order, and each batch's results exactly once, also when a worker
is killed on the way. The caller alone keeps what is made, so that nothing is written twice.

Actors rather than Ray Data: a batch comes back as soon as it is made and can be put on disk at once, a lost worker
costs the batches it held and no lineage is computed again, and an error of one batch does not end the job.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, TypeAlias, TypeVar

from humanpref.errors import HumanprefError, MissingExtraError, reason_of
from humanpref.memory import keep_freed_memory

B = TypeVar("B")
R = TypeVar("R")
Worker: TypeAlias = Callable[[B], Iterable[R]]
MakeWorker: TypeAlias = Callable[[], Worker[B, R]]

AHEAD = 2
"""Batches that each worker has been given at a time, so that it never waits for the next."""

MAX_LOSSES = 5
"""A batch whose workers died this many times is taken for the cause."""

SLOW_START_SECONDS = 120

_LOSSES = (
    "RayActorError", "ObjectLostError", "OutOfMemoryError", "NodeDiedError", "WorkerCrashedError",
)  # fmt: skip
"""Ray's errors that say that a worker or its machine is gone, as far as this version of Ray has them."""


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
) -> Generator[R, None, None]:
    """Yield the results of all batches, as they come. `batches` is read only a little ahead of the workers.

    In this process, results are yielded while a batch is still being worked on; elsewhere when the batch is done.
    `make_worker` must then be picklable (it goes to processes of our own). A named error of a worker is raised here, as
    is `EngineError` when Ray cannot be reached or a batch's workers die `MAX_LOSSES` times. `on_note` hears of losses.
    """
    if engine.kind == "ray":
        yield from _run_on_ray(engine, make_worker, iter(batches), on_note)
    elif engine.workers > 1:
        from humanpref.processes import ProcessPool

        yield from ProcessPool(make_worker, _environments(engine), on_note).run(iter(batches))
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


def _run_on_ray(
    engine: Engine, make_worker: MakeWorker[B, R], batches: Iterator[B], on_note: Callable[[str], None]
) -> Generator[R, None, None]:
    try:
        import ray
    except ImportError:
        raise MissingExtraError('--engine ray needs Ray: pip install "humanpref[ray]"') from None
    started = _connect(ray, engine)
    try:
        pool = _Pool(ray, engine, make_worker, on_note)
        try:
            yield from pool.run(batches)
        finally:
            pool.close()
    except ray.exceptions.RayError as error:  # what no other worker could mend
        raise EngineError(f"Ray failed: {reason_of(error, 300)}") from None
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, engine: Engine) -> bool:
    """Connect to Ray, unless this process is connected -> whether it is ours to leave."""
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": engine.address, "log_to_driver": False, "logging_level": "ERROR"}
    if engine.address is None and "RAY_ADDRESS" not in os.environ:  # a cluster of our own, on this machine
        options |= {"address": "local", "include_dashboard": False}
        options["num_cpus"] = max(os.cpu_count() or 1, ceil(engine.workers * engine.cpus_per_worker))
        if engine.object_store_mib:
            options["object_store_memory"] = engine.object_store_mib * 2**20
    _knock(engine.address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises whatever its connection met
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"Ray at {engine.address or 'this machine'} cannot be reached ({reason[:200]})") from None
    return True


def _knock(address: str) -> None:
    """See that someone answers at HOST:PORT: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise EngineError(f"Ray at {address} cannot be reached ({error.strerror or error})") from None


class _Holder:
    """The actor: holds a worker. Named errors come back as values: their classes survive no pickling of Ray's."""

    def __init__(self, make_worker: MakeWorker[Any, Any]) -> None:
        keep_freed_memory()
        self.make_worker = make_worker
        self.worker: Worker[Any, Any] | None = None

    def run(self, batch: Any) -> tuple[str, Any]:
        try:
            if self.worker is None:
                self.worker = self.make_worker()
            return "", list(self.worker(batch))
        except HumanprefError as error:
            return str(error), None


@dataclass
class _Task:
    batch: Any
    actor: Any
    losses: int = 0


class _Pool:
    """Actors with at most `AHEAD` batches each. An actor that died is replaced, and what it held is given out again."""

    def __init__(
        self, ray: Any, engine: Engine, make_worker: MakeWorker[Any, Any], on_note: Callable[[str], None]
    ) -> None:
        self.ray, self.on_note, self.make_worker = ray, on_note, ray.put(make_worker)
        self.kind = ray.remote(_Holder).options(
            num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker, max_restarts=0, max_task_retries=0
        )
        self.actors: list[Any] = [self.kind.remote(self.make_worker) for _ in range(engine.workers)]
        self.losses = tuple(found for name in _LOSSES if (found := getattr(ray.exceptions, name, None)) is not None)
        self.tasks: dict[Any, _Task] = {}
        self.told = False
        self.again: deque[tuple[Any, int]] = deque()  # batches whose worker died, with how often

    def run(self, batches: Iterator[Any]) -> Iterator[Any]:
        self._fill(batches)
        while self.tasks:
            (done,) = self._wait()
            task = self.tasks.pop(done)
            try:
                problem, results = self.ray.get(done)
            except self.ray.exceptions.RayTaskError as error:  # a fault of the worker's code, not of its machine
                cause = error.cause if error.cause is not None else error
                lines = str(cause).strip().splitlines() or [type(cause).__name__]
                raise EngineError(f"a worker failed: {lines[-1][:300]}") from None
            except self.losses as error:
                self._lost(task, error)
                self._fill(batches)
                continue
            if problem:
                raise EngineError(problem)
            self._fill(batches)
            yield from results

    def _wait(self) -> list[Any]:
        """Wait for one batch; say once what is awaited where the cluster may be too small (or is still growing)."""
        done, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=None if self.told else SLOW_START_SECONDS)
        if not done:
            has = {name: count for name, count in self.ray.cluster_resources().items() if name in {"CPU", "GPU"}}
            self.on_note(
                f"no worker has finished a batch in {SLOW_START_SECONDS} s; the cluster has {has or 'nothing'}"
            )
            done, _ = self.ray.wait(list(self.tasks), num_returns=1)
        self.told = True
        return list(done)

    def _fill(self, batches: Iterator[Any]) -> None:
        held = {id(actor): 0 for actor in self.actors}
        for task in self.tasks.values():
            if id(task.actor) in held:
                held[id(task.actor)] += 1
        for _ in range(AHEAD):  # one each before a second for anyone
            for actor in self.actors:
                if held[id(actor)] >= AHEAD:
                    continue
                if self.again:
                    batch, losses = self.again.popleft()
                elif (following := next(batches, _END)) is not _END:
                    batch, losses = following, 0
                else:
                    return
                held[id(actor)] += 1
                self.tasks[actor.run.remote(batch)] = _Task(batch, actor, losses)

    def _lost(self, task: _Task, error: Exception) -> None:
        losses = task.losses + 1
        if losses >= MAX_LOSSES:
            raise EngineError(f"workers died {losses} times on the same batch: {' '.join(str(error).split())[:200]}")
        self.again.append((task.batch, losses))
        for place, actor in enumerate(self.actors):
            if actor is task.actor:  # the other batches it held find it gone already
                self._kill(
                    actor
                )  # one that only cannot be reached would keep its GPU, and its work would be done twice
                self.actors[place] = self.kind.remote(self.make_worker)
                self.on_note("a worker died; its batches are given to another")

    def close(self) -> None:
        for actor in self.actors:
            self._kill(actor)

    def _kill(self, actor: Any) -> None:
        with suppress(self.ray.exceptions.RayError):  # it is gone, or out of reach
            self.ray.kill(actor)


_END = object()
