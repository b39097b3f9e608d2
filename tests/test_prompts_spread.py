"""Cleaning on workers gives what cleaning here does, in the same order, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from humanpref.engines import Engine
from humanpref.prompts import spread
from humanpref.prompts.records import Cleaned
from humanpref.prompts.rules import RuleCleaner
from humanpref.prompts.spread import SpreadCleaner

PROMPTS = [f"a cat number {n} on a wall, highly detailed, trending on artstation, 8 k" for n in range(230)]


class DiesOnce(RuleCleaner):
    """Kills its own process on one prompt, the first time."""

    marker: Path

    def clean(self, prompts: Iterable[str]) -> Iterator[Cleaned]:
        for prompt in prompts:
            if "number 120 " in prompt and not self.marker.exists():
                self.marker.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            yield self.clean_one(prompt)


class MakeDiesOnce:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self) -> DiesOnce:
        cleaner = DiesOnce()
        cleaner.marker = self.marker
        return cleaner


def test_here_it_is_the_cleaner_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "BATCH", 7)
    found = list(SpreadCleaner(RuleCleaner, "rules", Engine(), print).clean(PROMPTS))
    assert found == list(RuleCleaner().clean(PROMPTS))
    assert found[3].text == "a cat number 3 on a wall"


@pytest.mark.slow
def test_on_a_ray_cluster_with_a_worker_killed_on_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spread, "BATCH", 20)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    notes: list[str] = []
    engine = Engine("ray", workers=2, cpus_per_worker=0.5, object_store_mib=100)
    cleaner = SpreadCleaner(MakeDiesOnce(tmp_path / "died"), "rules", engine, notes.append)
    assert list(cleaner.clean(PROMPTS)) == list(RuleCleaner().clean(PROMPTS))
    assert (tmp_path / "died").exists()
    assert any("a worker died" in note for note in notes)
