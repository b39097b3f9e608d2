"""Every format: what is written is read back, what cannot be held is refused, what is damaged is one clear line."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humanpref.data import hpdv2
from humanpref.data.folder import ImageFolder
from humanpref.data.formats import (
    FORMATS,
    detect_format,
    iter_rankings,
    open_data,
    read_rankings,
    write_rankings,
)
from humanpref.data.pairs import explode
from humanpref.errors import DataError, HumanprefError, MissingExtraError, UnknownNameError
from humanpref.records import ImageRef, Ranking
from tests.conftest import SHARED, skip_or_fail
from tests.toys import picture

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
names = st.text(st.sampled_from('aZ09 ._-é猫,"#[%'), min_size=1, max_size=8).filter(lambda n: n not in {".", ".."})
soft = st.floats(0, 1).filter(lambda p: p in {0, 0.5, 1} or min(p, 1 - p) > 1e-3)


@st.composite
def any_rankings(draw: st.DrawFn, folder: Path, holds: frozenset[str]) -> list[Ranking]:
    """Rankings with nothing in them but what a format says it can hold."""
    some: Callable[[str], st.SearchStrategy[str | None]] = lambda what: (  # noqa: E731
        st.none() | text.filter(bool) if what in holds else st.none()
    )
    rankings = []
    for number in range(draw(st.integers(1, 4))):
        files = draw(st.lists(names, min_size=2, max_size=5 if "groups" in holds else 2, unique=True))
        images = tuple(ImageRef(folder / f"{number}" / name, draw(some("source"))) for name in files)
        prompt, who, identity = draw(text), draw(some("annotator")), draw(some("id"))
        if "soft" in holds and len(images) == 2 and draw(st.booleans()):
            rankings.append(Ranking.of_pair(prompt, *images, draw(soft), annotator=who, id=identity))
        else:
            ranks = draw(st.lists(st.integers(1, 9), min_size=len(images), max_size=len(images)))
            if len(images) == 2:  # a pair's format knows which is better, not by how many ranks
                ranks = [1 + (ranks[0] > ranks[1]), 1 + (ranks[1] > ranks[0])]
            rankings.append(Ranking(prompt, images, tuple(ranks), who, identity))
    return rankings


def fit(rankings: list[Ranking], layout: str) -> list[Ranking]:
    """What the format asks for besides: a consensus, an id, one chosen image."""
    if layout == "hpdv2-test":
        return [r for i in rankings for r in (replace(i, annotator=None), replace(i, annotator=i.annotator or ""))]
    if layout == "imagereward-db":
        return [replace(r, id=f"{i}-{r.id}") for i, r in enumerate(rankings)]
    if layout == "hpdv1":
        chosen = [tuple(1 if j == 0 else 2 for j in range(len(r.ranks))) for r in rankings]
        return [replace(r, ranks=ranks, id=str(i)) for i, (r, ranks) in enumerate(zip(rankings, chosen, strict=True))]
    return rankings


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pickapic"])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, data: st.DataObject) -> None:
    layout = FORMATS[name].layout
    rankings = fit(data.draw(any_rankings(tmp_path, layout.holds)), layout.name)
    if layout.name == "hpdv2-test":  # one group per prompt and images
        rankings = list({(r.prompt, r.images, r.annotator): r for r in rankings}.values())
    path = tmp_path / data.draw(st.sampled_from(["x.json", "x.csv", "x.parquet", "x", "x.txt"]))
    assert write_rankings(rankings, path, name) == len(rankings)
    assert detect_format(path).name == name
    assert read_rankings(path) == rankings
    path.unlink()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pickapic"])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_dropped_in_silence(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Anything at all is either kept or refused with a reason, and a refusal leaves no file."""
    everything = frozenset({"id", "annotator", "source", "soft", "groups", "ties"})
    rankings = data.draw(any_rankings(tmp_path, everything))
    path = tmp_path / "out"
    refusal = None
    try:
        write_rankings(rankings, path, name)
    except DataError as error:
        refusal = str(error)
    if refusal is not None:
        assert any(word in refusal for word in ("cannot hold", "needs", "holds one", "must be a whole number"))
        assert list(tmp_path.iterdir()) == []
    else:
        assert sorted(map(repr, read_rankings(path))) == sorted(map(repr, rankings))
        path.unlink()


