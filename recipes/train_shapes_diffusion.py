"""nice -n 19 python recipes/train_shapes_diffusion.py --work /tmp/shapes-diffusion

Trains a small diffusion model of the shapes world and writes it, in diffusers' own format, to `--out`. Needs
`pip install -e ".[generate]"`; no network, no GPU. Not good enough to ship yet: docs/shapes.md has what was measured.
Seeded; stopped and started again with the same `--work`, it goes on where it was. Its stages are kept on disk:

    data      scenes drawn at 32 px; a quarter of them damaged and captioned "bad picture. ..."
    vae       AutoencoderKL, 32 x 32 x 3 -> 8 x 8 x 8, then standardised so that its scaling factor is 1
    latents   the data, encoded once; then the decoder is trained on for them
    denoiser  UNet2DConditionModel and CLIPTextModel together from scratch: v-prediction, Stable Diffusion's noise
              schedule (whose terminal signal-to-noise ratio is not zero), prompts dropped for guidance, EMA
    measure   pictures of held-out captions, judged by `humanpref.shapes.quality` -> README.md (the model card)
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image, ImageEnhance, ImageFilter
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from humanpref.shapes.grammar import QUALITY_WORDS, WORDINGS, Scene, caption, captions, parse, sample_scene
from humanpref.shapes.quality import WEIGHTS, quality
from humanpref.shapes.render import render

SIDE, LATENT, CHANNELS, TOKENS = 32, 8, 8, 28
OUT = Path("shapes-diffusion")
STEPS, GUIDANCE = 25, 3.0  # of sampling, where it is measured
GOOD, BAD = QUALITY_WORDS
HELD_OUT = 777
"""Seed of the captions the finished model is measured on; scenes that were trained on are left out of them."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    start = time.monotonic()
    scenes, damaged, pixels = make_data(options.work / "data.npz", options.scenes, options.seed)
    vae = train_vae(options.work / "vae.pt", pixels, options.vae_steps, options.seed)
    latents = encode(options.work / "latents.npy", vae, pixels)
    vae = refine_decoder(options.work / "decoder.pt", vae, latents, pixels, options)
    tokenizer = make_tokenizer(options.work / "tokenizer")
    unet, text, loss, seconds = train_denoiser(options.work, scenes, damaged, latents, tokenizer, options)
    save(options.out, vae, unet, text, tokenizer)
    card(options.out, scenes, loss, seconds, options)
    print(f"{options.out} written after {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/shapes-diffusion"), help="where stages are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scenes", type=int, default=30000)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--decoder-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--measured", type=int, default=200, help="held-out captions to measure on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---- data


def make_data(path: Path, n: int, seed: int) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    """-> scenes, damaged (n,) bool, pixels (n, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(n)]
    if not path.exists():
        damaged = rng.random(n) < 0.25
        pixels = np.empty((n, SIDE, SIDE, 3), np.uint8)
        for i, scene in enumerate(progress(scenes, "data")):
            picture = render(scene, SIDE, i)
            pixels[i] = np.asarray(damage(picture, np.random.default_rng((seed, i))) if damaged[i] else picture)
        np.savez(path, damaged=damaged, pixels=pixels)
    with np.load(path) as data:
        return scenes, data["damaged"], data["pixels"]


def damage(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    kind = rng.integers(4)
    if kind == 0:
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.2, 2.4)))
    if kind == 1:
        noisy = np.asarray(picture, dtype=np.float64) + rng.normal(0, rng.uniform(25, 50), (SIDE, SIDE, 3))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if kind == 2:
        faded = ImageEnhance.Color(picture).enhance(rng.uniform(0.2, 0.5))
        return ImageEnhance.Contrast(faded).enhance(rng.uniform(0.4, 0.7))
    side = int(rng.integers(9, 14))
    return picture.resize((side, side), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BILINEAR)


def to_input(pixels: np.ndarray) -> torch.Tensor:
    # NHWC uint8 -> NCHW in [-1, 1]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


# ---- autoencoder


def train_vae(path: Path, pixels: np.ndarray, steps: int, seed: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(16, 24, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    start_simple(vae)
    vae = vae.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=4e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    rng = np.random.default_rng(seed)
    errors: list[float] = []
    for step in progress(range(steps), "vae", lambda: f"mean error {np.mean(errors[-50:]):.4f} of the range"):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 30) * schedule(step, steps)
        x = to_input(pixels[rng.integers(len(pixels), size=32)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            made = vae.decode(posterior.sample()).sample.float()
        loss = difference(made, x) + 2e-6 * posterior.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        errors.append(F.l1_loss(made, x).item() / 2)
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    standardise(vae, to_input(pixels[:2000]))
    torch.save(vae.state_dict(), path)
    return vae


@torch.no_grad()
def start_simple(vae: AutoencoderKL) -> None:
    """Begin with residual branches that add nothing and latents with little noise. From diffusers' own start, with a
    deviation of 1, the noise drowns what is encoded: after 700 steps hardly more than brightness came through."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    vae.quant_conv.weight[CHANNELS:] = 0
    vae.quant_conv.bias[CHANNELS:] = -6  # log variance


