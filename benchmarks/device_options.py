"""How fast images become scores on a device, by each way to run one scorer: ratios and score differences in one run.

    .venv/bin/python benchmarks/make_checkpoint.py /tmp/vit_h_random.pt        # or the official HPS_v2.1_compressed.pt
    .venv/bin/python benchmarks/device_options.py IMAGES --checkpoint FILE --device cuda --peak 989 --count 8000

IMAGES is a folder of JPEG files, which are taken again and again until there are --count. The ways take turns with the
first one, `exact` (Pillow decodes, PyTorch runs the network as it is, fp16 on a GPU). Printed of each:

- images/s from the files to scores in memory, with the range of the rounds, and how many times as fast as `exact`;
- of alone: the share of what the network reaches that has its inputs on the device already, without any decoding;
- peak: with --peak, the share of the device's peak that the matrix products of the image tower make up;
- ready: seconds to load it, compiling included;
- the largest and the mean absolute difference of a score over the distinct files, and how many pairs of them, of one
  prompt, change places.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from scoring_throughput import flops_per_image

from humanpref import load_scorer
from humanpref.scorers import get_spec
from humanpref.scorers.devices import one_core_a_thread

PROMPTS = [f"a lighthouse at the sea, number {n}" for n in range(50)]
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "decode": {"decode": "device"},
    "compiled": {"compiled": True},
    "decode, compiled": {"decode": "device", "compiled": True},
    "bf16": {"precision": "bf16"},
    "bf16, decode, compiled": {"precision": "bf16", "decode": "device", "compiled": True},
    "fp32": {"precision": "fp32"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model", default="hps-v2.1")
    parser.add_argument("--arch", default="ViT-H-14")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, help="the device's peak in TFLOP/s, say 989 for an H100's fp16")
    parser.add_argument("--only", action="append", choices=list(WAYS), help="these ways alone, and exact")
    args = parser.parse_args()
    distinct = sorted(args.images.rglob("*.jpg"))
    if not distinct:
        sys.exit(f"{args.images}: holds no JPEG files")
    files = [distinct[n % len(distinct)] for n in range(args.count)]
    distinct = distinct[: args.count]
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(
        f"{where}, {os.cpu_count()} cores, {args.model} {args.arch}; {len(files)} JPEG files, {len(distinct)} distinct"
    )
    heads = f"{'':24}{'images/s':>10}{'range':>18}{'times':>9}{'of alone':>11}{'peak':>8}{'ready, s':>9}"
    print(f"{heads}{'largest':>11}{'mean':>11}{'flipped':>10}")
    one_core_a_thread([(get_spec(args.model), args.device)])
    base, _ = load(args, {})
    expected = base.score(distinct, texts(len(distinct)))
    for name in ["exact", *[way for way in args.only or WAYS if way != "exact"]]:
        try:
            scorer, ready = (base, 0.0) if name == "exact" else load(args, WAYS[name])
        except Exception as error:
            print(f"{name:24} cannot be had: {str(error).splitlines()[0][:90]}")
            continue
        moved = (scorer.score(distinct, texts(len(distinct))) - expected).abs()
        found = scorer.score(distinct, PROMPTS[0]) if name != "exact" else base.score(distinct, PROMPTS[0])
        plain = base.score(distinct, PROMPTS[0])
        pairs = list(combinations(range(min(100, len(distinct))), 2))
        flipped = sum(bool((plain[a] > plain[b]) != (found[a] > found[b])) for a, b in pairs)
        alone = network_alone(scorer, distinct)
        rates, ratios = [], []
        for _ in range(args.rounds):
            first = from_files(base, files)
            rates.append(first if name == "exact" else from_files(scorer, files))
            ratios.append(rates[-1] / first)
        rate = statistics.median(rates)
        peak = f"{100 * rate * flops_per_image(scorer) / args.peak / 1e12:.0f} %" if args.peak else "-"
        spread = f"{min(rates):.1f} to {max(rates):.1f}"
        print(
            f"{name:24}{rate:10.1f}{spread:>18}{statistics.median(ratios):9.2f}{100 * rate / alone:9.0f} %{peak:>8}"
            f"{ready:9.1f}{moved.max():11.1e}{moved.mean():11.1e}{f'{flipped}/{len(pairs)}':>10}",
            flush=True,
        )
        if scorer is not base:
            del scorer


def load(args: argparse.Namespace, way: dict[str, Any]) -> tuple[Any, float]:
    torch.compiler.reset()  # else one way would profit from what was compiled for another
    began = time.perf_counter()
    scorer = load_scorer(args.model, args.checkpoint, args.arch, device=args.device, **way)
    return scorer, time.perf_counter() - began


def texts(count: int) -> list[str]:
    return [PROMPTS[n % len(PROMPTS)] for n in range(count)]


def from_files(scorer: Any, files: list[Path]) -> float:
    """Images per second, from files to scores."""
    list(scorer.score_each(files[: 2 * scorer.batch_size], texts(2 * scorer.batch_size)[: len(files)]))
    began = time.perf_counter()
    done = len(list(scorer.score_each(files, texts(len(files)))))
    return done / (time.perf_counter() - began)


def network_alone(scorer: Any, files: list[Path]) -> float:
    """Images per second of whole batches that lie on the device, with their prompts encoded already."""
    inputs, errors = scorer.collate([scorer.prepare(files[n % len(files)]) for n in range(scorer.batch_size)])
    assert not errors
    prompts = texts(scorer.batch_size)
    with torch.no_grad(), scorer._own_precision():
        scorer._judge(inputs, prompts).tolist()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < 3:
            waiting = [scorer._judge(inputs, prompts) for _ in range(4)]
            done += sum(len(scores.tolist()) for scores in waiting)
        return done / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
