"""Where weights come from: the Hub at a pinned revision, or a file; checked, memory-mapped, never unpickled blindly."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanpref.errors import DownloadError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.scorers.base import Companion, ScorerSpec


def locate_all(spec: ScorerSpec, weights: str | Path | None) -> tuple[Path, ...]:
    """Return the checkpoint to load, then the scorer's companions: beside the user's file, else the published ones."""
    return (locate(spec, weights), *locate_companions(spec, weights))


def locate_companions(spec: ScorerSpec, weights: str | Path | None) -> tuple[Path, ...]:
    """Return the other files a scorer needs, in its row's order: beside the user's, else the published."""
    folder = None if weights is None else Path(weights).expanduser().parent
    return tuple(_companion(spec, item, folder) for item in spec.companions)


def locate(spec: ScorerSpec, weights: str | Path | None) -> Path:
    """Return the checkpoint to load: the user's file, else the published one (downloaded if need be)."""
    if weights is None and spec.path is not None:
        return given_file(spec.path)
    return download(spec) if weights is None else given_file(weights)


def given_file(weights: str | Path) -> Path:
    """Return the path of a weights file the user names. Raises `WeightsError` when there is no such file."""
    path = Path(weights).expanduser()
    try:
        if path.is_file():
            return path
        what = "is a folder, give the weights file in it" if path.is_dir() else "no such file"
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error})"
    raise WeightsError(f"{path}: {what}")


def download(spec: ScorerSpec) -> Path:
    """Fetch the published checkpoint into the Hub cache (resuming what was begun) and verify it -> its path.

    Raises `DownloadError` when it cannot be had: no network, no space, not published for programs to fetch; and
    `WeightsError` for a file that is not the published one.
    """
    if spec.ships:
        raise DownloadError(f"{spec.name} ships with the package; there is nothing to download")
    if spec.repo is None or spec.file is None:
        raise DownloadError(
            f"{spec.name} needs {spec.file}, which can only be had by hand: see {spec.page}, and pass it with "
            "--weights FILE, or try --model lite, which needs no download"
        )
    try:
        return _fetch(spec.repo, spec.file, spec)
    except DownloadError as error:
        also = "".join(f" ({item.what} beside it, as {item.beside[0]})" for item in spec.companions)
        raise DownloadError(
            f"{spec.name} needs {spec.file}, which is not here and could not be downloaded ({error}). "
            f"Get it from {_url(spec)} and pass it with --weights FILE{also}, "
            "or try --model lite, which needs no download"
        ) from error.__cause__


def _companion(spec: ScorerSpec, item: Companion, folder: Path | None) -> Path:
    """Find a companion beside the user's own weights, else as published."""
    for name in item.beside if folder is not None else ():
        if folder is not None and (folder / name).is_file():
            return folder / name
    try:
        return _fetch(item.repo, item.file, item)
    except DownloadError as error:
        raise DownloadError(
            f"{spec.name} also needs {item.what} ({item.repo}, {item.file}), which is not here and could not be "
            f"downloaded ({error}). Get it from {_url(item)} and put it beside the --weights file, as {item.beside[0]}"
        ) from error.__cause__


def _url(item: ScorerSpec | Companion) -> str:
    return f"https://huggingface.co/{item.repo}/blob/{item.revision or 'main'}/{item.file}"


def _fetch(repo: str, file: str, item: ScorerSpec | Companion) -> Path:
    """Download one published file, or find it in the cache. `DownloadError` says only why it could not be had."""
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    cached = try_to_load_from_cache(repo, file, revision=item.revision)
    if isinstance(cached, str):
        path = Path(cached)
    else:
        _check_space(Path(constants.HF_HUB_CACHE), item)
        try:
            # asked once first, because the download itself retries for half a minute before it says there is no network
            get_hf_file_metadata(hf_hub_url(repo, file, revision=item.revision))
            path = Path(hf_hub_download(repo, file, revision=item.revision))
        except Exception as error:  # whatever the Hub client or its HTTP library raises: which ones differ by version
            why = "no space left on the disk" if getattr(error, "errno", None) == errno.ENOSPC else _first_line(error)
            raise DownloadError(why) from error
    try:
        verify(path, item.sha256)
    except WeightsError:
        # the link in the cache and what it points to, or the next download would find the same bytes again
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return path


def verify(path: Path, sha256: str | None) -> None:
    """Check a file against its published SHA-256, once: the result is remembered beside it by size and time.

    Raises `WeightsError` when the two differ. Nothing is checked where no checksum is known.
    """
    if sha256 is None:
        return
    real = path.resolve()
    stat = real.stat()
    stamp = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    record = real.with_name(real.name + ".humanpref-verified.json")
    try:
        if json.loads(record.read_text()) == stamp:
            return
    except (OSError, ValueError):
        pass  # not verified yet
    found = file_sha256(real)
    if found != sha256:
        raise WeightsError(
            f"{path}: SHA-256 is {found[:16]}..., the published file has {sha256[:16]}...; delete it and download again"
        )
    try:
        record.write_text(json.dumps(stamp))
    except OSError:
        return  # a read-only cache is verified anew each time


