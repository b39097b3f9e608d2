"""Checkpoints on disk: written whole or not at all, the last k and the best kept; which run a folder belongs to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from humanpref.errors import TrainingError, reason_of
from humanpref.files import HeldError, hold, remove_parts, sync, whole
from humanpref.training.config import differences, from_json, to_json

RUN, LOCK, FOLDER, STATE, LOG = "run.json", ".lock", "checkpoints", "state.json", "log.jsonl"


@dataclass(frozen=True)
class State:
    """Where a run stands after `step` steps. `best_*`: the best validation so far; `worse`: validations since then."""

    step: int = 0
    best_step: int | None = None
    best_accuracy: float | None = None
    worse: int = 0
    skipped: int = 0


class AnyState(Protocol):
    """Where a run of some kind stands: a frozen dataclass of what JSON can hold."""

    @property
    def step(self) -> int:
        """How many steps are done."""
        ...


Kind = TypeVar("Kind")


class TrainFolder:
    """The output folder of a run, held by a lock that the system lets go of when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        strange = path.exists() and not path.is_dir()
        if path.is_dir() and not (path / RUN).exists():
            found = {p.name for p in path.iterdir() if not p.name.startswith(".")}
            strange = bool(found - {FOLDER, "embeddings.safetensors"})
        if strange:
            raise TrainingError(f"{path}: holds something else than a training run; choose another --out")
        try:
            (path / FOLDER).mkdir(parents=True, exist_ok=True)
            self._lock = hold(path / LOCK)
        except HeldError as error:
            raise TrainingError(
                f"{path}: another process is training there ({error}); wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise TrainingError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
        remove_parts(path)
        for part in (path / FOLDER).glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def agree(self, config: object, facts: Mapping[str, object]) -> None:
        """Note what the run is made of, or check that it goes on with what is here.

        facts: what else must not change: the data's fingerprint, the number of processes. Raises `TrainingError` that
        shows each difference; nothing is touched then.
        """
        file = self.path / RUN
        if file.exists() and self.latest() is not None:
            try:
                before = json.loads(file.read_text())
                old, then = from_json(json.dumps(before["config"]), type(config)), before["facts"]
            except (OSError, ValueError, KeyError, TypeError):
                raise TrainingError(f"{file}: damaged; choose another --out, or delete the folder") from None
            changed = differences(old, config)
            changed += [f"{k} {_short(then.get(k))} -> {_short(v)}" for k, v in facts.items() if then.get(k) != v]
            if changed:
                raise TrainingError(
                    f"{self.path} holds a run with another configuration: {'; '.join(changed)}. Give the same options "
                    "to go on with it, or another --out to start anew"
                )
        write_json(file, {"config": json.loads(to_json(config)), "facts": dict(facts)})

    def latest(self) -> Path | None:
        """The checkpoint with the most steps, None where there is none."""
        found = sorted(self._all(), key=_step_of)
        return found[-1] if found else None

    def save(self, state: AnyState, write: Callable[[Path], None], *, main: bool, wait: Callable[[], None]) -> None:
        """Write a checkpoint: `write` fills a hidden folder (called by every process), which is then renamed.

        Raises `TrainingError` when it cannot be written (a full disk, say); the checkpoints before it stay.
        """
        target = checkpoint_of(self.path, state.step)
        part = target.with_name(f".{target.name}.part")
        try:
            if main:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            wait()
            write(part)
            wait()
            if main:
                (part / STATE).write_text(json.dumps(asdict(state)))  # type: ignore[call-overload]
                for file in (*part.rglob("*"), part):
                    sync(file)
                if target.exists():
                    shutil.rmtree(target)
                part.rename(target)
                sync(target.parent)
            wait()
        except Exception as error:  # torch, safetensors and the system each have their own error for a full disk
            if main:
                shutil.rmtree(part, ignore_errors=True)
            last = self.latest()
            left = f"the last good one is {last}" if last else "there is none before it"
            raise TrainingError(
                f"{target}: the checkpoint cannot be written ({reason_of(error)}); {left}. Make room and run the same "
                "command to go on"
            ) from error

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the last `keep` and the best."""
        found = sorted(self._all(), key=_step_of)
        for path in found[:-keep]:
            if _step_of(path) != best:
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [p for p in (self.path / FOLDER).glob("step-*") if (p / STATE).is_file()]


def read_state(checkpoint: Path, kind: type[Kind]) -> Kind:
    """Read where a run of a kind stood. Raises `TrainingError`."""
    try:
        return kind(**json.loads((checkpoint / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{checkpoint}: damaged checkpoint ({error}); delete it to go on from the one before"
        ) from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, a half-written last one left out."""
    rows = []
    if path.is_file():
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                rows.append(json.loads(line))
    return rows


class Log:
    """The run's log, one JSON object a line: {"step", "loss", ...} and {"step", "validation", ...}.

    Going on from a checkpoint, what was logged after its step is dropped, as those steps are taken again.
    """

    def __init__(self, path: Path, after: int) -> None:
        rows = [row for row in read_log(path) if row["step"] <= after]
        with whole(path) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._file: IO[str] = path.open("a")

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; it is on disk, or at least with the system, when this returns."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all. Raises `TrainingError`."""
    try:
        with whole(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror})") from None


def checkpoint_of(out: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return out / FOLDER / f"step-{step:08d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
