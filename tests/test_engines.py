"""The engines on real Ray: every batch once, also when workers are killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from humanpref.engines import Engine, EngineError, run_map
from humanpref.errors import DataError
from humanpref.generate import generate
from tests.generating import ToyBackend, contents, environment, prompts
from tests.ray_processes import actors

RAY = Engine("ray", workers=2, object_store_mib=100)


@dataclass(frozen=True)
class Squares:
    """A worker that notes its process, takes its time, and fails where it is told to."""

    pids: Path
    delay: float = 0.0

    def __call__(self) -> Callable[[list[int]], Iterable[int]]:
        (self.pids / str(os.getpid())).touch()
        return self.work

    def work(self, batch: list[int]) -> Iterator[int]:
        time.sleep(self.delay)
        for number in batch:
            if number == 666:
                raise DataError("the number of the beast")
            if number == 667:
                raise ZeroDivisionError("a fault of the code")
            if number == 668:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 669:
                raise AssertionError
            yield number**2


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    (tmp_path / "pids").mkdir()
    return tmp_path / "pids"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    python_path = environment()["PYTHONPATH"]
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": python_path}},
    )
    yield
    ray.shutdown()


def test_here(pids: Path) -> None:
    assert list(run_map(Engine(), Squares(pids), [[1, 2], [], [3]])) == [1, 4, 9]
    with pytest.raises(DataError, match="beast"):
        list(run_map(Engine(), Squares(pids), [[666]]))
    assert list(run_map(Engine(), Squares(pids / "gone"), [])) == []  # nothing is loaded for no work


def test_in_processes(pids: Path) -> None:
    batches = [[2 * n, 2 * n + 1] for n in range(20)]
    assert sorted(run_map(Engine(workers=2), Squares(pids, delay=0.02), batches)) == [n**2 for n in range(40)]
    assert len(list(pids.iterdir())) == 2
    with pytest.raises(EngineError, match="^the number of the beast$"):
        list(run_map(Engine(workers=2), Squares(pids), [[1], [666]]))
    with pytest.raises(EngineError, match="a worker failed: a fault of the code"):
        list(run_map(Engine(workers=2), Squares(pids), [[1], [667]]))
    for pid in pids.iterdir():  # none of them is left behind
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)


def test_processes_that_are_killed_lose_and_double_nothing(pids: Path) -> None:
    told: list[str] = []
    results = run_map(Engine(workers=2), Squares(pids, delay=0.05), [[n] for n in range(40)], told.append)
    found = [next(results), next(results)]
    os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
    found += results
    assert sorted(found) == [n**2 for n in range(40)]
    assert told == ["a worker died (by SIGKILL); its batch is given to another"]
    assert len(list(pids.iterdir())) == 3


@dataclass(frozen=True)
class Slowly:
    """A worker whose batches are long; a name among the numbers is a file to wait for, 666 its end."""

    def __call__(self) -> Callable[[list[int | str]], Iterator[int]]:
        return self.work

    def work(self, batch: list[int | str]) -> Iterator[int]:
        for number in batch:
            while isinstance(number, str) and not Path(number).exists():
                time.sleep(0.01)
            if number == 666:
                raise DataError("the number of the beast")
            if not isinstance(number, str):
                yield number


def check_results_come_as_they_are_made(engine: Engine, tmp_path: Path, kill: Callable[[], None]) -> None:
    told: list[str] = []
    go, batches = str(tmp_path / "go"), lambda: [[1, 2, 3, str(tmp_path / "go"), 4, 5]]
    results = run_map(engine, Slowly(), batches(), told.append, in_order=True)
    assert [next(results) for _ in range(3)] == [1, 2, 3]  # or this would wait for ever
    kill()
    Path(go).touch()
    assert list(results) == [4, 5]  # made again, but not handed over again
    assert len(told) == 1
    for in_order in (True, False):
        results = run_map(engine, Slowly(), [[1, 2, 3, 666, 4]], in_order=in_order)
        assert [next(results) for _ in range(3)] == [1, 2, 3]  # an error takes nothing with it that was made
        with pytest.raises(EngineError, match="^the number of the beast$"):
            next(results)


def test_results_come_from_processes_as_they_are_made(tmp_path: Path) -> None:
    def kill() -> None:
        for process in active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    check_results_come_as_they_are_made(Engine(workers=2), tmp_path, kill)


def test_images_are_made_in_processes(tmp_path: Path) -> None:
    generate(prompts(10), [ToyBackend()], tmp_path / "whole")
    report = generate(prompts(10), [ToyBackend()], tmp_path / "out", engine=Engine(workers=2))
    assert report.made == 10
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_batch_that_kills_its_workers_ends_the_run(pids: Path) -> None:
    told: list[str] = []
    with pytest.raises(EngineError, match=r"workers died 5 times on the same batch \(by SIGKILL\)"):
        list(run_map(Engine(workers=2), Squares(pids), [[668]], told.append))
    assert len(told) == 4


def test_more_gpus_than_there_are(pids: Path) -> None:
    with pytest.raises(EngineError, match="64 workers with 1 GPUs each, but there are "):
        list(run_map(Engine(workers=64, gpus_per_worker=1), Squares(pids), [[1]]))


class ScriptedRay:
    """A cluster of which answers are given by a script: what Ray says of machines that die, with no machines to kill.
    The exceptions are Ray's own."""

    def __init__(self, exceptions: Any, answers: list[Any]) -> None:
        self.exceptions, self.answers = exceptions, answers
        self.numbers, self.killed = count(), []

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> Any:
        return value

    def remote(self, _: Any) -> Any:
        return self

    def options(self, **_: Any) -> Any:
        ray = self

        class Actor:
            def __init__(self) -> None:
                self.number, self.run = next(ray.numbers), self

            def options(self, **_: Any) -> Actor:
                return self

            def remote(self, batch: Any) -> Any:
                return iter([*(("result", number**2) for number in batch), ("done", None)])

        class Kind:
            def remote(self, _: Any) -> Actor:
                return Actor()

        return Kind()

    def wait(self, refs: list[Any], **_: Any) -> Any:
        return refs[:1], refs[1:]

    def get(self, ref: Any) -> Any:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return ref

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)
        raise self.exceptions.RaySystemError("it is gone already")


