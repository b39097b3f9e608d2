"""Train the embedded `lite` scorer and write its card.

    python recipes/train_lite.py ../shared/data/hpdv2-gallery \\
        --out src/humanpref/scorers/lite.safetensors --card src/humanpref/scorers/lite.md

Reads human rankings in HPD v2's layout (`test.json` and its image folder, or --image-root), describes every image
(`humanpref.scorers.lite_features`), cross-validates over prompts, fits on everything, and writes the model and a card
made of the measured numbers. Takes about two minutes on one core. The same data and seed give the same bytes on the
same machine.

The model is Gaussian-process regression of the share of wins of an image within its group, with a free mean for each
prompt, so that only differences within a prompt count. Its constants are chosen by cross-validation; the accuracy in
the card is that of the whole procedure, choice included (nested cross-validation).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps
from rich.progress import track
from safetensors.numpy import save

from humanpref.data.formats import read_rankings
from humanpref.images import open_image
from humanpref.metrics import official_accuracy, pair_agreement, sigmoid
from humanpref.records import ImageRef, Ranking
from humanpref.scorers.lite_features import FEATURE_NAMES, image_features
from humanpref.scorers.lite_model import LiteModel, normalise, similarity

Array = npt.NDArray[np.float64]

FOLDS, INNER_FOLDS, INNER_REPEATS = 7, 6, 3
PROMPT_VARIANCE = 100.0  # prior variance of a prompt's mean: large, so that prompts are compared only within themselves


@dataclass(frozen=True)
class Data:
    """All images in one row; n images, `group` numbers their prompts from 0."""

    group: npt.NDArray[np.int64]  # (n,)
    rank: Array  # (n,) consensus, 1 = best
    share: Array  # (n,) share of wins over the others of the group, over annotators, less one half
    wins: list[Array]  # one (k, k) a group: share of annotators who prefer row to column
    place: npt.NDArray[np.int64]  # (n,) place of the file in its group by name
    features: Array  # (n, d)

    def groups(self) -> range:
        """The numbers of the prompts."""
        return range(len(self.wins))


@dataclass(frozen=True)
class Config:
    """Constants of the model. Prior variances are relative to that of the first kernel."""

    sharpness: float = 0.25  # of both Gaussian kernels
    noise: float = 0.05  # variance of the shares of wins about the model
    weights: tuple[float, ...] = (1.0, 0.5)  # of the kernels on texture and normalised texture
    limit: float = 2.0  # features are cut off this many spreads from their median
    kernel: str = "gaussian"  # or "linear"
    ends: tuple[int, ...] = (len(FEATURE_NAMES) // 2, len(FEATURE_NAMES))  # where each block of features ends

    def blocks(self) -> Array:
        """(b, 4), as LiteModel has them."""
        starts = (0, *self.ends[:-1])
        rows = zip(starts, self.ends, self.weights, strict=True)
        return np.array([(start, end, self.sharpness, weight) for start, end, weight in rows])


GRID = [Config(s, n, (1.0, w)) for s, n, w in product((0.06, 0.125, 0.25, 0.5), (0.01, 0.03, 0.1), (0.25, 0.5, 1.0))]


# --- data -----------------------------------------------------------------------------------------------------------


def load_data(folder: Path, image_root: Path | None) -> tuple[Data, list[ImageRef], int]:
    """Read rankings -> data with empty features, its images in the same order, and the number of rankings read."""
    instances: list[list[Ranking]] = []
    for ranking in read_rankings(folder, image_root):
        if ranking.annotator is None:
            instances.append([])
        instances[-1].append(ranking)
    images = [image for instance in instances for image in instance[0].images]
    group, rank, share, place, wins = [], [], [], [], []
    for number, (consensus, *raw) in enumerate(instances):
        ranks = np.array([r.ranks for r in raw or [consensus]], dtype=np.float64)  # (annotators, k)
        better = (ranks[:, :, None] < ranks[:, None, :]) + 0.5 * (ranks[:, :, None] == ranks[:, None, :])
        wins.append(better.mean(axis=0))
        size = ranks.shape[1]
        share.append((wins[-1].sum(axis=1) - 0.5) / (size - 1) - 0.5)
        group.append(np.full(size, number))
        rank.append(consensus.ranks)
        place.append(np.argsort(np.argsort([image.path.name for image in consensus.images])))
    rankings = sum(max(1, len(instance) - 1) for instance in instances)
    columns = [np.concatenate(column) for column in (group, rank, share, place)]
    data = Data(columns[0], columns[1].astype(float), columns[2], wins, columns[3], np.empty((len(images), 0)))
    return data, images, rankings


def describe(images: Sequence[ImageRef], change: Callable[[Image.Image], Image.Image], title: str) -> Array:
    """Features (n, d) of the images after a change."""
    found = (image_features(np.asarray(change(open_image(image)))) for image in track(images, title))
    return np.array(list(found), dtype=np.float64)


def jpeg_75(image: Image.Image) -> Image.Image:
    """Compress once more."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Resize by a factor."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "in greyscale": lambda image: image.convert("L").convert("RGB"),
    "compressed again (JPEG, quality 75)": jpeg_75,
    "reduced to 3/4 of their size": lambda image: scaled(image, 0.75),
    "enlarged to 3/2 of their size": lambda image: scaled(image, 1.5),
    "blurred (Gaussian, radius 1 pixel)": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "sharpened (unsharp mask, radius 2, 50 %)": lambda image: image.filter(ImageFilter.UnsharpMask(2, 50, 0)),
}


