"""What docs/architecture.md says of modules and their imports is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "humanpref"
PAGE = (ROOT / "docs" / "architecture.md").read_text()

TOP = ("__init__", "cli*", "demo*")
"""They may import everything, and nothing imports them."""


def units() -> dict[str, list[Path]]:
    """{a package, or a module beside the packages: its files}."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def imports(node: ast.AST, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Every module that is imported anywhere, for types too, and whether inside a function."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        whole = [f"humanpref.{alias.name}" for alias in node.names] if node.module == "humanpref" else [node.module]
        yield from ((str(name), lazy) for name in whole)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@cache
def edges() -> dict[str, dict[str, bool]]:
    """{unit: {other unit that it imports: whether only inside functions}}."""
    files = units()
    found: dict[str, dict[str, bool]] = {unit: {} for unit in files}
    for unit, paths in files.items():
        for name, lazy in (pair for path in paths for pair in imports(ast.parse(path.read_text()))):
            if name.split(".")[0] != "humanpref" or name in {"humanpref", "humanpref.__version__"}:
                continue
            other = name.split(".")[1]
            other = other if other in files else "__init__"  # a public name
            if other != unit:
                found[unit][other] = found[unit].get(other, True) and lazy
    return found


def on_top(unit: str) -> bool:
    return any(fnmatch(unit, pattern) for pattern in TOP)


def graph() -> dict[str, list[str]]:
    """The page's lines: {unit: what it imports, in brackets what only functions do}."""
    block = re.search(r"^```text\n(report:.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = (line.partition(":") for line in block[1].splitlines())
    return {name: words.replace(",", " ").split() for name, _, words in lines}


def test_packages_import_what_the_page_says() -> None:
    said, found = graph(), edges()
    for unit, words in said.items():
        own = {other: lazy for other, lazy in found[unit].items() if other in said}
        assert {word.strip("()") for word in words} == own.keys(), f"the line of {unit} is {', '.join(sorted(own))}"
        for word in words:
            assert own[word.strip("()")] or not word.startswith("("), f"{unit} imports {word} outside of functions"


def test_imports_go_one_way() -> None:
    above: list[str] = []
    for unit, words in graph().items():
        assert [word for word in words if not word.startswith("(") and word not in above] == [], unit
        above.append(unit)


def test_what_has_no_line_stands_below_or_on_top() -> None:
    said, found = graph(), edges()
    for unit, own in found.items():
        if not on_top(unit):
            assert [other for other in own if on_top(other)] == [], unit
        if unit not in said and not on_top(unit):
            assert [other for other in own if other in said] == [], f"{unit} needs a line"
            assert (PACKAGE / f"{unit}.py").is_file(), f"the package {unit} needs a line"


def patterns() -> list[str]:
    """The names in the first column of the page's table, {a,b} written out; a folder ends with /."""
    found: list[str] = []
    for cell in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            parts = [part.split(",") for part in re.split(r"[{}]", name)]
            found += map("".join, product(*parts))
    return found


FILES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


def matches(file: str, pattern: str) -> bool:
    return file.startswith(pattern) if pattern.endswith("/") else fnmatch(file, pattern)


def test_every_module_is_in_the_table() -> None:
    known = patterns()
    missing = [f for f in FILES if not f.endswith("__init__.py") and not any(matches(f, one) for one in known)]
    assert missing == []


def test_what_the_table_names_is_there() -> None:
    named = [one for one in patterns() if one.endswith(".py")]
    assert [one for one in named if not any(matches(file, one) for file in FILES)] == []