def test_pick_a_pic_holds_the_images_themselves(tmp_path: Path) -> None:
    images = []
    for seed, suffix in enumerate(("jpg", "png", "webp", "jpg")):
        picture(seed=seed).save(made := tmp_path / f"x.{suffix}")
        content = made.read_bytes()
        images.append(ImageRef(made.rename(tmp_path / f"{hashlib.sha256(content).hexdigest()}.{suffix}"), f"m{seed}"))
    rankings = [
        Ranking.of_pair("one", images[0], images[1], 1.0, annotator="7", id="12"),
        Ranking.of_pair("two", images[2], images[3], 0.5),
        Ranking.of_pair("two", images[0], images[3], 0.25),
    ]
    write_rankings(rankings, tmp_path / "pap", "pickapic")
    assert detect_format(tmp_path / "pap").name == "pickapic"
    back = read_rankings(tmp_path / "pap", tmp_path / "out")
    assert [replace(r, images=tuple(ImageRef(tmp_path / i.path.name, i.source) for i in r.images)) for r in back] == (
        rankings
    )
    assert all(i.path.parent == tmp_path / "out" and i.path.is_file() for r in back for i in r.images)
    assert read_rankings(tmp_path / "pap")[0].images[0].path.parent == tmp_path / "pap-images"
    with pytest.raises(DataError, match="annotator must be a whole number"):
        write_rankings([replace(rankings[1], annotator="me")], tmp_path / "other", "pickapic")
    with pytest.raises(DataError, match=r"absent.jpg: cannot be put into the file"):
        gone = Ranking.of_pair("p", ImageRef(tmp_path / "absent.jpg"), images[0], 1.0)
        write_rankings([gone], tmp_path / "other", "pickapic")
    (tmp_path / "blocked").write_text("")
    with pytest.raises(DataError, match="choose an image_root"):
        read_rankings(tmp_path / "pap", tmp_path / "blocked")


