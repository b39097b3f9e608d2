"""How fast a CLIP scorer scores: against its own matrix products, and against other programs, as ratios in one run.

    .venv/bin/python benchmarks/make_checkpoint.py /tmp/vit_h_random.pt        # or the official HPS_v2.1_compressed.pt
    .venv/bin/python benchmarks/scoring_throughput.py IMAGES --checkpoint /tmp/vit_h_random.pt \
        [--peer official=/tmp/hpsv2/bin/python] [--peer imscore=/tmp/imscore/bin/python] [--peer open_clip]

Environments of the peers (each is left out unless named):

    hpsv2==1.2.0, with its missing vocabulary: see official_package.py
    python -m venv /tmp/imscore && /tmp/imscore/bin/pip install imscore==0.0.11

1. `tower`: batches through the image tower and, turn by turn, nothing but its matrix products, with the same sizes,
   number format and threads. The ratio is what is spent beside them. With --peak, the share of the device's peak.
2. `files`: JPEG files to scores. Ours and a peer take turns in processes that stay alive, on the same files. `official`
   reads its checkpoint in every call; its time is a whole call's, and `official warm` what each image adds to one.
   `open_clip` is the plain loop that people write: one image after another, the prompt encoded once.

The peers' downloads of base weights are bypassed, in their favour: they start from the same checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "A cat with two horns on its head"
Score = Callable[[list[str]], object]


def ours(checkpoint: str, arch: str, precision: str, device: str) -> Score:
    from humanpref import load_scorer

    scorer = load_scorer("hps-v2.1", weights=checkpoint, arch=arch, precision=precision, device=device)  # type: ignore[arg-type]
    return lambda files: scorer.score(files, PROMPT)


def open_clip(checkpoint: str, arch: str, device: str) -> Score:
    import torch
    from open_clip import create_model_and_transforms, get_tokenizer
    from PIL import Image

    model, _, process = create_model_and_transforms(arch, pretrained=None, device=device)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    model.eval()
    words = get_tokenizer(arch)([PROMPT]).to(device)

    def score(files: list[str]) -> None:
        with torch.no_grad():
            text = torch.nn.functional.normalize(model.encode_text(words), dim=-1)
            for file in files:
                pixels = process(Image.open(file).convert("RGB"))[None].to(device)
                (torch.nn.functional.normalize(model.encode_image(pixels), dim=-1) @ text.T).item()

    return score


def official(checkpoint: str) -> Score:
    import functools

    import torch
    from hpsv2 import img_score

    torch.load = functools.partial(torch.load, weights_only=True)
    create = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, _pretrained, **options: create(name, None, **options)
    return lambda files: img_score.score(files, PROMPT, cp=checkpoint)


def imscore(checkpoint: str, device: str) -> Score:
    import torch
    from imscore.hps import model as module
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    create = module.create_model_and_transforms
    module.create_model_and_transforms = lambda name, _pretrained, **options: create(name, None, **options)
    scorer = module.HPSv2()
    scorer.model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    scorer.eval().to(device)

    def score(files: list[str]) -> None:
        with torch.no_grad():
            for file in files:
                scorer.score(to_tensor(Image.open(file).convert("RGB"))[None].to(device), [PROMPT]).item()

    return score


def serve(kind: str, checkpoint: str, arch: str, precision: str, device: str) -> None:
    """A child: score what each line names, and answer with the seconds it took."""
    score = {
        "ours": lambda: ours(checkpoint, arch, precision, device),
        "open_clip": lambda: open_clip(checkpoint, arch, device),
        "official": lambda: official(checkpoint),
        "imscore": lambda: imscore(checkpoint, device),
    }[kind]()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        began = time.perf_counter()
        score(json.loads(line))
        print(time.perf_counter() - began, file=out, flush=True)


class Child:
    """A process that scores when it is told to."""

    def __init__(self, python: str, kind: str, args: argparse.Namespace) -> None:
        command = [python, __file__, "--child", kind, args.checkpoint, args.arch, args.precision, args.device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, files: list[str]) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(files), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("a child failed; what it said is above")
        return float(answer)

    def close(self) -> None:
        self.process.communicate()


def show(name: str, ratios: list[float]) -> None:
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{name:34} {middle:6.2f}x  ({low:.2f} to {high:.2f}, {len(ratios)} rounds)", flush=True)


def measure_files(args: argparse.Namespace, files: list[str]) -> None:
    mine = Child(sys.executable, "ours", args)
    mine.seconds(files[:1])
    rates = [len(files) / mine.seconds(files) for _ in range(args.rounds)]
    print(f"files: ours, {args.precision}: {statistics.median(rates):.2f} images/s from JPEG", flush=True)
    for peer in args.peer:
        kind, _, python = peer.partition("=")
        other = Child(python or sys.executable, kind, args)
        other.seconds(files[:1])
        whole, warm = [], []
        for _ in range(args.rounds):
            own, theirs = mine.seconds(files), other.seconds(files)
            whole.append(theirs / own)
            if kind == "official":
                warm.append((theirs - other.seconds(files[:1])) / (len(files) - 1) / (own / len(files)))
        show(f"{kind} / ours", whole)
        if warm:
            show(f"{kind} warm / ours", warm)
        other.close()
    mine.close()


def flops_per_image(scorer: Any) -> int:
    """Floating-point operations of the image tower's matrix products for one image (a product and a sum are two)."""
    visual = scorer.model.visual
    block = visual.transformer.resblocks[0]
    width, hidden = block.attn.in_proj_weight.shape[1], block.mlp.c_fc.out_features
    patch = visual.conv1.kernel_size[0]
    patches = (scorer._preprocess.size // patch) ** 2
    tokens = patches + 1
    per_layer = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens * tokens * width
    return len(visual.transformer.resblocks) * per_layer + 2 * patches * 3 * patch * patch * width


def measure_tower(args: argparse.Namespace) -> None:
    import torch

    from humanpref import load_scorer

    scorer = load_scorer(
        "hps-v2.1", weights=args.checkpoint, arch=args.arch, precision=args.precision, device=args.device
    )
    visual = scorer.model.visual  # type: ignore[attr-defined]
    block = visual.transformer.resblocks[0]
    width, hidden = block.attn.in_proj_weight.shape[1], block.mlp.c_fc.out_features
    layers, heads, patch = len(visual.transformer.resblocks), block.attn.heads, visual.conv1.kernel_size[0]
    side = scorer._preprocess.size  # type: ignore[attr-defined]
    n, patches = args.batch_size, (side // patch) ** 2
    tokens = patches + 1
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[scorer.precision]  # type: ignore[attr-defined]
    make = {"dtype": dtype, "device": scorer.device}  # type: ignore[attr-defined]
    stream, wide = torch.randn(n * tokens, width, **make), torch.randn(n * tokens, hidden, **make)
    weights = [torch.randn(out, taken, **make) for out, taken in ((3 * width, width), (width, width), (hidden, width))]
    narrow = torch.randn(width, hidden, **make)
    q, k = (torch.randn(n, heads, tokens, width // heads, **make) for _ in range(2))
    mixing = torch.randn(n, heads, tokens, tokens, **make)
    squares = torch.randn(n * patches, 3 * patch * patch, **make), torch.randn(width, 3 * patch * patch, **make)

    def products() -> None:
        torch.nn.functional.linear(*squares)
        for _ in range(layers):
            for weight in weights:
                torch.nn.functional.linear(stream, weight)
            torch.nn.functional.linear(wide, narrow)
            q @ k.transpose(-1, -2)
            mixing @ q

    pixels = torch.randn(n, 3, side, side, device=scorer.device)  # type: ignore[attr-defined]

    def tower() -> None:
        with scorer._own_precision():  # type: ignore[attr-defined]
            scorer.embed_pixels(pixels)  # type: ignore[attr-defined]

    def seconds(run: Callable[[], None]) -> float:
        began = time.perf_counter()
        run()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.inference_mode():
        pairs = [(seconds(tower), seconds(products)) for _ in range(args.rounds + 1)][1:]
    flops = n * flops_per_image(scorer)
    best = min(own for own, _ in pairs)
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"tower: {where}, {scorer.precision}, batch {n}: {n / best:.2f} images/s, {flops / best / 1e12:.2f} TFLOP/s")  # type: ignore[attr-defined]
    if args.peak:
        print(f"tower: {100 * flops / best / 1e12 / args.peak:.0f} % of {args.peak:g} TFLOP/s")
    show("tower / its matrix products", [own / bare for own, bare in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--arch", default="ViT-H-14")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, help="the device's peak in TFLOP/s, say 989 for an H100's fp16")
    parser.add_argument("--peer", action="append", default=[], help="open_clip, official=PYTHON or imscore=PYTHON")
    args = parser.parse_args()
    files = [str(path) for path in sorted(args.images.rglob("*.jpg"))[: args.count]]
    if len(files) < 2:
        sys.exit(f"{args.images}: holds fewer than two JPEG files")
    measure_tower(args)
    measure_files(args, files)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        serve(*sys.argv[2:])
    else:
        main()
