"""Heads on frozen embeddings, LoRA, other backbones, bf16, and two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from humanpref import load_scorer
from humanpref.errors import TrainingError, WeightsError
from humanpref.training.config import PRESETS, with_options
from humanpref.training.run import train
from tests.training import ARCH, data_file, losses, tiny, world


@pytest.fixture(autouse=True)
def _small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread; and as where matplotlib is not installed: to draw the curves takes longer than most runs here."""
    torch.set_num_threads(1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def head_config(tmp_path: Path, preset: str = "head", **options: object):
    arch = tiny(tmp_path).arch
    small = {
        "arch": arch,
        "base": "",
        "steps": 60,
        "batch": 8,
        "warmup": 5,
        "learning_rate": 1e-2,
        "validate_every": 30,
    }
    return with_options(PRESETS[preset], {**small, **options})


@pytest.mark.parametrize("preset", ["head", "head-mlp"])
def test_a_head_learns_on_embeddings_that_are_computed_once(tmp_path: Path, preset: str) -> None:
    rankings, held_out = world(tmp_path / "i", 12), world(tmp_path / "v", 6, seed=1)
    report = train(
        rankings, tmp_path / "out", head_config(tmp_path, preset), validation=held_out, device="cpu", trackers=()
    )
    assert report.outcome.validation.pair_accuracy > 0.85
    scorer = load_scorer(str(tmp_path / "out" / "export"), device="cpu")
    images = [i.path for i in held_out[0].images]
    assert scorer.logit_scale == 1
    found = scorer.score(images, held_out[0].prompt)
    assert (found.argsort(descending=True).argsort() + 1).tolist() == list(held_out[0].ranks)
    kept = tmp_path / "out" / "embeddings.safetensors"
    before = kept.stat().st_mtime_ns
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "embeddings.safetensors").write_bytes(kept.read_bytes())
    other = tmp_path / "again" / "embeddings.safetensors"
    stamp = other.stat().st_mtime_ns
    train(
        rankings,
        tmp_path / "again",
        head_config(tmp_path, preset, seed=0),
        validation=held_out,
        device="cpu",
        trackers=(),
    )
    assert other.stat().st_mtime_ns == stamp, "nothing was computed again"
    assert kept.stat().st_mtime_ns == before
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    scorer.score(pixels, "a cat").sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_head_finds_its_clip_again_or_says_which(tmp_path: Path) -> None:
    from humanpref.training.model import build

    base = tmp_path / "base.safetensors"
    save_file(dict(build(tiny(tmp_path, seed=5)).model.clip.state_dict()), base)
    rankings = world(tmp_path / "i", 4)
    config = head_config(tmp_path, base=str(base), steps=4)
    train(rankings, tmp_path / "out", config, device="cpu", trackers=())
    images = [i.path for i in rankings[0].images]
    expected = load_scorer(str(tmp_path / "out" / "export"), device="cpu").score(images, "p")
    moved = base.rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsError, match=r"base.safetensors: no such file"):
        load_scorer(str(tmp_path / "out" / "export"))
    found = load_scorer(str(tmp_path / "out" / "export"), weights=moved, device="cpu").score(images, "p")
    assert torch.equal(found, expected)
    save_file(dict(build(tiny(tmp_path, seed=6)).model.clip.state_dict()), base)
    with pytest.raises(WeightsError, match=r"is not the CLIP that out was trained on"):
        load_scorer(str(tmp_path / "out" / "export"))


def test_lora_trains_a_fraction_and_is_merged_into_the_export(tmp_path: Path) -> None:
    from humanpref.training.model import build

    rankings, held_out = world(tmp_path / "i", 8), world(tmp_path / "v", 4, seed=1)
    config = tiny(tmp_path, lora_rank=4, steps=20, learning_rate=1e-2, unit="groups", weight_decay=0, save_every=5)
    report = train(rankings, tmp_path / "out", config, validation=held_out, device="cpu", trackers=())
    assert report.free < report.parameters / 20
    before = build(tiny(tmp_path)).model.clip.state_dict()
    after = load_file(report.exported.folder / "open_clip_model.safetensors")
    assert set(before) == set(after)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all((".mlp.c_" in k and k.endswith("weight")) or k == "logit_scale" for k in changed)
    assert report.evaluation.scorers[0]["pair_accuracy"].value == pytest.approx(report.outcome.state.best_accuracy)
    again = train(rankings, tmp_path / "out", config, validation=held_out, device="cpu", trackers=())
    assert again.outcome.resumed_from == 20


