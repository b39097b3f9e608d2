"""Training speed against the official method: the same pairs, model and steps in a plain PyTorch loop on open_clip.

    .venv/bin/python benchmarks/training_throughput.py DATA --steps 6 --repeats 3

The plain loop is written after `hpsv2/src/training/{main,train,data}.py` of tgxs002/HPSv2 (its own code does not
install as a trainer): open_clip's CLIP with its own attention, the same layers frozen, 16 pairs a batch, both images
of each pair read, resized and encoded, text-to-image logits of the whole batch, the loss summed over pairs, AdamW,
DataLoader workers. Ours is `humanpref.training.loop.Trainer`, as pairs (each picture of a batch encoded once) and as
groups. fp32, on a CPU, a network of 12 layers of width 384 by default. Every measurement is a fresh process, in
turns; a step is the median of its steps after the first. `waiting` is the share of a step spent waiting for data.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARCH = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 384, "layers": 12, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 6},
}
BATCH, FREE_VISION, FREE_TEXT = 16, 8, 3


def plain(data: str, steps: int, workers: int, threads: int) -> None:
    """The official method."""
    import numpy as np
    import open_clip
    import torch
    from PIL import Image
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Dataset

    from humanpref.preprocess import PREPROCESS, prepare_picture

    torch.set_num_threads(threads)
    pairs = json.loads(Path(data).read_text())
    tokenizer = open_clip.SimpleTokenizer()

    class Pairs(Dataset):
        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, i: int) -> tuple:
            row = pairs[i]
            images = [Image.open(f).convert("RGB") for f in row["images"]]
            pixels = torch.stack([prepare_picture(image, PREPROCESS["hps-v2"], "antialias") for image in images])
            return pixels, torch.tensor(row["label"]), tokenizer([row["prompt"]])[0]

    def collate(rows: list) -> tuple:
        pixels, labels, texts = zip(*rows, strict=True)
        return torch.cat([p[:1] for p in pixels] + [p[1:] for p in pixels]), torch.stack(labels), torch.stack(texts)

    torch.manual_seed(0)
    model = open_clip.CLIP(**ARCH)
    model.lock_image_tower(unlocked_groups=FREE_VISION)
    for part in (model.token_embedding, *list(model.transformer.resblocks)[:-FREE_TEXT]):
        part.requires_grad_(False)
    model.positional_embedding.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3.3e-6, (0.9, 0.98), 1e-6, 0.35)
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    loader = iter(DataLoader(Pairs(), BATCH, sampler=order, num_workers=workers, collate_fn=collate))
    seconds, waited = [], []
    for _ in range(steps):
        began = time.perf_counter()
        images, labels, texts = next(loader)
        waited.append(time.perf_counter() - began)
        optimizer.zero_grad()
        image, text = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
        logits = model.logit_scale.exp() * text @ image.T
        first, second = logits.chunk(2, dim=-1)
        both = torch.stack([first.diagonal(), second.diagonal()], dim=-1)
        zero = torch.zeros(len(both), dtype=torch.long)
        parts = labels[:, 0] * cross_entropy(both, zero, reduction="none")
        (parts + labels[:, 1] * cross_entropy(both, zero + 1, reduction="none")).sum().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    report(seconds, waited, BATCH)


def ours(data: str, steps: int, workers: int, threads: int, unit: str) -> None:
    """This package's loop."""
    import torch

    from humanpref import Ranking
    from humanpref.records import ImageRef
    from humanpref.training.batches import TableData
    from humanpref.training.config import TrainConfig
    from humanpref.training.examples import make_examples
    from humanpref.training.loop import Trainer, make_accelerator
    from humanpref.training.model import build
    from humanpref.training.run import pixel_inputs

    torch.set_num_threads(threads)
    rows = json.loads(Path(data).read_text())
    rankings = [Ranking.of_pair(r["prompt"], *(ImageRef(Path(f)) for f in r["images"]), r["label"][0]) for r in rows]
    with tempfile.TemporaryDirectory() as folder:
        arch = Path(folder) / "arch.json"
        arch.write_text(json.dumps(ARCH))
        config = TrainConfig(
            arch=str(arch), base="", vision_free=FREE_VISION, text_free=FREE_TEXT, steps=steps, workers=workers,
            unit=unit, batch=BATCH if unit == "pairs" else 1, log_every=0, validate_every=0, save_every=0,
        )  # fmt: skip
        table, _ = make_examples(rankings, config)
        built = build(config)
        source = TableData(table, "", table.groups() if unit == "groups" else None)
        inputs, accelerator = pixel_inputs(built, config), make_accelerator(config, "cpu")
        trainer = Trainer(built.model, inputs, source, config, None, accelerator, out=Path(folder))
        seconds, waited = [], []
        original = trainer._step

        def timed(step: int, batches: object, window: object) -> dict:
            began, before = time.perf_counter(), window.waited
            row = original(step, batches, window)
            seconds.append(time.perf_counter() - began)
            waited.append(window.waited - before)
            return row

        trainer._step = timed
        trainer.fit()
    per = BATCH if unit == "pairs" else len(table) / len(source.groups)
    report(seconds, waited, per)


def report(seconds: list[float], waited: list[float], pairs: float) -> None:
    rest, idle = seconds[1:], waited[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = {"step": statistics.median(rest), "waiting": sum(idle) / sum(rest), "peak_gb": peak}
    print(json.dumps(found | {"pairs_per_second": pairs / statistics.median(rest)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    from humanpref import read_rankings

    rankings = [r for r in read_rankings(options.data) if r.annotator is None]
    rows = [
        {
            "prompt": p.prompt,
            "images": [str(p.first), str(p.second)],
            "label": [p.first_preferred, 1 - p.first_preferred],
        }
        for r in rankings
        for p in r.pairs()
    ]
    kinds = ("plain", "pairs", "groups")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(rows))
        file.flush()
        for _ in range(options.repeats):
            for kind in kinds:
                request = [kind, file.name, str(options.steps), str(options.workers), str(options.threads)]
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", *request], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    sys.exit(done.stderr)
                found[kind].append(json.loads(done.stdout.splitlines()[-1]))
                print(kind, found[kind][-1], flush=True)
    columns = ("", "seconds a step", "pairs a second", "waiting", "peak memory", "against the plain loop")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for kind in kinds:
        middle = {k: statistics.median(row[k] for row in found[kind]) for k in found[kind][0]}
        both = zip(found[kind], found["plain"], strict=True)
        ratios = [a["pairs_per_second"] / b["pairs_per_second"] for a, b in both]
        print(
            f"| {kind} | {middle['step']:.2f} | {middle['pairs_per_second']:.2f} | {100 * middle['waiting']:.0f} % "
            f"| {middle['peak_gb']:.2f} GB | {statistics.median(ratios):.2f}x |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        kind, data, *numbers = sys.argv[2:]
        steps, workers, threads = map(int, numbers)
        if kind == "plain":
            plain(data, steps, workers, threads)
        else:
            ours(data, steps, workers, threads, kind)
    else:
        main()
