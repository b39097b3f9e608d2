"""What else could make a CLIP's image tower faster on a CPU: each way against the plain one, as ratios in one run.

    pip install --target /tmp/options openvino onnxruntime onnx onnxscript
    PYTHONPATH=/tmp/options .venv/bin/python benchmarks/cpu_options.py --checkpoint FILE [--arch ViT-H-14] [IMAGES]

Each way encodes the same prepared images turn by turn with the plain one (PyTorch, fp32). Printed: how many times as
fast it is, what making it ready took, the largest difference of a score, and how many pairs of images change places.
`make_checkpoint.py` makes a random checkpoint of any architecture.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn

from humanpref import load_scorer

Encode = Callable[[Tensor], Tensor]
PROMPT = "A cat with two horns on its head"


class Tower(nn.Module):
    """An image tower as one module: pixels to unit vectors."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.visual(pixels), dim=-1)


def compiled(tower: nn.Module, _: Tensor) -> Encode:
    return torch.compile(tower)


def compiled_frozen(tower: nn.Module, _: Tensor) -> Encode:
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    return torch.compile(tower)


def channels_last(tower: nn.Module, _: Tensor) -> Encode:
    return copy.deepcopy(tower).to(memory_format=torch.channels_last)


def bf16(tower: nn.Module, _: Tensor) -> Encode:
    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tower(pixels).float()

    return encode


def int8(tower: nn.Module, _: Tensor) -> Encode:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(copy.deepcopy(tower), {nn.Linear}, dtype=torch.qint8)


def openvino(tower: nn.Module, pixels: Tensor) -> Encode:
    import openvino as ov

    model = ov.convert_model(tower, example_input=pixels)
    run = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: torch.from_numpy(run(pixels.numpy())[0].copy())


def onnxruntime(tower: nn.Module, pixels: Tensor) -> Encode:
    import onnxruntime as ort

    file = Path(tempfile.mkdtemp()) / "tower.onnx"
    torch.onnx.export(tower, (pixels,), file, input_names=["pixels"], dynamo=True)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


WAYS = {
    "torch.compile": compiled,
    "torch.compile, freezing": compiled_frozen,
    "channels last": channels_last,
    "bf16": bf16,
    "int8, dynamic": int8,
    "OpenVINO, fp32": openvino,
    "ONNX Runtime, fp32": onnxruntime,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", type=Path, help="a folder of JPEG files; else noise")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--arch", default="ViT-H-14")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=list(WAYS), help="these ways alone")
    args = parser.parse_args()
    scorer = load_scorer("hps-v2.1", weights=args.checkpoint, arch=args.arch, precision="fp32", device="cpu")
    tower = Tower(scorer.model.visual).eval()  # type: ignore[attr-defined]
    side = scorer._preprocess.size  # type: ignore[attr-defined]
    if args.images is None:
        pixels = torch.randn(args.batch_size, 3, side, side)
    else:
        files = sorted(args.images.rglob("*.jpg"))[: args.batch_size]
        pixels = torch.stack([scorer.prepare(file) for file in files])  # type: ignore[attr-defined]
    text = scorer.embed_text([PROMPT])[0]  # type: ignore[attr-defined]
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"{args.arch}, {torch.get_num_threads()} threads, batch {len(pixels)}, {kind}")
    print(f"{'':26}{'times as fast':>14}{'range':>14}{'ready, s':>10}{'difference':>12}{'flipped':>9}")
    with torch.no_grad():
        expected = tower(pixels) @ text
        for name in args.only or WAYS:
            try:
                began = time.perf_counter()
                encode = WAYS[name](tower, pixels)
                found = encode(pixels) @ text
                ready = time.perf_counter() - began
            except Exception as error:
                print(f"{name:26} cannot be had: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
                continue
            ratios = [seconds(tower, pixels) / seconds(encode, pixels) for _ in range(args.rounds)]
            pairs = list(combinations(range(len(pixels)), 2))
            flipped = sum((expected[a] > expected[b]) != (found[a] > found[b]) for a, b in pairs)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(
                f"{name:26}{statistics.median(ratios):14.2f}{spread:>14}{ready:10.1f}"
                f"{float((found - expected).abs().max()):12.1e}{f'{int(flipped)}/{len(pairs)}':>9}",
                flush=True,
            )


def seconds(encode: Encode, pixels: Tensor) -> float:
    began = time.perf_counter()
    encode(pixels)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
