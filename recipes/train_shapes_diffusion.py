"""python recipes/train_shapes_diffusion.py --work /tmp/shapes-diffusion --out src/humanpref/shapes/pipeline

Trains the small diffusion model of the shapes world that comes with the package and writes it in diffusers' own format.
Needs `pip install -e ".[generate]"`; no network, no GPU. Seeded; stopped and started again with the same `--work`, it
goes on where it was. Its stages, each kept on disk:

    text         CLIPTextModel learns to read: from the end of a caption, all that it says is told (a linear layer that
                 is thrown away). A minute, against hours where the denoiser must teach it
    autoencoder  AutoencoderTiny, 32 x 32 x 3 <-> 8 x 8 x 19, both halves by example. What the latents mean is decided
                 here (`field`), not found: places, shapes, colours, style, so that little is left for the denoiser
    denoiser     UNet2DConditionModel on latents of scenes that nobody draws: v-prediction, a noise schedule that ends
                 in pure noise, prompts dropped for guidance, an average of the weights
    measure      pictures of held-out captions, judged by `humanpref.shapes.quality` -> README.md (the model card)

A part of the scenes is blurred or faded and captioned "bad picture. ...", others "good picture. ...".
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
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
from humanpref.shapes.render import Layout, draw, layout

SIDE, LATENT, CHANNELS, TOKENS, WIDTH = 32, 8, 19, 28, 96
OUT = Path("shapes-diffusion")
STEPS, GUIDANCE = 25, 2.0  # of sampling, where it is measured
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
        vae = train_autoencoder(options.work, without, options)
    with clock("denoiser"):
        unet, loss = train_denoiser(options.work / "denoiser.pt", tokenizer, text, without, options)
    save(options.out, vae, unet, text, tokenizer)
    card(options.out, loss, clock.seconds, options)
    print(f"{options.out} written; seconds by stage: {clock.seconds}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/shapes-diffusion"), help="where stages are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--text-steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=10000, help="that the autoencoder learns from")
    parser.add_argument("--points-steps", type=int, default=1200)
    parser.add_argument("--decoder-steps", type=int, default=1800)
    parser.add_argument("--encoder-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.02)
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
        """Is the picture blurred or faded?"""
        return self.blur + self.fade > 0

    def picture(self) -> Image.Image:
        """Draw it -> RGB, 32 x 32."""
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
        mine = edge < (0.1 if inside else nearest)
        nearest[mine] = edge[mine]
        code = [np.ones_like(right), 5 * right, 5 * down, np.full_like(right, 8 * (thing.r - 0.2))]
        kind = [*_TETRAHEDRON[SHAPES.index(thing.shape)], *_OCTAHEDRON[list(COLOURS).index(thing.colour)]]
        code += [np.full_like(right, value) for value in kind]
        if one.plan.style == "hatched":
            turn = math.tau * (_X + _Y) / 0.44  # four stripes each: as fast as cells can follow
            code += [np.cos(turn), np.sin(turn)]
        z[: len(code), mine] = (np.array(code) * ((0.2 - edge) / 0.08).clip(0, 1))[:, mine]
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
    sizes = [len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, MOST + 1] * 2
    sizes += [len(RELATIONS) + 1, len(BACKGROUNDS) + 1, len(STYLES) + 1]
    both = torch.nn.ModuleDict({"text": text, "answers": torch.nn.Linear(WIDTH, sum(sizes))})

    def loss_of(rng: np.random.Generator, _: torch.Generator) -> torch.Tensor:
        scenes = [one.scene for one in draw_some(rng, 128, without)]
        ids = tokenize(tokenizer, [prompt_of(scene, rng.random() < 0.3, rng, drop=0.0) for scene in scenes])
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        said = both["answers"](text(ids).last_hidden_state[torch.arange(len(ids)), end]).split(sizes, 1)
        wanted = torch.tensor([facts(scene) for scene in scenes])
        return sum(F.cross_entropy(one, wanted[:, k]) for k, one in enumerate(said))

    optimiser = torch.optim.AdamW(both.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    fit(path, both, optimiser, 2e-3, options.text_steps, loss_of, options.seed + 1)
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


class Muon(torch.optim.Optimizer):
    """Steps whose matrix is made orthogonal, so that all directions are learned and not only the loudest (Jordan et al.
    2024); Adam for what is no matrix. At these sizes a step costs little more than Adam's and is worth far more."""

    def __init__(self, weights: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(weights, {"lr": 0.02})

    @torch.no_grad()
    def step(self, _: None = None) -> None:
        """Change the weights by their gradients."""
        for group in self.param_groups:
            for w in group["params"]:
                state = self.state[w]
                if not state:
                    state |= {"mean": torch.zeros_like(w), "square": torch.zeros_like(w), "steps": 0}
                state["steps"] += 1
                if w.ndim < 2 or len(w) < 8:
                    mean = state["mean"].lerp_(w.grad, 0.1) / (1 - 0.9 ** state["steps"])
                    square = state["square"].lerp_(w.grad**2, 0.01) / (1 - 0.99 ** state["steps"])
                    w.addcdiv_(mean, square.sqrt() + 1e-8, value=-0.075 * group["lr"])
                else:
                    ahead = w.grad.lerp(state["mean"].lerp_(w.grad, 0.05), 0.95).flatten(1)
                    scale = max(1, len(ahead) / ahead.shape[1]) ** 0.5
                    w.add_(orthogonal(ahead).view_as(w), alpha=-group["lr"] * scale)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly, by Newton and Schulz's iteration."""
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T).T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (2.0315 * a @ a - 4.775 * a) @ x
    return x


