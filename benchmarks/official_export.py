"""Does a checkpoint that `humanpref train` exported give the same scores in the official package? Within 1e-5, or it
fails.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install hpsv2==1.2.0
    cp .venv/lib/python3*/site-packages/open_clip/bpe_simple_vocab_16e6.txt.gz \
        /tmp/peer/lib/python3*/site-packages/hpsv2/src/open_clip/       # the package lacks it and cannot score without
    .venv/bin/humanpref train --data DATA --out RUN ...
    .venv/bin/python benchmarks/official_export.py RUN/export DATA --peer /tmp/peer/bin/python

The official package knows one architecture, ViT-H-14. For a model of another size its configuration of that name is
replaced in the peer process, by the package's own `add_model_config`; its download of the LAION base weights, which
are overwritten by the checkpoint, is bypassed. Everything else is the package as installed:
`hpsv2.img_score.score(images, prompt, cp=FILE)`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def measure_official(checkpoint: str, arch: str, groups: list[tuple[str, list[str]]]) -> None:
    import functools

    import torch
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory

    with tempfile.TemporaryDirectory() as folder:
        model = json.loads(Path(arch).read_text())["model_cfg"]
        (Path(folder) / "ViT-H-14.json").write_text(json.dumps(model))
        factory.add_model_config(folder)
        original_load = torch.load
        torch.load = functools.partial(original_load, weights_only=True)
        create = img_score.create_model_and_transforms
        img_score.create_model_and_transforms = lambda name, _pretrained, **options: create(name, None, **options)
        found = [[float(s) for s in img_score.score(images, prompt, cp=checkpoint)] for prompt, images in groups]
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", required=True, help="the interpreter of the environment with hpsv2")
    options = parser.parse_args()

    from humanpref import load_scorer, read_rankings

    groups = {r.prompt: [str(image) for image in r.images] for r in read_rankings(options.data)}
    (checkpoint,) = options.export.glob("HPS_*.pt")
    arch = options.export / "open_clip_config.json"
    request = json.dumps([str(checkpoint), str(arch), list(groups.items())])
    done = subprocess.run(
        [options.peer, __file__, "--official"], input=request, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    official = json.loads(done.stdout.splitlines()[-1])
    scorer = load_scorer(str(checkpoint), precision="fp32", device="cpu")
    apart, count = 0.0, 0
    for (prompt, images), theirs in zip(groups.items(), official, strict=True):
        ours = scorer.score(images, prompt).tolist()
        apart = max(apart, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
        count += len(images)
    print(f"{count} images, {len(groups)} prompts: largest difference {apart:.2e}")
    sys.exit(apart >= 1e-5)


if __name__ == "__main__":
    if sys.argv[1:] == ["--official"]:
        measure_official(*json.loads(sys.stdin.read()))
    else:
        main()