@pytest.mark.parametrize(
    "vision",
    [
        {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"},
        {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    ],
    ids=["timm", "modified-resnet"],
)
def test_other_backbones_of_open_clip_train_and_load(tmp_path: Path, vision: dict) -> None:
    arch = {**ARCH, "vision_cfg": {"image_size": 32, **vision}}
    (tmp_path / "other.json").write_text(json.dumps(arch))
    rankings = world(tmp_path / "i", 4)
    config = tiny(tmp_path, arch=str(tmp_path / "other.json"), steps=3, unit="rankings")
    report = train(
        rankings, tmp_path / "out", config, validation=world(tmp_path / "v", 3, seed=1), device="cpu", trackers=()
    )
    assert report.evaluation.scorers[0]["pair_accuracy"].value == pytest.approx(report.outcome.validation.pair_accuracy)


def test_bf16_follows_fp32(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    for precision in ("fp32", "bf16"):
        train(rankings, tmp_path / precision, tiny(tmp_path, precision=precision), device="cpu", trackers=())
    one, other = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert one != other
    assert all(one[s] == pytest.approx(other[s], abs=0.05) for s in one)


def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(world(tmp_path / "i", 4), tmp_path / "out", tiny(tmp_path, steps=4), device="cpu")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    curve = {e.step: e.value for e in events.Scalars("train/loss")}
    assert curve == pytest.approx(losses(tmp_path / "out"))
    with pytest.raises(Exception, match=r"no tracker is called 'paper'; choose from: tensorboard, wandb"):
        train(world(tmp_path / "i", 4), tmp_path / "b", tiny(tmp_path), device="cpu", trackers=("paper",))


def launch(
    tmp_path: Path, out: str, processes: int, batch: int, *more: object, env: dict[str, str] | None = None
) -> None:
    words = [
        "train", "--data", tmp_path / "train.jsonl", "--images", tmp_path / "images", "--val", tmp_path / "val.jsonl",
        "--steps", 6, "--batch", batch, "--base", "none", "--arch", tmp_path / "arch.json", "--workers", 0,
        "--learning-rate", "1e-3", "--device", "cpu", "--tracker", "none", "--set", "vision_free=-1", "--set", "text_free=-1",
        "--set", "warmup=2", "--set", "log_every=1", "--set", "validate_every=3", "--out", tmp_path / out, *more,
    ]  # fmt: skip
    start = ["-m", "humanpref.cli"]
    if processes > 1:
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *start]
    command = [sys.executable, *start, *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """torchrun with gloo: the same losses, validation and weights as one process with twice the batch, and one export."""
    data_file(tmp_path, groups=8)
    data_file(tmp_path, "val", groups=5, seed=1)
    tiny(tmp_path)
    launch(tmp_path, "one", 1, 8)
    launch(tmp_path, "two", 2, 4)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 7))
    assert all(abs(one[s] - two[s]) < 1e-5 for s in one)
    rows = [json.loads(x) for x in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    other = [json.loads(x) for x in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    for mine, theirs in zip(
        [r for r in rows if "validation" in r], [r for r in other if "validation" in r], strict=True
    ):
        assert mine["validation"] == pytest.approx(theirs["validation"], abs=1e-5)
    weights = [load_file(tmp_path / run / "export" / "open_clip_model.safetensors") for run in ("one", "two")]
    for k, value in weights[0].items():
        if not k.endswith(
            "in_proj_bias"
        ):  # the keys' part of it has no gradient but rounding, which Adam makes steps of
            assert torch.allclose(value, weights[1][k], rtol=0, atol=1e-5), k
    launch(tmp_path, "two", 2, 4)  # it is over, and says so again
    with pytest.raises(TrainingError, match=r"processes 2 -> 1"):
        from humanpref.cli_train import configure
        from humanpref.training.run import train as go

        run = json.loads((tmp_path / "two" / "run.json").read_text())
        config = configure(run["config"].pop("preset"), run["config"], ())
        go(tmp_path / "train.jsonl", tmp_path / "two", config, images=tmp_path / "images",
           validation=tmp_path / "val.jsonl", device="cpu", trackers=())  # fmt: skip
