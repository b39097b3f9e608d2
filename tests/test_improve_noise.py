"""Noise with a trace of a reference image, against closed formulas and through real pipelines of four families."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humanpref.cli import main
from humanpref.engines import Engine
from humanpref.generate import Backend, GenerateError, Prompt, Request, generate, make_backend
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.methods import ImproveError
from humanpref.improve.noise.encoding import cover, encode, scale
from humanpref.improve.noise.mixing import Forward, add_noise, at_start, forward_at_start, mix
from tests.generating import contents, environment, rows
from tests.tiny_pipeline import IMAGE_SIZE, write_pipeline
from tests.tiny_pipelines import write_flux, write_sd3, write_sdxl
from tests.toys import picture

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ASKED = tuple(Prompt(f"a cat number {n}", f"p{n}") for n in range(3))
REQUESTS = [Request(prompt, 0, 100 + n, n) for n, prompt in enumerate(ASKED)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    made = {"sd": write_pipeline, "sdxl": write_sdxl, "sd3": write_sd3, "flux": write_flux}
    return {name: write(folder / name) for name, write in made.items()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "r.png"
    picture(90, 60, seed=3).save(path)
    return path


def make(folder: Path, method: str, options: str = "") -> Any:
    steps = "" if "steps=" in options else ",steps=4"
    return apply_methods(make_methods(method), make_backend(f"diffusers:{folder}{steps}{options}"))


def draw(backend: Backend, asked: list[Request] = REQUESTS) -> np.ndarray:
    outcomes = list(backend.generate(asked))
    assert [o.status for o in outcomes] == ["done"] * len(asked), outcomes
    return np.stack([np.asarray(o.image, dtype=int) for o in outcomes])


VARIANCE_PRESERVING = ("DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "LCM")
IN_SIGMAS = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete")


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_first_timestep_of_schedulers_that_keep_the_variance(name: str) -> None:
    started = at_start(getattr(diffusers, f"{name}Scheduler")(**SD), 25)
    product = float(started.alphas_cumprod[int(started.timesteps[0])])
    forward = forward_at_start(started)
    assert forward.signal == pytest.approx(product**0.5, rel=1e-4)
    assert forward.noise == pytest.approx((1 - product) ** 0.5, rel=1e-6)
    assert forward.scale == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("name", IN_SIGMAS)
def test_the_first_timestep_of_schedulers_in_sigmas(name: str, spacing: str, karras: bool) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    if karras and "use_karras_sigmas" not in kind.__init__.__wrapped__.__code__.co_varnames:
        return
    started = at_start(kind(**SD, timestep_spacing=spacing, **({"use_karras_sigmas": True} if karras else {})), 25)
    sigma = float(started.sigmas[0])
    forward = forward_at_start(started)
    assert (forward.signal, forward.noise) == (1.0, pytest.approx(sigma, rel=1e-6))
    assert forward.share == pytest.approx((1 / (1 + sigma**2)) ** 0.5, rel=1e-6)
    assert float(started.init_noise_sigma) == pytest.approx(forward.scale, rel=3e-3)  # where the pipelines begin


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}])
def test_flow_matching_begins_with_pure_noise(options: dict[str, Any]) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    assert forward_at_start(at_start(scheduler, 28)) == Forward(0.0, 1.0)


@pytest.mark.parametrize("name", ["DDIM", "PNDM", "EulerDiscrete", "HeunDiscrete", "FlowMatchEulerDiscrete"])
def test_only_the_mismatch_is_the_schedulers_own_forward_process(name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    started = at_start(kind() if "Flow" in name else kind(**SD), 10)
    z, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.allclose(mix(z, eps, forward_at_start(started)), add_noise(started, z, eps), atol=1e-5)


@given(st.floats(0.01, 1.0), st.floats(0.01, 100.0), st.floats(0.0, 1.0))
def test_a_strength_sets_the_signal_to_noise_ratio_and_keeps_the_scale(
    signal: float, noise: float, share: float
) -> None:
    forward = Forward(signal, noise)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    a, b = float(mix(one, zero, forward, share)), float(mix(zero, one, forward, share))
    assert a**2 + b**2 == pytest.approx(forward.scale**2)
    assert a == pytest.approx(share * forward.scale)
    same = mix(one, one, forward, forward.share)
    assert float(same) == pytest.approx(float(mix(one, one, forward)))  # mismatch is one strength among others


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_families(families: dict[str, Path], reference: Path, family: str) -> None:
    folder = Path(f"{families[family]},size={IMAGE_SIZE}")
    baseline = draw(make(folder, "none"))
    assert np.array_equal(draw(make(folder, f"noise:{reference},strength=0")), baseline)
    faint = draw(make(folder, f"noise:{reference},strength=0.00001"))  # the same noise, through `latents`
    assert np.abs(faint - baseline).max() <= 1
    strong = [np.abs(draw(make(folder, f"noise:{reference},strength={s}")) - baseline).mean() for s in (0.1, 0.6)]
    assert 0.1 < strong[0] < strong[1]
    mismatch = make(folder, f"noise:{reference}")
    (first, *others) = mismatch.generate(REQUESTS)
    told = any("no mismatch to mend" in note for note in first.notes)
    assert not any(o.notes for o in others)
    changed = np.abs(np.stack([np.asarray(o.image, dtype=int) for o in (first, *others)]) - baseline).max()
    if family in {"sd3", "flux"}:
        assert told
        assert changed == 0
    else:
        assert not told
        assert changed > 1


@pytest.mark.parametrize(
    "scheduler", ["DDPM", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "LCM"]
)
def test_the_same_noise_in_every_step(families: dict[str, Path], reference: Path, scheduler: str) -> None:
    """The pipeline goes on with the generators where the initial noise left them."""
    options = f",scheduler={scheduler}Scheduler"
    baseline = draw(make(families["sd"], "none", options))
    faint = draw(make(families["sd"], f"noise:{reference},strength=0.00001", options))
    assert np.abs(faint - baseline).max() <= (1 if scheduler != "EulerDiscrete" else 3)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_latents_are_those_of_the_formula(families: dict[str, Path], reference: Path, family: str) -> None:
    backend = make(families[family], f"noise:{reference},strength=0.3", ",size=40x48" if family == "flux" else "")
    (change,) = backend.changes
    pipeline = backend._load()
    generators = [torch.Generator().manual_seed(request.seed) for request in REQUESTS]
    given_latents = change.options(pipeline, REQUESTS, generators)["latents"]
    channels = pipeline.vae.config.latent_channels
    width, height = (20, 24) if family == "flux" else (IMAGE_SIZE // 2, IMAGE_SIZE // 2)  # of the latents
    size = (2 * width, 2 * height)
    noise = torch.cat(
        [torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(r.seed)) for r in REQUESTS]
    )
    z = encode(pipeline, [Image.open(reference)], size).expand_as(noise)
    started = at_start(pipeline.scheduler, 4)
    forward = forward_at_start(started)
    expected = forward.scale * (0.3 * z + (1 - 0.09) ** 0.5 * noise) / float(getattr(started, "init_noise_sigma", 1.0))
    if family == "flux":
        expected = pipeline._pack_latents(expected, *expected.shape)
    assert torch.allclose(given_latents, expected, atol=1e-5)
    config = pipeline.vae.config
    pixels = pipeline.image_processor.preprocess(cover(Image.open(reference), size))
    with torch.no_grad():
        raw = pipeline.vae.encode(pixels).latent_dist.mean
    assert torch.allclose(z[:1], (raw - (config.shift_factor or 0.0)) * config.scaling_factor, atol=1e-5)
    with torch.no_grad():  # what the pipeline itself decodes by
        undone = z[:1] / config.scaling_factor + (config.shift_factor or 0.0)
    assert torch.allclose(undone, raw, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(families: dict[str, Path], reference: Path, dtype: str) -> None:
    """The same noise as the baseline's; an autoencoder that overflows in float16 encodes in float32."""
    whole, half = (make_backend(f"diffusers:{families['sdxl']},dtype={name}")._load() for name in ("float32", dtype))
    assert half.vae.config.force_upcast
    expected, found = (encode(pipeline, [Image.open(reference)], (32, 32)) for pipeline in (whole, half))
    assert half.vae.dtype == getattr(torch, dtype)
    assert (expected - found).abs().max() < (2e-3 if dtype == "float16" else 2e-2) * expected.abs().max()
    options, one = f",dtype={dtype},steps=1", REQUESTS[:1]
    baseline = draw(make(families["sdxl"], "none", options), one)
    faint = draw(make(families["sdxl"], f"noise:{reference},strength=0.0001", options), one)
    assert np.abs(faint - baseline).mean() < 2
    assert np.abs(draw(make(families["sdxl"], f"noise:{reference},strength=0.5", options), one) - baseline).mean() > 2


