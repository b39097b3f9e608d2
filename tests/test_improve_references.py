"""Reference images found by a real CLIP (small, random, in the official layout) and FAISS, beside plain arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from humanpref import load_scorer
from humanpref.errors import MissingExtraError
from humanpref.generate import Prompt
from humanpref.improve import make_methods
from humanpref.improve.methods import ImproveError
from humanpref.improve.noise.image_index import nearest_images, store_path
from humanpref.scorers.weights import file_sha256
from tests.official_layouts import arch_file, open_clip_model
from tests.toys import picture

PROMPTS = tuple(Prompt(text, f"p{n}") for n, text in enumerate(["a red square", "two cats", "rain in Rome, oil"]))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("clip")
    torch.save(open_clip_model().state_dict(), folder / "open_clip.pt")
    return folder / "open_clip.pt", arch_file(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(11):
        picture(80, 60, seed=n).save(folder / f"{n}.png")
    return folder


def references(clip: tuple[Path, Path], what: str) -> Any:
    return make_methods(f"noise:{what},by=clipscore,weights={clip[0]},arch={clip[1]}")[0].references


def test_the_nearest_image_is_that_of_the_highest_clip_score(clip: tuple[Path, Path], images: Path) -> None:
    scorer = load_scorer("clipscore", weights=clip[0], arch=clip[1])
    paths = sorted(images.iterdir())
    found = references(clip, str(images))
    found.find(PROMPTS)
    best = set()
    for prompt in PROMPTS:
        scores = scorer.score(paths, prompt.text)
        assert found.of(prompt).path == paths[int(scores.argmax())]
        best.add(found.of(prompt).name)
        order = nearest_images(scorer, {file_sha256(p): p for p in paths}, [prompt.text], 4, of="x")[0]
        assert list(order) == [file_sha256(paths[i]) for i in scores.argsort(descending=True)[:4]]
    assert references(clip, f"{images}/*.png").of(PROMPTS[0]).name == found.of(PROMPTS[0]).name
    assert len(nearest_images(scorer, {file_sha256(p): p for p in paths[:2]}, ["a"], 9, of="y")[0]) == 2


def test_embeddings_are_kept_by_content(
    clip: tuple[Path, Path], images: Path, monkeypatch: pytest.MonkeyPatch, score_cache: Path
) -> None:
    scorer = load_scorer("clipscore", weights=clip[0], arch=clip[1])
    computed: list[int] = []
    embed = scorer.embed_pixels
    monkeypatch.setattr(scorer, "embed_pixels", lambda pixels: computed.append(len(pixels)) or embed(pixels))

    def search() -> list[tuple[str, ...]]:
        computed.clear()
        paths = {file_sha256(path): path for path in sorted(images.iterdir())}
        return nearest_images(scorer, paths, ["a red square"], 3, of="images")

    first = search()
    assert sum(computed) == 11
    assert search() == first
    assert computed == []
    (images / "0.png").rename(images / "other name.png")
    picture(seed=99).save(images / "new.png")
    (images / "5.png").unlink()
    search()
    assert sum(computed) == 1
    file = store_path(scorer, "images")
    assert file.parent.parent == score_cache.parent
    file.write_bytes(file.read_bytes()[:100])  # damaged: computed again
    search()
    assert sum(computed) == 11
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    file.parent.joinpath(file.name).unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")  # a cache that cannot be written stops nothing
    search()
    assert sum(computed) == 11


def test_the_preference_scorer_picks_among_the_nearest(clip: tuple[Path, Path], images: Path) -> None:
    scorer, lite = load_scorer("clipscore", weights=clip[0], arch=clip[1]), load_scorer("lite")
    paths = {file_sha256(path): path for path in sorted(images.iterdir())}
    found = references(clip, f"{images},best=lite,k=5")
    assert found.settings["best"] == "lite"
    different = 0
    for prompt, near in zip(PROMPTS, nearest_images(scorer, paths, [p.text for p in PROMPTS], 5, of="z"), strict=True):
        scores = lite.score([paths[digest] for digest in near], prompt.text)
        assert found.of(prompt).sha256 == near[int(scores.argmax())]
        different += int(scores.argmax()) > 0
    assert different > 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "3.png").write_bytes(b"x"),
            "1 images cannot be read \\(first: .*3.png: not an image",
        ),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "images: the folder holds no images"),
    ],
)
def test_folders_that_cannot_be_searched(
    clip: tuple[Path, Path], images: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(images)
    with pytest.raises(ImproveError, match=message):
        references(clip, str(images)).find(PROMPTS)


def test_weights_that_are_not_here(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ImproveError, match="weights of clipscore are not here .* weights=FILE .* by=prompt") as error:
        make_methods(f"noise:{images}")[0].references.find(PROMPTS)
    assert "\n" not in str(error.value)


def test_without_faiss(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[improve\]"'):
        make_methods(f"noise:{images}")