def fit(
    path: Path,
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    rate: float,
    steps: int,
    loss_of: Callable[[np.random.Generator, torch.Generator], torch.Tensor],
    seed: int,
    cooling: float = 0.7,
) -> float:
    """Train in `steps` steps, kept in `path` so that a stopped run goes on -> the loss over the last twentieth.

    The module ends with its weights averaged over about the last tenth of the steps. `loss_of` gets generators that
    depend on seed and step alone, so that a resumed run sees what an unbroken one does. `cooling` is the share of the
    steps, the last, in which the rate falls from `rate` to nearly 0."""
    weights = list(module.parameters())
    average, losses = [w.detach().clone() for w in weights], list[float]()
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        average, losses = state["average"], state["losses"]
    for step in progress(range(len(losses), steps), path.stem, lambda: f"loss {np.mean(losses[-100:]):.4f}"):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100, 0.01 + (1 - step / steps) / cooling)
        loss = loss_of(np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [w.detach() for w in weights], max(0.002, 10 / (step + 11)))
        losses.append(loss.item())
        if len(losses) % 250 == 0 or len(losses) == steps:
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**state, "average": average, "losses": losses}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    with torch.no_grad():
        for w, mean in zip(weights, average, strict=True):
            w.copy_(mean)
    return float(np.mean(losses[-max(1, steps // 20) :]))


# ---- autoencoder


def train_autoencoder(work: Path, without: frozenset[Scene], options: argparse.Namespace) -> AutoencoderTiny:
    """Both halves by example: pictures -> fields, and fields, not quite right, -> pictures."""
    vae = AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(40, 40, 40),
        num_encoder_blocks=(1, 1, 4),
        num_decoder_blocks=(0, 0, 3),
        act_fn="relu",
        upsample_fn="bilinear",
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)

    @cache
    def examples() -> tuple[torch.Tensor, torch.Tensor]:
        drawn = draw_some(np.random.default_rng((options.seed, 2)), options.pictures, without)
        return pixels_of(drawn), fields(drawn)

    def some(rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(rng.integers(options.pictures, size=n))
        return channels_last(examples()[0][rows]), channels_last(examples()[1][rows])

    def encoding(rng: np.random.Generator, _: torch.Generator) -> torch.Tensor:
        x, z = some(rng, 16)
        return F.mse_loss(vae.encode(x).latents, z)

    def decoding(rng: np.random.Generator, chance: torch.Generator) -> torch.Tensor:
        x, z = some(rng, 16)
        return difference(x, z, chance)

    def decoding_crops(rng: np.random.Generator, chance: torch.Generator) -> torch.Tensor:
        x, z = some(rng, 32)
        return difference(*crops(x, z, chance), chance)

    def difference(x: torch.Tensor, z: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        noise = 0.1 * torch.rand(len(z), 1, 1, 1, generator=chance) * torch.randn(z.shape, generator=chance)
        weight = 1 + 2 * F.interpolate(z[:, :1] + 1, size=x.shape[-2:])  # objects count five times
        error = vae.decode(z + noise).sample - x
        return (weight * (error**2 + 0.3 * error.abs())).mean()

    # Between interpolated cells most of a picture is a matter of one place at a time: that is learned first, alone,
    # by 1 x 1 convolutions, an order of magnitude faster; they become the middle of the 3 x 3 that go on.
    wide, vae.decoder.layers = vae.decoder.layers, pointwise(vae.decoder.layers)
    show_stripes(vae.decoder.layers)
    fit(work / "points.pt", vae.decoder, Muon(vae.decoder.parameters()), 0.02, options.points_steps, decoding, 2)
    put_in_middle(vae.decoder.layers, wide)
    show_stripes(wide)
    vae.decoder.layers = wide
    fit(
        work / "decoder.pt", vae.decoder, Muon(vae.decoder.parameters()), 0.02, options.decoder_steps, decoding_crops, 3
    )
    fit(work / "encoder.pt", vae.encoder, Muon(vae.encoder.parameters()), 0.02, options.encoder_steps, encoding, 4)
    return vae.to(memory_format=torch.contiguous_format).eval()


def crops(x: torch.Tensor, z: torch.Tensor, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut 16 x 16 pixels, 4 x 4 cells, out of each picture, mostly about a cell of an object."""
    middle = torch.multinomial(z[:, 0].flatten(1) + 1.05, 1, generator=chance)[:, 0]
    jump = torch.randint(1, 4, (2, len(z)), generator=chance)
    corners = torch.stack([middle // LATENT, middle % LATENT]).sub(jump).clamp(0, LATENT - 4).T.tolist()
    x = torch.stack([one[:, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16] for one, (i, j) in zip(x, corners, strict=True)])
    z = torch.stack([one[:, i : i + 4, j : j + 4] for one, (i, j) in zip(z, corners, strict=True)])
    return channels_last(x), channels_last(z)


def pointwise(layers: torch.nn.Module) -> torch.nn.Module:
    """The same layers with 1 x 1 convolutions."""
    small = copy.deepcopy(layers)
    for parent in list(small.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, torch.nn.Conv2d):
                new = torch.nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None)
                setattr(parent, name, new)
    return small


@torch.no_grad()
def show_stripes(layers: torch.nn.Module) -> None:
    """Fix what training does not find in its time: the stripes, four in a turn of the phase that channels 10 and 11 are
    cosine and sine of. Turned so that a stripe's middle is at 0, and folded twice, it is ||cos| - |sin||, which is
    largest in the middle of each stripe. It comes out of the first block as channel 2, |cos| + |sin| as channel 3."""
    convs = [layers[0], layers[3], layers[5], layers[6].conv[0], layers[6].conv[2], layers[6].conv[4]]
    for conv, rows in zip(convs, (4, 4, 4, 4, 3, 4), strict=True):
        for weight in conv.parameters():
            weight[:rows] = 0
            weight.register_hook(partial(torch.index_fill, dim=0, index=torch.arange(rows), value=0))  # they stay so
    middle = convs[0].kernel_size[0] // 2
    into, low, high, first, second, third = (conv.weight[:, :, middle, middle] for conv in convs)
    turn = math.tau * 0.0323 / 0.44
    turned = ((math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn)))
    for k, sign in enumerate((1, -1, 1, -1)):  # past the first ReLU in two parts, together again between the cells
        into[k, 10:12] = sign * torch.tensor(turned[k // 2])
        low[k, k] = 1
        high[k // 2, k] = sign
        first[k, k // 2] = sign  # |cos| and |sin|, in two parts each
        second[0, k] = 1 if k < 2 else -1
        second[1, k] = -1 if k < 2 else 1
        second[2, k] = 1
    third[2, :2] = 1
    third[3, 2] = 1


@torch.no_grad()
def put_in_middle(small: torch.nn.Module, wide: torch.nn.Module) -> None:
    for one, other in zip(small.modules(), wide.modules(), strict=True):
        if isinstance(other, torch.nn.Conv2d):
            other.weight *= 0.1
            other.weight[:, :, 1, 1] = one.weight[:, :, 0, 0]
            if other.bias is not None:
                other.bias.copy_(one.bias)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# ---- denoiser


def network() -> UNet2DConditionModel:
    """All of the caption is also added to every block's time embedding (`addition_embed_type`), so that what holds for
    the whole picture need not be looked up place by place. It begins with branches that add nothing."""
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=(64,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
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
        steps_offset=1,
    )


def train_denoiser(
    path: Path,
    tokenizer: CLIPTokenizer,
    text: CLIPTextModel,
    without: frozenset[Scene],
    options: argparse.Namespace,
) -> tuple[UNet2DConditionModel, float]:
    """-> the network, and its loss at the end."""
    unet, noising = network(), scheduler()

    def loss_of(rng: np.random.Generator, noise_of: torch.Generator) -> torch.Tensor:
        drawn = draw_some(rng, options.batch, without)
        prompts = [prompt_of(one.scene, one.damaged, rng) for one in drawn]
        with torch.no_grad():
            read = text(tokenize(tokenizer, prompts)).last_hidden_state
        z = fields(drawn)
        noise = torch.randn(z.shape, generator=noise_of)
        # one time from each part of the schedule: the loss of a batch varies less
        t = ((torch.arange(len(z)) + torch.rand(len(z), generator=noise_of)) * 1000 / len(z)).long()
        made = unet(channels_last(noising.add_noise(z, noise, t)), t, read).sample
        return F.mse_loss(made, noising.get_velocity(z, noise, t))

    loss = fit(path, unet, Muon(unet.parameters()), options.lr, options.steps, loss_of, options.seed, cooling=0.45)
    return unet.to(memory_format=torch.contiguous_format).eval(), loss


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


def card(out: Path, loss: float, seconds: dict[str, float], options: argparse.Namespace) -> None:
    """Measure on captions of scenes that were never trained on, and write what was found beside the weights."""
    texts = held_out(options.measured)
    pipeline = StableDiffusionPipeline.from_pretrained(out, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = {
        "`good picture.` + caption": sample(pipeline, [f"{GOOD} {text}" for text in texts], STEPS, GUIDANCE),
        "caption alone": sample(pipeline, texts, STEPS, GUIDANCE),
        "`bad picture.` + caption": sample(pipeline, [f"{BAD} {text}" for text in texts], STEPS, GUIDANCE),
    }
    plans = [layout(parse(text), np.random.default_rng(i)) for i, text in enumerate(texts)]
    true = fields([Drawn(parse(text), plan, 0.0, 0.0) for text, plan in zip(texts, plans, strict=True)])
    drawn = [draw(plan, SIDE) for plan in plans]
    with torch.no_grad():
        seen = pipeline.vae.encode(to_input(drawn)).latents
    pictures["true latents through the decoder"] = decode(pipeline.vae, true)
    pictures["the renderer through encoder and decoder"] = decode(pipeline.vae, seen)
    pictures["the renderer"] = drawn
    rows = {name: judge(images, texts) for name, images in pictures.items()}
    sheet(next(iter(pictures.values())), texts, options.work / "sheet.png")
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
loads it as a `StableDiffusionPipeline`: CLIPTextModel and CLIPTokenizer (every word of the captions is a token,
{tokens} tokens), UNet2DConditionModel, AutoencoderTiny, DDIMScheduler. `good picture.` or `bad picture.` before a
caption asks for a clean picture, or for a blurred or faded one.

Trained by `recipes/train_shapes_diffusion.py` on drawn scenes and nothing else, seed {o.seed}, in {minutes:.0f} minutes
({stages}) with {o.threads} thread(s), on cores that other work shared: the text encoder {o.text_steps} steps; the
decoder {o.points_steps} steps of its 1 x 1 part and {o.decoder_steps} in full, the encoder {o.encoder_steps}; the
denoiser {o.steps} steps of {o.batch}, v-prediction, loss at the end {loss:.3f}. The latents (8 x 8 x 19) are told, not
found: what each means is in the recipe. The noise schedule is Stable Diffusion's, with no signal left at its end.

## Does it draw what the caption says?

{n} held-out captions, {STEPS} DDIM steps, guidance {GUIDANCE:g}, seed = number of the caption, judged by
`humanpref.shapes.quality`: the share of captions that name an attribute whose picture has it wholly; `all`, everything
the caption says; then the mean of the three qualities.

{table}

The last three rows say what the decoder and the encoder cost, and what the check itself misses at 32 pixels.
""".replace("{tokens}", str(TOKENS))


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    for i in range(0, len(prompts), 50):
        part = prompts[i : i + 50]
        seeds = [torch.Generator().manual_seed(i + k) for k in range(len(part))]
        pictures += pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
    return pictures


@torch.no_grad()
def decode(vae: AutoencoderTiny, z: torch.Tensor) -> list[Image.Image]:
    back = ((vae.decode(z).sample + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in back]


def judge(pictures: list[Image.Image], texts: list[str]) -> dict[str, str]:
    found = [quality(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    row = {"all": f"{np.mean([one.right for one in found]):.0%}"}
    for name in WEIGHTS:
        row[name] = f"{np.mean([one.attributes[name] == 1 for one in found if name in one.attributes]):.0%}"
    for name in ("fulfilled", "clean", "total"):
        row[name] = f"{np.mean([getattr(one, name) for one in found]):.2f}"
    return row


def sheet(pictures: list[Image.Image], texts: list[str], path: Path) -> None:
    """Lay the first 18 pictures side by side, four times enlarged, their captions below."""
    canvas = Image.new("RGB", (6 * 136, 3 * 184), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=10)
    for i, (picture, text) in enumerate(list(zip(pictures, texts, strict=True))[:18]):
        x, y = i % 6 * 136 + 4, i // 6 * 184 + 4
        canvas.paste(picture.resize((128, 128), Image.Resampling.NEAREST), (x, y))
        pen.rectangle((x, y, x + 127, y + 127), outline="silver")
        pen.multiline_text((x, y + 130), textwrap.fill(text, 25), fill="black", font=font, spacing=1)
    canvas.save(path, optimize=True)


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
