from __future__ import annotations

import math
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from humanpref.errors import DataError, UnknownNameError
from humanpref.metrics import sigmoid
from humanpref.records import ImageRef
from humanpref.shapes.annotators import Annotator, Group, best_accuracy, group_qualities, people, simulate_rankings
from humanpref.shapes.grammar import (
    AROUND,
    BACKGROUNDS,
    COLOURS,
    MOST,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    WORDINGS,
    Item,
    Scene,
    caption,
    captions,
    parse,
    sample_scene,
)
from humanpref.shapes.quality import quality
from humanpref.shapes.render import render
from humanpref.shapes.sources import SOURCES, generate
from humanpref.shapes.vision import look

DRAWN = [name for name, source in SOURCES.items() if source.draw]
PROMPTS = captions(60, 11)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Every scene the grammar allows, not only those that are sampled."""
    background, style = (draw(st.sampled_from([None, *names])) for names in (BACKGROUNDS, STYLES))
    kinds = draw(st.integers(1, 2))
    counts = draw(
        st.sampled_from([(n,) for n in range(1, MOST + 1)] if kinds == 1 else [(1, 1), (2, 1), (1, 3), (2, 2)])
    )
    sizes = st.sampled_from([None, *SIZES]) if sum(counts) <= 2 else st.none()
    things = draw(st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(list(COLOURS))), min_size=kinds, max_size=kinds, unique=True))  # fmt: skip
    items = tuple(Item(shape, colour, draw(sizes), n) for (shape, colour), n in zip(things, counts, strict=True))
    relation = draw(st.sampled_from([None, *RELATIONS[:4]])) if kinds == 2 else None
    if counts == (1, 1) and things[0][1] != things[1][1] and things[1][0] in AROUND and draw(st.booleans()):
        items = (Item(*things[0], "small"), Item(*things[1], "large"))
        relation = "inside"
    return Scene(items, relation, background, style)


# ---- grammar


@given(scenes(), st.integers(0, WORDINGS - 1))
def test_a_caption_says_its_scene_and_no_other(scene: Scene, wording: int) -> None:
    assert parse(caption(scene, wording)) == scene


@given(scenes(), scenes())
def test_two_scenes_are_never_said_alike(one: Scene, other: Scene) -> None:
    if one != other:
        assert not {caption(one, w) for w in range(WORDINGS)} & {caption(other, w) for w in range(WORDINGS)}


def test_captions_read_like_english() -> None:
    scene = Scene((Item("circle", "red", "small"), Item("square", "blue")), "left of", "grey")
    assert caption(scene) == "a small red circle left of a blue square on a grey background"
    assert caption(scene, 2) == "a small red circle to the left of a blue square on a grey background"
    two = Scene((Item("cross", "orange", count=2),), style="outlined")
    assert caption(two) == "an outlined picture of two orange crosses"
    assert caption(two, 1) == "two orange crosses in outlined style"
    assert caption(Scene((Item("cross", "orange"),))) == "an orange cross"


def test_sampled_captions_are_seeded_different_and_cover_every_word() -> None:
    texts = captions(800, 3)
    assert texts == captions(800, 3) != captions(800, 4)
    assert len(set(texts)) == 800
    words = {word for text in texts for word in text.split()}
    assert {*COLOURS, *BACKGROUNDS, *STYLES, *SIZES, "two", "three", "four", "inside", "within", "above"} <= words


@pytest.mark.parametrize(
    "text", ["", "a red dog", "two red circle", "a red circle left of", "good picture. a red circle", "a small red circle inside a small blue square"]
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse(text)


@pytest.mark.parametrize(
    ("items", "relation"),
    [
        ((), None),
        ((Item("circle", "red"), Item("circle", "red", "large")), "left of"),
        ((Item("circle", "red", count=3), Item("square", "red", count=2)), None),
        ((Item("circle", "red", "small", count=3),), None),
        ((Item("circle", "red"),), "above"),
        ((Item("circle", "red", "small"), Item("cross", "blue", "large")), "inside"),
    ],
)
def test_scenes_that_cannot_be_drawn_or_told_are_refused(items: tuple[Item, ...], relation: str | None) -> None:
    with pytest.raises(DataError):
        Scene(items, relation)


# ---- renderer and the check that looks


@given(scenes(), st.integers(0, 10**6))
def test_every_scene_can_be_drawn(scene: Scene, seed: int) -> None:
    picture = render(scene, 32, seed)
    assert picture.size == (32, 32)
    assert picture.tobytes() == render(scene, 32, seed).tobytes()


def test_what_is_drawn_is_found() -> None:
    found = [quality(render(parse(text), 64, seed), text) for seed, text in enumerate(captions(150, 5))]
    assert np.mean([one.right for one in found]) >= 0.97
    assert np.mean([one.total for one in found]) >= 0.98


@pytest.mark.parametrize("size", [48, 128, 200])
def test_other_sizes_are_judged_nearly_alike(size: int) -> None:
    at = [np.mean([quality(render(parse(t), s, i), t).total for i, t in enumerate(PROMPTS[:30])]) for s in (64, size)]
    assert at[1] == pytest.approx(at[0], abs=0.04)


def _flat_pair(first: str = "circle", colour: str = "red", background: str = "white") -> Image.Image:
    text = f"a flat picture of a small {colour} {first} left of a large blue square on a {background} background"
    return render(parse(text), 64, 4)


ASKED = "a flat picture of a small red circle left of a large blue square on a white background"


@pytest.mark.parametrize(
    ("picture", "wrong"),
    [
        (_flat_pair(), set()),
        (_flat_pair(colour="green"), {"colour"}),
        (_flat_pair(first="triangle"), {"shape"}),
        (_flat_pair(background="black"), {"background"}),
        (_flat_pair().transpose(Image.Transpose.FLIP_LEFT_RIGHT), {"relation"}),
        (render(parse(ASKED.replace("flat", "hatched")), 64, 1), {"style"}),
        (render(parse(ASKED.replace("small", "large")), 64, 1), {"size"}),
        (render(parse("a large blue square on a white background in flat style"), 64, 1), {"shape", "colour", "count", "relation", "size"}),
        (Image.new("RGB", (64, 64), "white"), {"shape", "colour", "count", "relation", "size", "style"}),
    ],
)  # fmt: skip
def test_each_attribute_is_judged_by_itself(picture: Image.Image, wrong: set[str]) -> None:
    found = quality(picture, ASKED)
    assert {name for name, value in found.attributes.items() if value < 1} == wrong
    assert found.right == (not wrong)


def test_the_formula_is_the_documented_one() -> None:
    found = quality(_flat_pair(colour="green"), ASKED)
    # colour is half right; the weights of all seven attributes are 4 + 3 / 2
    assert found.fulfilled == pytest.approx(1 - 0.5 / 5.5)
    assert found.clean == pytest.approx(math.prod(found.cleanness.values()) ** 0.25)
    assert found.total == pytest.approx(0.6 * found.fulfilled + 0.4 * found.clean)


def test_what_lies_inside_is_seen() -> None:
    text = "a small red triangle inside a large green square on a black background"
    for style in STYLES:
        assert quality(render(parse(f"{text} in {style} style"), 96, 3), text).attributes["relation"] == 1


def _noisy(picture: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, deviation, (*picture.size, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def _coarse(picture: Image.Image, side: float) -> Image.Image:
    return picture.resize((int(side), int(side)), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("damage", "levels"),
    [
        (lambda picture, x: picture.filter(ImageFilter.GaussianBlur(x)), (0, 0.8, 1.6, 3.2)),
        (_noisy, (0, 8, 20, 45)),
        (lambda picture, x: ImageEnhance.Color(picture).enhance(x), (1, 0.6, 0.35, 0.15)),
        (_coarse, (64, 24, 14, 8)),
    ],
)
def test_more_damage_is_less_quality(damage: object, levels: tuple[float, ...]) -> None:
    drawn = [render(parse(text), 64, seed) for seed, text in enumerate(PROMPTS[:30])]
    means = [np.mean([quality(damage(p, x), t).total for p, t in zip(drawn, PROMPTS, strict=False)]) for x in levels]
    assert all(better > worse + 0.01 for better, worse in pairwise(means)), means


def test_looking_needs_neither_a_size_nor_a_mode() -> None:
    assert len(look(_flat_pair().convert("RGBA").resize((91, 57))).objects) == 2
    assert look(Image.new("L", (5, 5), 3)).background == "black"
    assert look(Image.new("RGB", (64, 64), "red")).background is None


# ---- sources


def test_there_are_ten_sources_and_more_each_with_a_weakness() -> None:
    assert len(DRAWN) >= 10
    assert all(name == source.name and source.summary for name, source in SOURCES.items())
    with pytest.raises(TypeError):
        SOURCES["mine"] = SOURCES["clean"]  # type: ignore[index]
    with pytest.raises(UnknownNameError, match="choose from: clean"):
        generate("dall-e", ["a red circle"], [0])
    with pytest.raises(DataError):
        generate("clean", ["a red dog"], [0])
    with pytest.raises(ValueError, match="shorter"):
        generate("clean", PROMPTS[:2], [0])


@pytest.mark.slow
def test_sources_are_as_good_as_their_table_says() -> None:
    measured = {
        name: float(np.mean([quality(p, t).total for p, t in zip(generate(name, PROMPTS, range(60)), PROMPTS, strict=True)]))
        for name in DRAWN
    }  # fmt: skip
    for name in DRAWN:
        assert measured[name] == pytest.approx(SOURCES[name].total, abs=0.04), name
    for one, other in combinations(DRAWN, 2):
        if SOURCES[one].total > SOURCES[other].total + 0.03:
            assert measured[one] > measured[other], (one, other)


@pytest.mark.parametrize("source", DRAWN)
def test_a_picture_depends_on_its_caption_and_seed_alone(source: str) -> None:
    prompts, seeds = PROMPTS[:4], [5, 9, 5, 1]
    together = [picture.tobytes() for picture in generate(source, prompts, seeds, 48)]
    backwards = [picture.tobytes() for picture in generate(source, prompts[::-1], seeds[::-1], 48)][::-1]
    alone = [generate(source, [p], [s], 48)[0].tobytes() for p, s in zip(prompts, seeds, strict=True)]
    assert together == backwards == alone
    assert generate(source, prompts[:1], [6], 48)[0].tobytes() != together[0]
    assert generate(source, prompts[:1], [5], 48)[0].size == (48, 48)


# ---- annotators


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    made = []
    for k, prompt in enumerate(PROMPTS[:6]):
        refs = []
        for name in ("clean", "washed-out", "coarse", "deaf"):
            generate(name, [prompt], [k])[0].save(path := tmp_path / f"{k}-{name}.png")
            refs.append(ImageRef(path, name))
        made.append(Group(prompt, tuple(refs), id=str(k), style="flat"))
    return made


def test_people_choose_by_the_known_quality_with_noise_of_the_known_size(groups: list[Group]) -> None:
    crowd = [Annotator(f"p{i}", 0.1) for i in range(400)]
    rankings = simulate_rankings(groups, crowd, seed=1)
    assert len(rankings) == 2400
    known = {group.prompt: group_qualities(group) for group in groups}
    for group in groups:
        own = [ranking.ranks for ranking in rankings if ranking.prompt == group.prompt]
        for a, b in combinations(range(4), 2):
            share = np.mean([ranks[a] < ranks[b] for ranks in own])
            gap = known[group.prompt][a] - known[group.prompt][b]
            assert share == pytest.approx(float(sigmoid(gap / 0.1)), abs=0.1)  # four standard errors
    best = best_accuracy(list(known.values()), crowd)
    hits = [
        (known[r.prompt][a] > known[r.prompt][b]) == (r.ranks[a] < r.ranks[b])
        for r in rankings
        for a, b in combinations(range(4), 2)
    ]
    assert np.mean(hits) == pytest.approx(best, abs=0.02)
    assert best_accuracy([np.array([0.2, 0.2])], crowd) == 0.5
    assert best_accuracy([np.array([0.2, 0.4])], [Annotator("a", 0.2)]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_ranking_depends_on_its_person_group_and_seed_alone(groups: list[Group]) -> None:
    crowd = people(5, seed=2)
    assert crowd == people(5, seed=2)
    assert len({who.temperature for who in crowd}) == 5
    every = simulate_rankings(groups, crowd, seed=3)
    assert simulate_rankings(groups[2:3], crowd[1:2], seed=3)[0] in every
    assert simulate_rankings(groups, crowd, seed=4) != every
    assert all(sorted(r.ranks) == [1, 2, 3, 4] and r.style == "flat" and r.annotator for r in every)


# ---- the pipeline that ships


def test_sampling_is_seeded() -> None:
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    assert [sample_scene(one) for _ in range(20)] == [sample_scene(other) for _ in range(20)]
