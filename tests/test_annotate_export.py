from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from humanpref.annotate import aggregate
from humanpref.annotate.export import LAYOUTS, export
from humanpref.data.formats import FORMATS, detect_format, read_rankings
from humanpref.data.pairs import explode
from humanpref.errors import DataError, UnknownNameError
from humanpref.evaluation.instances import gather, mean_rank_consensus
from humanpref.records import ImageRef, Ranking
from tests.crowd import World, annotator, crowd, judgement

SUMMED = ("rankings", "skips", "of_excluded", "of_unsafe", "without_consensus", "gold", "repeats", "practice")
ALL = tuple(name for name, f in FORMATS.items() if f.layout.name in LAYOUTS)


@pytest.fixture
def project(tmp_path: Path) -> dict[str, Any]:
    """Five people, one of them excluded; skips, unsafe marks, ties, gold, repeats, practice."""
    world = World(crowd(4, reversed_=1), count=12, per_group=3, gold=2, repeats=2, seed=5)
    groups = {
        key: replace(g, prompt_source="COCO", style="photo" if i % 2 else None)
        for i, (key, g) in enumerate(world.groups.items())
    }
    for g in groups.values():
        for image in g.images:
            (tmp_path / "images" / image.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / image.path).write_bytes(b"\x89PNG" + image.sha256.encode())
    said = [j for j in world.judgements if not (j.group == "g11" and j.kind == "task")]  # nobody ranks the last
    n = len(said)
    honest = next(i for i, j in enumerate(said) if j.group == "g3" and j.kind == "task" and j.annotator != 5)
    said[honest] = replace(said[honest], unsafe=(1,))
    tied = next(i for i, j in enumerate(said) if j.group == "g4" and j.kind == "task" and j.annotator != 5)
    said[tied] = replace(said[tied], ranks=(1, 1, 2, 2))
    said += [
        judgement(n + 1, "g11", 1, None, shown=(0, 1, 2, 3)),
        judgement(n + 2, "g0", 1, (1, 2, 3, 4), kind="practice", unsafe=(0,)),
        judgement(n + 3, "g5", 5, (1, 2, 3, 4), kind="repeat", unsafe=(0,)),  # marked by one who does not count
    ]
    people = [annotator(i, excluded="the rule" if i == 5 else None) for i in range(1, 6)]
    return {"judgements": said, "groups": groups, "annotators": people, "image_folder": tmp_path / "images"}


def expected(project: dict[str, Any], *, excluded: bool = False, unsafe: bool = False) -> list[Ranking]:
    """What is to be exported, made anew from the judgements."""
    found = []
    for key, group in project["groups"].items():
        for j in project["judgements"]:
            if j.group != key or j.kind != "task" or j.ranks is None:
                continue
            if (j.annotator == 5 and not excluded) or (key == "g3" and not unsafe):
                continue
            images = tuple(ImageRef(project["image_folder"] / i.path, i.source) for i in group.images)
            handle = f"handle-{j.annotator:02d}"
            found.append(Ranking(group.prompt, images, j.ranks, handle, key, None, group.prompt_source, group.style))
    return found


@pytest.mark.parametrize("name", ["rankings", "rankings-parquet", "rankings-json"])
def test_our_own_rankings_lose_nothing(project: dict[str, Any], tmp_path: Path, name: str) -> None:
    report = export(**project, path=tmp_path / "out", format=name)
    assert detect_format(tmp_path / "out").name == name
    wanted = expected(project)
    assert read_rankings(tmp_path / "out", project["image_folder"]) == wanted
    assert (report.rankings, report.rows, report.fields) == (len(wanted), len(wanted), ())


def test_hpdv2_test_has_the_consensus_and_everybody(project: dict[str, Any], tmp_path: Path) -> None:
    export(**project, path=tmp_path / "test.json", format="hpdv2-test")
    read = gather(read_rankings(tmp_path / "test.json", project["image_folder"]))
    rows = json.loads((tmp_path / "test.json").read_text())
    assert rows[0]["image_path"][0] == "g0/0.png"
    by_group: dict[str, list[Ranking]] = {}
    for r in expected(project):
        plain = replace(r, id=None, prompt_source=None, style=None, images=tuple(ImageRef(i.path) for i in r.images))
        by_group.setdefault(r.id or "", []).append(plain)
    assert len(read) == len(by_group) == 10
    for instance, members in zip(read, by_group.values(), strict=True):
        assert instance.given
        assert list(instance.annotations) == members
        assert instance.consensus.ranks == mean_rank_consensus(members).ranks  # the official rule
    # another rule, another order
    export(**project, path=tmp_path / "pl.json", format="hpdv2-test", consensus="plackett_luce", keep_excluded=True)
    kept = [j for j in project["judgements"] if j.kind == "task" and j.group not in {"g3", "g5"}]
    orders = aggregate.consensus(kept, project["groups"], "plackett_luce")
    read = gather(read_rankings(tmp_path / "pl.json", project["image_folder"]))
    assert [i.consensus.ranks for i in read] == [c.ranks for c in orders.values()]