def test_pick_a_pic_rows_without_a_label_or_without_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"caption": ["p", "q"], "jpg_0": [b"\xff\xd8\xff0", b"\xff\xd8\xff1"], "jpg_1": [b"\x89PNG", b"\x89PNG"],
            "label_0": [1.0, None], "label_1": [0.0, None], "has_label": [True, False]}  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert [r.prompt for r in iter_rankings(tmp_path / "a.parquet")] == ["p"]
    pq.write_table(pa.table({**rows, "has_label": [True, True]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 1: label_0 and label_1 must be a number"):
        read_rankings(tmp_path / "b.parquet")
    pq.write_table(pa.table({**rows, "jpg_0": pa.array([None, None], pa.binary())}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="row 0: an image without bytes"):
        read_rankings(tmp_path / "c.parquet")


def test_soft_labels_and_official_layouts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]},
        {"prompt": "p", "file_path": ["a.jpg", "c.jpg"], "human_preference": [0.3, 0.7]},
    ]
    (tmp_path / "train").write_text(json.dumps(rows))
    hard, unsure = read_rankings(tmp_path / "train")
    assert (hard.ranks, hard.first_preferred) == ((1, 2), None)
    assert (unsure.ranks, unsure.first_preferred) == ((2, 1), 0.3)
    assert next(unsure.pairs()).first_preferred == 0.3
    assert list(hpdv2.TRAIN.write([hard], ImageFolder(tmp_path))) == rows[:1]

    chosen = {"human_preference": 2, "prompt": "p", "id": 4, "file_path": ["a", "b", "c"], "user_hash": "u",
              "contain_name": False}  # fmt: skip
    (tmp_path / "v1").write_text(json.dumps([chosen]))
    (only,) = read_rankings(tmp_path / "v1")
    assert (only.ranks, only.annotator, only.id) == ((2, 2, 1), "u", "4")

    flat = [{"prompt_id": g, "prompt": g, "image_path": f"{g}{i}.webp", "rank": r} for i, r in ((0, 2), (1, 1), (2, 2))
            for g in ("x", "y")]  # fmt: skip
    (tmp_path / "db").write_text(json.dumps(flat))
    assert [(r.id, r.ranks) for r in iter_rankings(tmp_path / "db")] == [("x", (2, 1, 2)), ("y", (2, 1, 2))]

    (tmp_path / "pairs").write_text("prompt,image_a,image_b,label\r\np,a,b,tie\r\np,a,c,0.9\r\np,b,c,B\r\n")
    assert [next(r.pairs()).first_preferred for r in iter_rankings(tmp_path / "pairs")] == [0.5, 0.9, 0.0]
    (tmp_path / "ours.json").write_text('{"prompt": "p", "images": ["a", {"path": "b"}], "ranks": [1, 2]}\n')
    assert detect_format(tmp_path / "ours.json").name == "rankings"
    assert read_rankings(tmp_path / "ours.json")[0].images[1].path == tmp_path / "b"


def test_the_real_imagereward_test_set_counts_as_published() -> None:
    if not (data := SHARED / "imagereward" / "test.json").is_file():
        skip_or_fail(f"{data} is absent")
    rankings = read_rankings(data)
    assert len(rankings) == 466
    assert len({image for r in rankings for image in r.images}) == 2720
    assert sum(p.first_preferred != 0.5 for r in rankings for p in r.pairs()) == 6399


def test_the_gallery_written_again_is_the_same_json(gallery: Path, tmp_path: Path) -> None:
    write_rankings(iter_rankings(gallery), tmp_path / "again", "hpdv2-test", image_root=gallery / "test")
    assert json.loads((tmp_path / "again").read_text()) == json.loads((gallery / "test.json").read_text())


def test_pairs_of_a_ranking_lose_nothing() -> None:
    images = tuple(ImageRef(Path(c), f"source {c}") for c in "abc")
    ranking = Ranking("p", images, (2, 1, 2), "someone", "id")
    pairs = list(explode(ranking))
    assert [next(p.pairs()) for p in pairs] == list(ranking.pairs())
    assert {(p.annotator, p.id) for p in pairs} == {("someone", "id")}
    assert list(explode(pairs[0])) == [pairs[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n ", "the file is empty"),
        (b"hello", "unknown format .looked for JSON"),
        (b"a,b\n1,2\n", r"unknown format: its first row has a, b; expected one of: plain pairs \(prompt, image_a"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b'[{"prompt": "\xe9"}]', "not in UTF-8"),
        (b'{"prompt": "\xe9"}\n', "not in UTF-8"),
        (b"prompt,image_a,image_b,label\np\xe9,a,b,a\n", "not in UTF-8"),
        (b"PK\x03\x04....", "is an archive; unpack it first"),
        (b"PAR1....", "damaged, truncated or not Parquet"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 0]}, {"pro', "truncated or half-downloaded"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 0]}', "truncated or half-downloaded"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": [NaN, 0]}]', "not readable as JSON"),
        (b'{"prompt": "p", "images": ["a", "b"], "ranks": [1, 2]}\n{"prompt": "p", "im', "line 2: .*truncated"),
        (b'[{"prompt": "p", "prompt": "q"}]', "instance 0: the key 'prompt' is given twice"),
        (b'{"prompt": "p", "prompt": "q"}', "line 1: .*the key 'prompt' is given twice"),
        (b"prompt,prompt\np,q\n", "line 1: a column is named twice"),
        (b"prompt,image_a,image_b,label\np,a\n", "line 2: 2 cells where the header has 4"),
        (b'prompt,image_a,image_b,label\n"p,a', "line 2: not readable as CSV"),
        (b"prompt,image_a,image_b,label\np,a,b,maybe\n", "line 2: label must be a, b, tie or a probability"),
        (b"prompt,image_a,image_b,label\np,a,b,1.5\n", "line 2: label must be"),
        (b"prompt,image_a,image_b,label\np,a,,a\n", "line 2: an image must be named by text"),
        (b"prompt,image_a,image_b,label\np,/etc/passwd,b,a\n", "leads out of the image folder"),
        (b"prompt,image_a,image_b,label\np,x/../../b,b,a\n", "leads out of the image folder"),
        (b"[1, 2]", "unknown format: no fields"),
        (b'{"prompt": 3, "images": ["a", "b"], "ranks": [1, 2]}', "line 1: prompt must be text"),
        (b'{"prompt": "p", "images": ["a"], "ranks": [1]}', "line 1: .*at least two images"),
        (b'{"prompt": "p", "images": ["a", "b"], "ranks": [1, 1.5]}', "line 1: .*whole numbers"),
        (b'{"prompt": "p", "images": ["a", "b"], "ranks": [1, 2], "first_preferred": 0.2}', "soft label of 0.2 does not fit"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": [0.7, 0.7]}]', "must add up to 1"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": [1]}]', "needs two images and two preferences"),
        (b'[{"prompt": "p", "file_path": ["a", "b"], "human_preference": 2}]', "index of one of the 2 images"),
    ],
)  # fmt: skip
def test_bad_files_are_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rankings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_repeated_far_down_is_placed(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "image_path": ["a", "b"], "rank": [1, 2], "raw_annotations": []} for _ in range(50)]
    content = json.dumps(rows).replace('"raw_annotations": []}]', '"raw_annotations": [{"rank": [1], "rank": [2]}]}]')
    (tmp_path / "x").write_text(content)
    with pytest.raises(DataError, match="instance 49: the key 'rank' is given twice"):
        read_rankings(tmp_path / "x")
    (tmp_path / "x").write_text(json.dumps(rows))
    assert len(read_rankings(tmp_path / "x")) == 50


