"""Whole runs at toy size: learning, exact resume, bad input, exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from humanpref import load_scorer
from humanpref.errors import TrainingError, WeightsError
from humanpref.records import Ranking
from humanpref.training.checkpoints import TrainFolder
from humanpref.training.run import train
from tests.training import data_file, losses, tiny, world


@pytest.fixture
def curves() -> None:
    """For tests whose runs draw their curves, which takes longer than most runs here."""


@pytest.fixture(autouse=True)
def _small_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread; and as where matplotlib is not installed, but for the tests that ask for `curves`."""
    torch.set_num_threads(1)
    if "curves" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def fit(tmp_path: Path, rankings: list[Ranking], out: str = "out", val: list[Ranking] | None = None, **options: object):
    return train(rankings, tmp_path / out, tiny(tmp_path, **options), validation=val, device="cpu", trackers=())


def test_it_learns_what_people_prefer(tmp_path: Path, curves: None) -> None:
    held_out = world(tmp_path / "val", groups=8, seed=1)
    report = fit(
        tmp_path, world(tmp_path / "i", 16), val=held_out, unit="groups", steps=40, learning_rate=3e-3, save_every=20
    )
    assert report.outcome.validation.pair_accuracy > 0.9
    assert report.evaluation.scorers[0]["pair_accuracy"].value == pytest.approx(report.outcome.state.best_accuracy)
    text = (report.out / "export" / "README.md").read_text()
    assert f"{100 * report.evaluation.scorers[0]['pair_accuracy'].value:.1f} %" in text
    assert "8 prompts" in text
    assert "<svg" in (report.out / "report.html").read_text()


@pytest.mark.parametrize("loss", ["pair", "listwise", "margin", "uncertain"])
def test_every_loss_trains(tmp_path: Path, loss: str) -> None:
    unit = "rankings" if loss == "listwise" else "pairs"
    fit(tmp_path, world(tmp_path / "i", 12), loss=loss, unit=unit, steps=25, batch=6, learning_rate=3e-3, save_every=0)
    curve = losses(tmp_path / "out")
    assert sum(curve[s] for s in range(21, 26)) < 0.8 * sum(curve[s] for s in range(1, 6))


