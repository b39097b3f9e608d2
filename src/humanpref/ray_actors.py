"""Workers that are actors on a Ray cluster: the engine `ray`.

Actors rather than Ray Data: a batch comes back as soon as it is made and can be put on disk at once, a lost worker
costs the batches it held and no lineage is computed again, and an error of one batch does not end the job.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from math import ceil
from typing import Any

from humanpref.engines import B, Engine, EngineError, Holder, MakeWorker, R, Task
from humanpref.errors import MissingExtraError, reason_of

AHEAD = 2
"""Batches that each worker has been given at a time, so that it never waits for the next."""

UNTAKEN = 4
"""Results of a worker that are on their way; it waits before it makes more."""

SLOW_START_SECONDS = 120

_LOSSES = (
    "RayActorError", "ObjectLostError", "OutOfMemoryError", "NodeDiedError", "WorkerCrashedError",
)  # fmt: skip
"""Ray's errors that say that a worker or its machine is gone, as far as this version of Ray has them."""


def run_on_ray(
    engine: Engine, make_worker: MakeWorker[B, R], tasks: Iterator[Task], on_note: Callable[[str], None]
) -> Generator[R, None, None]:
    """Yield the results of all tasks, as they come. Raises `MissingExtraError` and `EngineError`."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError('--engine ray needs Ray: pip install "humanpref[ray]"') from None
    started = _connect(ray, engine)
    try:
        pool = _Pool(ray, engine, make_worker, on_note)
        try:
            yield from pool.run(tasks)
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


class _Pool:
    """Actors with at most `AHEAD` batches each. An actor that died is replaced, and what it held is given out again."""

    def __init__(
        self, ray: Any, engine: Engine, make_worker: MakeWorker[Any, Any], on_note: Callable[[str], None]
    ) -> None:
        self.ray, self.on_note, self.make_worker = ray, on_note, ray.put(make_worker)
        self.kind = ray.remote(Holder).options(
            num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker, max_restarts=0, max_task_retries=0
        )
        self.actors: list[Any] = [self.kind.remote(self.make_worker) for _ in range(engine.workers)]
        self.losses = tuple(found for name in _LOSSES if (found := getattr(ray.exceptions, name, None)) is not None)
        self.tasks: dict[Any, tuple[Task, Any]] = {}  # by what yields their answers, with the actor that has them
        self.told = False
        self.again: deque[Task] = deque()  # those whose worker died

    def run(self, tasks: Iterator[Task]) -> Iterator[Any]:
        self._fill(tasks)
        while self.tasks:
            (answers,) = self._wait()
            task, actor = self.tasks[answers]
            try:
                answer = self.ray.get(next(answers))
            except self.ray.exceptions.RayTaskError as error:  # the worker could not come there, or its results back
                cause = error.cause if error.cause is not None else error
                lines = str(cause).strip().splitlines() or [type(cause).__name__]
                raise EngineError(f"a worker failed: {lines[-1][:300]}") from None
            except self.losses as error:
                del self.tasks[answers]
                self._lost(task, actor, error)
                self._fill(tasks)
                continue
            if answer[0] == "done":
                del self.tasks[answers]
                self._fill(tasks)
            yield from task.take(answer)
            if answer[0] == "failed":
                raise EngineError(answer[1])

    def _wait(self) -> list[Any]:
        """Wait for one worker; say once what is awaited where the cluster may be too small (or is still growing)."""
        done, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=None if self.told else SLOW_START_SECONDS)
        if not done:
            has = {name: count for name, count in self.ray.cluster_resources().items() if name in {"CPU", "GPU"}}
            self.on_note(f"no worker has said anything in {SLOW_START_SECONDS} s; the cluster has {has or 'nothing'}")
            done, _ = self.ray.wait(list(self.tasks), num_returns=1)
        self.told = True
        return list(done)

    def _fill(self, tasks: Iterator[Task]) -> None:
        held = Counter(id(actor) for _, actor in self.tasks.values())
        for _ in range(AHEAD):  # one each before a second for anyone
            for actor in self.actors:
                if held[id(actor)] >= AHEAD:
                    continue
                task = self.again.popleft() if self.again else next(tasks, None)
                if task is None:
                    return
                held[id(actor)] += 1
                self.tasks[actor.run.options(**_STREAMING).remote(task.batch)] = task, actor

    def _lost(self, task: Task, actor: Any, error: Exception) -> None:
        task.lose(" ".join(str(error).split())[:200])
        self.again.append(task)
        if actor in self.actors:  # the other batches it held find it gone already
            self._kill(actor)  # one that only cannot be reached would keep its GPU, and its work would be done twice
            self.actors[self.actors.index(actor)] = self.kind.remote(self.make_worker)
            self.on_note("a worker died; its batches are given to another")

    def close(self) -> None:
        for actor in self.actors:
            self._kill(actor)

    def _kill(self, actor: Any) -> None:
        with suppress(self.ray.exceptions.RayError):  # it is gone, or out of reach
            self.ray.kill(actor)


_STREAMING = {"num_returns": "streaming", "_generator_backpressure_num_objects": UNTAKEN}
