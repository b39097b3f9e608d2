"""The reference image of each prompt: one file for all, images of the same prompts, or the nearest of many by CLIP."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from humanpref.errors import DownloadError, HumanprefError, ImageError
from humanpref.generate.manifest import MANIFEST, read_images
from humanpref.images import RemoteImage, expand_sources, open_image
from humanpref.improve.methods import ImproveError
from humanpref.prompts.records import Prompt
from humanpref.scorers import SPECS, Scorer, get_spec, load_scorer
from humanpref.scorers import weights as weight_files

BY_PROMPT = "prompt"
DEFAULT_SCORER = "clipscore"
DEFAULT_K = 8


@dataclass(frozen=True)
class Reference:
    """An image that lends its latents; `name` is its path as the user's folder has it."""

    path: Path
    name: str
    sha256: str


@dataclass(frozen=True)
class Choice:
    """How one of several images is chosen; see `reference_noise.NoiseConfig`."""

    by: str | None = None
    weights: Path | None = None
    arch: str | None = None
    k: int | None = None
    best: str | None = None
    best_weights: Path | None = None
    best_arch: str | None = None
    device: str = "auto"

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        options = {name: value for name, value in vars(self).items() if value is not None}
        return {name: value for name, value in options.items() if (name, value) != ("device", "auto")}


class Source(Protocol):
    """Where references come from."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides which image a prompt gets."""
        ...

    def candidates(self, prompts: Sequence[Prompt], k: int) -> list[tuple[Reference, ...]]:
        """Return at most k images for each prompt, best first, none where there is none."""
        ...


class References:
    """The reference of every prompt, once they have been found. What travels to workers is what was found."""

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source, self._choice = source, choice
        self._found: dict[tuple[str, str], Reference] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides which image a prompt gets."""
        settings = dict(self._source.settings)
        if self._choice.best is not None:
            settings |= {"best": self._choice.best, "k": self.k, **_hashed("best", self._choice.best_weights)}
        return settings

    @property
    def k(self) -> int:
        """How many images of a prompt are looked at."""
        if self._choice.best is None:
            return 1
        return DEFAULT_K if self._choice.k is None else self._choice.k

    def find(self, prompts: Sequence[Prompt]) -> None:
        """Find the references of prompts, all at once. Raises `ImproveError` naming the first that has none."""
        new = [prompt for prompt in prompts if (prompt.id, prompt.text) not in self._found]
        if not new:
            return
        found = self._source.candidates(new, self.k)
        if without := [prompt for prompt, images in zip(new, found, strict=True) if not images]:
            raise ImproveError(
                f"noise: there is no reference image for {len(without)} of {len(new)} prompts (first: "
                f"{without[0].text[:80]!r}); make images of these prompts, or search by content with by=clipscore"
            )
        for prompt, image in zip(new, _pick(new, found, self._choice), strict=True):
            self._found[prompt.id, prompt.text] = image

    def of(self, prompt: Prompt) -> Reference:
        """Return the reference of a prompt, found now if need be."""
        self.find([prompt])
        return self._found[prompt.id, prompt.text]


@dataclass(frozen=True)
class OneFile:
    """The same image for every prompt."""

    reference: Reference

    @property
    def settings(self) -> Mapping[str, Any]:
        """The file's name and content."""
        return {"file": self.reference.name, "sha256": self.reference.sha256}

    def candidates(self, prompts: Sequence[Prompt], k: int) -> list[tuple[Reference, ...]]:  # noqa: ARG002
        """Return it."""
        return [(self.reference,)] * len(prompts)


class SamePrompt:
    """A folder that `humanpref generate` made, by its manifest."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest. Raises `ImproveError` where there is none, or no image in it."""
        if not (folder / MANIFEST).is_file():
            raise ImproveError(f"{folder}: by=prompt is for a folder of `humanpref generate` (no {MANIFEST} in it)")
        self._texts: dict[str, list[Reference]] = defaultdict(list)
        self._ids: dict[str, list[tuple[str, Reference]]] = defaultdict(list)
        digest, root = hashlib.sha256(), folder.resolve()  # workers are elsewhere
        for made in read_images(root):
            if made.path is not None:
                name = made.path.relative_to(root).as_posix()
                if made.sha256 is None:
                    raise ImproveError(f"{folder}: its manifest does not say the sha256 of {name}")
                image = Reference(made.path, name, made.sha256)
                self._texts[made.prompt].append(image)
                self._ids[made.prompt_id].append((made.prompt, image))
                digest.update(f"{made.prompt}\0{image.name}\0{image.sha256}\0".encode())
        if not self._texts:
            raise ImproveError(f"{folder}: its manifest has no images")
        self.settings: Mapping[str, Any] = {
            "folder": folder.resolve().name, "by": BY_PROMPT, "sha256": digest.hexdigest()
        }  # fmt: skip

    def candidates(self, prompts: Sequence[Prompt], k: int) -> list[tuple[Reference, ...]]:
        """Return the images of each prompt's text, as the manifest has them.

        Another method may have put tokens around the text: then those of the same id whose text is a part of it.
        """
        return [tuple((self._texts.get(prompt.text) or self._same_id(prompt))[:k]) for prompt in prompts]

    def _same_id(self, prompt: Prompt) -> list[Reference]:
        return [image for text, image in self._ids.get(prompt.id, ()) if text and text in prompt.text]