def test_scaling_by_mean_and_deviation() -> None:
    config = type("Config", (), {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0], "latents_std": [2.0, 4.0]})
    found = scale(torch.tensor([3.0, 10.0]).view(1, 2, 1, 1), config)
    assert found.flatten().tolist() == [0.5, 1.0]


def test_references_are_covered_and_cropped_whatever_their_size_and_mode(
    families: dict[str, Path], tmp_path: Path
) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    assert np.abs(np.asarray(cover(wide, (32, 32)), dtype=int)[:, 3:-3] - (0, 0, 255)).max() <= 2  # edges are soft
    options = ",size=48x32,steps=1"
    baseline = draw(make(families["sd"], "none", options), REQUESTS[:1])
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        picture(17, 200).convert(mode).save(path)
        found = draw(make(families["sd"], f"noise:{path},strength=0.5", options), REQUESTS[:1])
        assert found.shape == (1, 32, 48, 3)
        assert np.abs(found - baseline).max() > 1


def test_the_shapes_pipeline_has_no_mismatch_and_its_encoder_finds_the_decoders_latents(tmp_path: Path) -> None:
    backend = make_backend("diffusers:shapes,steps=3")
    picture(32, 32).save(tmp_path / "r.png")
    noisy = apply_methods(make_methods(f"noise:{tmp_path / 'r.png'}"), backend)
    assert np.array_equal(draw(noisy, REQUESTS[:1]), draw(backend, REQUESTS[:1]))
    pipeline = backend._pipeline
    assert pipeline.scheduler.alphas_cumprod[-1] == 0
    latents = encode(pipeline, [picture(32, 32)], (32, 32))
    assert latents.shape == (1, 19, 8, 8)
    assert 0.3 < float(latents.std()) < 3


