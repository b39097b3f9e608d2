"""From images on disk to the groups of a project: a run of `humanpref generate`, a data file, or a plain folder."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from humanpref.annotate.records import LEAST, MOST, PRACTICE, ProjectGroup, ProjectImage, Role
from humanpref.data.folder import ImageFolder
from humanpref.data.formats import open_data
from humanpref.errors import DataError
from humanpref.generate.groups import GROUPS, read_groups
from humanpref.images import SUFFIXES, open_image
from humanpref.records import Group, ImageRef

PROMPT_FILE = "prompt.txt"
SERVED = {"JPEG", "PNG", "WEBP", "GIF"}
"""What every browser shows."""


def find_groups(images: Path) -> tuple[list[Group], Path]:
    """Find what is to be ranked -> groups, and the folder that their images are named in.

    `images` is the folder of a run of `humanpref generate` (or its groups.jsonl), a preference data file or its folder
    (its rankings are not used), or a folder with a folder for each group, named like the prompt or with a prompt.txt.
    Raises `DataError`.
    """
    images = images.expanduser()
    if not images.exists():
        raise DataError(f"{images}: no such file or folder")
    if images.name == GROUPS or (images / GROUPS).is_file():
        return list(read_groups(images)), images if images.is_dir() else images.parent
    if images.is_dir() and (found := list(_folders(images))):
        return found, images
    data = open_data(images)
    distinct: dict[tuple[str, frozenset[Path]], Group] = {}
    for ranking in data:
        group = Group(ranking.prompt, ranking.images, ranking.id, ranking.prompt_source, ranking.style)
        distinct.setdefault((ranking.prompt, frozenset(image.path for image in ranking.images)), group)
    return list(distinct.values()), data.folder.root


def _folders(root: Path) -> Iterator[Group]:
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            continue
        text = folder / PROMPT_FILE
        try:
            prompt = text.read_text(encoding="utf-8").strip() if text.is_file() else folder.name
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{text}: cannot be read ({error})") from None
        yield Group(prompt, tuple(ImageRef(path) for path in files), folder.name)


def prepare_groups(
    found: Sequence[Group],
    root: Path,
    *,
    gold: Path | None = None,
    group_size: int | None = None,
    practice: bool = True,
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> list[ProjectGroup]:
    """Check every image of every group, and make the groups of a project.

    `gold`: a data file whose (consensus) rankings of some of these groups are taken as known. `group_size` deals the
    images of larger groups into random groups of at most so many. Practice takes groups with a known order first.
    Raises `DataError` or `ImageError` naming the group or image that will not do.
    """
    parts = list(_dealt(found, group_size, random.Random(f"{seed} groups")))  # noqa: S311 - no secret
    known = {} if gold is None else _gold_ranks(gold)
    folder, keys, made = ImageFolder(root), set[str](), list[ProjectGroup]()
    for number, group in enumerate(parts):
        if not LEAST <= len(group.images) <= MOST:
            hint = "; --group-size deals larger groups into smaller ones" if len(group.images) > MOST else ""
            raise DataError(
                f"group {group.id or number + 1} ({group.prompt[:60]!r}): has {len(group.images)} images, "
                f"a group has {LEAST} to {MOST}{hint}"
            )
        key = group.id or f"group-{number + 1}"
        if key in keys:
            raise DataError(f"{key!r}: is the id of two groups")
        keys.add(key)
        pictures = []
        for image in group.images:
            pictures.append(_checked(image, folder, root))
            if on_image is not None:
                on_image()
        order = known.pop(_identity(group.prompt, group.images), None)
        ranks = None if order is None else tuple(order[image.path.resolve()] for image in group.images)
        role: Role = "task" if ranks is None else "gold"
        made.append(ProjectGroup(key, group.prompt, tuple(pictures), role, ranks, group.prompt_source, group.style))
    if known:
        raise DataError(f"{gold}: ranks {len(known)} groups that are not among the images to be annotated")
    return [*made, *(_practice(made, seed) if practice else ())]


def _dealt(found: Iterable[Group], size: int | None, rng: random.Random) -> Iterator[Group]:
    for number, group in enumerate(found):
        if size is None or len(group.images) <= size:
            yield group
            continue
        images = list(group.images)
        rng.shuffle(images)
        count = -(-len(images) // size)
        for part in range(count):  # as equal as can be
            name = f"{group.id or f'group-{number + 1}'}-{part + 1}"
            yield replace(group, images=tuple(images[part::count]), id=name)


def _gold_ranks(gold: Path) -> dict[tuple[str, frozenset[Path]], dict[Path, int]]:
    """The known orders of a data file, by group: the consensus, or the only ranking there is."""
    found: dict[tuple[str, frozenset[Path]], dict[Path, int]] = {}
    data = open_data(gold)
    for ranking in data:
        where = _identity(ranking.prompt, ranking.images)
        if ranking.annotator is not None and where in found:
            continue
        found[where] = {image.path.resolve(): rank for image, rank in zip(ranking.images, ranking.ranks, strict=True)}
    return found


def _identity(prompt: str, images: Sequence[ImageRef]) -> tuple[str, frozenset[Path]]:
    return prompt, frozenset(image.path.resolve() for image in images)


def _checked(image: ImageRef, folder: ImageFolder, root: Path) -> ProjectImage:
    name = folder.name(image)
    if not image.path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{image.path}: is a link that leads out of {root}; copy the images (generate --link copy)")
    open_image(image)  # whole, and not too large
    from PIL import Image

    with Image.open(image.path) as opened:
        if opened.format not in SERVED:
            raise DataError(f"{image.path}: browsers do not show {opened.format}; convert it to PNG, JPEG or WebP")
    return ProjectImage(name, hashlib.sha256(image.path.read_bytes()).hexdigest(), image.source)


def _practice(made: Sequence[ProjectGroup], seed: int) -> list[ProjectGroup]:
    order = random.Random(f"{seed} practice").sample(list(made), len(made))  # noqa: S311 - no secret
    chosen = sorted(order, key=lambda group: group.gold_ranks is None)[:PRACTICE]
    return [replace(group, key=f"practice-{i + 1}", role="practice") for i, group in enumerate(chosen)]
