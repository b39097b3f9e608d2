"""The proof in the shapes world, in a minute: it learns from people's rankings, and nothing from shuffled ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "recipes"))

GROUPS, STEPS = 48, 150


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_clip_from_scratch_learns_what_simulated_people_prefer(tmp_path: Path) -> None:
    import train_shapes_preference as recipe

    torch.set_num_threads(2)
    options = argparse.Namespace(
        work=tmp_path, groups=[GROUPS], test_groups=24, steps=STEPS, seed=0, processes=2, threads=2
    )
    result = recipe.run(options)
    point = result["curve"][0]
    best, chance = result["best"]["captions"], result["shuffled"]["captions"]
    assert point["captions"] > result["lite"]["captions"] + 0.08
    assert point["captions"] > chance + 0.1
    assert abs(chance - 0.5) < 0.15
    assert point["captions"] < best