def test_it_travels_and_says_what_it_did(families: dict[str, Path], reference: Path, tmp_path: Path) -> None:
    backend = pickle.loads(pickle.dumps(make(families["sd"], f"noise:{reference},strength=0.2")))
    generate(ASKED, [backend], tmp_path / "out")
    for row in rows(tmp_path / "out"):
        (change,) = row["settings"]["changes"]
        assert (change["method"], change["strength"]) == ("noise", 0.2)
        assert change["reference"] == {"file": "r.png", "sha256": row["details"]["reference_sha256"]}
        assert row["details"]["reference"] == "r.png"
    with pytest.raises(GenerateError, match="holds another run: changes of sd was"):
        generate(ASKED, [make(families["sd"], f"noise:{reference},strength=0.3")], tmp_path / "out")


@pytest.mark.slow
def test_workers_on_ray_have_the_references(families: dict[str, Path], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    run = tmp_path / "run"
    generate(ASKED, [make_backend(f"diffusers:{families['sd']},steps=1")], run)
    method = f"noise:{run},strength=0.4"
    generate(ASKED, [make(families["sd"], method, ",batch_size=1")], tmp_path / "here")
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}},
    )  # fmt: skip
    try:
        engine = Engine("ray", workers=2, object_store_mib=100)
        generate(ASKED, [make(families["sd"], method, ",batch_size=1")], tmp_path / "there", engine=engine)
    finally:
        ray.shutdown()
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    found = [{row["prompt_id"]: row["details"] for row in rows(tmp_path / name)} for name in ("here", "there")]
    assert found[0] == found[1]