@dataclass(frozen=True)
class Origin:
    """What a network was loaded from: its architecture, and what gives the SHA-256 of each of its files."""

    arch: str
    checksums: tuple[Callable[[], str], ...]


def fingerprint(path: Path, sha256: str | None = None) -> Callable[[], str]:
    """Return what gives the SHA-256 of a checkpoint about to be loaded; the file is read when that is asked for, once.

    `sha256`: of a file that has been verified; it is not read again. Asking raises `WeightsError` when the file has
    changed by then, since its checksum would not be that of the weights in memory.
    """
    loaded = file_state(path)

    @cache
    def digest() -> str:
        if sha256 is not None:
            return sha256
        try:
            found = file_sha256(path)
            if file_state(path) == loaded:
                return found
            why = "has changed"
        except OSError as error:
            why = f"cannot be read any more ({error})"
        raise WeightsError(f"{path}: {why} since it was loaded; load the scorer again, or do without the score cache")

    return digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def file_state(path: Path) -> tuple[int, ...]:
    """What differs once a file was written to or replaced: inode, size, time of the last change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, memory-mapped: {its own key: tensor}. The kind is found from the content.

    Takes safetensors, and PyTorch files holding the tensors flat or under `state_dict` (the official layout, also
    with optimiser state beside it). Nothing is unpickled but tensors, plain containers and numpy scalars.
    Raises `WeightsError` for a damaged or half-downloaded file, one that would run code, or one without tensors.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise WeightsError(f"{path}: the file is empty")
    is_safetensors = len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30
    content = _read_safetensors(path) if is_safetensors else _read_torch(path, is_zip=head[:2] == b"PK")
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    return clean_keys(inner if isinstance(inner, Mapping) else {}, path)


def clean_keys(content: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    """Keep the tensors, without the prefix that distributed training adds. Raises `WeightsError` if there are none."""
    import torch

    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no weights (looked for tensors, flat or under 'state_dict')")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


ARCH_ADVICE = "If it is of another size, name its architecture with --arch (an open_clip name or a JSON config)"


def check_fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, arch: str, advice: str = ARCH_ADVICE
) -> None:
    """Raise `WeightsError`, with counts and an example of each, unless the names and shapes are those of `arch`."""
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    shapes = [key for key in expected if key in found and expected[key].shape != found[key].shape]
    strange = [key for key in expected if key in found and not _is_plain(found[key], expected[key])]
    problems = []
    if missing:
        problems.append(f"{len(missing)} weights missing (first: {missing[0]})")
    if extra:
        problems.append(f"{len(extra)} unknown (first: {extra[0]})")
    if shapes:
        key = shapes[0]
        problems.append(
            f"{len(shapes)} of another shape "
            f"(first: {key} is {tuple(found[key].shape)}, not {tuple(expected[key].shape)})"
        )
    if strange:
        problems.append(
            f"{len(strange)} not plain numbers of the right kind (first: {strange[0]}, {found[strange[0]].dtype})"
        )
    if problems:
        raise WeightsError(f"{path}: does not fit architecture {arch}: {'; '.join(problems)}. {advice}".rstrip())


def is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor holds floating-point numbers, one beside the other, with nothing special about it."""
    import torch

    return tensor.is_floating_point() and tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)


def _is_plain(found: Tensor, expected: Tensor) -> bool:
    """Tell whether a tensor holds the kind of numbers that is expected there."""
    return is_dense(found) if expected.is_floating_point() else found.dtype == expected.dtype


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: damaged or half-downloaded safetensors file ({_first_line(error)})") from None


def _read_torch(path: Path, *, is_zip: bool) -> object:
    import codecs

    import numpy as np
    import torch

    # the official HPS_v2.pt keeps optimiser state with numpy scalars: plain numbers, which run nothing
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    numbers: list[Any] = [np.dtype, codecs.encode, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
    try:
        with torch.serialization.safe_globals([*((scalar, name) for name in names), *numbers]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported" in text or "GLOBAL" in text or "weights_only" in text.lower():
            raise WeightsError(
                f"{path}: refused, because loading it could run code (it holds more than weights). "
                "Save it again as {'state_dict': ...} or as safetensors"
            ) from None
        raise WeightsError(f"{path}: not a PyTorch or safetensors checkpoint") from None
    except Exception as error:  # what a damaged file makes the reader raise
        raise WeightsError(f"{path}: damaged, half-downloaded or not a checkpoint ({_first_line(error)})") from None


def _check_space(cache: Path, item: ScorerSpec | Companion) -> None:
    place = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if item.bytes is not None and free < item.bytes:
        raise DownloadError(
            f"{item.file} needs {item.bytes / 1e9:.1f} GB but {place} has {free / 1e9:.1f} GB free; "
            "make room, or set HF_HOME to a folder on another disk"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
