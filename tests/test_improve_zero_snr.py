"""Schedules that end without signal, and which pipelines they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from humanpref.errors import UnknownNameError
from humanpref.generate import Prompt, Request, make_backend
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.methods import ImproveError
from humanpref.improve.noise.mixing import at_start, forward_at_start
from tests.tiny_pipeline import write_pipeline

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
REQUEST = [Request(Prompt("a small red circle", "p"), 0, 7, 0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return make_backend(f"diffusers:{write_pipeline(tmp_path_factory.mktemp('zero') / 'sd')}")._load()


def change(spec: str) -> Any:
    return make_methods(spec)[0]


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "TCD"])
def test_the_betas_are_rescaled_and_sampling_begins_at_the_end(tiny: Any, name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    before = kind(**SD, prediction_type="v_prediction")
    tiny.scheduler = before
    change("zero-snr").prepare(tiny)
    root = before.alphas_cumprod.double().sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])  # algorithm 1 of arXiv 2305.08891
    assert np.allclose(tiny.scheduler.alphas_cumprod.sqrt()[:-1], rescaled[:-1], atol=1e-3)
    assert float(before.alphas_cumprod[-1]) ** 0.5 > 0.05
    assert float(tiny.scheduler.alphas_cumprod[-1]) ** 0.5 < 3e-4  # 0, or the 2^-12 that diffusers takes for it
    started = at_start(tiny.scheduler, 25)
    assert int(started.timesteps[0]) == 999
    assert forward_at_start(started).share < 3e-4


def test_spacing_and_guidance(tiny: Any) -> None:
    tiny.scheduler = diffusers.DDIMScheduler(**SD, prediction_type="v_prediction")
    method = change("zero-snr,spacing=leading,guidance-rescale=0.7")
    method.prepare(tiny)
    assert tiny.scheduler.config.timestep_spacing == "leading"
    assert method.options(tiny, REQUEST, []) == {"guidance_rescale": 0.7}
    assert method.settings == {"method": "zero-snr", "spacing": "leading", "guidance_rescale": 0.7}
    assert change("zero-snr").options(tiny, REQUEST, []) == {}
    with pytest.raises(UnknownNameError, match="spacing is one of trailing, leading, linspace"):
        change("zero-snr,spacing=karras")
    with pytest.raises(ImproveError, match="guidance_rescale must be from 0 to 1, got 2.0"):
        change("zero-snr,guidance_rescale=2")


def test_models_that_it_is_not_for(tiny: Any) -> None:
    tiny.scheduler = diffusers.DDIMScheduler(**SD)
    with pytest.raises(ImproveError, match="predicts the noise .* v_prediction .* noise:FILE"):
        change("zero-snr").prepare(tiny)
    tiny.scheduler = diffusers.PNDMScheduler(**SD, prediction_type="v_prediction")
    with pytest.raises(ImproveError, match="PNDMScheduler cannot rescale its betas; choose one .* DDIMScheduler") as e:
        change("zero-snr").prepare(tiny)
    assert "\n" not in str(e.value)
    tiny.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ImproveError, match="flow matching has no betas"):
        change("zero-snr").prepare(tiny)
    with pytest.raises(ImproveError, match="zero-snr is for diffusers:MODEL"):
        apply_methods(make_methods("zero-snr"), make_backend("shapes:clean"))


def test_the_shapes_pipeline_has_such_a_schedule_already(tmp_path: Path) -> None:
    backend = make_backend("diffusers:shapes,steps=3")
    improved = apply_methods(make_methods("zero-snr"), backend)
    (one,), (other,) = backend.generate(REQUEST), improved.generate(REQUEST)
    assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
    rescaled = apply_methods(make_methods("zero-snr,guidance_rescale=0.7"), backend)
    (third,) = rescaled.generate(REQUEST)
    assert not np.array_equal(np.asarray(one.image), np.asarray(third.image))
    assert rescaled.settings["changes"][0]["method"] == "zero-snr"
