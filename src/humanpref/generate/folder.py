"""Images that were made elsewhere: files of a folder, matched to prompts by name or by a manifest, copied or linked."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from humanpref.data.folder import ImageFolder
from humanpref.data.rows import read_rows, sniff
from humanpref.errors import DataError, ImageError
from humanpref.generate.contract import GenerateError, Outcome, Request, Settings, file_name
from humanpref.images import SUFFIXES, open_image
from humanpref.prompts.records import Prompt

FILE_FIELDS = ("file", "path", "image", "file_name")
METHODS = ("id", "slug", "index")


@dataclass(frozen=True)
class FolderConfig:
    """`match` says what a file's name is: the prompt's id, its index in the prompt file (from 0; 00007.jpg) or its text
    as a slug, each with -0, -1 ... behind it where there are several; auto: what most prompts are found by. `manifest`
    is a CSV or JSON Lines file with `file` and one of `id`, `index`, `prompt`, and `number` where there are several."""

    name: str | None = None
    match: Literal["auto", "id", "slug", "index"] = "auto"
    manifest: Path | None = None
    link: Literal["copy", "hard", "symbolic"] = "copy"


@dataclass
class FolderBackend:
    """A folder of images of one model."""

    what: str
    config: FolderConfig
    name: str = ""
    revision: str = "unknown"
    settings: Settings = field(default_factory=dict)
    chunk: int = 256
    local: bool = True
    made_with: str = "elsewhere"

    def __post_init__(self) -> None:
        self.folder = Path(self.what).expanduser()
        if not self.folder.is_dir():
            raise GenerateError(f"folder:{self.what}: no such folder")
        self.name = self.config.name or self.folder.resolve().name
        self._files: Mapping[tuple[str, int], list[Path]] = {}
        self._by: str = "manifest" if self.config.manifest is not None else self.config.match

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Settle how files are matched. Raises `GenerateError` where no image belongs to any prompt."""
        if self.config.manifest is not None:
            self._files = _read_manifest(self.config.manifest, self.folder, prompts)
        else:
            names = _names(self.folder)
            methods: tuple[str, ...] = METHODS if self._by == "auto" else (self._by,)
            found = {method: _match(method, names, prompts) for method in methods}
            self._by = max(methods, key=lambda method: len(found[method]))  # the first one of equals
            self._files = found[self._by]
        if not self._files:
            raise GenerateError(
                f"{self.folder}: no image belongs to any of the prompts (matched by {self._by}); its names are to be "
                "<id>.png, <index>.png, or give a manifest of file and prompt (,manifest=FILE)"
            )
        self.settings = {"backend": "folder", "folder": str(self.folder.resolve()), "match": self._by}

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield the files, each opened and checked."""
        root = self.folder.resolve()
        for request in requests:
            files = self._files.get((request.prompt.id, request.number), [])
            if len(files) != 1:
                what = ", ".join(path.name for path in files[:3])
                reason = f"several images match: {what}" if files else f"no image of it in {self.folder}"
                yield Outcome(request, "failed", reason=reason)
                continue
            try:
                if not files[0].resolve().is_relative_to(root):
                    raise ImageError(f"{files[0]}: is a link that leads out of the folder")
                if files[0].suffix.lower() not in SUFFIXES:
                    raise ImageError(f"{files[0]}: is not named as an image ({', '.join(sorted(SUFFIXES))})")
                open_image(files[0])
            except ImageError as error:
                yield Outcome(request, "failed", reason=str(error))
            else:
                yield Outcome(request, "done", file=files[0], link=self.config.link)


def slug(text: str) -> str:
    """Return a prompt as people name files by it: lower case, runs of anything else as one hyphen, 80 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].rstrip("-")


def _names(folder: Path) -> dict[str, list[Path]]:
    names = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            names[path.stem].append(path)
    if not names:
        raise GenerateError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return names


def _match(
    method: str, names: Mapping[str, list[Path]], prompts: Sequence[Prompt]
) -> Mapping[tuple[str, int], list[Path]]:
    """Return the files of each (prompt id, number): `<name>`, which is number 0, or `<name>-<number>` (or `_`)."""
    owners: dict[str, list[str]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        if method == "id":
            for name in dict.fromkeys((prompt.id, file_name(prompt.id))):
                owners[name].append(prompt.id)
        else:
            owners[slug(prompt.text) if method == "slug" else str(index)].append(prompt.id)
    files: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for stem, paths in names.items():
        parts = re.fullmatch(r"(.+)[-_]([0-9]{1,9})", stem)
        for name, number in ((stem, 0), *([(parts[1], int(parts[2]))] if parts else [])):
            plain = str(int(name)) if method == "index" and name.isascii() and name.isdigit() else name
            plain = slug(name) if method == "slug" else plain
            for owner in owners.get(plain, ()):
                files[owner, number] += paths
            if plain in owners:
                break
    return files


def _read_manifest(path: Path, folder: Path, prompts: Sequence[Prompt]) -> Mapping[tuple[str, int], list[Path]]:
    texts: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts:
        texts[prompt.text].append(prompt.id)
    ids = {prompt.id for prompt in prompts}
    inside, files = ImageFolder(folder), defaultdict(list)
    for number, row in read_rows(path, sniff(path)):
        try:
            name = next((row[key] for key in FILE_FIELDS if row.get(key)), None)
            if name is None:
                raise DataError(f"names no file ({', '.join(FILE_FIELDS)})")
            image = inside.ref(name).path
            for owner in _owners(row, ids, texts, prompts):
                files[owner, int(row.get("number") or 0)].append(image)
        except (DataError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: row {number}: {error}") from None
    return files


def _owners(
    row: Mapping[str, Any], ids: set[str], texts: Mapping[str, list[str]], prompts: Sequence[Prompt]
) -> list[str]:
    """Return the ids of the prompts that a row of a manifest is about; images of other prompts may be there too."""
    if (name := row.get("id", row.get("prompt_id"))) is not None:
        return [str(name)] if str(name) in ids else []
    if (text := row.get("prompt", row.get("text"))) is not None:
        return texts.get(text, [])
    if (index := row.get("index")) is not None:
        return [prompts[int(index)].id] if 0 <= int(index) < len(prompts) else []
    raise DataError("says of no prompt: id, prompt or index")
