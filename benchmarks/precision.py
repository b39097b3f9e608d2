"""What bf16 does to the ranking: pairs flipped against fp32, and the largest difference of a score.

    .venv/bin/python benchmarks/precision.py ../shared/data/hpdv2-gallery --weights HPS_v2.1_compressed.pt
    .venv/bin/python benchmarks/precision.py DATA --weights FILE --arch CONFIG.json --instances 8

Compares, on the images of an HPD v2-format folder: fp32; `bf16` as the package does it (products in bf16, residual
stream and norms in fp32); and everything in bf16. A pair is two images of one prompt. `noise` is the standard deviation
of the error over that of the scores within a prompt: what decides how many pairs flip, whatever the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F

from humanpref import load_scorer, read_rankings


def score_fp32_or_bf16(args: argparse.Namespace, precision: str) -> Callable[[list[Path], str], torch.Tensor]:
    scorer = load_scorer("hps-v2.1", weights=args.weights, arch=args.arch, precision=precision)  # type: ignore[arg-type]
    return scorer.score


def score_pure_bf16(args: argparse.Namespace) -> Callable[[list[Path], str], torch.Tensor]:
    scorer = load_scorer("hps-v2.1", weights=args.weights, arch=args.arch, precision="fp32")
    model = scorer.model.to(torch.bfloat16)  # type: ignore[attr-defined]

    def score(images: list[Path], prompt: str) -> torch.Tensor:
        inputs = torch.stack([scorer._prepare(image) for image in images]).bfloat16()  # type: ignore[attr-defined]
        with torch.no_grad():
            text = model.encode_text(scorer.tokenizer([prompt]))  # type: ignore[attr-defined]
            image = model.encode_image(inputs)
        return F.cosine_similarity(image.float(), text.float())

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--arch")
    parser.add_argument("--instances", type=int, default=28)
    args = parser.parse_args()
    rankings = [r for r in read_rankings(args.data) if r.annotator is None][: args.instances]
    kinds: dict[str, Callable[[], Callable[[list[Path], str], torch.Tensor]]] = {
        "fp32": lambda: score_fp32_or_bf16(args, "fp32"),
        "bf16 products": lambda: score_fp32_or_bf16(args, "bf16"),
        "pure bf16": lambda: score_pure_bf16(args),
    }
    scores = {}
    for kind, load in kinds.items():
        score = load()
        scores[kind] = [score([image.path for image in r.images], r.prompt) for r in rankings]
        del score
    reference = scores.pop("fp32")
    pairs = [(group, i, j) for group, s in enumerate(reference) for i, j in combinations(range(len(s)), 2)]
    spread = torch.stack([s.std() for s in reference]).mean()
    print(f"{sum(map(len, reference))} images, {len(pairs)} pairs, spread of scores within a prompt {spread:.5f}")
    for kind, found in scores.items():
        error = [f - r for f, r in zip(found, reference, strict=True)]
        flips = sum(bool((reference[g][i] - reference[g][j]) * (found[g][i] - found[g][j]) < 0) for g, i, j in pairs)
        within = torch.cat([e - e.mean() for e in error]).std()
        largest = max(float(e.abs().max()) for e in error)
        print(
            f"{kind:14} flipped {flips} of {len(pairs)} pairs ({100 * flips / len(pairs):.2f} %), "
            f"largest difference {largest:.5f}, noise {within / spread:.4f}"
        )


if __name__ == "__main__":
    main()