def file_facts(images: Iterable[ImageRef]) -> Array:
    """(n, 4) log bytes, width, height and bytes per pixel: what `lite` must not see."""
    rows = []
    for image in images:
        width, height = open_image(image).size
        size = image.path.stat().st_size
        rows.append(np.log([size, width, height, size / (width * height)]))
    return np.array(rows)


# --- model ----------------------------------------------------------------------------------------------------------


def fit(data: Data, train: npt.NDArray[np.int64], config: Config, target: Array | None = None) -> LiteModel:
    """Fit to the images `train` (their numbers); scores in shares of wins, not yet in logits."""
    features = data.features[train]
    quarter, centre, three_quarters = np.quantile(features, (0.25, 0.5, 0.75), axis=0)
    spread = np.maximum((three_quarters - quarter) / 1.349, 1e-6)
    limit = np.array([config.limit])
    support = normalise(features, centre, spread, limit)
    prompts = data.group[train]
    covariance = covariances(support, support, config) + PROMPT_VARIANCE * (prompts[:, None] == prompts)
    covariance += config.noise * np.eye(len(train))
    weights = np.linalg.solve(covariance, (data.share if target is None else target)[train])
    offset = (covariances(support, support, config) @ weights).mean(keepdims=True)
    return LiteModel(centre, spread, limit, config.blocks(), support, weights, offset)


def covariances(left: Array, right: Array, config: Config) -> Array:
    """Prior covariance of the scores of two sets of normalised features."""
    if config.kernel == "linear":
        return np.asarray(left @ right.T / left.shape[1])
    return similarity(left, right, config.blocks())


def predict(model: LiteModel, features: Array, config: Config) -> Array:
    """Scores (n,) of features (n, d), for any kernel."""
    normal = normalise(features, model.centre, model.spread, model.limit)
    return covariances(normal, model.support, config) @ model.weights - model.offset


def select(data: Data, train: npt.NDArray[np.int64], seed: int) -> Config:
    """The constants of GRID that order most pairs right in repeated cross-validation within `train`."""
    groups = np.unique(data.group[train])

    def right(config: Config) -> float:
        found = 0.0
        for repeat in range(INNER_REPEATS):
            scores = np.zeros(len(data.group))
            for inside, outside in splits(data, groups, INNER_FOLDS, INNER_REPEATS * seed + repeat):
                scores[outside] = predict(fit(data, inside, config), data.features[outside], config)
            found += sum(pairs_right(data, scores, g)[0] for g in groups)
        return found

    return max(GRID, key=right)


def splits(
    data: Data, groups: Sequence[int] | npt.NDArray[np.int64], folds: int, seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Divide prompts into folds -> (numbers of training images, numbers of test images) for each fold."""
    order = np.random.default_rng(seed).permutation(groups)
    parts = [order[fold::folds] for fold in range(min(folds, len(order)))]
    members = np.flatnonzero(np.isin(data.group, order))
    tested = [np.isin(data.group[members], part) for part in parts]
    return [(members[~test], members[test]) for test in tested]


# --- measurement ----------------------------------------------------------------------------------------------------


def pairs_right(data: Data, scores: Array, group: int) -> tuple[float, int]:
    """Pairs of one prompt ordered as the consensus does, and all pairs that it does not tie."""
    of = data.group == group
    right, untied, _ = pair_agreement(scores[of].tolist(), data.rank[of].tolist())
    return right, untied


def accuracy(data: Data, scores: Array) -> tuple[float, float]:
    """Over all prompts: share of pairs right (pooled), and HPD v2's official rule (mean over prompts)."""
    counts = np.array([pairs_right(data, scores, g) for g in data.groups()])
    official = [
        official_accuracy(scores[data.group == g].tolist(), data.rank[data.group == g].tolist()) for g in data.groups()
    ]
    return float(counts[:, 0].sum() / counts[:, 1].sum()), float(np.mean(official))


Predictor = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], int], Array]  # train, test, seed -> scores of test


