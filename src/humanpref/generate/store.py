"""The output folder of a run: its lock, what it was made with, its images. One process at a time writes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.errors import DataError
from humanpref.files import HeldError, hold, remove_parts, sync, whole
from humanpref.generate.contract import Backend, GenerateError, file_name, settings_hash
from humanpref.generate.manifest import MANIFEST, Key, Manifest, key_of, read_manifest

RUN, LOCK = "run.json", ".lock"


class RunFolder:
    """The folder, held by a lock that the system lets go of when this process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images = ImageFolder(path)
        _check_is_ours(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = hold(path / LOCK)
        except HeldError as error:
            raise GenerateError(f"{path}: another run is writing there ({error}); wait for it, or end it") from None
        self._removed_parts = sum(map(remove_parts, (path, *(p for p in path.iterdir() if p.is_dir()))))
        self.manifest = Manifest(path / MANIFEST)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.manifest.close()
        self._lock.close()

    def agree(self, seed: int, backends: Sequence[Backend]) -> tuple[str, ...]:
        """Check that this run goes on with what is here, and note it -> the models of the folder, old ones first.

        Prompts, models and images per prompt may be added; a model that made nothing does not bind. Raises
        `GenerateError` naming the setting that differs.
        """
        file = self.path / RUN
        run: dict[str, Any] = {"version": 1, "seed": seed, "models": {}}
        used = {row["model"] for row in read_manifest(self.manifest.path) if row["status"] != "failed"}
        if used:
            try:
                run = json.loads(file.read_text(encoding="utf-8"))
                models, was = dict(run["models"]), run["seed"]
            except (OSError, ValueError, KeyError, TypeError):
                raise DataError(f"{file}: is damaged or gone; choose another --out") from None
            if was != seed:
                raise GenerateError(
                    f"{self.path}: holds another run: seed was {was}, is now {seed}; choose another --out"
                )
            run["models"] = {name: what for name, what in models.items() if name in used}
            for backend in backends:
                if (before := run["models"].get(backend.name)) is not None:
                    self._compare(backend, before)
        for backend in backends:
            run["models"][backend.name] = {
                "revision": backend.revision,
                "settings": dict(backend.settings),
                "settings_hash": settings_hash(backend.revision, backend.settings),
            }
        _replace(file, json.dumps(run, indent=1, ensure_ascii=False).encode())
        return tuple(run["models"])

    def _compare(self, backend: Backend, before: Mapping[str, Any]) -> None:
        was = {"revision": before["revision"], **before["settings"]}
        now = json.loads(json.dumps({"revision": backend.revision, **backend.settings}))
        for name in dict.fromkeys((*was, *now)):
            if was.get(name) != now.get(name):
                raise GenerateError(
                    f"{self.path}: holds another run: {name} of {backend.name} was {was.get(name)!r}, "
                    f"is now {now.get(name)!r}; choose another --out, or another name for the model (,name=...)"
                )

    def read_state(
        self, prompts: Mapping[str, str], *, again: Callable[[Key], bool]
    ) -> tuple[dict[Key, str], tuple[str, ...]]:
        """Return the status of each image that need not be made, and notes. Rows to be made again leave the manifest.

        `prompts` are the texts by id; `again` tells of a failed image whether this run makes it again.
        Raises `GenerateError` where an id was another prompt's.
        """
        state: dict[Key, str] = {}
        failed = lost = twice = 0
        for row in read_manifest(self.manifest.path):
            key = key_of(row)
            if prompts.get(row["prompt_id"], row["prompt"]) != row["prompt"]:
                raise GenerateError(
                    f"{self.path}: holds another run: prompt {row['prompt_id']!r} was {row['prompt'][:60]!r}, "
                    f"is now {prompts[row['prompt_id']][:60]!r}; choose another --out"
                )
            if row["status"] == "failed" and again(key):
                failed += 1
            elif row["status"] == "done" and not self._is_there(row):
                lost += 1
            elif key in state:
                twice += 1
            else:
                state[key] = row["status"]
        if failed or lost or twice:
            seen: set[Key] = set()

            def wanted(row: Mapping[str, Any]) -> bool:
                key = key_of(row)
                if key not in state or state[key] != row["status"] or key in seen:
                    return False
                seen.add(key)
                return True

            self.manifest.keep(wanted)
        notes = (
            (self.manifest.repaired, "the manifest's last line was cut; it is repaired"),
            (self._removed_parts, "files that were being written when a run ended are removed"),
            (lost, f"{lost} images of the manifest are not in the folder; they are made again"),
        )
        return state, tuple(text for happened, text in notes if happened)

    def _is_there(self, row: Mapping[str, Any]) -> bool:
        return self._images.ref(row["path"]).path.is_file()

    def put(self, model: str, stem: str, suffix: str, write: Callable[[Path], None]) -> tuple[str, str]:
        """Put an image on the disk, whole or not at all -> its path below the folder and its SHA-256."""
        folder = self.path / file_name(model)
        folder.mkdir(exist_ok=True)
        target = folder / f"{stem}{suffix}"
        with whole(target) as part:
            write(part)
            if not part.is_symlink():
                sync(part)
            with part.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
        sync(folder)
        return target.relative_to(self.path).as_posix(), digest.hexdigest()


def _check_is_ours(path: Path) -> None:
    """Refuse a folder that holds something else: a run never writes among files that it did not make."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; --out names a folder")
    if path.is_dir() and not (path / RUN).exists() and not (path / LOCK).exists() and any(path.iterdir()):
        raise DataError(f"{path}: holds other files and no {RUN}; choose an empty or new folder for --out")


def _replace(path: Path, content: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(content)
        sync(part)
    sync(path.parent)
