"""Prompt files good and bad, backends by name, and the command's own refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humanpref.errors import DataError, HumanprefError, UnknownNameError
from humanpref.generate import Prompt, read_prompts
from humanpref.generate.options import make_backend, parse_size, parse_spec
from humanpref.prompts import iter_prompts
from tests.generating import command, contents, one_line
from tests.toys import picture


def test_every_kind_of_prompt_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = [{"text": "a cat", "id": "1", "source": "coco", "style": "photo"}, {"text": "a dog", "id": "2"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, listed)) + "\n")
    (tmp_path / "b.json").write_text(json.dumps(listed))
    pq.write_table(pa.Table.from_pylist(listed), tmp_path / "c.parquet")
    expected = (Prompt("a cat", "1", "coco", "photo"), Prompt("a dog", "2"))
    for name in ("a.jsonl", "b.json", "c.parquet"):
        assert read_prompts(tmp_path / name) == (expected, 0)
    (tmp_path / "d.txt").write_text("\ufeffa cat\r\n\n  a dog \n", encoding="utf-8")
    (tmp_path / "e.json").write_text('["a cat", "a dog"]')  # as the HPS v2 benchmark
    from_text, from_list = read_prompts(tmp_path / "d.txt")[0], read_prompts(tmp_path / "e.json")[0]
    assert [prompt.text for prompt in from_text] == ["a cat", "a dog"]
    assert from_text == from_list  # named by their text
    (tmp_path / "f.jsonl").write_text('{"prompt": "a cat", "id": 7, "prompt_source": "coco"}')
    assert read_prompts(tmp_path / "f.jsonl")[0] == (Prompt("a cat", "7", "coco"),)
    (tmp_path / "g.jsonl").write_text('{"prompt": "a cat"}\n{"text": "a dog"}\n')
    assert read_prompts(tmp_path / "g.jsonl")[0] == from_text
    (tmp_path / "h.txt").write_text("[--height 512] a cat\n")  # as a prompt may begin
    assert [prompt.text for prompt in read_prompts(tmp_path / "h.txt")[0]] == ["[--height 512] a cat"]


def test_known_prompt_sets_are_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\tChallenge\tNote\na "big" sign\tText\tBasic\t\n')
    (tmp_path / "d.csv").write_text('Prompts,Category\n"A red, round ball",Colors\n')
    (tmp_path / "c.json").write_text('{"annotations": [{"id": 3, "image_id": 1, "caption": "A cat."}]}')
    (tmp_path / "anime.json").write_text('["a girl"]')
    found = [read_prompts(tmp_path / name)[0][0] for name in ("p.tsv", "d.csv", "c.json", "anime.json")]
    assert [(prompt.text, prompt.source, prompt.style) for prompt in found] == [
        ('a "big" sign', "partiprompts", None),
        ("A red, round ball", "drawbench", None),
        ("A cat.", "coco", None),
        ("a girl", None, "anime"),
    ]
    assert found[2].id == "coco-3"
    for name in ("p.tsv", "d.csv", "c.json", "anime.json"):
        (own,) = iter_prompts(tmp_path / name)
        assert (own.text, own.id) == [(prompt.text, prompt.id) for prompt in read_prompts(tmp_path / name)[0]][0]


def test_repeated_and_very_long_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\na cat\n" + "long " * 2000 + "\na cat\n")
    found, again = read_prompts(tmp_path / "p.txt")
    assert ([len(prompt.text) for prompt in found], again) == ([5, 5, 9999], 2)
    rows = [{"prompt": "a cat", "id": "1"}, {"prompt": "a dog", "id": "1"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="instance 1: the id '1' is another prompt's too"):
        read_prompts(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"[]", "not a known prompt file: an empty list"),
        (b'["a cat", ""]', "instance 1: the prompt is empty"),
        (b'["a cat", 3]', "instance 1: a prompt must be text, got 3"),
        (b'["a cat"', "not readable as JSON"),
        (b'{"caption": "a cat"}\n', "not a known prompt file: JSON Lines with caption; looked for "),
        (b'{"prompt": "a cat"}\n{"prompt": "a d', "line 2: not readable as JSON"),
        (b'{"prompt": "\\ud800"}\n', "cannot be written as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a known prompt file: binary data"),
        ("naïve".encode("latin-1"), "not in UTF-8"),
        ("a cat".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        (b"PAR1 nonsense", "not Parquet"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "p")


def test_specs() -> None:
    found = parse_spec("diffusers:a/b,steps=3,negative-prompt=ugly, blurry,name=x")
    assert found == ("diffusers", "a/b", {"steps": "3", "negative_prompt": "ugly, blurry", "name": "x"})
    assert parse_spec("folder:C:,d")[1] == "C:,d"
    for bad in ("sd", "x:y", "diffusers", "diffusers:", "diffusers:,steps=3"):
        with pytest.raises(UnknownNameError):
            parse_spec(bad)
    assert (parse_size("512"), parse_size("512x768"), parse_size(None)) == ((512, 512), (512, 768), None)
    for bad in ("0", "x", "-5", "512*512", "512x0", ""):
        with pytest.raises(UnknownNameError):
            parse_size(bad)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:.,mtach=id", "folder has no option 'mtach'; did you mean match"),
        ("folder:.,match=name", "match is one of auto, id, slug, index, not 'name'"),
        ("openai:m,concurrency=many", "concurrency must be a number"),
        ("openai:m,allow_url=maybe", "allow_url is true or false"),
        ("folder:/no/such", "no such folder"),
        ("openai:m,base_url=ftp://x", "the base URL must be http"),
        ("openai:m,base_url=http://x,concurrency=0", "must be above 0"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(HumanprefError, match=message):
        make_backend(spec)


def test_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(HumanprefError, match="OPENAI_API_KEY is not set"):
        make_backend("openai:gpt-image-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(make_backend("openai:gpt-image-1"))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\na cat\n")
    for model in ("m1", "m2"):
        (tmp_path / model).mkdir()
        for n in range(2):
            picture(seed=n).save(tmp_path / model / f"{n:05d}.jpg")
    out, words = tmp_path / "out", ("-b", f"folder:{tmp_path / 'm1'}", "-b", f"folder:{tmp_path / 'm2'},name=other")
    done = command(tmp_path / "p.txt", *words, "--out", out, "--format", "json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["made"] == 4
    assert done.stderr.strip().endswith("1 prompts are there again; each is taken once")
    assert {key[0] for key in contents(out)} == {"m1", "other"}
    again = command(tmp_path / "p.txt", *words, "--out", out)
    assert again.returncode == 0
    assert "already there" in again.stdout

    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    one_line(command(tmp_path / "none.txt", *words, "--out", out), "none.txt: no such file")
    one_line(command(tmp_path / "m1", *words, "--out", out), "m1: is a folder; name a file of prompts")
    one_line(
        command(tmp_path / "p.txt", *words, "--out", out, "--steps", 3), "--steps is of no use here: it is for diff"
    )
    one_line(command(tmp_path / "p.txt", *words, "--out", tmp_path, "--seed", 3), "holds other files")
    one_line(command(tmp_path / "p.txt", "-b", "sd", "--out", out), "'sd': a backend is one of diffusers:MODEL")
    one_line(command(tmp_path / "p.txt", *words, "--out", out, "--gpus-per-worker", 2), "at most one GPU")
    (tmp_path / "m1" / "00001.jpg").unlink()
    lacking = command(tmp_path / "p.txt", "-b", f"folder:{tmp_path / 'm1'}", "--out", tmp_path / "out2")
    one_line(lacking, "humanpref: 1 images failed and 1 prompts have no image; the reasons are in")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("diffusers:shapes,guidance=nan", "guidance must be a number, got 'nan'"),
        ("diffusers:shapes,guidance=inf", "guidance must be a number, got 'inf'"),
        ("diffusers:shapes,steps=5,steps=50", "steps is given twice"),
    ],
)
def test_options_that_are_no_numbers_or_given_twice(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make_backend(spec)
