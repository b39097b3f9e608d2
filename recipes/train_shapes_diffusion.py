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
from typing import Any, NamedTuple

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
from humanpref.shapes.render import Layout, draw, layout, render

SIDE, LATENT, CHANNELS, TOKENS, WIDTH = 32, 8, 19, 28, 96
OUT = Path("shapes-diffusion")
STEPS, GUIDANCE = 25, 3.0  # of sampling, where it is measured
GOOD, BAD = QUALITY_WORDS
HELD_OUT = 777
"""Seed of the captions the finished model is measured on."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    clock = Clock(options.work / "seconds.json")
    without = frozenset(parse(text) for text in held_out(options.measured))
    tokenizer = make_tokenizer(options.work / "tokenizer")
    with clock("text"):
        text = train_text(options.work / "text.pt", tokenizer, without, options)
    with clock("autoencoder"):
        vae = train_autoencoder(options.work / "autoencoder.pt", without, options)
    with clock("denoiser"):
        unet, loss = train_denoiser(options.work, tokenizer, text, without, options)
    save(options.out, vae, unet, text, tokenizer)
    card(options.out, loss, clock.seconds, options)
    print(f"{options.out} written; seconds by stage: {clock.seconds}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/shapes-diffusion"), help="where stages are kept")
    parser.add_argument("--out", type=Path, default=OUT)
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


# ---- data, drawn as they are needed


class Drawn(NamedTuple):
    """A scene, all that its picture shows, and how that is damaged: `blur` and `fade` in [0, 1], 0 = not at all."""

    scene: Scene
    plan: Layout
    blur: float
    fade: float

    @property
    def damaged(self) -> bool:
        return self.blur + self.fade > 0

    def picture(self) -> Image.Image:
        picture = draw(self.plan, SIDE)
        if self.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(2 * self.blur))
        if self.fade:
            picture = ImageEnhance.Color(picture).enhance(1 - 0.8 * self.fade)
            picture = ImageEnhance.Contrast(picture).enhance(1 - 0.5 * self.fade)
        return picture


def held_out(n: int) -> list[str]:
    """The captions to measure on. Their scenes are never trained on, in whatever words."""
    return captions(n, HELD_OUT)


def draw_some(rng: np.random.Generator, n: int, without: frozenset[Scene]) -> list[Drawn]:
    drawn: list[Drawn] = []
    while len(drawn) < n:
        if (scene := sample_scene(rng)) in without:
            continue
        kind = rng.random()  # one in seven is damaged
        blur = rng.uniform(0.4, 1) if kind < 0.10 else 0.0
        fade = rng.uniform(0.5, 1) if 0.07 < kind < 0.15 else 0.0
        drawn.append(Drawn(scene, layout(scene, rng), blur, fade))
    return drawn


def pixels_of(drawn: list[Drawn]) -> torch.Tensor:
    """-> (n, 3, 32, 32) in [-1, 1]."""
    return to_input([one.picture() for one in drawn])


def to_input(pictures: list[Image.Image]) -> torch.Tensor:
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return channels_last(torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1))


# ---- the latent space

_TETRAHEDRON = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 0.8
_OCTAHEDRON = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]) * 1.6
_TRIANGLE = np.array([(1, 0), (-0.5, 0.87), (-0.5, -0.87)]) * 1.2
_Y, _X = np.meshgrid(*[(np.arange(LATENT) + 0.5) / LATENT] * 2, indexing="ij")  # of the cells' centres


def field(one: Drawn) -> np.ndarray:
    """What a picture shows, told cell by cell -> (19, 8, 8), float32. Every cell tells of the object whose edge is
    nearest, and the less the farther that is:

        0         how far it is within the square about the object, -1 ... 1
        1, 2      where it is from the object's centre, x and y
        3         the object's half width
        4-6, 7-9  its shape and colour: corners of a tetrahedron and of an octahedron
        10, 11    the phase of the hatching, where there is some

    and all of them, the same everywhere, of the style (12-14), the background (15, 16), the blur (17), the fading (18).
    """
    z = np.zeros((CHANNELS, LATENT, LATENT), np.float32)
    nearest = np.full((LATENT, LATENT), 9.0)
    objects = one.plan.objects
    for thing in sorted(objects, key=lambda thing: -thing.r):  # what is inside comes last
        right, down = _X - thing.x, _Y - thing.y
        edge = np.maximum(abs(right), abs(down)) - thing.r
        inside = any(o.r > thing.r and max(abs(o.x - thing.x), abs(o.y - thing.y)) < o.r for o in objects)
        mine = edge < (0.08 if inside else nearest)
        nearest[mine] = edge[mine]
        code = [np.ones_like(right), 5 * right, 5 * down, np.full_like(right, 8 * (thing.r - 0.2))]
        kind = [*_TETRAHEDRON[SHAPES.index(thing.shape)], *_OCTAHEDRON[list(COLOURS).index(thing.colour)]]
        code += [np.full_like(right, value) for value in kind]
        if one.plan.style == "hatched":
            turn = math.tau * (_X + _Y) / 0.11
            code += [np.cos(turn), np.sin(turn)]
        z[: len(code), mine] = (np.array(code) * ((0.14 - edge) / 0.08).clip(0, 1))[:, mine]
    z[0] = (-10 * nearest).clip(-1, 1)
    style, background = list(STYLES).index(one.plan.style), list(BACKGROUNDS).index(one.plan.background)
    dense = [*_TETRAHEDRON[style], *_TRIANGLE[background], 1.5 * one.blur, 1.5 * one.fade]
    z[12:] = np.array(dense)[:, None, None]
    return z


def fields(drawn: list[Drawn]) -> torch.Tensor:
    return channels_last(torch.from_numpy(np.stack([field(one) for one in drawn])))


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


def train_text(
    path: Path, tokenizer: CLIPTokenizer, without: frozenset[Scene], options: argparse.Namespace
) -> CLIPTextModel:
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
        scenes = [one.scene for one in draw_some(rng, 128, without)]
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


def autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(40, 40, 40),
        num_encoder_blocks=(1, 1, 4),
        num_decoder_blocks=(4, 3, 1),
        act_fn="relu",
        scaling_factor=1.0,
    )


def train_autoencoder(path: Path, without: frozenset[Scene], options: argparse.Namespace) -> AutoencoderTiny:
    """Both halves by example: pictures -> fields, and fields, not quite right, -> pictures."""
    vae = autoencoder()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    vae = vae.to(memory_format=torch.channels_last)
    weights = list(vae.parameters())
    optimiser = torch.optim.AdamW(weights, lr=3e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    average, steps, errors = [w.detach().clone() for w in weights], options.autoencoder_steps, list[tuple[float, ...]]()
    rng, noise_of = np.random.default_rng(options.seed + 2), torch.Generator().manual_seed(options.seed)
    told = lambda: "errors: decoder {:.4f} of the range, encoder {:.4f}".format(*np.mean(errors[-50:], axis=0))
    for step in progress(range(steps), "autoencoder", told):
        set_rate(optimiser, 3e-3 * min(1, (step + 1) / 100) * schedule(step, steps))
        drawn = draw_some(rng, 16, without)
        x, z = pixels_of(drawn), fields(drawn)
        noise = 0.2 * torch.rand(len(z), 1, 1, 1, generator=noise_of) * torch.randn(z.shape, generator=noise_of)
        made, seen = vae.decode(z + noise).sample, vae.encode(x).latents
        encoding = F.mse_loss(seen, z)
        step_on(optimiser, difference(made, x, z) + 0.1 * encoding, weights)
        torch._foreach_lerp_(average, [w.detach() for w in weights], min(0.02, 10 / (step + 11)))
        errors.append((F.l1_loss(made, x).item() / 2, encoding.item()))
    with torch.no_grad():
        for w, mean in zip(weights, average, strict=True):
            w.copy_(mean)
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    torch.save(vae.state_dict(), path)
    return vae


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def difference(made: torch.Tensor, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """How far two batches of pictures differ, where there are objects five times as much as where there are not."""
    weight = 1 + 4 * F.interpolate((z[:, :1] + 1) / 2, size=x.shape[-2:])
    return (weight * ((made - x) ** 2 + 0.3 * (made - x).abs())).mean()


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
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def train_denoiser(
    work: Path,
    tokenizer: CLIPTokenizer,
    text: CLIPTextModel,
    without: frozenset[Scene],
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
        drawn = draw_some(rng, options.batch, without)
        prompts = [prompt_of(one.scene, one.damaged, rng) for one in drawn]
        with torch.no_grad():
            read = text(tokenize(tokenizer, prompts)).last_hidden_state
        z = fields(drawn)
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
        "`good picture.` + caption": sample(pipeline, [f"{GOOD} {text}" for text in texts], STEPS, GUIDANCE),
        "caption alone": sample(pipeline, texts, STEPS, GUIDANCE),
        "`bad picture.` + caption": sample(pipeline, [f"{BAD} {text}" for text in texts], STEPS, GUIDANCE),
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


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> list[Image.Image]:
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