def test_what_ray_says_of_lost_workers(pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    silent = exceptions.RayTaskError("run", "", AssertionError())  # made by the real Ray

    def results(*answers: Any) -> tuple[list[int], list[int], list[str]]:
        ray, told = ScriptedRay(exceptions, list(answers)), []
        monkeypatch.setitem(sys.modules, "ray", ray)
        found = list(run_map(Engine("ray", workers=1), Squares(pids), [[n] for n in range(5)], told.append))
        return sorted(found), ray.killed, told

    for loss in (
        exceptions.OutOfMemoryError("memory"), exceptions.NodeDiedError("node"), exceptions.WorkerCrashedError(),
        exceptions.ActorUnavailableError("out of reach", b"0" * 16), exceptions.ActorDiedError(),
    ):  # fmt: skip
        found, killed, told = results(loss)
        assert found == [0, 1, 4, 9, 16]
        assert killed == [0, 1]  # the lost one, lest it go on, and at the end the one in its place
        assert told == ["a worker died; its batches are given to another"]
    with pytest.raises(EngineError, match="^Ray failed: .*no such resources$"):
        results(exceptions.TaskUnschedulableError("no such resources"))
    with pytest.raises(EngineError, match="^Ray failed: .*disk"):
        results(exceptions.OutOfDiskError("disk"))
    with pytest.raises(EngineError, match="^a worker failed: AssertionError$"):
        results(silent)


@pytest.mark.slow
def test_on_ray_read_a_little_ahead(cluster: None, pids: Path) -> None:
    read = []

    def batches() -> Iterator[list[int]]:
        for n in range(40):
            read.append(n)
            yield [2 * n, 2 * n + 1]

    results = run_map(RAY, Squares(pids), batches())
    found = [next(results)]
    assert len(read) <= 6
    found += results
    assert sorted(found) == [n**2 for n in range(80)]
    assert len(list(pids.iterdir())) == 2


@pytest.mark.slow
def test_on_ray_results_come_as_they_are_made(cluster: None, tmp_path: Path) -> None:
    def kill() -> None:
        for pid in actors():
            os.kill(pid, signal.SIGKILL)

    check_results_come_as_they_are_made(RAY, tmp_path, kill)


@pytest.mark.slow
def test_on_ray_errors_are_named(cluster: None, pids: Path) -> None:
    with pytest.raises(EngineError, match="^the number of the beast$"):
        list(run_map(RAY, Squares(pids), [[1], [666]]))
    with pytest.raises(EngineError, match="a worker failed: .*a fault of the code"):
        list(run_map(RAY, Squares(pids), [[1], [667]]))
    with pytest.raises(EngineError, match="a worker failed: AssertionError"):
        list(run_map(RAY, Squares(pids), [[1], [669]]))
    with pytest.raises(EngineError, match="workers died 5 times on the same batch"):
        list(run_map(RAY, Squares(pids), [[668]]))


@pytest.mark.slow
def test_on_ray_killed_workers_lose_and_double_nothing(cluster: None, pids: Path, tmp_path: Path) -> None:
    whole, out, told = tmp_path / "whole", tmp_path / "out", []
    generate(prompts(40), [ToyBackend()], whole)
    killed = []

    def kill_twice() -> None:
        for more in (5, 15):
            while not (out / "manifest.jsonl").exists() or (out / "manifest.jsonl").read_bytes().count(b"\n") < more:
                time.sleep(0.01)
            alive = [int(path.name) for path in pids.iterdir() if int(path.name) not in killed]
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    report = generate(prompts(40), [ToyBackend(delay=0.1, pids=pids)], out, engine=RAY, on_note=told.append)
    killer.join(10)
    assert len(killed) == 2
    assert len(list(pids.iterdir())) >= 3  # others took their place
    assert report.made == 40
    assert told[:2] == ["a worker died; its batches are given to another"] * 2
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_ray_that_is_not_there(pids: Path) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(EngineError, match=r"Ray at 127.0.0.1:9 cannot be reached"):
        list(run_map(Engine("ray", address="127.0.0.1:9"), Squares(pids), [[1]]))
