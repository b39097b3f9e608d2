"""nice -n 19 python recipes/train_shapes_diffusion.py --work /tmp/shapes-diffusion

Trains a small diffusion model of the shapes world and writes it, in diffusers' own format, to `--out`. Not good enough
to ship yet: docs/shapes.md has what was measured. Needs `pip install -e ".[generate]"`; no network, no GPU. Seeded;
stopped and started again with the same `--work`, it goes on where it was. Its stages, each kept on disk:

    data         scenes drawn at 32 px; a part of them blurred, noisy, faded or coarse and captioned "bad picture. ..."
    text         CLIPTextModel learns to read: from the end of a caption, all that it says is told (a linear layer that
                 is thrown away). Half a minute, against hours where the denoiser must teach it
    autoencoder  AutoencoderTiny, 32 x 32 x 3 -> 16 x 16 x 4, on crops where there is something to see
    latents      the data, encoded once; every channel with mean 0 and deviation 1
    denoiser     UNet2DConditionModel: v-prediction, Stable Diffusion's noise schedule (whose terminal signal-to-noise
                 ratio is not zero), prompts dropped for guidance, small batches, an average of the weights
    decoder      the autoencoder's decoder, trained on for the latents as they are now, a little noisy
    measure      pictures of held-out captions, judged by `humanpref.shapes.quality` -> README.md (the model card)
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
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image, ImageEnhance, ImageFilter
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from humanpref.shapes.grammar import (
    BACKGROUNDS,
    COLOURS,
    MOST,
    QUALITY_WORDS,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    WORDINGS,
    Scene,
    caption,
    captions,
    parse,
    sample_scene,
)
from humanpref.shapes.quality import WEIGHTS, quality
from humanpref.shapes.render import render

SIDE, LATENT, CHANNELS, TOKENS, WIDTH = 32, 16, 4, 28, 96
OUT = Path("shapes-diffusion")
STEPS, GUIDANCE = 25, 3.0  # of sampling, where it is measured
GOOD, BAD = QUALITY_WORDS
HELD_OUT = 777
"""Seed of the captions the finished model is measured on; scenes that were trained on are left out of them."""

CROP = 16  # pixels of a crop that the autoencoder learns from


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    clock = Clock(options.work / "seconds.json")
    with clock("data"):
        scenes, damaged, pixels = make_data(options.work / "data.npz", options.scenes, options.seed)
        tokenizer = make_tokenizer(options.work / "tokenizer")
    with clock("text"):
        text = train_text(options.work / "text.pt", tokenizer, options)
    with clock("autoencoder"):
        vae = train_autoencoder(options.work / "autoencoder.pt", pixels, options)
        latents = encode(options.work / "latents.npy", vae, pixels)
    with clock("denoiser"):
        unet, loss = train_denoiser(options.work, scenes, damaged, latents, tokenizer, text, options)
    with clock("decoder"):
        vae = refine_decoder(options.work / "decoder.pt", vae, latents, pixels, options)
    save(options.out, vae, unet, text, tokenizer)
    card(options.out, scenes, loss, clock.seconds, options)
    print(f"{options.out} written; seconds by stage: {clock.seconds}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/shapes-diffusion"), help="where stages are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scenes", type=int, default=30000)
    parser.add_argument("--text-steps", type=int, default=300)
    parser.add_argument("--autoencoder-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--decoder-steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--measured", type=int, default=200, help="held-out captions to measure on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Clock:
    """How long each stage took, over all runs of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, stage: str) -> Clock:
        """Begin a stage."""
        self.stage, self.begun = stage, time.monotonic()
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.seconds[self.stage] = round(self.seconds.get(self.stage, 0.0) + time.monotonic() - self.begun, 1)
        self.path.write_text(json.dumps(self.seconds))


# ---- data