def difference(made: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """How far two batches of pictures differ, objects five times as much as the background that covers most of them."""
    background = x.flatten(2).median(-1).values[..., None, None]
    weight = 1 + 4 * ((x - background).abs().amax(1, keepdim=True) > 0.2).float()
    return (weight * ((made - x) ** 2 + 0.3 * (made - x).abs())).mean()


@torch.no_grad()
def standardise(vae: AutoencoderKL, x: torch.Tensor) -> None:
    """Fold mean 0 and deviation 1 of every latent channel into the 1 x 1 convolutions on both sides of it."""
    z = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(200)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:CHANNELS] /= std[:, None, None, None]
    before.bias[:CHANNELS] = (before.bias[:CHANNELS] - mean) / std
    before.bias[CHANNELS:] -= 2 * std.log()  # log variance
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]


@torch.no_grad()
def encode(path: Path, vae: AutoencoderKL, pixels: np.ndarray) -> torch.Tensor:
    if not path.exists():
        parts = [
            vae.encode(to_input(pixels[i : i + 250])).latent_dist.mean
            for i in progress(range(0, len(pixels), 250), "latents")
        ]
        np.save(path, torch.cat(parts).numpy())
    return torch.from_numpy(np.load(path))


def refine_decoder(
    path: Path, vae: AutoencoderKL, latents: torch.Tensor, pixels: np.ndarray, options: argparse.Namespace
) -> AutoencoderKL:
    """Train the decoder on, for latents that no longer change: cheaper than both halves, and sharper in the end."""
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    vae = vae.to(memory_format=torch.channels_last)
    weights = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    rng, steps = np.random.default_rng(options.seed), options.decoder_steps
    noise_of = torch.Generator().manual_seed(options.seed)
    average = [weight.detach().clone() for weight in weights]
    errors: list[float] = []
    for step in progress(range(steps), "decoder", lambda: f"mean error {np.mean(errors[-50:]):.4f} of the range"):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * schedule(step, steps)
        rows = rng.integers(len(pixels), size=32)
        x, z = to_input(pixels[rows]), latents[torch.from_numpy(rows)]
        z = z + 0.05 * torch.randn(z.shape, generator=noise_of)  # the denoiser is not exact either
        with torch.autocast("cpu", torch.bfloat16):
            made = vae.decode(z.contiguous(memory_format=torch.channels_last)).sample.float()
        loss = difference(made, x)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 0.02)
        errors.append(F.l1_loss(made, x).item() / 2)
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    torch.save(vae.state_dict(), path)
    return vae.to(memory_format=torch.contiguous_format).eval()


