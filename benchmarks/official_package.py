"""Start-up, memory and speed against the official package, on a random checkpoint of the official size, in one run.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install hpsv2==1.2.0
    cp .venv/lib/python3*/site-packages/open_clip/bpe_simple_vocab_16e6.txt.gz \
        /tmp/peer/lib/python3*/site-packages/hpsv2/src/open_clip/       # the package lacks it and cannot score without
    python benchmarks/make_checkpoint.py /tmp/vit_h_random.pt
    .venv/bin/python benchmarks/official_package.py IMAGES --checkpoint /tmp/vit_h_random.pt --peer /tmp/peer/bin/python

Each measurement is a fresh process; official and ours take turns, and the medians of their ratios are printed.
The official package is given an advantage: its download of the LAION base weights (3.9 GB, read and then overwritten)
is bypassed. `ready` is the time from process start until the first image could be scored; `per image` is a warm
image inside one call; `per call image` is what a later call on all images costs divided by their number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

PROMPT = "A cat with two horns on its head"


def watch_memory() -> list[int]:
    """Sample this process's anonymous memory (kB) every 10 ms; the returned one-element list holds the peak."""
    peak = [0]

    def sample() -> None:
        while True:
            with Path("/proc/self/status").open() as status:
                anon = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
            peak[0] = max(peak[0], anon)
            time.sleep(0.01)

    threading.Thread(target=sample, daemon=True).start()
    return peak


def measure_official(checkpoint: str, images: list[str]) -> None:
    import functools

    import torch
    from hpsv2 import img_score

    original_load = torch.load
    torch.load = functools.partial(original_load, weights_only=True)
    create = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, _pretrained, **options: create(name, None, **options)
    report(lambda files: img_score.score(files, PROMPT, cp=checkpoint), images)


def measure_ours(checkpoint: str, images: list[str], precision: str) -> None:
    from humanpref import load_scorer

    scorer = load_scorer("hps-v2.1", weights=checkpoint, precision=precision)  # type: ignore[arg-type]
    report(lambda files: scorer.score(files, PROMPT), images)


def report(score: object, images: list[str]) -> None:
    started = float(sys.argv[-1])
    score(images[:1])  # type: ignore[operator]
    first = time.time() - started
    peak = PEAK[0] / 1e6
    times = []
    for files in (images[:1], images, images[:1], images):
        begin = time.time()
        score(files)  # type: ignore[operator]
        times.append(time.time() - begin)
    one, many = min(times[0], times[2]), min(times[1], times[3])
    per_image = (many - one) / (len(images) - 1)
    print(
        json.dumps(
            {"ready": first - per_image, "anon_gb": peak, "per_image": per_image, "per_call_image": many / len(images)}
        )
    )


def run_child(python: str, kind: str, args: argparse.Namespace, images: list[Path]) -> dict[str, float]:
    command = [python, __file__, "--child", kind, "--checkpoint", args.checkpoint, *map(str, images), str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of images")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--peer", required=True, help="the Python of the environment that has hpsv2")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    images = sorted(args.images.glob("*.jpg"))[: args.count]
    Path(args.checkpoint).read_bytes()  # both sides start with the file in the page cache
    kinds = {"official": args.peer, "ours-fp32": sys.executable, "ours-bf16": sys.executable}
    runs = []
    for number in range(args.repeat):
        runs.append({kind: run_child(python, kind, args, images) for kind, python in kinds.items()})
        print(f"run {number + 1} of {args.repeat}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
    print(f"{'':12}" + "".join(f"{name:>16}" for name in runs[0]["official"]))
    for kind in kinds:
        row = {name: statistics.median(run[kind][name] for run in runs) for name in runs[0][kind]}
        print(f"{kind:12}" + "".join(f"{value:16.2f}" for value in row.values()))
    for kind in ("ours-fp32", "ours-bf16"):
        ratios = {n: statistics.median(run["official"][n] / run[kind][n] for run in runs) for n in runs[0][kind]}
        print(f"official / {kind}: " + ", ".join(f"{name} {value:.2f}x" for name, value in ratios.items()))


if __name__ == "__main__":
    PEAK = watch_memory()
    if sys.argv[1:2] == ["--child"]:
        _, _, kind, _, checkpoint, *images, _ = sys.argv
        if kind == "official":
            measure_official(checkpoint, images)
        else:
            measure_ours(checkpoint, images, kind.removeprefix("ours-"))
    else:
        main()