def make_data(path: Path, n: int, seed: int) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    """-> scenes, damaged (n,) bool, pixels (n, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(n)]
    if not path.exists():
        damaged = rng.random(n) < 0.15
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


def train_text(path: Path, tokenizer: CLIPTokenizer, options: argparse.Namespace) -> CLIPTextModel:
    """Learn to read captions before anything is drawn by them."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    if path.exists():
        text.load_state_dict(torch.load(path, weights_only=True))
        return text.eval().requires_grad_(False)
    sizes = [len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, MOST + 1] * 2
    sizes += [len(RELATIONS) + 1, len(BACKGROUNDS) + 1, len(STYLES) + 1]
    answers = torch.nn.Linear(WIDTH, sum(sizes))
    weights = [*text.parameters(), *answers.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    rng, right = np.random.default_rng(options.seed + 1), [0.0]
    for step in progress(range(options.text_steps), "text", lambda: f"{right[-1]:.1%} read right in all"):
        set_rate(optimiser, 2e-3 * min(1, (step + 1) / 100) * schedule(step, options.text_steps))
        scenes = [sample_scene(rng) for _ in range(128)]
        ids = tokenize(tokenizer, [prompt_of(scene, rng.random() < 0.3, rng, drop=0.0) for scene in scenes])
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        said = answers(text(ids).last_hidden_state[torch.arange(len(ids)), end]).split(sizes, 1)
        wanted = torch.tensor([facts(scene) for scene in scenes])
        loss = sum(F.cross_entropy(one, wanted[:, k]) for k, one in enumerate(said))
        step_on(optimiser, loss, weights)
        right.append(
            float(torch.stack([one.argmax(1) == wanted[:, k] for k, one in enumerate(said)]).all(0).float().mean())
        )
    torch.save(text.state_dict(), path)
    return text.eval().requires_grad_(False)


def facts(scene: Scene) -> list[int]:
    """What a caption says, as numbers; 0 where it says nothing."""
    found: list[int] = []
    for item in (*scene.items, None)[:2]:
        if item is None:
            found += [0, 0, 0, 0]
        else:
            size = SIZES.index(item.size) + 1 if item.size else 0
            found += [SHAPES.index(item.shape) + 1, list(COLOURS).index(item.colour) + 1, size, item.count]
    for value, names in ((scene.relation, RELATIONS), (scene.background, [*BACKGROUNDS]), (scene.style, [*STYLES])):
        found.append(list(names).index(value) + 1 if value else 0)
    return found


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    return tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def prompt_of(scene: Scene, damaged: bool, rng: np.random.Generator, drop: float = 0.1) -> str:
    """The caption in random words; with its quality tokens mostly, and nothing at all one time in ten."""
    if rng.random() < drop:
        return ""
    text = caption(scene, int(rng.integers(WORDINGS)))
    if damaged:
        return f"{BAD} {text}" if rng.random() < 0.75 else text
    return f"{GOOD} {text}" if rng.random() < 0.5 else text


# ---- training, in general


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def step_on(optimiser: torch.optim.Optimizer, loss: torch.Tensor, weights: list[torch.nn.Parameter]) -> None:
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()


def schedule(step: int, steps: int) -> float:
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))


# ---- autoencoder


