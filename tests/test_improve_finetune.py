"""Fine-tuning on real (tiny, random) pipelines: its gradients, its losses, and how a run ends, however it ends."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref import DataError, ImageRef, Ranking, UnknownNameError, load_scorer
from humanpref.cli_improve_finetune import _as_json, _as_table
from humanpref.generate import make_backend
from humanpref.generate.contract import Request
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.finetune.adapter import add_lora, frozen
from humanpref.improve.finetune.config import FinetuneConfig, read_config
from humanpref.improve.finetune.dpo import dpo_terms, noised, pair_terms
from humanpref.improve.finetune.loop import validations
from humanpref.improve.finetune.run import overoptimised
from humanpref.improve.finetune.sampling import check_pipeline, predicted_clean, sample_early, sample_last
from humanpref.improve.finetune.validation import Validation, draw, gain
from humanpref.improve.methods import ImproveError
from humanpref.improve.pipelines import denoiser_of
from humanpref.training.checkpoints import read_log
from tests.finetuning import PROMPTS, Red, run
from tests.generating import ROOT, environment
from tests.tiny_pipeline import write_flow_pipeline, write_pipeline

DDIM = "scheduler=DDIMScheduler"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> list[Ranking]:
    """Red pictures are preferred to blue ones."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    images = (ImageRef(folder / "red.png"), ImageRef(folder / "blue.png"))
    return [Ranking(prompt.text, images, (1, 2)) for prompt in PROMPTS]


def requests(n: int = 2) -> list[Request]:
    return [Request(PROMPTS[i], i, 40 + i, i) for i in range(n)]


def with_lora(model: Path, options: str = f"steps=3,guidance=2,{DDIM}", dtype: torch.dtype = torch.float64) -> Any:
    """A pipeline with a LoRA that does something -> (backend, the LoRA's parameters)."""
    backend = make_backend(f"diffusers:{model},{options}", {"device": "cpu", "dtype": "float32"})
    backend.pipeline.to(dtype)
    check_pipeline(backend)
    parameters = add_lora(backend.pipeline, FinetuneConfig(lora_rank=2))
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters.values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return backend, list(parameters.values())


