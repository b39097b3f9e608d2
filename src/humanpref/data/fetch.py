"""Fetching datasets from the Hub: planned and measured first, resumed, verified, unpacked, then there as a whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from humanpref.data.sources import DATASETS, Dataset
from humanpref.data.unpack import is_archive, stem, unpack
from humanpref.errors import DownloadError, UnknownNameError, reason_of

LOCK = "dataset.lock.json"
"""Beside the data: which commit it is of, and every file's size and SHA-256."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at the pinned commit; `sha256` where the Hub or our table knows it."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Plan:
    """What will be fetched, from where, to where. `done` when it is there already."""

    dataset: Dataset
    files: tuple[RemoteFile, ...]
    out: Path
    done: bool = False

    @property
    def bytes(self) -> int:
        """How much will be downloaded."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        sums = sum(file.sha256 is not None for file in self.files)
        return (
            f"{self.dataset.name}: {self.bytes / 1e9:.2f} GB in {len(self.files)} files ({sums} with a checksum) from "
            f"{self.dataset.repo} at {self.dataset.revision[:10]}, to {self.out}; "
            f"up to {self.peak / 1e9:.2f} GB of disk while unpacking"
        )

    @property
    def peak(self) -> int:
        """How much disk is needed at most, archives and what is in them."""
        return self.bytes + sum(file.size for file in self.files if is_archive(file.path))


def get_dataset(name: str) -> Dataset:
    """Look a dataset up. Raises `UnknownNameError` that lists them."""
    if name not in DATASETS:
        raise UnknownNameError(f"{name!r} is not a dataset; choose from: {', '.join(DATASETS)}")
    return DATASETS[name]


def plan_download(dataset: Dataset, out: str | Path | None = None) -> Plan:
    """Ask the Hub what there is at the pinned commit -> the plan; downloads nothing.

    `out` is the new folder (default: humanpref-data/NAME here). Raises `DownloadError` when the Hub cannot be asked,
    a file is not there, the disk is too small, or `out` holds something else.
    """
    out = Path(out).expanduser() if out is not None else Path("humanpref-data") / dataset.name
    if out.exists():
        if _lock(out).get("revision") == dataset.revision:
            return Plan(dataset, (), out, done=True)
        raise DownloadError(f"{out}: is there already and is not {dataset.name} at this commit; move it or give --out")
    files = tuple(list_files(dataset))
    plan = Plan(dataset, files, out)
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(place).free) < plan.peak:
        raise DownloadError(
            f"{dataset.name} needs {plan.peak / 1e9:.1f} GB but {place} has {free / 1e9:.1f} GB free; "
            "make room, or put it elsewhere with --out"
        )
    return plan


def fetch(plan: Plan, on_file: Callable[[], None] | None = None) -> Path:
    """Download, verify and unpack what was planned -> the folder, which appears only when it is complete.

    An interrupted download is taken up again by the next call. Raises `DownloadError` when a file cannot be had or is
    not what was published, `DataError` for an archive that is damaged or unsafe.
    """
    if plan.done:
        return plan.out
    work = plan.out.with_name(f".{plan.out.name}.download")
    downloads, data = work / "hub", work / "data"
    try:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        locked = {}
        for file in plan.files:
            path = _get(plan.dataset, file, downloads)
            locked[file.path] = {"size": path.stat().st_size, "sha256": _verified(path, file)}
            place = data / file.path.removeprefix(plan.dataset.strip)
            place.parent.mkdir(parents=True, exist_ok=True)
            if is_archive(file.path):
                unpack(path, place.with_name(stem(place.name)))
            else:
                _link(path, place)
            if on_file is not None:
                on_file()
        record = {"name": plan.dataset.name, "repo": plan.dataset.repo, "revision": plan.dataset.revision}
        (data / LOCK).write_text(json.dumps({**record, "files": locked}, indent=2))
        data.replace(plan.out)
    except OSError as error:
        why = "no space left on the disk" if error.errno == errno.ENOSPC else str(error)
        raise DownloadError(f"{plan.out}: cannot be written ({why})") from None
    shutil.rmtree(work, ignore_errors=True)
    return plan.out


def list_files(dataset: Dataset) -> list[RemoteFile]:
    """Ask the Hub for a dataset's files at its pinned commit; downloads nothing. Raises `DownloadError`."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(dataset.repo, revision=dataset.revision, files_metadata=True)
    except Exception as error:  # whatever the Hub client or its HTTP library raises: which ones differ by version
        raise DownloadError(_cannot_have(dataset, dataset.repo, error)) from None
    found = []
    for pattern in dataset.files:
        matches = [file for file in info.siblings or () if fnmatch(file.rfilename, pattern)]
        if not matches:
            raise DownloadError(f"{dataset.name}: {dataset.repo} has no {pattern} at commit {dataset.revision}")
        for file in matches:
            name = file.rfilename
            if ".." in name.split("/") or name.startswith("/") or file.size is None:
                raise DownloadError(f"{dataset.name}: {dataset.repo} lists {name!r}, which cannot be fetched safely")
            hub_sum = file.lfs.sha256 if file.lfs is not None else None
            found.append(RemoteFile(name, file.size, dataset.sha256.get(name, hub_sum)))
    return found


def _get(dataset: Dataset, file: RemoteFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(
                dataset.repo, file.path, repo_type="dataset", revision=dataset.revision, local_dir=os.fspath(folder)
            )
        )
    except Exception as error:  # as above
        raise DownloadError(_cannot_have(dataset, file.path, error)) from None


def _link(path: Path, place: Path) -> None:
    try:
        place.hardlink_to(path)  # the download stays, should this be interrupted, at no cost
    except OSError:
        shutil.copyfile(path, place)


def _verified(path: Path, file: RemoteFile) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if path.stat().st_size != file.size or (file.sha256 is not None and found != file.sha256):
        path.unlink()  # so that the next try fetches it anew
        raise DownloadError(
            f"{file.path}: is not the published file ({path.name}: SHA-256 {found[:16]}..., expected "
            f"{(file.sha256 or 'unknown')[:16]}..., {file.size} bytes); deleted, try again"
        )
    return found


def _cannot_have(dataset: Dataset, what: str, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC
    why = "no space left on the disk" if full else reason_of(error, 200)
    url = f"https://huggingface.co/datasets/{dataset.repo}/tree/{dataset.revision}"
    return f"{dataset.name}: {what} could not be downloaded ({why}). Try again later, or get it from {url}"


def _lock(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / LOCK).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
