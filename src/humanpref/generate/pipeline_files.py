"""The files of a diffusers pipeline: found or fetched, told apart by their content, refused where they hold code."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from humanpref.errors import MissingExtraError
from humanpref.generate.contract import GenerateError

LIBRARIES = ("diffusers", "transformers")
"""Where the parts of a pipeline may come from, besides diffusers' own pipelines: never from files of the model."""


def import_diffusers() -> Any:
    """Return the library. Raises `MissingExtraError` where it, or what it needs, is not there."""
    try:
        import diffusers
        import transformers  # noqa: F401 - the text encoders
    except ImportError as error:
        raise MissingExtraError(f'diffusers backends need {error.name}: pip install "humanpref[generate]"') from None
    return diffusers


def is_folder(model: str) -> bool:
    """Tell whether a model is a folder here, not a name of the Hub."""
    return Path(model).expanduser().is_dir()


def find_pipeline(model: str, revision: str | None, variant: str | None) -> Path:
    """Return the folder of a model, fetched from the Hub where it is not one. Raises `GenerateError`."""
    diffusers = import_diffusers()
    if (folder := Path(model)).is_dir():
        if not (folder / "model_index.json").is_file():
            raise GenerateError(f"{folder}: is not a pipeline of diffusers (no model_index.json in it)")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise GenerateError(f"diffusers:{model}: no such folder, and no model of the Hub (OWNER/NAME)")
    be_quiet(diffusers)
    try:
        found = diffusers.DiffusionPipeline.download(model, revision=revision, variant=variant, use_safetensors=True)
    except Exception as error:  # the network's, the Hub's, the model's
        raise GenerateError(
            f"diffusers:{model}: cannot be had from the Hub ({one_line(error)}); check the name, the network, and "
            "HF_TOKEN for a gated model, or give a folder"
        ) from None
    return Path(found)


def pipeline_revision(folder: Path, model: str) -> str:
    """Return the commit of a model of the Hub; of a folder, a fingerprint: texts in full, weights by size and ends."""
    if not is_folder(model):
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            if size > 1 << 20:
                file.seek(-(1 << 20), 2)
                digest.update(file.read())
    return f"files-{digest.hexdigest()[:16]}"


def check_parts(folder: Path, diffusers: Any) -> None:
    """Refuse a pipeline that names code of its own, whatever this version of diffusers would do with it.

    Raises `GenerateError`.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {name: part for name, part in index.items() if not name.startswith("_") and isinstance(part, list)}
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, AttributeError):
        raise GenerateError(f"{folder}: its model_index.json cannot be read") from None
    for name, (library, *_) in {"pipeline": ("diffusers",) if isinstance(kind, str) else ("code",), **parts}.items():
        if library is not None and library not in LIBRARIES and not hasattr(diffusers.pipelines, str(library)):
            raise GenerateError(f"{folder}: its {name} comes with code of its own ({library}), which is not run")


def hash_lora(path: Path) -> str:
    """Return the SHA-256 of a LoRA. Raises `GenerateError` for what is no safetensors file that can be read."""
    if path.suffix != ".safetensors":
        raise GenerateError(f"{path}: a LoRA is read from a .safetensors file only")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise GenerateError(f"{path}: the LoRA cannot be read ({error.strerror or error})") from None


def be_quiet(diffusers: Any) -> None:
    """Let the libraries say nothing but errors."""
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def one_line(error: BaseException) -> str:
    """Say an error of any library in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
