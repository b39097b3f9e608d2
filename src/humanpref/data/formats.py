"""The registry of formats: which one a file has (found from its content, never from its name), reading and writing.

The modules beside this one know the field names, one dataset each; `rows.py` knows JSON, CSV and Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from humanpref.data import hpdv1, hpdv2, imagereward, native, pairs, pickapic
from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Numbered
from humanpref.data.rows import ROW_WORD, parquet_columns, read_rows, sniff, write_rows
from humanpref.errors import DataError, UnknownNameError
from humanpref.records import ImageRef, Ranking

LAYOUTS = (
    native.LAYOUT,
    hpdv2.TRAIN,
    hpdv2.TEST,
    hpdv1.LAYOUT,
    imagereward.TEST,
    imagereward.DB,
    pickapic.LAYOUT,
    pairs.LAYOUT,
)
DROPPABLE = ("id", "annotator", "source", "soft", "prompt_source", "style")
"""What of a ranking may be left out, on request, where a format cannot hold it."""

_NAMED = {"id": "ids", "annotator": "annotators", "source": "the sources of images", "soft": "soft labels",
          "prompt_source": "the sources of prompts", "style": "styles", "groups": "groups of more than two images",
          "ties": "ties"}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A layout in a container. Named like the layout, with the container behind it where it is not the usual one."""

    layout: Layout
    container: str

    @property
    def name(self) -> str:
        """The format's name, as `write_rankings` takes it."""
        usual = self.container == self.layout.containers[0]
        return self.layout.name if usual else f"{self.layout.name}-{self.container}"


FORMATS = {f.name: f for f in (Format(layout, container) for layout in LAYOUTS for container in layout.containers)}


@dataclass(frozen=True)
class DataFile:
    """A preference data file that has been recognised; iterate over it for its rankings."""

    path: Path
    format: Format
    folder: ImageFolder

    def __iter__(self) -> Iterator[Ranking]:
        return self.rankings()

    def rankings(self, on_error: Callable[[DataError], None] | None = None) -> Iterator[Ranking]:
        """Yield the rankings, streaming. A bad instance is an error, or handed to `on_error` and passed over."""
        layout, word = self.format.layout, ROW_WORD[self.format.container]
        columns = (*layout.fields, *layout.optional)
        rows: Iterable[Numbered] = read_rows(self.path, self.format.container, columns)
        for number, row in layout.gather(rows) if layout.gather else rows:
            try:
                found = list(layout.read(layout.check(row), self.folder))
            except DataError as error:
                placed = DataError(f"{self.path}: {word} {number}: {error}")
                if on_error is None:
                    raise placed from None
                on_error(placed)
                continue
            yield from found


def read_rankings(data: str | Path, image_root: str | Path | None = None) -> list[Ranking]:
    """Read human rankings from a file in any known format, or a folder that holds one.

    See `iter_rankings`, which does the same without holding them all.
    """
    return list(iter_rankings(data, image_root))


def iter_rankings(data: str | Path, image_root: str | Path | None = None) -> Iterator[Ranking]:
    """Yield the rankings of a file in any known format, or of the one data file in a folder (`test.json` first).

    An HPD v2 test instance gives its consensus (`annotator` None) and then its raw annotations. Images are looked for
    in `image_root`, else in a folder named like the file (`test/` beside `test.json`, as published), else beside it.
    Pick-a-Pic's images are inside its file: they are written to `image_root`, else to a folder named like the file.
    Raises `DataError` when the data is not there or is not what its format says.
    """
    return iter(open_data(data, image_root))


def open_data(data: str | Path, image_root: str | Path | None = None) -> DataFile:
    """Recognise a data file (or the one in a folder) and find its image folder; reads its first row only."""
    path = _find(Path(data).expanduser())
    found = detect_format(path)
    return DataFile(path, found, _image_folder(path, image_root, makes_images=found.layout.makes_images))


def detect_format(path: str | Path) -> Format:
    """Find out a file's format from its content. Raises `DataError` that says what was looked for."""
    path = Path(path)
    container = sniff(path)
    if container == "parquet":
        row: object = dict.fromkeys(parquet_columns(path))
    else:
        _, row = next(read_rows(path, container), (0, None))
    if row is None:
        raise DataError(f"{path}: holds no instances; expected a list of instances")
    for layout in LAYOUTS:
        if container in layout.containers and isinstance(row, dict) and layout.matches(row):
            return Format(layout, container)
    has = f"its first row has {', '.join(map(str, row)) or 'nothing'}" if isinstance(row, dict) else "no fields"
    wanted = "; ".join(f"{x.title} ({', '.join(x.fields)})" for x in LAYOUTS if container in x.containers)
    raise DataError(f"{path}: unknown format: {has[:200]}; expected one of: {wanted}")