def test_accumulation_takes_the_same_steps_as_one_large_batch(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    for out, batch, accumulate in (("a", 6, 1), ("b", 2, 3)):
        fit(tmp_path, rankings, out, batch=batch, accumulate=accumulate)
    one, other = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert all(one[s] == pytest.approx(other[s], abs=1e-5) for s in one)


def test_checkpointing_and_workers_change_no_loss(tmp_path: Path, curves: None) -> None:
    rankings = world(tmp_path / "i", 6)
    fit(tmp_path, rankings, "a")
    fit(tmp_path, rankings, "b", checkpointing=True, workers=2)
    one, other = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert all(one[s] == pytest.approx(other[s], abs=1e-6) for s in one)


def test_only_the_layers_that_are_free_change(tmp_path: Path) -> None:
    from humanpref.training.model import build

    config = tiny(tmp_path, vision_free=2, text_free=1)
    before = {k: v.clone() for k, v in build(config).model.clip.state_dict().items()}
    report = fit(tmp_path, world(tmp_path / "i", 6), vision_free=2, text_free=1)
    after = torch.load(report.exported.official, weights_only=True)["state_dict"]
    from safetensors.torch import load_file

    after = load_file(report.exported.folder / "open_clip_model.safetensors")
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert {k for k in changed if k.startswith("visual")} == {
        k for k in before if k.startswith(("visual.transformer.resblocks.1.", "visual.ln_post")) or k == "visual.proj"
    }
    assert not any(
        k.startswith(("token_embedding", "transformer.resblocks.0.", "positional_embedding")) for k in changed
    )
    assert "logit_scale" in changed


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly(tmp_path: Path) -> None:
    """kill -9 in the middle; the same command again gives the same curve to 1e-6, and the same weights."""
    data = data_file(tmp_path, groups=8)
    words = [
        "train", "--data", data, "--images", tmp_path / "images", "--steps", 30, "--batch", 3, "--base", "none",
        "--arch", tiny(tmp_path).arch, "--workers", 1, "--learning-rate", "1e-3", "--device", "cpu", "--tracker", "none",
        *("--set", "vision_free=-1", "--set", "text_free=-1", "--set", "warmup=2", "--set", "save_every=4"),
        *("--set", "log_every=1", "--set", "keep=3"),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "humanpref.cli", *map(str, words), "--out", str(tmp_path / "whole")]
    assert subprocess.run(whole, env=env, capture_output=True, check=False).returncode == 0
    broken = [*whole[:-1], str(tmp_path / "broken")]
    process = subprocess.Popen(
        broken, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "broken" / "checkpoints").glob("step-*/state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stopped_at = max(losses(tmp_path / "broken"))
    assert stopped_at < 30, "it was over before it could be killed"
    assert subprocess.run(broken, env=env, capture_output=True, check=False).returncode == 0
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "broken")
    assert list(one) == list(other) == list(range(1, 31))
    assert all(abs(one[s] - other[s]) < 1e-6 for s in one)
    from safetensors.torch import load_file

    weights = [load_file(tmp_path / run / "export" / "open_clip_model.safetensors") for run in ("whole", "broken")]
    assert all(torch.allclose(weights[0][k], weights[1][k], rtol=0, atol=1e-6) for k in weights[0])


def test_a_resume_with_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    fit(tmp_path, rankings, steps=4)
    with pytest.raises(TrainingError, match=r"learning_rate 0.001 -> 0.002.*Give the same options"):
        fit(tmp_path, rankings, steps=4, learning_rate=2e-3)
    with pytest.raises(TrainingError, match=r"another configuration: data [0-9a-f]{12}... -> "):
        fit(tmp_path, rankings[:5], steps=4)
    fit(tmp_path, rankings, steps=4, workers=1, keep=5)  # what changes no weight may differ


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    rankings, held_out = world(tmp_path / "i", 6), world(tmp_path / "v", 4, seed=3)
    report = fit(tmp_path, rankings, val=held_out, steps=10, save_every=1, keep=2, validate_every=3)
    kept = sorted(p.name for p in (tmp_path / "out" / "checkpoints").iterdir())
    best = f"step-{report.outcome.state.best_step:08d}"
    assert set(kept) == {"step-00000009", "step-00000010", best}


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    with pytest.raises(
        TrainingError, match=r"step \d+: (loss|gradient of norm) (nan|inf).*the last good checkpoint is .*step-0"
    ):
        fit(tmp_path, rankings, steps=60, learning_rate=1e30, warmup=10000, save_every=1, weight_decay=0)
    saved = json.loads((tmp_path / "out" / "bad-batch.json").read_text())
    assert saved["batches"][0]["images"]
    latest = TrainFolder(tmp_path / "out").latest()
    from safetensors.torch import load_file

    assert all(torch.isfinite(v).all() for v in load_file(latest / "model.safetensors").values())


def test_a_missing_image_stops_or_is_counted(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    rankings[0].images[0].path.unlink()
    with pytest.raises(TrainingError, match=r"1 of 24 images .* not on disk .*bad_images=skip"):
        fit(tmp_path, rankings)
    report = fit(tmp_path, rankings, bad_images="skip")
    assert (report.counts.missing_images, report.counts.dropped_rankings, report.counts.images) == (1, 0, 23)
    assert any("1 images of the training data are not on disk" in note for note in report.notes)


def test_an_unreadable_image_stops_or_is_counted(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 3)
    rankings[0].images[0].path.write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"0-0-0.png.*bad_images=skip"):
        fit(tmp_path, rankings, unit="rankings", batch=3)
    report = fit(tmp_path, rankings, out="skip", unit="rankings", batch=3, bad_images="skip", steps=4, save_every=2)
    assert report.outcome.skipped == 4  # the ranking is in each batch of three, and nothing takes its place
    again = fit(tmp_path, rankings, out="none", unit="rankings", batch=1, bad_images="skip", steps=3)
    assert again.outcome.skipped == 1  # a step with nothing in it


def test_data_in_which_all_is_tied_is_refused(tmp_path: Path) -> None:
    rankings = [Ranking(r.prompt, r.images, (1, 1, 1, 1)) for r in world(tmp_path / "i", 3)]
    with pytest.raises(TrainingError, match="all 18 pairs of the training data are ties"):
        fit(tmp_path, rankings)


def test_an_overlap_with_the_validation_is_counted(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 6)
    other = world(tmp_path / "v", 3, seed=5)
    report = fit(tmp_path, rankings, val=[*other, rankings[0], rankings[1]])
    assert (report.overlap.prompts, report.overlap.of_prompts, report.overlap.images) == (2, 5, 8)
    assert any("2 of 5 validation prompts and 8 of 20 validation images" in note for note in report.notes)
    assert "beware" in (report.out / "export" / "README.md").read_text()


def test_it_stops_early(tmp_path: Path) -> None:
    rankings, held_out = world(tmp_path / "i", 6), world(tmp_path / "v", 4, seed=3)
    report = fit(tmp_path, rankings, val=held_out, steps=50, learning_rate=0.0, validate_every=2, patience=2)
    assert report.outcome.stopped_early
    assert report.outcome.state.step == 6
    page = (report.out / "report.html").read_text()
    assert "The curves are in log.jsonl" in page
    assert "<svg" not in page


@pytest.mark.slow
def test_a_disk_that_is_full_while_saving_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Files of the second save may not grow: what the system then says is what it says of a full disk."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.training import tiny, world
from humanpref.training.run import train
from humanpref.training import loop
folder = Path({str(tmp_path)!r})
rankings = world(folder / "i", 4)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
real = loop.Trainer._save
def save(self):
    if self.state.step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    real(self)
loop.Trainer._save = save
train(rankings, folder / "out", tiny(folder, steps=8), device="cpu", trackers=())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "TrainingError" in done.stderr
    assert "cannot be written" in done.stderr
    assert "the last good one is" in done.stderr
    kept = [p.name for p in (tmp_path / "out" / "checkpoints").iterdir()]
    assert kept == ["step-00000002"]
    report = fit(tmp_path, world(tmp_path / "i", 4), steps=8)  # room again: it goes on
    assert report.outcome.resumed_from == 2


def test_one_process_trains_in_a_folder_at_a_time(tmp_path: Path) -> None:
    folder = TrainFolder(tmp_path / "out")
    with pytest.raises(TrainingError, match="another process is training there"):
        fit(tmp_path, world(tmp_path / "i", 3))
    folder.close()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(TrainingError, match="holds something else"):
        fit(tmp_path, world(tmp_path / "i", 3), "mine")
    (tmp_path / "killed").mkdir()  # while it saved the embeddings, before its first checkpoint
    (tmp_path / "killed" / ".embeddings.safetensors.77.part").write_bytes(b"half")
    TrainFolder(tmp_path / "killed").close()
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 3)
    fit(tmp_path, rankings, steps=4)
    (tmp_path / "out" / "checkpoints" / "step-00000004" / "optimizer.bin").write_bytes(b"xx")
    with pytest.raises(TrainingError, match=r"step-00000004: the checkpoint cannot be read .*delete it"):
        fit(tmp_path, rankings, steps=4)