class Nearest:
    """Images of a folder or a pattern, by CLIP: those whose embeddings are nearest to the prompt's."""

    def __init__(self, what: str, choice: Choice) -> None:
        """Hash the images. Raises `ImproveError` for a scorer that is no CLIP, or an image that cannot be read."""
        from humanpref.improve.noise.image_index import check_faiss

        self._choice = choice
        self._by = DEFAULT_SCORER if choice.by is None else choice.by
        clips = [name for name, spec in SPECS.items() if spec.family == "clip"]
        if get_spec(self._by).family != "clip":
            raise ImproveError(f"{self._by} embeds no prompts; by= is prompt or one of {', '.join(clips)}")
        check_faiss()
        try:
            found = expand_sources([str(Path(what).expanduser())])
            paths = [path.resolve() for path in found if not isinstance(path, RemoteImage)]
            self._images = [Reference(path, path.name, weight_files.file_sha256(path)) for path in paths]
        except ImageError as error:
            raise ImproveError(f"noise: {error}") from None
        except OSError as error:
            raise ImproveError(f"noise: {error.filename}: cannot be read ({error.strerror})") from None
        self._where = Path(what).expanduser().resolve()
        digest = hashlib.sha256("\0".join(f"{image.name}\0{image.sha256}" for image in self._images).encode())
        self.settings: Mapping[str, Any] = {
            "folder": self._where.name, "by": self._by, "sha256": digest.hexdigest(), **_hashed("by", choice.weights)
        }  # fmt: skip

    def candidates(self, prompts: Sequence[Prompt], k: int) -> list[tuple[Reference, ...]]:
        """Return the k nearest images of each prompt, nearest first."""
        from humanpref.improve.noise.image_index import nearest_images

        scorer = _load(self._by, self._choice.weights, self._choice.arch, self._choice.device, "weights")
        places = nearest_images(
            scorer, {image.sha256: image.path for image in self._images}, [prompt.text for prompt in prompts], k,
            of=str(self._where),
        )  # fmt: skip
        by_content = {image.sha256: image for image in reversed(self._images)}
        return [tuple(by_content[digest] for digest in found) for found in places]


def find_references(what: str, choice: Choice) -> References:
    """Make what finds references: `what` is an image file, a folder of images (or of a run), or a pattern of files.

    Raises `ImproveError` for what is no image or holds none, and for options that do not go together.
    """
    if choice.k is not None and (choice.best is None or choice.k < 1):
        raise ImproveError(f"k is how many of the nearest images best= picks from, at least 1; got k={choice.k}")
    if (choice.best_weights or choice.best_arch) and choice.best is None:
        raise ImproveError("best_weights and best_arch are for best=SCORER")
    if choice.best is not None:
        get_spec(choice.best)
    path = Path(what).expanduser()
    by = choice.by or (BY_PROMPT if (path / MANIFEST).is_file() else DEFAULT_SCORER)
    if by == BY_PROMPT and not path.is_file():
        if choice.weights or choice.arch:
            raise ImproveError("weights and arch are for by=CLIP scorer, not for by=prompt")
        return References(SamePrompt(path), choice)
    if path.is_dir() or any(mark in what for mark in "*?["):
        return References(Nearest(what, choice), choice)
    if choice.given:
        raise ImproveError(f"{what}: {next(iter(choice.given))} is for a folder of images; this is one file")
    return References(OneFile(_one(path)), choice)


def _one(path: Path) -> Reference:
    try:
        open_image(path)
        return Reference(path.resolve(), path.name, weight_files.file_sha256(path))
    except ImageError as error:
        raise ImproveError(f"noise: {error}; give an image file, a folder of images, or a pattern of files") from None


def _pick(prompts: Sequence[Prompt], found: Sequence[tuple[Reference, ...]], choice: Choice) -> list[Reference]:
    """Return the first candidate of each prompt or, where a scorer is to pick, the one it scores highest."""
    if choice.best is None:
        return [images[0] for images in found]
    scorer = _load(choice.best, choice.best_weights, choice.best_arch, choice.device, "best_weights")
    pairs = [(image, prompt.text) for prompt, images in zip(prompts, found, strict=True) for image in images]
    try:
        scores = iter(scorer.score([image.path for image, _ in pairs], [text for _, text in pairs]).tolist())
    except ImageError as error:
        raise ImproveError(f"noise: {error}; mend or remove it") from None
    picked = []
    for images in found:
        scored = [(next(scores), -place) for place in range(len(images))]  # of equal scores the nearer image
        picked.append(images[-max(scored)[1]])
    return picked


def _load(name: str, weights: Path | None, arch: str | None, device: str, option: str) -> Scorer:
    try:
        return load_scorer(name, weights=weights, arch=arch, device=device)
    except DownloadError:  # whose message speaks of options of other commands
        raise ImproveError(
            f"noise: the weights of {name} are not here and cannot be downloaded; give {option}=FILE (`humanpref "
            f"download {name}` says where from), or {'best=lite' if option == 'best_weights' else 'by=prompt'}"
        ) from None


def _hashed(name: str, weights: Path | None) -> dict[str, str]:
    if weights is None:
        return {}
    try:
        return {f"{name}_weights_sha256": weight_files.file_sha256(weight_files.given_file(weights))}
    except HumanprefError as error:
        raise ImproveError(f"noise: {error}") from None