def test_images_of_a_run_are_references_of_their_prompts(families: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    generate(ASKED[:2], [make_backend(f"diffusers:{families['sd']},steps=1")], run, images_per_prompt=2)
    backend = make(families["sd"], f"noise:{run},strength=0.4")
    generate(ASKED[:2], [backend], tmp_path / "out")
    assert [row["details"]["reference"] for row in rows(tmp_path / "out")] == ["sd/p0-0.png", "sd/p1-0.png"]
    assert rows(tmp_path / "out")[0]["settings"]["changes"][0]["reference"]["by"] == "prompt"
    with pytest.raises(ImproveError, match="no reference image for 1 of 3 prompts \\(first: 'a cat number 2'\\)"):
        generate(ASKED, [make(families["sd"], f"noise:{run}")], tmp_path / "other")
    with_tokens = Prompt("good picture. a cat number 1", "p1")
    assert backend.changes[0].references.of(with_tokens).name == "sd/p1-0.png"
    picked = make(families["sd"], f"noise:{run},best=lite,k=2").changes[0].references
    from humanpref import load_scorer

    scores = load_scorer("lite").score([run / "sd" / f"p0-{n}.png" for n in range(2)], ASKED[0].text)
    assert picked.of(ASKED[0]).name == f"sd/p0-{int(scores.argmax())}.png"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("absent.png", "absent.png: no such file; give an image file, a folder"),
        ("corrupt.png", "corrupt.png: not an image"),
        ("empty", "empty: the folder holds no images"),
        ("r.png,strength=1.5", "signal's share .* from 0 to 1, or mismatch; got 1.5"),
        ("r.png,strength=nan", "from 0 to 1"),
        ("r.png,strength=much", "strength is mismatch or a number from 0 to 1, got 'much'"),
        ("r.png,k=3", "k is how many"),
        ("r.png,by=clipscore", "by is for a folder of images"),
        ("r.png,best_weights=x.pt", "are for best=SCORER"),
        ("full,by=prompt", "by=prompt is for a folder of `humanpref generate`"),
        ("full,by=lite", "lite embeds no prompts; by= is prompt or one of hps-v2.1"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("r.png")
    Path("corrupt.png").write_bytes(b"no image")
    Path("empty").mkdir()
    Path("full").mkdir()
    picture().save("full/a.png")
    with pytest.raises(ImproveError, match=message) as error:
        make_methods(f"noise:{what}")
    assert "\n" not in str(error.value)


def test_pipelines_it_is_not_for(families: dict[str, Path], reference: Path) -> None:
    with pytest.raises(ImproveError, match="noise: is for diffusers:MODEL"):
        apply_methods(make_methods(f"noise:{reference}"), make_backend("shapes:clean"))
    (change,) = make(families["sd"], f"noise:{reference}").changes

    def refused(pipeline: Any, message: str) -> None:
        with pytest.raises(ImproveError, match=message):
            change.prepare(pipeline)

    pipeline = make_backend(f"diffusers:{families['sd']}")._load()
    pipeline.scheduler = diffusers.IPNDMScheduler()
    refused(pipeline, "IPNDMScheduler cannot add noise .* choose another")
    pixels = diffusers.DDPMPipeline(unet=pipeline.unet, scheduler=diffusers.DDPMScheduler())
    refused(pixels, "DDPMPipeline has no VAE")
    pipeline.scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    assert change.prepare(pipeline) == ()
    of_images = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    refused(of_images, "StableDiffusionImg2ImgPipeline takes no initial latents")


def test_out_of_memory_while_encoding_halves_the_batch(families: dict[str, Path], reference: Path) -> None:
    backend = make(families["sd"], f"noise:{reference},strength=0.4", ",batch_size=3")
    expected = draw(make(families["sd"], f"noise:{reference},strength=0.4", ",batch_size=1"))
    backend._pipeline = backend._load()
    encode_once, calls = backend._pipeline.vae.encode, []

    def little_memory(pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return encode_once(pixels)

    backend._pipeline.vae.encode = little_memory
    outcomes = list(backend.generate(REQUESTS))
    assert outcomes[0].notes == ("out of memory with 3 images at a time; going on with 1",)
    assert np.array_equal(np.stack([np.asarray(o.image, dtype=int) for o in outcomes]), expected)


def test_the_command(
    families: dict[str, Path],
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    words = ["generate", tmp_path / "p.txt", "-b", f"diffusers:{families['sd']},steps=2", "--out", tmp_path / "out"]

    def run(method: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr("sys.argv", ["humanpref", *map(str, words), "--method", method])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    assert run(f"noise:{reference},strength=0.2")[0] in {None, 0}
    assert rows(tmp_path / "out")[0]["details"]["reference"] == "r.png"
    status, said = run("noise:absent.png")
    assert status == 1
    assert len(said.strip().splitlines()) == 1
    assert "absent.png: no such file; give an image file" in said