def test_what_is_exported_loads_everywhere(tmp_path: Path) -> None:
    """This package by folder, file and name; open_clip strictly; transformers-free; the same scores."""
    import open_clip

    held_out = world(tmp_path / "v", 3, seed=2)
    report = fit(tmp_path, world(tmp_path / "i", 6), val=held_out)
    folder, images = report.exported.folder, [i.path for i in held_out[0].images]
    scorer = load_scorer(str(folder), precision="fp32", device="cpu")
    assert scorer.spec.name == "out"
    expected = scorer.score(images, held_out[0].prompt)
    half = load_scorer(str(report.exported.official), precision="fp32", device="cpu").score(images, held_out[0].prompt)
    named = load_scorer(
        "hps-v2.1", weights=report.exported.official, arch=folder / "open_clip_config.json", precision="fp32"
    )
    assert torch.equal(half, named.score(images, held_out[0].prompt))
    assert (half - expected).abs().max() < 2e-3  # HPS v2's files are fp16
    content = torch.load(report.exported.official, weights_only=True)
    assert set(content) == {"state_dict"}
    assert all(v.dtype == torch.float16 for v in content["state_dict"].values())
    theirs = open_clip.CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    theirs.load_state_dict(content["state_dict"], strict=True)
    hub, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    from safetensors.torch import load_file

    assert torch.equal(hub.visual.proj, load_file(folder / "open_clip_model.safetensors")["visual.proj"])
    (folder / "humanpref.json").write_text("{}")
    with pytest.raises(WeightsError, match="damaged"):
        load_scorer(str(folder))
