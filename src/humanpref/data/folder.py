"""Where the images of a data file are: names in the file to paths and back, never leading out of the folder."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path, PurePosixPath

from humanpref.errors import DataError
from humanpref.files import whole
from humanpref.records import ImageRef

_SUFFIX_OF = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


class ImageFolder:
    """Image names below a root. With several candidate roots it is the first that has the first image asked for."""

    def __init__(self, *roots: Path) -> None:
        self._roots = roots
        self._chosen: Path | None = roots[0] if len(roots) == 1 else None
        self.ref = lru_cache(maxsize=65536)(self._ref)  # the pairs of one group name the same images again and again

    @property
    def root(self) -> Path:
        """The folder that names are joined to (the first candidate, as long as no image was asked for)."""
        return self._chosen or self._roots[0]

    def _ref(self, name: object, source: str | None = None) -> ImageRef:
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(f"an image must be named by text, got {str(name)[:40]!r}")
        if name[0] == "/" or (".." in name and ".." in PurePosixPath(name).parts) or Path(name).is_absolute():
            raise DataError(f"image path {name!r} leads out of the image folder")
        if self._chosen is None:
            self._chosen = next((root for root in self._roots if _exists(root / name)), self._roots[0])
        return ImageRef(self._chosen / name, source)

    def name(self, image: ImageRef) -> str:
        """Return an image's name below the root. Raises `DataError` when it is elsewhere."""
        try:
            inside = image.path.relative_to(self.root)
        except ValueError:
            inside = Path(os.path.relpath(image.path, self.root))
        if inside.is_absolute() or ".." in inside.parts or inside == Path():
            raise DataError(f"{image.path}: is not inside {self.root}; name the folder of the images (image_root)")
        return inside.as_posix()

    def store(self, content: object, source: str | None) -> ImageRef:
        """Write an image's bytes under the name of their SHA-256, unless they are there already."""
        if not isinstance(content, bytes) or not content:
            raise DataError("an image without bytes (the variant of this dataset without images cannot be used)")
        suffix = next((suffix for magic, suffix in _SUFFIX_OF if content.startswith(magic)), ".img")
        path = self.root / (hashlib.sha256(content).hexdigest() + suffix)
        try:
            if not (path.is_file() and path.stat().st_size == len(content)):
                self.root.mkdir(parents=True, exist_ok=True)
                with whole(path) as part:
                    part.write_bytes(content)
        except OSError as error:
            raise DataError(f"{path}: the images cannot be written there ({error}); choose an image_root") from None
        return ImageRef(path, source)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False