# ---- text


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of the small vocabulary: byte pairs merged until every word of the captions is one token."""
    texts = [*captions(4000, 5), *QUALITY_WORDS, "picture style"]
    words = sorted({word for text in texts for word in text.replace(".", " .").split()})
    parts = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for part in parts.values() for pair in pairwise(part)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: _merged(part, best) for word, part in parts.items()}
    # GPT-2's printable stand-ins of the 256 bytes, as in CLIP
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + k) for k in range(256 - len(plain))]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**special, "pad_token": "<|endoftext|>", "model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for word in words:
        if len(tokenizer(word).input_ids) != 3:
            raise SystemExit(f"{word!r} is more than one token")
    return tokenizer


def _merged(part: list[str], pair: tuple[str, str]) -> list[str]:
    done: list[str] = []
    for piece in part:
        if done and (done[-1], piece) == pair:
            done[-1] += piece
        else:
            done.append(piece)
    return done


# ---- denoiser


def networks(tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 80),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )
    return unet, text


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def prompt_of(scene: Scene, damaged: bool, rng: np.random.Generator) -> str:
    """The caption in random words; with its quality tokens mostly, and nothing at all one time in ten."""
    if rng.random() < 0.1:
        return ""
    text = caption(scene, int(rng.integers(WORDINGS)))
    if damaged:
        return f"{BAD} {text}" if rng.random() < 0.75 else text
    return f"{GOOD} {text}" if rng.random() < 0.5 else text


def train_denoiser(
    work: Path,
    scenes: list[Scene],
    damaged: np.ndarray,
    latents: torch.Tensor,
    tokenizer: CLIPTokenizer,
    options: argparse.Namespace,
) -> tuple[UNet2DConditionModel, CLIPTextModel, float, float]:
    """-> averaged networks, their loss over the last tenth of training, seconds it took."""
    unet, text = networks(tokenizer)
    unet = unet.to(memory_format=torch.channels_last)
    weights = [*unet.parameters(), *text.parameters()]
    average = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
    noising = scheduler()
    state_file = work / "denoiser.pt"
    done, losses, seconds = 0, [], 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimiser.load_state_dict(state["optimiser"])
        average, done, losses, seconds = state["average"], state["done"], state["losses"], state["seconds"]
    begun = time.monotonic()
    for step in progress(range(done, options.steps), "denoiser", lambda: f"loss {np.mean(losses[-100:]):.4f}"):
        rng = np.random.default_rng((options.seed, step))  # so that a resumed run sees what an unbroken one does
        noise_of = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = options.lr * min(1, (step + 1) / 100) * schedule(step, options.steps)
        rows = rng.integers(len(scenes), size=options.batch)
        prompts = [prompt_of(scenes[i], bool(damaged[i]), rng) for i in rows]
        ids = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).input_ids
        z = latents[torch.from_numpy(rows)]
        noise = torch.randn(z.shape, generator=noise_of)
        t = torch.randint(0, 1000, (len(z),), generator=noise_of)
        x = noising.add_noise(z, noise, t).contiguous(memory_format=torch.channels_last)
        made = unet(x, t, text(ids).last_hidden_state).sample
        loss = F.mse_loss(made, noising.get_velocity(z, noise, t))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        losses.append(loss.item())
        keep = min(0.998, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - keep)
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            state = {"unet": unet.state_dict(), "text": text.state_dict(), "optimiser": optimiser.state_dict()}
            spent = seconds + time.monotonic() - begun
            state |= {"average": average, "done": step + 1, "losses": losses, "seconds": spent}
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").replace(state_file)
    if done < options.steps:
        seconds += time.monotonic() - begun
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    unet = unet.to(memory_format=torch.contiguous_format)
    return unet.eval(), text.eval(), float(np.mean(losses[-max(1, len(losses) // 10) :])), seconds


def schedule(step: int, steps: int) -> float:
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))


# ---- what is shipped


def save(
    out: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(out, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes only tokenizer.json, 4 wants these
        (out / "tokenizer" / name).write_bytes((Path(tokenizer.name_or_path) / name).read_bytes())
    settings = json.loads((out / "text_encoder" / "config.json").read_text())
    settings["dtype"] = "float32"  # what it computes in unless told otherwise, as the other parts do
    (out / "text_encoder" / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def card(out: Path, scenes: list[Scene], loss: float, seconds: float, options: argparse.Namespace) -> None:
    """Measure on captions of scenes that were not trained on, and write what was found beside the weights."""
    known = set(scenes)
    texts = [text for text in captions(2 * options.measured, HELD_OUT) if parse(text) not in known]
    texts = texts[: options.measured]
    pipeline = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = {
        "`good picture.` + caption": draw(pipeline, [f"{GOOD} {text}" for text in texts], STEPS, GUIDANCE),
        "caption alone": draw(pipeline, texts, STEPS, GUIDANCE),
        "`bad picture.` + caption": draw(pipeline, [f"{BAD} {text}" for text in texts], STEPS, GUIDANCE),
    }
    drawn = [render(parse(text), SIDE, i) for i, text in enumerate(texts)]
    pictures["the renderer at 32 px, through the autoencoder"] = rebuild(pipeline.vae, drawn)
    pictures["the renderer at 32 px"] = drawn
    rows = {name: judge(images, texts) for name, images in pictures.items()}
    sheet(next(iter(pictures.values())), options.work / "sheet.png")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and file.name != "README.md")
    weights = sum(p.numel() for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters())
    head = list(next(iter(rows.values())))
    table = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    table += [f"| {name} | {' | '.join(row.get(key, '') for key in head)} |" for name, row in rows.items()]
    text = CARD.format(
        weights=weights / 1e6,
        size=size / 1e6,
        minutes=seconds / 60,
        loss=loss,
        n=len(texts),
        table="\n".join(table),
        o=options,
        GUIDANCE=GUIDANCE,
        STEPS=STEPS,
    )
    (out / "README.md").write_text(text)
    print("\n".join(table), flush=True)


CARD = """# The diffusion model of the shapes world