def train_autoencoder(path: Path, pixels: np.ndarray, options: argparse.Namespace) -> AutoencoderTiny:
    """Plain convolutions, so it learns as well from crops, most of which hold a piece of an object: several times
    faster than from whole pictures, most of which is background."""
    vae = AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(32, 32),
        decoder_block_out_channels=(32, 32),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(2, 1),
        act_fn="relu",
        scaling_factor=1.0,
    )
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    vae = vae.to(memory_format=torch.channels_last)
    weights = list(vae.parameters())
    optimiser = torch.optim.AdamW(weights, lr=4e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    crops, noise_of = Crops(pixels, options.seed), torch.Generator().manual_seed(options.seed)
    steps, errors = options.autoencoder_steps, list[float]()
    for step in progress(range(steps), "autoencoder", lambda: f"mean error {np.mean(errors[-50:]):.4f} of the range"):
        set_rate(optimiser, 4e-3 * min(1, (step + 1) / 50) * schedule(step, steps))
        x, weight, _ = crops.draw(32)
        z = vae.encode(x).latents
        made = vae.decode(z + 0.03 * torch.randn(z.shape, generator=noise_of)).sample
        step_on(optimiser, difference(made, x, weight) + 1e-3 * (z**2).mean(), weights)
        errors.append(F.l1_loss(made, x).item() / 2)
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    standardise(vae, to_input(pixels[:2000]))
    torch.save(vae.state_dict(), path)
    return vae


class Crops:
    """Pieces of pictures, most of them about a random pixel of an object."""

    def __init__(self, pixels: np.ndarray, seed: int) -> None:
        self.pixels, self.rng = pixels, np.random.default_rng(seed)
        background = np.concatenate([np.median(p.reshape(len(p), -1, 3), axis=1) for p in np.array_split(pixels, 20)])
        self.objects = [np.abs(p.astype(np.int16) - b).max(-1) > 25 for p, b in zip(pixels, background, strict=True)]

    def draw(self, n: int) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int, int]]]:
        """-> pixels (n, 3, CROP, CROP) in [-1, 1], their weights (n, 1, CROP, CROP), (picture, y, x) of each."""
        where, x, weight = [], np.empty((n, CROP, CROP, 3), np.uint8), np.empty((n, CROP, CROP), np.float32)
        for k, i in enumerate(self.rng.integers(len(self.pixels), size=n).tolist()):
            middle = self.rng.integers(0, SIDE, 2)
            if self.rng.random() < 0.9 and self.objects[i].any():
                inked = np.argwhere(self.objects[i])
                middle = inked[self.rng.integers(len(inked))] + self.rng.integers(-4, 5, 2)
            y, left = ((middle - CROP // 2).clip(0, SIDE - CROP) // 2 * 2).tolist()  # whole latent pixels
            x[k] = self.pixels[i, y : y + CROP, left : left + CROP]
            weight[k] = 1 + 3 * self.objects[i][y : y + CROP, left : left + CROP]
            where.append((i, y, left))
        return channels_last(to_input(x)), torch.from_numpy(weight)[:, None], where


def to_input(pixels: np.ndarray) -> torch.Tensor:
    # NHWC uint8 -> NCHW in [-1, 1]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def difference(made: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far two batches of pictures differ, what is on an object four times as much as what is not."""
    return (weight * ((made - x) ** 2 + 0.3 * (made - x).abs())).mean()


@torch.no_grad()
def standardise(vae: AutoencoderTiny, x: torch.Tensor) -> None:
    """Fold mean 0 and deviation 1 of every latent channel into the convolutions on both sides of it. At the rim, and
    where the decoder bends large values, it is not quite the same: the decoder is trained on."""
    z = torch.cat([vae.encode(part).latents for part in x.split(200)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    before, after = vae.encoder.layers[-1], vae.decoder.layers[0]
    before.weight /= std[:, None, None, None]
    before.bias.copy_((before.bias - mean) / std)
    after.bias += torch.einsum("oihw,i->o", after.weight, mean)
    after.weight *= std[None, :, None, None]


@torch.no_grad()
def encode(path: Path, vae: AutoencoderTiny, pixels: np.ndarray) -> torch.Tensor:
    if not path.exists():
        starts = progress(range(0, len(pixels), 250), "latents")
        np.save(path, torch.cat([vae.encode(to_input(pixels[i : i + 250])).latents for i in starts]).numpy())
    return torch.from_numpy(np.load(path))


def refine_decoder(
    path: Path, vae: AutoencoderTiny, latents: torch.Tensor, pixels: np.ndarray, options: argparse.Namespace
) -> AutoencoderTiny:
    """Train the decoder on, for latents that no longer change and are not quite what the encoder makes."""
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    vae = vae.to(memory_format=torch.channels_last)
    weights = list(vae.decoder.parameters())
    optimiser = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    crops, noise_of = Crops(pixels, options.seed + 1), torch.Generator().manual_seed(options.seed)
    average, steps, errors = [w.detach().clone() for w in weights], options.decoder_steps, list[float]()
    for step in progress(range(steps), "decoder", lambda: f"mean error {np.mean(errors[-50:]):.4f} of the range"):
        set_rate(optimiser, 2e-3 * min(1, (step + 1) / 50) * schedule(step, steps))
        x, weight, where = crops.draw(32)
        z = torch.stack([latents[i, :, y // 2 : (y + CROP) // 2, a // 2 : (a + CROP) // 2] for i, y, a in where])
        made = vae.decode(channels_last(z + 0.1 * torch.randn(z.shape, generator=noise_of))).sample
        step_on(optimiser, difference(made, x, weight), weights)
        torch._foreach_lerp_(average, [w.detach() for w in weights], min(0.02, 10 / (step + 11)))
        errors.append(F.l1_loss(made, x).item() / 2)
    with torch.no_grad():
        for w, mean in zip(weights, average, strict=True):
            w.copy_(mean)
    torch.save(vae.state_dict(), path)
    return vae.to(memory_format=torch.contiguous_format).eval()


# ---- denoiser


def network() -> UNet2DConditionModel:
    """All of the caption is also added to every block's time embedding (`addition_embed_type`), so that what holds for
    the whole picture need not be looked up place by place. It begins with branches that add nothing."""
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_embedding_dim=192,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet.to(memory_format=torch.channels_last)


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


def train_denoiser(
    work: Path,
    scenes: list[Scene],
    damaged: np.ndarray,
    latents: torch.Tensor,
    tokenizer: CLIPTokenizer,
    text: CLIPTextModel,
    options: argparse.Namespace,
) -> tuple[UNet2DConditionModel, float]:
    """-> the network with averaged weights, and its loss over the last tenth of training."""
    unet, noising = network(), scheduler()
    weights = list(unet.parameters())
    optimiser = torch.optim.AdamW(weights, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
    state: dict[str, Any] = {"done": 0, "losses": [], "average": [w.detach().clone() for w in weights]}
    file = work / "denoiser.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        unet.load_state_dict(state["unet"])
        optimiser.load_state_dict(state["optimiser"])
    average, losses = state["average"], state["losses"]
    steps = range(state["done"], options.steps)
    for step in progress(steps, "denoiser", lambda: f"loss {np.mean(losses[-200:]):.4f}"):
        rng = np.random.default_rng((options.seed, step))  # so that a resumed run sees what an unbroken one does
        noise_of = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        set_rate(optimiser, options.lr * min(1, (step + 1) / 200) * schedule(step, options.steps))
        rows = rng.integers(len(scenes), size=options.batch)
        prompts = [prompt_of(scenes[i], bool(damaged[i]), rng) for i in rows]
        with torch.no_grad():
            read = text(tokenize(tokenizer, prompts)).last_hidden_state
        z = latents[torch.from_numpy(rows)]
        noise = torch.randn(z.shape, generator=noise_of)
        # one time from each part of the schedule: the loss of a batch varies less
        t = ((torch.arange(len(z)) + torch.rand(len(z), generator=noise_of)) * 1000 / len(z)).long()
        made = unet(channels_last(noising.add_noise(z, noise, t)), t, read).sample
        loss = F.mse_loss(made, noising.get_velocity(z, noise, t))
        step_on(optimiser, loss, weights)
        losses.append(loss.item())
        keep = min(0.999, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - keep)
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            state = {"unet": unet.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            torch.save({**state, "done": step + 1, "losses": losses}, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
    with torch.no_grad():
        for w, mean in zip(weights, average, strict=True):
            w.copy_(mean)
    unet = unet.to(memory_format=torch.contiguous_format)
    return unet.eval(), float(np.mean(losses[-max(1, len(losses) // 10) :]))


# ---- what is shipped


def save(
    out: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
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


def card(out: Path, scenes: list[Scene], loss: float, seconds: dict[str, float], options: argparse.Namespace) -> None:
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
        minutes=sum(seconds.values()) / 60,
        stages=", ".join(f"{name} {took / 60:.1f}" for name, took in seconds.items()),
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
loads it as a `StableDiffusionPipeline`: AutoencoderTiny (16 x 16 x 4 latents), CLIPTextModel and CLIPTokenizer (every
word of the captions is a token, {tokens} tokens), UNet2DConditionModel, DDIMScheduler.

Trained by `recipes/train_shapes_diffusion.py` on {o.scenes} drawn scenes and nothing else, seed {o.seed}: the text
encoder {o.text_steps} steps, the autoencoder {o.autoencoder_steps} (and {o.decoder_steps} more of its decoder), the
denoiser {o.steps} steps of {o.batch}, v-prediction; loss over the last tenth {loss:.3f}. {minutes:.0f} minutes on two
CPU cores that other work shared ({stages}).
The noise schedule is Stable Diffusion's (scaled linear, 0.00085 to 0.012): the last training step is not pure noise,
though sampling starts from it. One picture in seven was damaged and mostly captioned `bad picture. ...`; half of the
others `good picture. ...`.

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
def rebuild(vae: AutoencoderTiny, pictures: list[Image.Image]) -> list[Image.Image]:
    made = vae.decode(vae.encode(to_input(np.stack([np.asarray(picture) for picture in pictures]))).latents).sample
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
