"""Images made elsewhere: matching, linking, and folders that mean harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from humanpref.errors import DataError
from humanpref.generate import GenerateError, Prompt, generate, make_backend
from tests.generating import contents, rows
from tests.toys import picture

ASKED = (Prompt("A cat, asleep.", "c1"), Prompt("a dog", "c2"), Prompt("a tree", "c3"))


def filled(folder: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=n).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "method"),
    [
        (("c1.png", "c2.jpg", "c3.webp"), "id"),
        (("c1-0.png", "c2_0.jpg", "c3.webp"), "id"),
        (("00000.jpg", "00001.jpg", "2.jpg"), "index"),
        (("0-0.jpg", "0-1.jpg", "1-0.jpg", "2-0.jpg"), "index"),
        (("a-cat-asleep.png", "a-dog-0.png", "A Tree.png"), "slug"),
    ],
)
def test_matching_by_name(tmp_path: Path, names: tuple[str, ...], method: str) -> None:
    backend = make_backend(f"folder:{filled(tmp_path / 'sd', *names)}")
    report = generate(ASKED, [backend], tmp_path / "out")
    assert (report.made, report.failed) == (3, 0)
    assert backend.settings["match"] == method
    firsts = [name for name in names if not name.endswith("-1.jpg")]
    for row, name in zip(rows(tmp_path / "out"), firsts, strict=True):
        assert row["model"] == "sd"
        assert row["path"] == f"sd/{row['prompt_id']}-0{Path(name).suffix}"
        assert (tmp_path / "out" / row["path"]).read_bytes() == (tmp_path / "sd" / name).read_bytes()
    contents(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "file,prompt\nx/1.png,a dog\n2.png,a tree\n3.png,not asked for\n",
        '{"path": "x/1.png", "id": "c2"}\n{"path": "2.png", "id": "c3"}\n{"path": "3.png", "id": "c9"}\n',
        "image,index,number\nx/1.png,1,0\n2.png,2,0\n3.png,2,1\n",
    ],
)
def test_matching_by_manifest(tmp_path: Path, text: str) -> None:
    filled(tmp_path / "sd", "x/1.png", "2.png", "3.png")
    (tmp_path / "manifest").write_text(text)
    backend = make_backend(f"folder:{tmp_path / 'sd'},manifest={tmp_path / 'manifest'}")
    report = generate(ASKED, [backend], tmp_path / "out")
    assert (report.made, report.failed, report.missing_prompts) == (2, 1, 1)
    found = {row["prompt_id"]: row.get("path") or row["reason"] for row in rows(tmp_path / "out")}
    assert found["c1"].startswith("no image of it in")
    assert (tmp_path / "out" / found["c2"]).read_bytes() == (tmp_path / "sd" / "x/1.png").read_bytes()


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_links(tmp_path: Path, link: str) -> None:
    filled(tmp_path / "sd", "c1.png", "c2.png", "c3.png")
    generate(ASKED, [make_backend(f"folder:{tmp_path / 'sd'},link={link}")], tmp_path / "out")
    contents(tmp_path / "out")
    image = tmp_path / "out" / "sd" / "c1-0.png"
    assert image.is_symlink() == (link == "symbolic")
    assert image.samefile(tmp_path / "sd" / "c1.png")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "x/../../secret.png", ""])
def test_manifest_that_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    filled(tmp_path, "secret.png", "sd/c1.png")
    (tmp_path / "m.csv").write_text(f"file,id\n{name},c1\n")
    with pytest.raises(DataError, match=r"m.csv: row 2: (image path|names no file)"):
        generate(ASKED, [make_backend(f"folder:{tmp_path / 'sd'},manifest={tmp_path / 'm.csv'}")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_files_fail_by_themselves(tmp_path: Path) -> None:
    folder = filled(tmp_path / "sd", "c3.png", "c3.jpg")
    filled(tmp_path, "secret.png")
    (folder / "c1.png").symlink_to(tmp_path / "secret.png")
    (folder / "c2.png").write_bytes((folder / "c3.png").read_bytes()[:200])
    report = generate((*ASKED, Prompt("x", "c4")), [make_backend(f"folder:{folder}")], tmp_path / "out")
    assert (report.made, report.failed) == (0, 4)
    reasons = [row["reason"] for row in rows(tmp_path / "out")]
    for reason, part in zip(reasons, ("leads out", "damaged", "several images match", "no image of it"), strict=True):
        assert part in reason


def test_nothing_that_matches(tmp_path: Path) -> None:
    folder = filled(tmp_path / "sd", "other.png")
    with pytest.raises(GenerateError, match="no image belongs to any of the prompts"):
        generate(ASKED, [make_backend(f"folder:{folder}")], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenerateError, match="holds no images"):
        generate(ASKED, [make_backend(f"folder:{tmp_path / 'empty'}")], tmp_path / "out")
