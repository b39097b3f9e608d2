"""One data file to another: the format, and where the images are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from humanpref.data.folder import ImageFolder
from humanpref.data.formats import DataFile, get_format, open_data, write_rankings
from humanpref.data.pairs import explode
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking

BY_SUFFIX = {".parquet": "rankings-parquet", ".csv": "pairs"}
"""What is written where no format is asked for; otherwise `rankings`."""


@dataclass(frozen=True)
class Conversion:
    """What was written; `image_root` is the folder to name when it is read again, None where it is found."""

    source_format: str
    format: str
    rankings: int
    image_root: Path | None


def convert_data(
    data: str | Path,
    target: str | Path,
    format: str | None = None,  # noqa: A002 - the command line's word
    *,
    image_root: str | Path | None = None,
    drop: Collection[str] = (),
    copy_images: bool = False,
    pairs: bool = False,
    on_ranking: Callable[[], None] | None = None,
) -> Conversion:
    """Write a data file in another format, streaming.

    Images stay where they are and are named relative to the new file if they are below its folder, else relative to
    the old image root; `copy_images` copies them to a folder named like the new file. `pairs` writes every pair of a
    group on its own. Raises `DataError` for what the format cannot hold (see `write_rankings`).
    """
    target = Path(target).expanduser()
    chosen = get_format(format or BY_SUFFIX.get(target.suffix, "rankings"))
    file = open_data(data, image_root)
    if target.exists() and target.samefile(file.path):
        raise DataError(f"{target}: cannot be converted onto itself")
    rankings: Iterable[Ranking] = _told(file, on_ranking)
    if pairs:
        rankings = (pair for ranking in rankings for pair in explode(ranking))
    home = target.with_suffix("") if target.suffix else target.with_name(target.name + "-images")
    if copy_images:
        rankings, root = _copied(rankings, file.folder, home), home
    else:
        root = _root(file, target.parent)
    count = write_rankings(rankings, target, chosen.name, image_root=root, drop=drop)
    found = chosen.layout.makes_images or root.absolute() in {home.absolute(), target.parent.absolute()}
    return Conversion(file.format.name, chosen.name, count, None if found else root)


def _told(file: DataFile, on_ranking: Callable[[], None] | None) -> Iterator[Ranking]:
    for ranking in file:
        if on_ranking is not None:
            on_ranking()
        yield ranking


def _root(file: DataFile, folder: Path) -> Path:
    next(iter(file), None)  # which of the candidate folders it is shows with the first image
    old, new = file.folder.root, folder.absolute()
    return folder if old.absolute().is_relative_to(new) else old


def _copied(rankings: Iterable[Ranking], folder: ImageFolder, home: Path) -> Iterator[Ranking]:
    done: set[Path] = set()
    for ranking in rankings:
        images = []
        for image in ranking.images:
            copy = home / folder.name(image)
            if copy not in done:
                try:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(image.path, copy)
                except (OSError, shutil.SameFileError) as error:
                    raise DataError(f"{image}: cannot be copied to {copy} ({error})") from None
                done.add(copy)
            images.append(ImageRef(copy, image.source))
        yield replace(ranking, images=tuple(images))