def test_truncated_parquet(tmp_path: Path) -> None:
    pair = Ranking("p", (ImageRef(tmp_path / "a"), ImageRef(tmp_path / "b")), (1, 2))
    write_rankings([pair] * 100, tmp_path / "x", "rankings-parquet")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged, truncated or not Parquet"):
        read_rankings(tmp_path / "x")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[data\]"'):
        read_rankings(tmp_path / "x")


def test_writing_refuses_what_it_should(tmp_path: Path) -> None:
    pair = Ranking("p", (ImageRef(tmp_path / "a"), ImageRef(tmp_path / "b")), (1, 2), "me")
    with pytest.raises(DataError, match=r"hpdv2-train cannot hold annotators .*drop annotator"):
        write_rankings([pair], tmp_path / "x", "hpdv2-train")
    assert write_rankings([pair], tmp_path / "x", "hpdv2-train", drop=["annotator"]) == 1
    assert read_rankings(tmp_path / "x") == [replace(pair, annotator=None)]
    with pytest.raises(UnknownNameError, match="choose from: rankings"):
        write_rankings([pair], tmp_path / "x", "yaml")
    with pytest.raises(UnknownNameError, match="cannot drop ranks"):
        write_rankings([pair], tmp_path / "x", drop=["ranks"])
    with pytest.raises(DataError, match="is not inside"):
        write_rankings([pair], tmp_path / "x", image_root=tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot be written"):
        write_rankings([pair], tmp_path / "no" / "x", image_root=tmp_path)
    with pytest.raises(DataError, match="surrogates not allowed"):
        write_rankings([replace(pair, prompt="\ud800")], tmp_path / "x")
    assert read_rankings(tmp_path / "x") == [replace(pair, annotator=None)]  # what was there is still there


def test_a_bad_instance_can_be_passed_over(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "images": ["a", "b"][:n], "ranks": [1, 2][:n]} for n in (2, 1, 2)]
    (tmp_path / "x").write_text("\n".join(map(json.dumps, rows)))
    errors: list[HumanprefError] = []
    assert len(list(open_data(tmp_path / "x").rankings(errors.append))) == 2
    assert [str(e).split(": ")[1] for e in errors] == ["line 2"]


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "one").write_text('{"prompt": "p", "images": ["a", "b"], "ranks": [1, 2]}')
    assert len(read_rankings(tmp_path)) == 1
    (tmp_path / "two").write_text("prompt,image_a,image_b,label\np,a,b,a\n")
    with pytest.raises(DataError, match="several data files"):
        read_rankings(tmp_path)


def test_where_images_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"prompt": "p", "images": ["x/a", "x/b"], "ranks": [1, 2]}')
    (tmp_path / "x").mkdir()
    assert open_data(tmp_path / "x.json").folder.root == tmp_path / "x"
    (tmp_path / "x" / "a").write_text("")  # named from the file's own folder, as this shows
    assert read_rankings(tmp_path / "x.json")[0].images[1].path == tmp_path / "x" / "b"


def test_the_csv_opens_in_other_readers(tmp_path: Path) -> None:
    pair = Ranking('a "cat",\nhere', (ImageRef(tmp_path / "a"), ImageRef(tmp_path / "b")), (1, 2), "me")
    write_rankings([pair], tmp_path / "x.csv", "pairs")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["prompt"] == pair.prompt
