"""The documentation: its examples are what the program prints, its pages cover the commands, its translation follows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import humanpref
from humanpref.cli import app
from tests.conftest import ROOT

DOCS = ROOT / "docs"


def commands(command: object, name: str = "humanpref") -> list[str]:
    """Every command that does something."""
    if not hasattr(command, "commands"):
        return [name]
    return [leaf for key, inner in command.commands.items() for leaf in commands(inner, f"{name} {key}")]


def test_every_command_is_shown_on_a_page() -> None:
    text = "\n".join(
        path.read_text() for path in [*DOCS.glob("*.md"), *(DOCS / "how-to").glob("*.md")] if path.name != "commands.md"
    )
    every = commands(typer.main.get_command(app))
    assert len(every) > 20
    assert [name for name in every if name not in text] == []


def test_every_public_name_is_in_the_api_pages() -> None:
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    assert [name for name in humanpref.__all__ if name not in text] == []
    modules = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(modules) == len(set(modules)) > 30


def test_every_page_is_in_the_navigation_and_nothing_is_built_into_the_repository() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | {"commands.md"}
    assert pages == set(re.findall(r"\S+\.md$", config, re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files", "docs", "site"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not [name for name in tracked.stdout.split() if name.endswith((".html", "commands.md"))]


def parts(path: Path) -> tuple[list[str], list[int], list[int]]:
    """What a translation leaves as it is: code (in text of its own lines), the levels of headings, the columns of tables."""
    text = path.read_text()
    fences = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = [len(match) for match in re.findall(r"^(#+) ", bare, re.MULTILINE)]
    rows = [line.count("|") for line in bare.splitlines() if line.startswith("|")]
    return [re.sub(r"\s+#.*", "", fence) for fence in fences], headings, rows


def test_the_chinese_readme_follows_the_english_one() -> None:
    english, chinese = parts(ROOT / "README.md"), parts(ROOT / "README.zh.md")
    assert chinese == english
    for name, other in (("README.md", "README.zh.md"), ("README.zh.md", "README.md")):
        assert f"]({other})" in (ROOT / name).read_text()
    links = [set(re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text())) for name in ("README.md", "README.zh.md")]
    assert links[0] - {"README.zh.md"} == links[1] - {"README.md"}
    figures = [
        sorted(re.findall(r"\d+(?:\.\d+)? ?(?:%|GB|MB)", (ROOT / name).read_text()))
        for name in ("README.md", "README.zh.md")
    ]
    assert figures[0] == figures[1]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">b</a> <a href="#x">x</a> <a href="https://a.b">c</a>'
    )
    (tmp_path / "b.html").write_text(
        '<p id="y"><img src="gone.png"> <a href="a.html#z">z</a> <a href="c%20d.html">c</a>'
    )
    run = [sys.executable, DOCS / "tools" / "links.py", tmp_path]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line.removeprefix(f"{tmp_path}/") for line in done.stdout.splitlines()]
    assert lines == [
        "b.html: a.html#z: no such anchor",
        "b.html: c%20d.html: no such file",
        "b.html: gone.png: no such file",
    ]
    (tmp_path / "b.html").write_text('<p id="y">')
    assert subprocess.run(run, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_how_to_pages_show_what_the_program_prints() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "tools" / "examples.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