def by_hand(backend: Any, last_steps: int, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Three DDIM steps with guidance 2, written out -> (the mean reward, the mean distance to the frozen model)."""
    pipeline, unet = backend.pipeline, backend.pipeline.unet
    texts = [request.prompt.text for request in requests()]
    with torch.no_grad():
        good, bad = pipeline.encode_prompt(texts, "cpu", 1, True)
    text = torch.cat([bad, good])
    generators = [torch.Generator().manual_seed(r.seed) for r in requests()]
    z = torch.cat([torch.randn(1, 4, 16, 16, generator=g, dtype=torch.float64) for g in generators])
    kept = pipeline.scheduler.alphas_cumprod.double()
    times, distances = pipeline.scheduler.timesteps.tolist(), []
    for i, t in enumerate(times):
        z = z.detach() if i == len(times) - last_steps else z
        noise = unet(torch.cat([z, z]), t, encoder_hidden_states=text).sample
        if i >= len(times) - last_steps:
            with frozen(unet):
                base = unet(torch.cat([z, z]), t, encoder_hidden_states=text).sample
            distances.append((noise - base).square().mean())
        plain, told = noise.chunk(2)
        noise = plain + 2 * (told - plain)
        before = t - 1000 // len(times)
        now, then = kept[t], kept[before] if before >= 0 else pipeline.scheduler.final_alpha_cumprod.double()
        clean = ((z - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)  # as this scheduler's clip_sample says
        z = then.sqrt() * clean + (1 - then).sqrt() * noise
    pixels = (pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    return (pixels * weight).mean(), torch.stack(distances).mean()


@pytest.mark.parametrize("last_steps", [1, 2, 3])
def test_gradients_are_those_of_the_last_steps_written_out(tiny: Path, last_steps: int) -> None:
    backend, parameters = with_lora(tiny)
    weight = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampled = sample_last(backend, requests(), last_steps, distance=True)
    own = (sampled.pixels * weight).mean() + 3 * sampled.distance
    found = torch.autograd.grad(own, parameters)
    reward, distance = by_hand(backend, last_steps, weight)
    wanted = torch.autograd.grad(reward + 3 * distance, parameters)
    assert own.item() == pytest.approx((reward + 3 * distance).item(), rel=1e-5)
    for one, other in zip(found, wanted, strict=True):
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


def test_gradients_through_all_steps_are_those_of_small_differences(tiny: Path) -> None:
    backend, parameters = with_lora(tiny)
    own = sample_last(backend, requests(1), 3).pixels.double().square().mean()
    gradients = torch.autograd.grad(own, parameters)
    generator, step = torch.Generator().manual_seed(5), 1e-3
    along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def moved(by: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(parameters, along, strict=True):
                parameter.data += by * direction
            found = float(sample_last(backend, requests(1), 3).pixels.double().square().mean())
            for parameter, direction in zip(parameters, along, strict=True):
                parameter.data -= by * direction
        return found

    slope = (moved(step) - moved(-step)) / (2 * step)
    assert slope == pytest.approx(
        float(sum((g * d).sum() for g, d in zip(gradients, along, strict=True))), rel=2e-2
    )  # clipping has kinks


def test_checkpointing_changes_memory_and_nothing_else(tiny: Path) -> None:
    backend, parameters = with_lora(tiny)
    plain = torch.autograd.grad(sample_last(backend, requests(), 2).pixels.mean(), parameters)
    backend.pipeline.unet.enable_gradient_checkpointing()
    sampled = sample_last(backend, requests(), 2, distance=True)
    again = torch.autograd.grad(sampled.pixels.mean() + 0 * sampled.distance, parameters)
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_without_the_lora_it_is_the_model_as_it_was(tiny: Path) -> None:
    plain = make_backend(f"diffusers:{tiny},steps=2,{DDIM}", {"device": "cpu"})
    wanted = [np.asarray(image) for image in draw(plain, PROMPTS[:2], 0)]
    backend, _ = with_lora(tiny, f"steps=2,{DDIM}", torch.float32)
    changed = [np.asarray(image) for image in draw(backend, PROMPTS[:2], 0)]
    with frozen(denoiser_of(backend.pipeline)[1]):
        off = [np.asarray(image) for image in draw(backend, PROMPTS[:2], 0)]
    np.testing.assert_array_equal(off, wanted)
    assert np.abs(np.asarray(changed, int) - np.asarray(wanted, int)).max() > 2
    np.testing.assert_array_equal([np.asarray(image) for image in draw(backend, PROMPTS[:2], 0)], changed)


@pytest.mark.parametrize("at", [0, 2])
def test_refl_decodes_the_clean_image_that_a_step_predicts(tiny: Path, at: int) -> None:
    backend, parameters = with_lora(tiny)
    pipeline, seen = backend.pipeline, []
    original = pipeline.scheduler.step
    pipeline.scheduler.step = lambda *a, **k: (
        seen.append(original(*a, **{**k, "return_dict": True})) or (seen[-1].prev_sample,)
    )
    with torch.no_grad():
        pipeline(**backend.arguments(requests()))
    del pipeline.scheduler.step
    clean = seen[at].pred_original_sample
    with torch.no_grad():
        wanted = pipeline.vae.decode(clean / pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    sampled = sample_early(backend, requests(), at, distance=True)
    torch.testing.assert_close(sampled.pixels, wanted.clamp(0, 1).float(), rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(sampled.pixels.mean() + sampled.distance, parameters)
    assert all(float(g.abs().max()) > 0 for g in gradients)
    assert "step" not in vars(pipeline.scheduler)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_clean_image_and_the_noise_are_the_schedulers_own(kind: str) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(10)
    clean, noise, given = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = scheduler.step(given, 501, clean)
    torch.testing.assert_close(predicted_clean(scheduler, given, 501, clean), found.pred_original_sample)
    pair_noise = noise[:1].repeat(2, 1, 1, 1)
    noisy, time_, target = noised(scheduler, clean, pair_noise, 1, torch.tensor(3), torch.Generator().manual_seed(1))
    assert time_[0] == time_[1]
    torch.testing.assert_close(noisy, scheduler.add_noise(clean, pair_noise, time_))
    velocity = scheduler.get_velocity(clean, pair_noise, time_)
    torch.testing.assert_close(target, {"epsilon": pair_noise, "v_prediction": velocity, "sample": clean}[kind])


def test_the_dpo_loss_in_closed_form() -> None:
    own, base = torch.tensor([[0.3, 0.2], [0.5, 0.1]]), torch.tensor([[0.35, 0.1], [0.45, 0.2]])
    terms = dpo_terms(own, base, torch.tensor([1.0, 0.8]), beta=10.0)
    first = -10 / 2 * ((0.3 - 0.35) - (0.5 - 0.45))  # 0.5: the first got easier, the second harder
    second = -10 / 2 * ((0.2 - 0.1) - (0.1 - 0.2))

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    wanted = [-log_sigmoid(first), -0.8 * log_sigmoid(second) - 0.2 * log_sigmoid(-second)]
    assert terms.loss.tolist() == pytest.approx(wanted)
    assert terms.right.tolist() == [1.0, 0.0]


def test_dpo_begins_at_log_2_and_its_gradient_prefers_the_first(tiny: Path, rankings: list[Ranking]) -> None:
    backend = make_backend(f"diffusers:{tiny},steps=3", {"device": "cpu"})
    parameters = list(add_lora(backend.pipeline, FinetuneConfig(lora_rank=2)).values())
    pairs = [(r.images[0], r.images[1]) for r in rankings[:2]]

    def terms() -> Any:
        chance = torch.Generator().manual_seed(0)
        return pair_terms(backend, requests(), pairs, torch.ones(2), 500.0, chance)

    start = terms()
    assert start.loss.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert start.better.abs().max() < 1e-6
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        terms().loss.mean().backward()
        optimizer.step()
    assert (terms().loss < math.log(2)).all()
    assert terms().right.tolist() == [1, 1]


@pytest.mark.parametrize("algorithm", ["draft", "refl"])
def test_the_reward_rises_and_the_lora_draws_the_same_elsewhere(tiny: Path, tmp_path: Path, algorithm: str) -> None:
    report = run(tiny, tmp_path / "run", algorithm=algorithm, steps=8, validate_every=4, checkpointing=True)
    assert report.reward.gain > 0
    assert report.state.best_step > 0
    assert report.prompts + len(report.held_out) == len(PROMPTS)
    base = make_backend(f"diffusers:{tiny},steps=2,{DDIM},guidance=2", {"device": "cpu"})
    method = make_methods(f"lora:{report.lora}")
    held = [prompt for text in report.held_out for prompt in PROMPTS if prompt.text == text]
    images = draw(apply_methods(method, base), held, 0)
    best = next(one for one in report.validations if one.step == report.state.best_step)
    np.testing.assert_allclose(Red().score(images, "").tolist(), best.reward, atol=1e-3)
    shown = json.loads(_as_json(report))
    assert shown["reward"]["mean"] == report.reward.mean
    assert shown["config"]["algorithm"] == algorithm
    assert f"{report.reward.mean:.4g}" in _as_table(report)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"{report.reward.mean:.4g}" in card
    for name in ("curves.svg", "log.csv", "lora-last.safetensors", "samples/step-000000.png"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    with pytest.raises(ImproveError, match="has a LoRA already"):
        apply_methods([*method, *method], base)
    half, negative = (
        apply_methods(make_methods(f"lora:{report.lora},{option}"), base) for option in ("scale=0.5", "negative=grey")
    )
    assert (half.config.lora_scale, negative.config.negative_prompt) == (0.5, "grey")
    assert half.settings != negative.settings != base.settings


def test_frozen_weights_in_bf16_with_a_lora_in_fp32(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    report = run(tiny, tmp_path / "run", precision="bf16", steps=1, kl=1.0)
    (row,) = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row]
    assert row["gradient"] > 0
    assert {tensor.dtype for tensor in load_file(report.lora_last).values()} == {torch.float32}


def test_dpo_learns_the_order_of_pairs(tiny: Path, tmp_path: Path, rankings: list[Ranking]) -> None:
    said: list[str] = []
    ties = replace(rankings[0], ranks=(1, 1))
    gone = replace(rankings[1], images=(rankings[1].images[0], ImageRef(tmp_path / "gone.png")))
    data = [*rankings, ties, gone]
    report = run(tiny, tmp_path / "run", algorithm="dpo", data=data, beta=500.0, steps=8, say=said.append)
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["loss"] < 0.97 * math.log(2)
    assert report.pairs == 8  # of 10 prompts two are held out
    assert any("1 pairs are ties" in line for line in said)
    assert any("1 pairs were left out since an image is not on disk" in line for line in said)


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tiny: Path, tmp_path: Path) -> None:
    options = {"steps": 6, "accumulate": 1}
    whole = run(tiny, tmp_path / "whole", **options)
    killed = tmp_path / "killed"
    words = [sys.executable, "-m", "tests.finetuning", str(tiny), str(killed), "6", "0.3"]
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
    began = time.monotonic()
    while not any(row["step"] >= 3 for row in read_log(killed / "log.jsonl")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - began < 200
        time.sleep(0.02)
    process.kill()
    process.wait()
    again = run(tiny, killed, **options)
    assert 1 <= again.resumed_from < 6

    def curve(out: Path) -> list[tuple[int, float]]:
        rows = read_log(out / "log.jsonl")
        return [(r["step"], r["loss"]) for r in rows if "loss" in r] + [
            (r["step"], v) for r in rows if "validation" in r for v in r["validation"]["reward"]
        ]

    one, other = curve(killed), curve(tmp_path / "whole")
    assert [step for step, _ in one] == [step for step, _ in other]
    np.testing.assert_allclose([v for _, v in one], [v for _, v in other], atol=1e-5)
    assert again.reward.mean == pytest.approx(whole.reward.mean, abs=1e-5)
    done = run(tiny, killed, **options)
    assert done.resumed_from == 6
    assert curve(killed) == one
    with pytest.raises(Exception, match="another configuration: learning_rate 0.01 -> 0.5"):
        run(tiny, killed, **options, learning_rate=0.5)
    with pytest.raises(Exception, match="another configuration: scorer red -> blue"):
        run(tiny, killed, **options, scorer=Red(identity="blue"))


@pytest.mark.parametrize(
    ("bad", "given", "message"),
    [
        (float("nan"), {}, "a loss of nan"),
        (float("inf"), {}, "a loss of -?inf"),
        (1e6, {"max_gradient": 10.0}, "a gradient of norm"),
    ],
)
def test_what_explodes_ends_the_run_and_the_best_lora_stays(
    tiny: Path, tmp_path: Path, bad: float, given: dict[str, float], message: str
) -> None:
    scorer = Red(broken=5, bad=bad)  # one call finds out whether it is differentiable, two are steps 1 and 2 ...
    with pytest.raises(ImproveError, match=f"step 4: {message}.*best LoRA before it") as caught:
        run(tiny, tmp_path / "run", scorer=scorer, **given)
    assert "\n" not in str(caught.value)
    best = max(validations(tmp_path / "run"), key=lambda one: one.decides)
    backend = make_backend(f"diffusers:{tiny},steps=2,{DDIM},guidance=2", {"device": "cpu"})
    held = sorted(PROMPTS, key=lambda p: __import__("hashlib").sha256(p.text.encode()).digest())[:2]
    images = draw(apply_methods(make_methods(f"lora:{tmp_path / 'run' / 'lora.safetensors'}"), backend), held, 0)
    np.testing.assert_allclose(Red().score(images, "").tolist(), best.reward, atol=1e-3)


def test_it_stops_when_the_second_scorer_falls(tiny: Path, tmp_path: Path) -> None:
    report = run(tiny, tmp_path / "run", check=Red(-1.0, "not-red"), steps=20, validate_every=1, patience=2)
    assert report.stopped_early
    assert (report.state.step, report.state.best_step) == (2, 0)
    assert "red rose from" in str(report.overoptimised)
    assert "not-red fell from" in str(report.overoptimised)
    assert "this LoRA does nothing" in (tmp_path / "run" / "README.md").read_text()
    again = run(tiny, tmp_path / "run", check=Red(-1.0, "not-red"), steps=20, validate_every=1, patience=2)
    assert again.stopped_early
    assert again.state.step == 2


def test_overoptimisation_is_told_from_chance() -> None:
    def two(check: list[float]) -> list[Validation]:
        return [Validation(0, (0.0,) * 8, (1.0,) * 8), Validation(5, (1.0,) * 8, tuple(check))]

    assert "the reward is overoptimised" in str(overoptimised(two([0.5, 0.6] * 4), "a", "b"))
    assert "no more than chance" in str(overoptimised(two([0.0, 1.9] * 4), "a", "b"))
    assert overoptimised(two([1.1] * 8), "a", "b") is None
    found = gain([0.0] * 8, [0.1, 0.3] * 4)
    assert found.gain == pytest.approx(0.2)
    low, high = found.ci or (0, 0)
    assert 0.1 <= low < 0.2 < high <= 0.3


def test_no_memory_is_one_line_that_says_what_to_lower(tiny: Path, tmp_path: Path) -> None:
    class Huge(Red):
        def score(self, images: Any, prompts: object) -> torch.Tensor:
            if isinstance(images, torch.Tensor) and len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return super().score(images, prompts)

    with pytest.raises(
        ImproveError, match=r"out of memory; set batch=1 \(and accumulate=2\), checkpointing=true, last_"
    ):
        run(tiny, tmp_path / "run", scorer=Huge(), last_steps=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scorer": "lite"}, r"lite is not differentiable.*--algorithm dpo"),
        ({"check": Red()}, "the check scorer is the reward itself \\(red\\)"),
        ({"precision": "fp16"}, "fp16 is for GPUs"),
        ({"lora_layers": "nothing"}, "lora_layers: .*nothing"),
        ({"options": "steps=2,dtype=float16"}, "leave dtype out"),
        ({"options": "steps=2", "algorithm": "refl", "kl": -1.0}, "kl must be a number and not negative"),
        ({"algorithm": "dpo", "kl": 1.0}, "leave kl out"),
        ({"beta": 500.0}, "beta is for dpo only, which draft is not; leave it out"),
        ({"algorithm": "refl", "last_steps": 2}, "last_steps is for draft only"),
        ({"algorithm": "draft", "late": 0.5}, "late is for refl only"),
        ({"algorithm": "ppo"}, "no algorithm is called 'ppo'; choose from: draft, refl, dpo"),
        ({"algorithm": "dpo"}, "dpo takes rankings of images, not prompts"),
        ({"data": PROMPTS[:1]}, "there is one prompt"),
        ({"data": []}, "not rankings"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
    ],
)
def test_what_cannot_be_done_is_one_line(tiny: Path, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    if given.get("scorer") == "lite":
        given = {**given, "scorer": load_scorer("lite")}
    with pytest.raises((ImproveError, UnknownNameError, DataError), match=message) as caught:
        run(tiny, tmp_path / "run", **given)
    assert "\n" not in str(caught.value)


def test_a_file_of_options_and_the_command(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"algorithm": "refl", "steps": 3, "kl": 0.5}))
    assert read_config(tmp_path / "options.json") == FinetuneConfig(algorithm="refl", steps=3, kl=0.5)
    (tmp_path / "wrong.json").write_text('{"speed": 3}')
    with pytest.raises(UnknownNameError, match=r"wrong.json: no training option is called 'speed'; choose from: algor"):
        read_config(tmp_path / "wrong.json")
    from typer.testing import CliRunner

    from humanpref.cli import app

    (tmp_path / "prompts.txt").write_text("\n".join(p.text for p in PROMPTS))
    words = ["improve", "finetune", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    for more, error, message in (
        (["-b", "shapes:clean", "--model", "lite"], UnknownNameError, "only a pipeline can be fine-tuned"),
        (["-b", f"diffusers:{tiny}", "--model", "lite"], ImproveError, "lite is not differentiable"),
        (["-b", f"diffusers:{tiny}", "--set", "speed=1"], UnknownNameError, "'speed'"),
        (["-b", f"diffusers:{tiny}", "--steps", "2", "--set", "steps=1"], ImproveError, "steps is given twice"),
    ):
        found = CliRunner().invoke(app, [*words, *more])
        assert isinstance(found.exception, error), found.exception
        assert message in str(found.exception)


@pytest.mark.slow
def test_a_flow_matching_transformer_takes_all_three(tmp_path: Path, rankings: list[Ranking]) -> None:
    model = write_flow_pipeline(tmp_path / "sd3")
    for algorithm, data in (("draft", PROMPTS), ("refl", PROMPTS), ("dpo", rankings)):
        report = run(
            model, tmp_path / algorithm, algorithm=algorithm, data=data, options="steps=2,guidance=2", steps=2,
            kl=0.0 if algorithm == "dpo" else 1.0,
        )  # fmt: skip
        rows = [row for row in read_log(tmp_path / algorithm / "log.jsonl") if "loss" in row]
        assert all(row["gradient"] > 0 for row in rows)
        images = draw(
            apply_methods(
                make_methods(f"lora:{report.lora_last}"),
                make_backend(f"diffusers:{model},steps=2,guidance=2", {"device": "cpu"}),
            ),
            [p for p in PROMPTS if p.text in report.held_out],
            0,
        )
        assert len(images) == 2
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_the_clean_image_of_a_flow_is_where_it_leads(tmp_path: Path) -> None:
    """One step from the last time on arrives at the predicted clean image: refl and draft then see the same."""
    backend = make_backend(f"diffusers:{write_flow_pipeline(tmp_path / 'sd3')},steps=2", {"device": "cpu"})
    check_pipeline(backend)
    add_lora(backend.pipeline, FinetuneConfig(lora_rank=2))
    last, early = sample_last(backend, requests(), 1).pixels, sample_early(backend, requests(), 1).pixels
    torch.testing.assert_close(last, early)


def test_a_scheduler_that_looks_twice_a_step_is_refused(tiny: Path) -> None:
    backend = make_backend(f"diffusers:{tiny},steps=2,scheduler=HeunDiscreteScheduler", {"device": "cpu"})
    with pytest.raises(ImproveError, match="HeunDiscreteScheduler takes more than one look a step"):
        check_pipeline(backend)


def test_the_lora_keeps_the_negative_prompt_that_is_there(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "l.safetensors").write_bytes(b"x")
    backend = make_backend(f"diffusers:{tiny},negative_prompt=blurry", {"device": "cpu"})
    made = apply_methods(make_methods(f"lora:{tmp_path / 'l.safetensors'},negative=Weird image."), backend)
    assert made.settings["negative_prompt"] == "blurry, Weird image."