A Stable Diffusion in small, for trying things out and for tests: captions of `humanpref.shapes.grammar` -> 32 x 32
pixels. {weights:.2f} million weights in fp16, {size:.1f} MB. `DiffusionPipeline.from_pretrained("<this folder>")`
loads it as a `StableDiffusionPipeline`: AutoencoderKL (8 x 8 x 8 latents), CLIPTextModel and CLIPTokenizer (every
word of the captions is a token, {tokens} tokens), UNet2DConditionModel, DDIMScheduler.

Trained by `recipes/train_shapes_diffusion.py` on {o.scenes} drawn scenes and nothing else: {o.vae_steps} steps of the
autoencoder and {o.decoder_steps} more of its decoder, {o.steps} steps of {o.batch} of the denoiser ({minutes:.0f}
minutes on two shared CPU cores), v-prediction, seed {o.seed}; loss over the last tenth {loss:.3f}.
The noise schedule is Stable Diffusion's (scaled linear, 0.00085 to 0.012): the last training step is not pure noise,
though sampling starts from it. A quarter of the pictures were damaged and mostly captioned `bad picture. ...`; half
of the others `good picture. ...`.

## Does it draw what the caption says?

{n} held-out captions, {STEPS} DDIM steps, guidance {GUIDANCE:g}, seed = number of the caption, judged by
`humanpref.shapes.quality`: the share of captions that name an attribute whose picture has it wholly; `all`, everything
the caption says; then the mean of the three qualities.

{table}

The last two rows say how much of what is missing the check itself misses at 32 pixels, and what the autoencoder costs.
""".replace("{tokens}", str(TOKENS))


def draw(pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    for i in range(0, len(prompts), 50):
        part = prompts[i : i + 50]
        seeds = [torch.Generator().manual_seed(i + k) for k in range(len(part))]
        pictures += pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
    return pictures


@torch.no_grad()
def rebuild(vae: AutoencoderKL, pictures: list[Image.Image]) -> list[Image.Image]:
    made = vae(to_input(np.stack([np.asarray(picture) for picture in pictures]))).sample
    back = ((made + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in back]


def judge(pictures: list[Image.Image], texts: list[str]) -> dict[str, str]:
    found = [quality(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    row = {"all": f"{np.mean([one.right for one in found]):.0%}"}
    for name in WEIGHTS:
        row[name] = f"{np.mean([one.attributes[name] == 1 for one in found if name in one.attributes]):.0%}"
    for name in ("fulfilled", "clean", "total"):
        row[name] = f"{np.mean([getattr(one, name) for one in found]):.2f}"
    return row


def sheet(pictures: list[Image.Image], path: Path) -> None:
    """Lay the first 48 pictures side by side, three times enlarged."""
    canvas = Image.new("RGB", (8 * 100, 6 * 100), "pink")
    for i, picture in enumerate(pictures[:48]):
        canvas.paste(picture.resize((96, 96), Image.Resampling.NEAREST), (i % 8 * 100 + 2, i // 8 * 100 + 2))
    canvas.save(path)


def progress(items: Iterable, what: str, note=lambda: "") -> Iterator:
    items = list(items)
    begun = said = time.monotonic()
    for i, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - said > 15 or i + 1 == len(items):
            said = now
            left = (now - begun) / (i + 1) * (len(items) - i - 1)
            print(f"{what} {i + 1}/{len(items)}  {note()}  {left / 60:.1f} minutes left", flush=True)


if __name__ == "__main__":
    main()