def test_pairs_of_hpdv2_train(project: dict[str, Any], tmp_path: Path) -> None:
    report = export(**project, path=tmp_path / "train.json", format="hpdv2-train")
    wanted = [
        Ranking(pair.prompt, tuple(ImageRef(i.path) for i in pair.images), pair.ranks)
        for ranking in expected(project)
        for pair in explode(ranking)
    ]
    assert read_rankings(tmp_path / "train.json", project["image_folder"]) == wanted
    assert any(pair.ranks == (1, 1) for pair in wanted)
    assert report.rows == len(wanted) == 6 * report.rankings
    assert report.fields == ("id", "annotator", "source", "prompt_source", "style")


def test_pickapic_has_the_images_inside_and_whole_numbers(project: dict[str, Any], tmp_path: Path) -> None:
    export(**project, path=tmp_path / "pairs.parquet", format="pickapic")
    read = read_rankings(tmp_path / "pairs.parquet", tmp_path / "unpacked")
    numbers = {f"handle-{i:02d}": str(int(sha256(b"handle-%02d" % i).hexdigest()[:16], 16) >> 11) for i in range(6)}
    wanted = [pair for ranking in expected(project) for pair in explode(ranking)]
    assert len(read) == len(wanted)
    for got, meant in zip(read, wanted, strict=True):
        assert (got.prompt, got.ranks, got.annotator) == (meant.prompt, meant.ranks, numbers[meant.annotator or ""])
        assert [i.source for i in got.images] == [i.source for i in meant.images]
        assert [i.path.read_bytes() for i in got.images] == [i.path.read_bytes() for i in meant.images]
    tasks = {str(j.number) for j in project["judgements"] if j.kind == "task"}
    assert {r.id for r in read} <= tasks
    assert set(Counter(r.id for r in read).values()) == {6}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("keep", [False, True])
def test_everything_is_counted_and_nobody_is_named(
    project: dict[str, Any], tmp_path: Path, name: str, keep: bool
) -> None:
    report = export(**project, path=tmp_path / "out", format=name, keep_excluded=keep, keep_unsafe=keep)
    assert report.judgements == len(project["judgements"]) == sum(getattr(report, s) for s in SUMMED)
    assert report.rankings == len(expected(project, excluded=keep, unsafe=keep))
    kinds = Counter(j.kind for j in project["judgements"])
    assert (report.gold, report.repeats, report.practice) == (kinds["gold"], kinds["repeat"], kinds["practice"])
    assert (report.skips, report.without_consensus) == (1, 0)
    assert report.unsafe_groups == (2 if keep else 1)  # the mark of one who is excluded counts only if they do
    assert (report.excluded, report.annotators) == ((0, 5) if keep else (1, 4))
    assert report.groups == (11 if keep else 10)
    assert report.empty_groups == 12 - report.groups
    assert report.consensuses == (report.groups if "hpdv2-test" in name else 0)
    content = (tmp_path / "out").read_bytes()
    assert b"Real Name" not in content
    assert str(tmp_path).encode() not in content


def test_a_group_whose_people_weigh_nothing_is_counted(project: dict[str, Any], tmp_path: Path) -> None:
    """The reversed one alone ranks a group: it has no weighted order."""
    project["annotators"] = [annotator(i) for i in range(1, 6)]
    world = World(crowd(4, reversed_=1), count=40, per_group=5, seed=5)
    said = [j for j in world.judgements if j.group != "g39" or j.annotator == 5]
    common = {**project, "groups": world.groups, "judgements": said}
    report = export(**common, path=tmp_path / "test.json", format="hpdv2-test", consensus="weighted")
    assert (report.without_consensus, report.groups, report.empty_groups) == (1, 39, 1)
    assert sum(getattr(report, s) for s in SUMMED) == len(said)
    report = export(**common, path=tmp_path / "own.jsonl", consensus="weighted")
    assert (report.without_consensus, report.groups, report.consensuses) == (0, 40, 39)
    read = read_rankings(tmp_path / "own.jsonl", project["image_folder"])
    assert sum(r.annotator is None for r in read) == 39
    assert len(read) == report.rows == len(said) + 39


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"format": "imagereward"}, UnknownNameError, "not a format|not exported"),
        ({"format": "hpdv1"}, UnknownNameError, "not exported as hpdv1"),
        ({"format": "pairs", "consensus": "mean_rank"}, DataError, "a consensus goes into rankings"),
        ({"consensus": "median"}, UnknownNameError, "choose from: mean_rank"),
        ({"judgements": []}, DataError, "nothing to export .there are no answers"),
        ({"judgements": [judgement(1, "g0", 1, None)]}, DataError, "skips: 1"),
        ({"judgements": [judgement(1, "g99", 1, (1, 2, 3, 4))]}, DataError, "no group 'g99'"),
        ({"judgements": [judgement(1, "g0", 9, (1, 2, 3, 4))]}, DataError, "no annotator 9"),
        ({"judgements": [judgement(1, "g0", 1, (1, 2))]}, DataError, "2 ranks for the 4 images"),
        ({"annotators": [annotator(1), replace(annotator(2), handle="handle-01")]}, DataError, "same handle"),
    ],
)
def test_what_cannot_be(
    project: dict[str, Any], tmp_path: Path, change: dict[str, Any], error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        export(**{**project, "path": tmp_path / "out", **change})
    assert not (tmp_path / "out").exists()
