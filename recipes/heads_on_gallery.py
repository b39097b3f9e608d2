"""python recipes/heads_on_gallery.py ../shared/data/hpdv2-gallery --shapes /tmp/shapes-preference/run-800/export

Does a small trained head add anything to `lite` on real rankings? Cross-validated over prompts, on the splits that
`recipes/train_lite.py` uses, with `lite` refitted within each of them (its shipped constants, so not nested).

The heads are trained by `humanpref.training` on people's shares: linear and with a hidden layer on `lite`'s own
image statistics, linear on the embeddings of a CLIP with random weights, and on those of the CLIP that
`recipes/train_shapes_preference.py` trained (--shapes). "With lite added" is the sum of both scores in units of
their spread within a prompt. A seed is a division into seven folds; the figure is the mean over seeds and the spread
of that mean. Needs `pip install -e ".[train,recipes]"`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent))
import train_lite as lite

from humanpref.records import ImageRef, Ranking
from humanpref.training.batches import TableData
from humanpref.training.config import TrainConfig
from humanpref.training.embeddings import EmbeddingInputs
from humanpref.training.examples import make_examples
from humanpref.training.loop import Trainer, make_accelerator
from humanpref.training.model import build_head

SHIPPED = lite.Config(0.5, 0.03)
Predictor = Callable[[lite.Numbers, lite.Numbers], lite.Array]


def head(
    images: list[ImageRef],
    rankings: list[Ranking],
    features: Callable[[lite.Numbers], lite.Array],
    **options: object,
) -> Predictor:
    """A predictor that trains a head on the training images' features (n, d), scaled by what is seen in training."""

    def run(train: lite.Numbers, test: lite.Numbers) -> lite.Array:
        values = features(train)
        inputs = EmbeddingInputs(
            {str(image.path): torch.tensor(v, dtype=torch.float32) for image, v in zip(images, values, strict=True)},
            {r.prompt: torch.zeros(values.shape[1]) for r in rankings},
            {},
            values.shape[1],
            "recipe",
        )
        kept = {images[i].path for i in train}
        config = TrainConfig(
            model="head", unit="rankings", labels="share", text_head=False, steps=150, batch=24, warmup=10,
            learning_rate=3e-3, validate_every=0, save_every=0, log_every=0, workers=0, **options,
        )  # fmt: skip
        table, _ = make_examples([r for r in rankings if r.images[0].path in kept and r.annotator is not None], config)
        with tempfile.TemporaryDirectory() as folder:
            model = build_head(inputs.width, config)
            accelerator = make_accelerator(config, "cpu")
            trainer = Trainer(model, inputs, TableData(table, ""), config, None, accelerator, out=Path(folder))
            trainer.fit()
        own = torch.stack([inputs.image(images[i].path) for i in test])
        with torch.no_grad():
            scores, _ = model(own, own, torch.arange(len(own)), torch.arange(len(own)))
        return scores.double().numpy()[None]

    return run


def within(data: lite.Data, scores: lite.Array) -> lite.Array:
    """Scores in units of their mean spread within a prompt."""
    return scores / np.mean([scores[data.group == g].std() for g in data.groups()])


def statistics(data: lite.Data) -> Callable[[lite.Numbers], lite.Array]:
    """`lite`'s features, in robust spreads from the training images' median, cut off, of about unit length."""

    def scaled(train: lite.Numbers) -> lite.Array:
        low, centre, high = np.quantile(data.features[0, train], (0.25, 0.5, 0.75), axis=0)
        spread = np.maximum((high - low) / 1.349, 1e-6)
        return np.clip((data.features[0] - centre) / spread, -2, 2) / data.features.shape[2] ** 0.5

    return scaled


def embeddings(images: list[ImageRef], folder: Path | None) -> lite.Array:
    """Unit vectors of a CLIP (random weights without a folder), less their mean, and unit again."""
    from humanpref.scorers import load_scorer
    from humanpref.scorers.clip_networks import fresh_network, image_size

    if folder is not None:
        scorer = load_scorer(str(folder), precision="fp32", device="cpu")
        model, size = scorer.model, image_size(scorer.model)
    else:
        import open_clip

        arch = open_clip.get_model_config("RN50") | {"embed_dim": 64}
        arch["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "patch_size": None}
        model, _ = fresh_network(arch, 0)
        size = 64
    from dataclasses import replace

    from humanpref.images import open_image
    from humanpref.preprocess import PREPROCESS, prepare_picture

    spec = replace(PREPROCESS["hps-v2"], size=size)
    with torch.no_grad():
        pixels = torch.stack([prepare_picture(open_image(image), spec, "antialias") for image in images])
        found = model.eval().encode_image(pixels).double().numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found -= found.mean(axis=0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shapes", type=Path, help="an export of recipes/train_shapes_preference.py")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, images, _ = lite.load_data(options.data, None, 0)
    rankings = lite.read_rankings(options.data)
    seeds = range(options.seeds)
    stats = statistics(data)
    jobs: dict[str, Predictor] = {
        "lite, refitted": lite.fixed(data, SHIPPED),
        "linear head on lite's statistics": head(images, rankings, stats, weight_decay=1.0),
        "the same, little decay": head(images, rankings, stats, weight_decay=0.01),
        "hidden layer of 64 on lite's statistics": head(images, rankings, stats, hidden=64, weight_decay=1.0),
    }
    for name, folder in (("random weights", None), ("the shapes world", options.shapes)):
        if name == "random weights" or folder is not None:
            vectors = embeddings(images, folder)
            jobs[f"linear head on a CLIP of {name}"] = head(
                images, rankings, lambda _, own=vectors: own, weight_decay=0.1
            )
    found = {name: lite.cross_validate(data, job, seeds, name)[:, 0] for name, job in track(jobs.items(), "all")}
    base = found["lite, refitted"]
    print("| | pairs right, % | with lite added, % |\n|---|---|---|")
    for name, scores in found.items():
        alone = [100 * lite.accuracy(data, s)[0] for s in scores]
        both = [
            100 * lite.accuracy(data, within(data, s) + within(data, b))[0] for s, b in zip(scores, base, strict=True)
        ]
        line = f"| {name} | {np.mean(alone):.1f} ± {np.std(alone):.1f} |"
        print(line + (" |" if scores is base else f" {np.mean(both):.1f} ± {np.std(both):.1f} |"))


if __name__ == "__main__":
    main()
