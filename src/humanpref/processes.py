"""Workers that are processes of this machine, each started afresh (spawn): the engine `local` with several.

A pool of our own, since the standard library's breaks as a whole when one process is killed. A worker holds one batch
at a time and is given the next when it has said all of that one, so that neither side ever writes into a full pipe
while the other does, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from humanpref.engines import EngineError, Holder, MakeWorker, Task


@dataclass
class _Process:
    process: Any
    connection: Connection
    held: Task | None = None
    """What it works on."""


class ProcessPool:
    """`count` processes. `environments`: what each has in its environment besides this process's own."""

    def __init__(
        self,
        make_worker: MakeWorker[Any, Any],
        environments: list[Mapping[str, str]],
        on_note: Callable[[str], None],
    ) -> None:
        self.make_worker, self.environments, self.on_note = make_worker, environments, on_note
        self.workers: list[_Process] = []

    def run(self, tasks: Iterator[Task]) -> Iterator[Any]:
        """Yield the results of all tasks. Raises `EngineError`."""
        try:
            for environment in self.environments:
                if (task := next(tasks, None)) is None:
                    break  # fewer batches than processes: the rest is not started
                self.workers.append(self._start(environment))
                self._give(self.workers[-1], task)
            while busy := [worker for worker in self.workers if worker.held is not None]:
                for ready in wait([worker.connection for worker in busy]):
                    worker = next(worker for worker in busy if worker.connection is ready)
                    assert worker.held is not None
                    try:
                        answer = worker.connection.recv()
                    except (EOFError, OSError):
                        self._lost(worker, worker.held)
                        continue
                    results = worker.held.take(answer)
                    if answer[0] == "done":
                        worker.held = None
                        if (task := next(tasks, None)) is not None:
                            self._give(worker, task)
                    yield from results
                    if answer[0] == "failed":
                        raise EngineError(answer[1])
        finally:
            self._close()

    def _give(self, worker: _Process, task: Task) -> None:
        worker.held = task
        with suppress(OSError):  # it died meanwhile; that is seen when its answer is awaited
            worker.connection.send(task.batch)

    def _start(self, environment: Mapping[str, str]) -> _Process:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, dict(environment)), daemon=True)
        process.start()
        theirs.close()
        with suppress(OSError):
            ours.send(self.make_worker)
        return _Process(process, ours)

    def _lost(self, worker: _Process, task: Task) -> None:
        worker.process.join()
        worker.connection.close()
        task.lose(_how(worker.process.exitcode))
        self.on_note(f"a worker died ({_how(worker.process.exitcode)}); its batch is given to another")
        place = self.workers.index(worker)
        self.workers[place] = self._start(self.environments[place])
        self._give(self.workers[place], task)

    def _close(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            worker.connection.close()


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            return f"by {signal.Signals(-exitcode).name}"
    return f"with status {exitcode}"


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """What a process does: take the way to make a worker, make it, answer batches until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; ours ends us
    os.environ.update(environment)  # before numpy and torch are imported, which the worker does
    with suppress(EOFError, OSError):  # the other side is gone
        holder = Holder(connection.recv())
        while True:
            for answer in holder.run(connection.recv()):
                connection.send(answer)
