"""The toy world as a backend; its own tests are elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from humanpref.generate import GenerateError, Prompt, generate, make_backend
from humanpref.shapes import sources
from tests.generating import contents


def test_sources_of_the_toy_world(tmp_path: Path) -> None:
    names = list(sources.SOURCES)[:2]
    asked = [Prompt("a small red circle left of a blue square", "1"), Prompt("a large green triangle", "2")]
    report = generate(asked, [make_backend(f"shapes:{name},size=64") for name in names], tmp_path / "out")
    assert (report.made, report.failed) == (4, 0)
    assert {key[0] for key in contents(tmp_path / "out")} == set(names)
    with pytest.raises(GenerateError, match="no such source"):
        make_backend("shapes:nothing")