def cross_validate(data: Data, predictor: Predictor, seeds: Sequence[int], title: str) -> Array:
    """Out-of-fold scores (seeds, n)."""
    scores = np.zeros((len(seeds), len(data.group)))
    for row, seed in enumerate(track(seeds, title)):
        for train, test in splits(data, list(data.groups()), FOLDS, seed):
            scores[row, test] = predictor(train, test, seed)
    return scores


def fixed(data: Data, config: Config, *, target: Array | None = None, tested: Array | None = None) -> Predictor:
    """A predictor with given constants; `tested`: features to score instead of those of `data`."""
    shown = data.features if tested is None else tested
    return lambda train, test, _: predict(fit(data, train, config, target), shown[test], config)


def chosen(data: Data) -> Predictor:
    """The whole procedure: constants chosen within the training prompts."""

    def run(train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], seed: int) -> Array:
        config = select(data, train, seed)
        return predict(fit(data, train, config), data.features[test], config)

    return run


def by_place(data: Data) -> Predictor:
    """Looks at no image: the mean share of wins of the images at the same place of the other prompts."""

    def run(train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], _: int) -> Array:
        means = {p: data.share[train][data.place[train] == p].mean() for p in np.unique(data.place[train])}
        return np.array([means.get(p, 0.0) for p in data.place[test]])

    return run


def unseen_places(data: Data, config: Config, seed: int) -> float:
    """Pair accuracy for images at a place that the training images did not come from, each against its group."""
    right = total = 0.0
    for place in np.unique(data.place):
        for train, test in splits(data, list(data.groups()), FOLDS, seed):
            scores = predict(fit(data, train[data.place[train] != place], config), data.features[test], config)
            for one in np.flatnonzero(data.place[test] == place):
                mates = np.flatnonzero(data.group[test] == data.group[test[one]])
                above = data.rank[test[mates]] > data.rank[test[one]]
                untied = data.rank[test[mates]] != data.rank[test[one]]
                right += ((scores[one] > scores[mates]) == above)[untied].sum()
                total += untied.sum()
    return right / total


def choices(data: Data, scores: Array) -> tuple[Array, Array]:
    """Score differences of all pairs and the share of annotators who preferred the first."""
    gaps, shares = [], []
    for g in data.groups():
        own = scores[data.group == g]
        above = np.triu_indices(len(own), 1)
        gaps.append((own[:, None] - own[None, :])[above])
        shares.append(data.wins[g][above])
    return np.concatenate(gaps), np.concatenate(shares)


def temperature(gaps: Array, shares: Array) -> float:
    """The factor through the origin that makes sigmoid(factor * gap) the likeliest for the shares (Newton)."""
    factor = 0.0
    for _ in range(50):
        p = sigmoid(factor * gaps)
        factor += float((gaps * (shares - p)).sum() / (gaps * gaps * p * (1 - p)).sum())
    return factor


def log_loss(p: Array, shares: Array) -> float:
    """Mean cross-entropy in nats of predicted against observed choices."""
    return float(-(shares * np.log(p) + (1 - shares) * np.log(1 - p)).mean())


# --- report ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Accuracy of one variant over repetitions: means and standard deviations, percent."""

    pooled: float
    official: float
    pooled_sd: float
    official_sd: float

    @classmethod
    def of(cls, data: Data, scores: Array) -> Measured:
        """From out-of-fold scores (seeds, n)."""
        table = 100 * np.array([accuracy(data, row) for row in scores])
        return cls(*table.mean(axis=0), *table.std(axis=0))

    def row(self, name: str) -> str:
        """A line of a table in the card."""
        return f"| {name} | {self.pooled:.1f} ± {self.pooled_sd:.1f} | {self.official:.1f} ± {self.official_sd:.1f} |"


