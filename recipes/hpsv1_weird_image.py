"""python recipes/hpsv1_weird_image.py --rankings /tmp/shapes-finetune/rankings.jsonl --out /tmp/weird

The way of HPS v1 (arXiv 2303.14420, section 5) to a model that people prefer: a LoRA learns, by the ordinary denoising
loss, preferred images with their prompts and others with a prefix before theirs, "Weird image. "; when images are made,
that prefix is the negative prompt, so that guidance leads away from what was not preferred.

Here on the diffusion model of the shapes world and what simulated people say of its own pictures
(`recipes/shapes_finetune.py` leaves such rankings; any with images will do), held against the known truth: the model
with and without the LoRA, with and without the negative prompt. The model's tokenizer spells words that no caption has
letter by letter; prompts that no longer fit after the prefix are left out. Needs `pip install -e ".[generate]"`; no
GPU; minutes. What it writes is for `humanpref generate --lora OUT/lora.safetensors --negative-prompt "Weird image."`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from humanpref.data.formats import open_data
from humanpref.generate import make_backend
from humanpref.generate.contract import Request
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.finetune.adapter import add_lora, write_lora
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.dpo import conditions, encode, noised
from humanpref.improve.finetune.validation import draw, gain
from humanpref.prompts.records import Prompt
from humanpref.records import ImageRef
from humanpref.shapes.grammar import captions
from humanpref.shapes.quality import quality

PREFIX = "Weird image."


def examples(rankings: Path, backend: DiffusersBackend) -> tuple[list[tuple[str, ImageRef]], int]:
    """The image that most people put first, with its prompt, and the one most put last, with the prefix before it
    -> (such examples, how many prompts were too long)."""
    ranks: dict[str, dict[ImageRef, list[int]]] = defaultdict(lambda: defaultdict(list))
    for ranking in open_data(rankings).rankings():
        for image, rank in zip(ranking.images, ranking.ranks, strict=True):
            ranks[ranking.prompt][image].append(rank)
    tokenizer, found, too_long = backend.pipeline.tokenizer, [], 0
    for prompt, images in ranks.items():
        order = sorted(images, key=lambda image: np.mean(images[image]))
        if len(tokenizer(f"{PREFIX} {prompt}").input_ids) > tokenizer.model_max_length:
            too_long += 1
        else:
            found += [(prompt, order[0]), (f"{PREFIX} {prompt}", order[-1])]
    return found, too_long


def train(backend: DiffusersBackend, data: list[tuple[str, ImageRef]], options: argparse.Namespace) -> list[float]:
    """The ordinary denoising loss of `data` -> its curve."""
    pipeline, out = backend.pipeline, []
    parameters = list(add_lora(pipeline, FinetuneConfig(lora_rank=options.rank, seed=options.seed)).values())
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate)
    rng, chance = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    with torch.no_grad():
        latents = torch.cat([encode(pipeline, [image], (side, side)) for _, image in data])
    for step in range(options.steps):
        chosen = rng.choice(len(data), options.batch)
        prompts = [
            data[i][0] if rng.random() > options.dropped else "" for i in chosen
        ]  # guidance needs no prompt, too
        given = conditions(backend, [Request(Prompt(text, text), 0, 0, 0) for text in prompts])
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=chance)
        noisy, time, target = noised(pipeline.scheduler, clean, noise, len(clean), given["timestep"], chance)
        given |= {"sample": noisy, "timestep": time}
        loss = (pipeline.unet(**given)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out.append(float(loss.detach()))
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}: loss {np.mean(out[-25:]):.4f}", flush=True)
    return out


def run(options: argparse.Namespace) -> dict:
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    plain = make_backend("diffusers:shapes,steps=10,batch_size=16", {"device": "cpu"})
    assert isinstance(plain, DiffusersBackend)
    learner = plain.changed()
    data, too_long = examples(options.rankings, learner)
    print(f"{len(data)} images to learn from; {too_long} prompts do not fit after the prefix and were left out")
    train(learner, data, options)
    lora = options.out / "lora.safetensors"
    write_lora(learner.pipeline, lora)
    trained = {text.removeprefix(f"{PREFIX} ") for text, _ in data}
    held = [Prompt(t, t) for t in captions(options.held_out * 2, options.seed + 1) if t not in trained]
    held = held[: options.held_out]
    ways = {
        "the model as it is": plain,
        "the model, negative prompt": plain.changed(negative_prompt=PREFIX),
        "LoRA": apply_methods(make_methods(f"lora:{lora}"), plain),
        "LoRA, negative prompt": apply_methods(make_methods(f"lora:{lora},negative={PREFIX}"), plain),
        "LoRA, the prefix before the prompt": apply_methods(make_methods(f"lora:{lora}"), plain),
    }
    truth, result = {}, {}
    for name, backend in ways.items():
        asked = [Prompt(f"{PREFIX} {p.text}", p.id) if "before" in name else p for p in held]
        truth[name] = [quality(i, p.text).total for i, p in zip(draw(backend, asked, 99), held, strict=True)]
        result[name] = asdict(gain(truth["the model as it is"], truth[name]))
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    (options.out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rankings", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("weird"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropped", type=float, default=0.1, help="share of prompts left out, for guidance")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
