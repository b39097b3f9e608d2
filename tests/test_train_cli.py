"""`humanpref train` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humanpref import load_scorer
from humanpref.cli_train import configure
from humanpref.errors import TrainingError, UnknownNameError
from tests.training import data_file, run, tiny


def words(tmp_path: Path) -> list[object]:
    return [
        "train", "--base", "none", "--arch", tiny(tmp_path).arch, "--steps", 2, "--batch", 2, "--workers", 0, "--device", "cpu",
        "--set", "vision_free=-1", "--set", "text_free=-1", "--out", tmp_path / "run",
    ]  # fmt: skip


@pytest.mark.slow
def test_from_a_file_to_a_scorer(tmp_path: Path) -> None:
    """Shards in, a scorer out, which `evaluate` and `score` take by its path."""
    data = data_file(tmp_path, groups=4)
    run("data", "shards", data, tmp_path / "shards", "--image-root", tmp_path / "images", "--per-shard", 2)
    val = data_file(tmp_path, "val", groups=6, seed=1)
    done = run(*words(tmp_path), "--data", tmp_path / "shards", "--val", val, "--val-images", tmp_path / "images")
    export = Path(done.stdout.strip())
    assert "step 2:" in done.stderr
    assert "model card" in done.stderr
    found = run(
        "evaluate", val, "--image-root", tmp_path / "images", "--model", export, "--format", "json", "--no-cache"
    )
    scorer = json.loads(found.stdout)["scorers"][0]
    assert scorer["model"] == "run"
    assert f"{100 * scorer['pair_accuracy']:.1f} %" in (export / "README.md").read_text()
    image = next((tmp_path / "images").glob("*.png"))
    scored = json.loads(run("score", image, "--prompt", "a cat", "--model", export, "--format", "json").stdout)
    assert scored["results"][0]["score"] == pytest.approx(float(load_scorer(str(export)).score(image, "a cat")))
    again = run(
        *words(tmp_path),
        "--seed",
        5,
        "--data",
        tmp_path / "shards",
        "--val",
        val,
        "--val-images",
        tmp_path / "images",
        code=1,
    )
    assert "seed 0 -> 5" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


def test_options_become_the_configuration() -> None:
    found = configure("hps-v2", {"loss": "listwise", "batch": 8}, ["smoothing=0", "lora_rank=4", "checkpointing=true"])
    assert (found.loss, found.unit, found.batch, found.lora_rank, found.checkpointing) == (
        "listwise",
        "rankings",
        8,
        4,
        True,
    )
    with pytest.raises(TrainingError, match="write NAME=VALUE"):
        configure("hps-v2", {}, ["seed"])
    with pytest.raises(TrainingError, match="batch is given twice"):
        configure("hps-v2", {"batch": 8}, ["batch=9"])
    with pytest.raises(UnknownNameError, match="no training preset is called 'x'"):
        configure("x", {}, [])


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    done = run(*words(tmp_path), "--data", tmp_path / "none.json", code=1)
    assert done.stderr.strip().endswith("none.json: no such file or folder")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_without_the_base_weights_it_says_what_to_do(tmp_path: Path) -> None:
    data = data_file(tmp_path, groups=2)
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = run("train", "--data", data, "--images", tmp_path / "images", "--out", tmp_path / "run", code=1, env=env)
    assert "--base FILE" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