def prompt_interval(data: Data, scores: Array, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval over prompts of the pooled accuracy averaged over repetitions, percent."""
    counts = np.array([[pairs_right(data, row, g) for g in data.groups()] for row in scores]).mean(axis=0)
    draws = np.random.default_rng(seed).integers(0, len(counts), (10_000, len(counts)))
    shares = 100 * counts[draws, 0].sum(axis=1) / counts[draws, 1].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def fold_spread(data: Data, scores: Array, seeds: Sequence[int]) -> float:
    """Standard deviation over single folds of the pooled accuracy, percent."""
    found = []
    for row, seed in zip(scores, seeds, strict=True):
        for _, test in splits(data, list(data.groups()), FOLDS, seed):
            counts = np.array([pairs_right(data, row, g) for g in np.unique(data.group[test])])
            found.append(100 * counts[:, 0].sum() / counts[:, 1].sum())
    return float(np.std(found))


def reliability(gaps: Array, shares: Array) -> list[str]:
    """Lines of the card: predicted against observed preference for the likelier image, pairs in bands."""
    p, observed = sigmoid(np.abs(gaps)), np.where(gaps >= 0, shares, 1 - shares)
    lines = ["| predicted | pairs | annotators' choices that agree |", "|---|---|---|"]
    for low, high in ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0)):
        band = (p >= low) & (p < high)
        if band.any():
            agree = 100 * observed[band].mean()
            lines.append(f"| {low:.1f} to {high:.1f} | {100 * band.mean():.0f} % | {agree:.1f} % |")
    return lines


CARD = """# Model card: `lite`

The embedded default scorer of humanpref: a Gaussian process on {d} statistics of fine texture, {kilobytes} kB, numpy
only. **It looks at the picture alone and does not read the prompt.** This card is written by
`recipes/train_lite.py`, which measures the figures in it.

## What it is for
Trying things out without a download, tests, and as the honest floor that a large model must beat. It is no judge of
whether an image shows what was asked for, nor of composition, faces, hands, colour or taste.

## Trained on
{prompts} prompts, {images} images, {rankings} human rankings from {name} (part of the HPD v2 test set: Wu et al.,
arXiv 2306.09341; Apache-2.0). Since the test set contains these prompts, do not report `lite` on them.

## Accuracy, cross-validated over prompts
{folds}-fold over prompts, {repeats} repetitions, {pairs} pairs of images. Nested: in each fold the model's constants
are chosen on the training prompts alone. Percent, mean ± standard deviation over repetitions.

| | pairs right (pooled) | HPD v2's official rule |
|---|---|---|
{nested}

For the choice of prompts: 95 % interval (bootstrap) {low:.1f} to {high:.1f}; a single fold of {fold_prompts} prompts
has a standard deviation of {fold_sd:.1f}. Against single annotators rather than their consensus: {single:.1f} %.

**The figure flatters.** The kind of feature and of model was itself found by comparing several hundred variants on
these same prompts, which nesting does not undo. And see the next section.

## How far to trust it
The images of a prompt come from the same few generators each time, and people have clear preferences among those. File
names seem to follow the same order of generators for every prompt (inferred from the rankings; the data does not say
so). Neither `lite` nor its training uses that; here it shows what the accuracy is made of.

| | pairs right (pooled) | HPD v2's official rule |
|---|---|---|
{place}

So most of what `lite` gets right can be had by telling generators apart, which texture does. With one of these places
left out of training, it orders {unseen:.1f} % of the pairs right in which an image of that place meets the others of
its prompt. Whether it tells better from worse among images of one generator is not known: the data has no such pairs.

## Win probability
Scores are logits: P(a preferred to b) = sigmoid(score of a - score of b), scaled to single annotators' choices on
prompts kept out of training (one number, fitted to all of them); 0 is the mean training image. Log loss on these:
{loss:.3f} nats; a coin has 0.693, and the annotators' own shares {best_loss:.3f}.

{reliability}

## What was tried around it
Constants fixed at those of the shipped model ({constants}), so these are not nested.

| variant | pairs right (pooled) | HPD v2's official rule |
|---|---|---|
{ablations}

The explicit file facts (log bytes, width, height, bytes per pixel) are left out on principle: the same pixels must get
the same score. Statistics of tone, colour and layout, gradients per octave, and textures of the colour channels or at
coarser scales were tried and did not help, so the model does without.

The shipped kind of model shown changed images of prompts kept out of training, all images changed alike:

| images | pairs right (pooled) | HPD v2's official rule | mean change of score |
|---|---|---|---|
{changes}

## Limits
- Fine texture is all that it sees. Resizing or filtering an image moves its score (last column), so images of
  different resolution or processing are not comparable, and nothing should be optimised against it.
- Images with a short side over 512 pixels are reduced to 512 first; smaller ones are taken as they are.
- Drawings, screenshots, flat colours and thumbnails are unlike its training images; their scores mean nothing.
- The data is small, and the preferences are those of HPD v2's annotators for the generators of 2022 and 2023.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with test.json in HPD v2's layout, or the file itself")
    parser.add_argument("--image-root", type=Path, help="folder of the images, if not beside the rankings")
    parser.add_argument("--out", type=Path, required=True, help="model file to write (safetensors)")
    parser.add_argument("--card", type=Path, required=True, help="model card to write (Markdown)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of the cross-validation")
    args = parser.parse_args()

    name = args.data.resolve().name
    data, images, rankings = load_data(args.data, args.image_root)
    data = replace(data, features=describe(images, lambda image: image, "features"))
    seeds = range(args.seed, args.seed + args.repeats)
    everything = np.arange(len(images))

    nested = cross_validate(data, chosen(data), seeds, "nested cross-validation")
    result = Measured.of(data, nested)
    gaps, shares = (np.concatenate(c) for c in zip(*(choices(data, row) for row in nested), strict=True))
    factor = temperature(gaps, shares)
    config = select(data, everything, args.seed)
    model = fit(data, everything, config)
    model = replace(model, weights=factor * model.weights, offset=factor * model.offset)
    facts = {
        "features": len(FEATURE_NAMES),
        "training_data": f"{name}: {len(data.wins)} prompts, {len(images)} images, {rankings} rankings",
        "cv_pair_accuracy": f"{result.pooled / 100:.4f}",
        "cv_official_accuracy": f"{result.official / 100:.4f}",
        "seed": args.seed,
    }
    # One metadata key: safetensors writes several in no fixed order.
    fields = list(LiteModel.__dataclass_fields__)
    packed = {field: np.ascontiguousarray(getattr(model, field), dtype=np.float32) for field in fields}
    model_bytes = save(packed, metadata={"humanpref_lite": json.dumps(facts)})

    def measure(title: str, predictor: Predictor, of: Data = data) -> str:
        return Measured.of(of, cross_validate(of, predictor, seeds, title)).row(title)

    with_files = replace(data, features=np.hstack([data.features, file_facts(images)]))
    files = replace(config, ends=(*config.ends, with_files.features.shape[1]), weights=(*config.weights, 0.25))
    only_files = replace(data, features=file_facts(images))
    files_config = Config(ends=(4,), weights=(1.0,))
    consensus = np.concatenate([(len(w) - data.rank[data.group == g]) / (len(w) - 1) for g, w in enumerate(data.wins)])
    ablations = [
        measure("as shipped", fixed(data, config)),
        measure("texture only", fixed(data, replace(config, weights=(1.0, 0.0)))),
        measure("normalised texture only", fixed(data, replace(config, weights=(0.0, 1.0)))),
        measure("a linear model of the same features", fixed(data, replace(config, kernel="linear"))),
        measure("consensus ranks instead of all annotators as the target", fixed(data, config, target=consensus - 0.5)),
        measure("with file size and image dimensions added", fixed(with_files, files), with_files),
        measure("file size and image dimensions alone", fixed(only_files, files_config), only_files),
    ]
    unchanged = cross_validate(data, fixed(data, config), seeds, "unchanged")
    changes = []
    for title, change in CHANGES.items():
        changed = cross_validate(data, fixed(data, config, tested=describe(images, change, title)), seeds, title)
        shift = factor * (changed - unchanged).mean()
        changes.append(f"{Measured.of(data, changed).row(title)} {shift:+.2f} |")
    low, high = prompt_interval(data, nested, args.seed)
    card = CARD.format(
        d=len(FEATURE_NAMES),
        kilobytes=round(len(model_bytes) / 1000),
        prompts=len(data.wins),
        images=len(images),
        rankings=rankings,
        name=f"`{name}`",
        folds=FOLDS,
        repeats=args.repeats,
        pairs=sum(pairs_right(data, nested[0], g)[1] for g in data.groups()),
        nested=result.row("`lite`"),
        low=low,
        high=high,
        fold_prompts=len(data.wins) // FOLDS,
        fold_sd=fold_spread(data, nested, seeds),
        single=100 * np.where(gaps > 0, shares, 1 - shares).mean(),
        place=measure("the mean preference for each place, no image looked at", by_place(data)),
        unseen=100 * unseen_places(data, config, args.seed),
        loss=log_loss(sigmoid(factor * gaps), shares),
        best_loss=log_loss(np.clip(shares, 1e-9, 1 - 1e-9), shares),
        reliability="\n".join(reliability(factor * gaps, shares)),
        constants=f"sharpness {config.sharpness:g}, noise {config.noise:g}, weights {config.weights[0]:g} and "
        f"{config.weights[1]:g}",
        ablations="\n".join(ablations),
        changes="\n".join(changes),
    )
    args.out.write_bytes(model_bytes)
    args.card.write_text(card, encoding="utf-8")
    print(f"{args.out}: {len(model_bytes)} bytes; pairs right in cross-validation {result.pooled:.1f} %")


if __name__ == "__main__":
    main()