def get_format(name: str) -> Format:
    """Look a format up by name. Raises `UnknownNameError` that lists the formats."""
    if name not in FORMATS:
        raise UnknownNameError(f"{name!r} is not a format; choose from: {', '.join(FORMATS)}")
    return FORMATS[name]


def write_rankings(
    rankings: Iterable[Ranking],
    path: str | Path,
    format: str = "rankings",  # noqa: A002 - the command line's word
    *,
    image_root: str | Path | None = None,
    drop: Collection[str] = (),
) -> int:
    """Write rankings in a format, whole or not at all -> the number of rankings.

    Images are named below `image_root`, by default the file's own folder. What a format cannot hold is refused with a
    `DataError` that says so; `drop` leaves out "id", "annotator", "source", "prompt_source", "style" or "soft" (labels,
    rounded) on purpose.
    """
    path, chosen = Path(path).expanduser(), get_format(format)
    if unknown := set(drop) - set(DROPPABLE):
        raise UnknownNameError(f"cannot drop {', '.join(sorted(unknown))}; choose from: {', '.join(DROPPABLE)}")
    layout = chosen.layout
    folder = ImageFolder(Path(image_root).expanduser() if image_root is not None else path.parent)
    count = 0

    def checked() -> Iterator[Ranking]:
        nonlocal count
        for ranking in rankings:
            slim = _without(ranking, drop)
            for feature in sorted(_features(slim) - layout.holds):
                hint = f"leave them out (drop {feature}), or " if feature in DROPPABLE else ""
                hint += "write pairs (data pairs), or " if feature == "groups" else ""
                raise DataError(
                    f"{path}: {chosen.name} cannot hold {_NAMED[feature]} (ranking of {slim.prompt[:60]!r}); "
                    f"{hint}write rankings"
                )
            count += 1
            yield slim

    batch = 32 if layout.makes_images else 1024
    write_rows(layout.write(checked(), folder), path, chosen.container, layout.columns, batch)
    return count


def _features(ranking: Ranking) -> set[str]:
    present = {
        "id": ranking.id is not None,
        "annotator": ranking.annotator is not None,
        "source": any(image.source is not None for image in ranking.images),
        "soft": ranking.first_preferred is not None,
        "prompt_source": ranking.prompt_source is not None,
        "style": ranking.style is not None,
        "groups": len(ranking.images) > 2,
        "ties": len(set(ranking.ranks)) < len(ranking.ranks),
    }
    return {name for name, there in present.items() if there}


def _without(ranking: Ranking, drop: Collection[str]) -> Ranking:
    if not drop:
        return ranking
    return replace(
        ranking,
        images=tuple(ImageRef(image.path) for image in ranking.images) if "source" in drop else ranking.images,
        annotator=None if "annotator" in drop else ranking.annotator,
        id=None if "id" in drop else ranking.id,
        first_preferred=None if "soft" in drop else ranking.first_preferred,
        prompt_source=None if "prompt_source" in drop else ranking.prompt_source,
        style=None if "style" in drop else ranking.style,
    )


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: no such file or folder")
        return path
    if (path / "test.json").is_file():
        return path / "test.json"
    from humanpref.images import SUFFIXES  # images may lie in the same folder, by the hundred thousand

    files = sorted(p for p in path.iterdir() if p.suffix.lower() not in SUFFIXES and p.is_file())
    known = list(islice(filter(_is_known, files), 2))
    if len(known) == 1:
        return known[0]
    if known:
        raise DataError(f"{path}: holds several data files ({known[0].name}, {known[1].name}); name one of them")
    raise DataError(f"{path}: looked for test.json (HPD v2) or one file of a known format in this folder, found none")


def _is_known(path: Path) -> bool:
    try:
        detect_format(path)
    except DataError:
        return False
    return True


def _image_folder(path: Path, image_root: str | Path | None, *, makes_images: bool) -> ImageFolder:
    if image_root is not None:
        root = Path(image_root).expanduser()
        if not makes_images and not root.is_dir():
            raise DataError(f"{root}: the image root is not a folder")
        return ImageFolder(root)
    beside = path.with_suffix("") if path.suffix else path.with_name(path.name + "-images")
    if makes_images:
        return ImageFolder(beside)
    return ImageFolder(beside, path.parent) if beside.is_dir() else ImageFolder(path.parent)
