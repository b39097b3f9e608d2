"""Any scorer called as ddpo-pytorch and flow_grpo call their rewards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref import ScoreError, UnknownNameError, load_scorer
from humanpref.reward import RewardFunction, as_flow_grpo
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "recipes"))

PROMPTS = ("a cat", "a dog", "a cat")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 40, 24, 3), dtype=np.uint8)


def test_every_kind_of_batch_gives_the_score_of_the_picture(
    pixels: np.ndarray, load_tiny: Callable[..., object]
) -> None:
    scorer = load_tiny()
    wanted = scorer.score([Image.fromarray(one) for one in pixels], list(PROMPTS)).numpy()
    assert len(set(wanted)) == 3
    reward = RewardFunction(scorer)
    nchw = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for images in (
        nchw,
        nchw.float() / 255,
        (nchw.float() / 255).requires_grad_(),
        pixels,
        pixels / 255,
        [Image.fromarray(one) for one in pixels],
    ):
        scores, info = reward(images, PROMPTS, ({}, {}, {}))
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(scores, wanted)
        np.testing.assert_array_equal(info["hps-v2.1"], wanted)


def test_several_scorers_are_added_by_their_weights(pixels: np.ndarray, load_tiny: Callable[..., object]) -> None:
    reward = RewardFunction({"tiny": load_tiny(), "lite": load_scorer("lite")}, {"tiny": 10.0})
    scores, info = reward(pixels, PROMPTS, None)
    np.testing.assert_allclose(scores, 10 * info["tiny"] + info["lite"], rtol=1e-6)
    assert set(info) == {"tiny", "lite"}


def test_flow_grpo_calls_it_as_its_own(pixels: np.ndarray) -> None:
    """As `scripts/train_sd3.py` does, and as `multi_score` does with what is registered there."""
    reward = RewardFunction({"a": load_scorer("lite"), "b": load_scorer("lite")}, {"a": 3.0})
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    scores, own = reward(images, PROMPTS, [{}] * 3)
    with ThreadPoolExecutor(1) as executor:
        rewards, _ = executor.submit(as_flow_grpo(reward), images, PROMPTS, [{}] * 3, only_strict=False).result()
    assert set(rewards) == {"avg", "a", "b"}
    assert torch.as_tensor(rewards["avg"]).float().tolist() == scores.tolist()
    assert torch.equal(torch.as_tensor(rewards["b"]), torch.as_tensor(own["b"]))
    with_references, _ = as_flow_grpo(reward)(images, PROMPTS, [{}] * 3, images)
    assert with_references["avg"].tolist() == scores.tolist()
    with pytest.raises(ScoreError, match="'avg'"):
        as_flow_grpo(RewardFunction({"avg": load_scorer("lite")}))

    make = lambda device: reward  # noqa: E731 - as the documentation writes it
    assert "device" in make.__code__.co_varnames  # that is what multi_score asks
    inner, details = make("cpu")(images, PROMPTS, [{}] * 3)
    assert [2.0 * score for score in inner] == [2.0 * score for score in scores]
    assert isinstance(details, dict)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"tensor of images must be \(n, 3, h, w\), got \(3, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"array of images must be \(n, h, w, 3\)"),
        (torch.full((1, 3, 8, 8), 200.0), "floats must lie in \\[0, 1\\]"),
        (torch.full((1, 3, 8, 8), float("nan")), "floats must lie in \\[0, 1\\]"),
        (np.zeros((1, 8, 8, 3), np.int64), "must be 8-bit"),
        (["a.png"], "or PIL images"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: object, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        RewardFunction(load_scorer("lite"))(images, "a cat", None)


def test_weights_must_belong_to_a_scorer() -> None:
    with pytest.raises(UnknownNameError, match="no scorer 'hps' to weigh; there are: lite"):
        RewardFunction({"lite": load_scorer("lite")}, {"hps": 1.0})
    with pytest.raises(ScoreError, match="at least one"):
        RewardFunction({})


def test_the_policy_of_the_ddpo_recipe_is_ddim_with_its_noise() -> None:
    """Mean and deviation are those of diffusers' own scheduler, whose draws it then weighs as a normal distribution."""
    import ddpo_with_reward as recipe

    from humanpref.generate import make_backend

    pipeline = make_backend("diffusers:shapes,steps=5", {"device": "cpu"}).pipeline
    pipeline.scheduler.set_timesteps(5)
    z, velocity, noise = torch.randn(3, 2, 19, 8, 8, generator=torch.Generator().manual_seed(0))
    for time in pipeline.scheduler.timesteps.tolist()[:-1]:
        step = {"eta": 1.0, "use_clipped_model_output": False}
        mean = pipeline.scheduler.step(velocity, time, z, **step, variance_noise=torch.zeros_like(z)).prev_sample
        drawn = pipeline.scheduler.step(velocity, time, z, **step, variance_noise=noise).prev_sample
        deviation = float((drawn - mean).std() / noise.std())
        wanted = torch.distributions.Normal(mean, deviation).log_prob(drawn).flatten(1).mean(1) + 0.5 * np.log(
            2 * np.pi
        )
        _, found = recipe.log_probability(pipeline, velocity, time, z, drawn, None)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        own, _ = recipe.log_probability(pipeline, velocity, time, z, None, torch.Generator().manual_seed(1))
        again = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(own, mean + deviation * again, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_policy_gradient_climbs_whatever_the_signature_gives() -> None:
    import ddpo_with_reward as recipe

    from humanpref.generate import make_backend

    def bright(images: torch.Tensor, prompts: object, metadata: object) -> tuple[torch.Tensor, dict]:
        return images.mean((1, 2, 3)), {}

    torch.set_num_threads(1)
    backend = make_backend("diffusers:shapes,steps=5", {"device": "cpu"})
    backend.pipeline.scheduler.set_timesteps(5)
    options = argparse.Namespace(steps=16, images=16, epochs=4, guidance=2.0, clip=1e-2, learning_rate=3e-3, seed=0)
    curve = recipe.train(backend, bright, ["a red circle", "two blue squares"], options)
    assert np.mean(curve[-5:]) > np.mean(curve[:3]) + 0.05
