"""Train the embedded `lite` scorer and write its card.

    python recipes/train_lite.py ../shared/data/hpdv2-gallery \\
        --out src/humanpref/scorers/lite.safetensors --card src/humanpref/scorers/lite.md

Reads human rankings in HPD v2's layout (`test.json` and its image folder, or --image-root), describes every image and
damaged copies of it (`humanpref.scorers.lite_features`), cross-validates over prompts, fits on everything, and writes
the model and a card made of the measured numbers. Takes about five minutes. The same data and seed give the
same bytes on the same machine (with one thread: OMP_NUM_THREADS=1).

The model is a Gaussian process that is told two things. One: the share of wins of each image within its group, with a
free mean for each prompt, so that only differences within a prompt count. Two, which no annotator need say: an image is
better than its damaged copy, by a margin or more. A pair that keeps its margin anyway is left alone (its target is
raised to what the model says), so that the copies bend the scores no more than they must.
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
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from rich.progress import track
from safetensors.numpy import save

from humanpref.data.formats import read_rankings
from humanpref.images import open_image
from humanpref.metrics import official_accuracy, pair_agreement, sigmoid
from humanpref.records import ImageRef, Ranking
from humanpref.scorers.lite_features import FEATURE_NAMES, image_features
from humanpref.scorers.lite_model import LiteModel, normalise, similarity

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Change = Callable[[Image.Image], Image.Image]

FOLDS = 7
PROMPT_VARIANCE = 100.0  # prior variance of a prompt's mean: large, so that prompts are compared only within themselves
COPIES = 8  # damaged copies of each image to train on, drawn from TRAINED
ROUNDS = 8  # of raising the targets of pairs that keep their margin
LIMIT = 2.0  # features are cut off this many spreads from their median
SANITY = 0.25  # what a share of images that beat their copies counts, when constants are chosen, beside pairs right


# --- damage ---------------------------------------------------------------------------------------------------------


def noise(strength: float, channels: int = 3) -> Change:
    """Gaussian noise of this standard deviation in grey levels; one channel: the same in all colours."""

    def change(image: Image.Image) -> Image.Image:
        random = np.random.default_rng(1).normal(0.0, strength, (image.height, image.width, channels))
        return Image.fromarray(np.clip(np.asarray(image) + random, 0, 255).astype(np.uint8))

    return change


def salt_and_pepper(share: float) -> Change:
    """This share of the pixels black or white."""

    def change(image: Image.Image) -> Image.Image:
        pixels, random = np.array(image), np.random.default_rng(1).random((image.height, image.width))
        pixels[random < share / 2] = 0
        pixels[random > 1 - share / 2] = 255
        return Image.fromarray(pixels)

    return change


def coded(kind: str, quality: int) -> Change:
    """Compress and open again."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def resampled(factor: float, back: Image.Resampling = Image.Resampling.NEAREST) -> Change:
    """Reduce by a factor and enlarge again."""

    def change(image: Image.Image) -> Image.Image:
        return image.reduce(int(factor)).resize(image.size, back)

    return change


def motion(length: int) -> Change:
    """Blur along the rows."""

    def change(image: Image.Image) -> Image.Image:
        padded = np.pad(np.asarray(image, dtype=np.float64), ((0, 0), (length // 2, length // 2), (0, 0)), mode="edge")
        mean = sum(padded[:, i : i + image.width] for i in range(length)) / length
        return Image.fromarray(np.round(mean).astype(np.uint8))

    return change


def washed_out(factor: float) -> Change:
    """Contrast and colour reduced to this share."""
    return lambda image: ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(factor)).enhance(factor)


def scaled(factor: float) -> Change:
    """Resize by a factor."""
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def levels(title: str, change: Callable[[int], Change], strengths: Sequence[int]) -> dict[str, Change]:
    """One kind of damage: slight, middling and strong."""
    return {title.format(strength): change(strength) for strength in strengths}


MARGINS = (0.05, 0.1, 0.2)  # by which an image should beat its copies, in shares of wins: slight, middling, strong
TRAINED: dict[str, Change] = {  # three strengths of each kind, in the order of MARGINS
    **levels("blur, radius {}", lambda r: lambda image: image.filter(ImageFilter.GaussianBlur(r)), (1, 2, 5)),
    **levels("noise, {} grey levels", noise, (8, 20, 40)),
    **levels("JPEG, quality {}", lambda q: coded("JPEG", q), (20, 10, 5)),
    **levels("pixelated, {} pixels", resampled, (2, 4, 12)),
    **levels("washed out to {} %", lambda p: washed_out(p / 100), (75, 50, 30)),
    **levels("posterised to {} bits", lambda b: lambda image: ImageOps.posterize(image, b), (4, 3, 2)),
    **levels(
        "sharpened, {} %", lambda p: lambda image: image.filter(ImageFilter.UnsharpMask(2, p, 0)), (150, 300, 500)
    ),
}
UNSEEN: dict[str, Change] = {  # measured, never trained on
    "blur, radius 12": lambda image: image.filter(ImageFilter.GaussianBlur(12)),
    "motion blur, 9 pixels": motion(9),
    "motion blur, 25 pixels": motion(25),
    "median filter, 7 pixels": lambda image: image.filter(ImageFilter.MedianFilter(7)),
    "reduced to 1/4 and enlarged": resampled(4, Image.Resampling.BICUBIC),
    "grey noise, 20 grey levels": noise(20, 1),
    "salt and pepper, 1 %": salt_and_pepper(0.01),
    "salt and pepper, 5 %": salt_and_pepper(0.05),
    "WebP, quality 10": coded("WEBP", 10),
    "WebP, quality 1": coded("WEBP", 1),
    "contrast to 40 %": lambda image: ImageEnhance.Contrast(image).enhance(0.4),
    "brightness to 35 %": lambda image: ImageEnhance.Brightness(image).enhance(0.35),
}
CHANGES: dict[str, Change] = {  # no damage, or a matter of taste
    "mirrored": ImageOps.mirror,
    "in greyscale": lambda image: image.convert("L").convert("RGB"),
    "compressed again (JPEG, quality 75)": coded("JPEG", 75),
    "reduced to 3/4 of their size": scaled(0.75),
    "enlarged to 3/2 of their size": scaled(1.5),
    "sharpened a little (unsharp mask, radius 2, 50 %)": lambda image: image.filter(ImageFilter.UnsharpMask(2, 50, 0)),
}
VERSIONS: dict[str, Change] = {"": lambda image: image, **TRAINED, **UNSEEN, **CHANGES}


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """All images in one row; n images, `group` numbers their prompts from 0."""

    group: Numbers  # (n,)
    rank: Array  # (n,) consensus, 1 = best
    share: Array  # (n,) share of wins over the others of the group, over annotators, less one half
    wins: list[Array]  # one (k, k) a group: share of annotators who prefer row to column
    place: Numbers  # (n,) place of the file in its group by name
    features: Array  # (versions, n, d) in the order of VERSIONS
    taken: Numbers  # (n, COPIES) the versions that each image is trained to beat

    def groups(self) -> range:
        """The numbers of the prompts."""
        return range(len(self.wins))


def load_data(folder: Path, image_root: Path | None, seed: int) -> tuple[Data, list[ImageRef], int]:
    """Read rankings -> data with all features, its images in the same order, and the number of rankings read."""
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
    opened = (open_image(image) for image in track(images, "features"))
    rows = [[image_features(np.asarray(change(image))) for change in VERSIONS.values()] for image in opened]
    features = np.array(rows, dtype=np.float64).swapaxes(0, 1)
    taken = np.argsort(np.random.default_rng(seed).random((len(images), len(TRAINED))), axis=1)[:, :COPIES] + 1
    one, two, three, four = (np.concatenate(column) for column in (group, rank, share, place))
    return Data(one, two.astype(float), three, wins, four, features, taken), images, rankings


def file_facts(images: Iterable[ImageRef]) -> Array:
    """(1, n, 4) log bytes, width, height and bytes per pixel: what `lite` must not see."""
    rows = []
    for image in images:
        width, height = open_image(image).size
        size = image.path.stat().st_size
        rows.append(np.log([size, width, height, size / (width * height)]))
    return np.array(rows)[None]


# --- model ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Constants of the model. Prior variances are relative to that of the first kernel."""

    sharpness: float = 0.125  # of both Gaussian kernels
    pair_noise: float = 0.03  # variance of the margins: how far they may be missed
    noise: float = 0.01  # variance of the shares of wins about the model
    weights: tuple[float, ...] = (1.0, 0.5)  # of the kernels on texture and normalised texture
    ends: tuple[int, ...] = (len(FEATURE_NAMES) // 2, len(FEATURE_NAMES))  # where each block of features ends
    copies: bool = True  # whether to train on damaged copies
    exact: bool = False  # whether margins are to be met exactly

    def blocks(self) -> Array:
        """(b, 4), as LiteModel has them."""
        starts = (0, *self.ends[:-1])
        rows = zip(starts, self.ends, self.weights, strict=True)
        return np.array([(start, end, self.sharpness, weight) for start, end, weight in rows])


GRID = [Config(sharpness, pair_noise) for sharpness, pair_noise in product((0.125, 0.25, 0.5), (0.03, 0.1))]


def fit(data: Data, train: Numbers, config: Config) -> tuple[LiteModel, float]:
    """Fit to the images `train` (their numbers); scores in shares of wins, not yet in logits. Also how good it is, by
    leave-one-prompt-out within `train`: share of pairs right, plus SANITY times that of images that beat their copies.
    """
    n = len(train)
    quarter, centre, three_quarters = np.quantile(data.features[0, train], (0.25, 0.5, 0.75), axis=0)
    spread, limit = np.maximum((three_quarters - quarter) / 1.349, 1e-6), np.array([LIMIT])
    versions = data.taken[train].ravel() if config.copies else np.empty(0, dtype=np.int64)
    whole = np.repeat(np.arange(n), COPIES)[: len(versions)]  # the original of each copy
    copy = n + np.arange(len(versions))
    points = np.concatenate([data.features[0, train], data.features[versions, train[whole]]])
    support = normalise(points, centre, spread, limit).astype(np.float16).astype(np.float64)  # as it will be stored

    between = similarity(support, support, config.blocks())
    rows = np.concatenate([between[:n], between[whole] - between[copy]])
    prior = np.concatenate([rows[:, :n], rows[:, whole] - rows[:, copy]], axis=1)  # of the shares, then of the margins
    prompts = data.group[train]
    prior[:n, :n] += PROMPT_VARIANCE * (prompts[:, None] == prompts)
    noises = np.r_[np.full(n, config.noise), np.full(len(copy), config.pair_noise)]
    prior[np.diag_indices_from(prior)] += noises
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(prior))).numpy()
    least = np.r_[data.share[train], np.array(MARGINS)[(versions - 1) % len(MARGINS)]]
    target = least
    for _ in range(0 if config.exact else ROUNDS):
        target = np.r_[least[:n], np.maximum(least, target - noises * (inverse @ target))[n:]]
    told = inverse @ target

    weights = np.r_[told[:n], -told[n:]]
    np.add.at(weights, whole, told[n:])
    offset = (between[:n] @ weights).mean(keepdims=True)
    model = LiteModel(centre, spread, limit, config.blocks(), support, weights, offset)

    right, untied, beaten, owner = 0.0, 0, 0, np.r_[prompts, prompts[whole]]
    for prompt in np.unique(prompts):
        of = np.flatnonzero(owner == prompt)
        left_out = target[of] - np.linalg.solve(inverse[np.ix_(of, of)], told[of])
        pairs = pair_agreement(left_out[of < n].tolist(), data.rank[train[of[of < n]]].tolist())
        right, untied, beaten = right + pairs[0], untied + pairs[1], beaten + int((left_out[of >= n] > 0).sum())
    return model, right / untied + SANITY * beaten / max(1, len(copy))


def select(data: Data, train: Numbers) -> tuple[Config, LiteModel]:
    """The constants of GRID that do best within `train`, and the model of these."""
    fitted = [(config, *fit(data, train, config)) for config in GRID]
    config, model, _ = max(fitted, key=lambda each: each[2])
    return config, model


# --- measurement ----------------------------------------------------------------------------------------------------


def splits(data: Data, seed: int) -> list[tuple[Numbers, Numbers]]:
    """Divide prompts into folds -> (numbers of training images, numbers of test images) for each fold."""
    order = np.random.default_rng(seed).permutation(len(data.wins))
    tested = [np.isin(data.group, order[fold::FOLDS]) for fold in range(FOLDS)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]


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


Predictor = Callable[[Numbers, Numbers], Array]  # training and test images -> (versions, test) scores


def cross_validate(data: Data, predictor: Predictor, seeds: Sequence[int], title: str) -> Array:
    """Out-of-fold scores (seeds, versions, n)."""
    rows = []
    for seed in track(seeds, title):
        found = [(test, predictor(train, test)) for train, test in splits(data, seed)]
        order = np.argsort(np.concatenate([test for test, _ in found]))
        rows.append(np.concatenate([scores for _, scores in found], axis=1)[:, order])
    return np.array(rows)


def score(model: LiteModel, features: Array) -> Array:
    """(versions, m, d) features -> (versions, m) scores."""
    return model.predict(features.reshape(-1, features.shape[2])).reshape(features.shape[:2])


def fixed(data: Data, config: Config) -> Predictor:
    """A predictor of originals with given constants."""
    return lambda train, test: score(fit(data, train, config)[0], data.features[:1, test])


def chosen(data: Data) -> Predictor:
    """The whole procedure: constants chosen within the training prompts; all versions are scored."""
    return lambda train, test: score(select(data, train)[1], data.features[:, test])


def by_place(data: Data) -> Predictor:
    """Looks at no image: the mean share of wins of the images at the same place of the other prompts."""

    def run(train: Numbers, test: Numbers) -> Array:
        means = {p: data.share[train][data.place[train] == p].mean() for p in np.unique(data.place[train])}
        return np.array([[means.get(p, 0.0) for p in data.place[test]]])

    return run


def unseen_places(data: Data, config: Config, seed: int) -> float:
    """Pair accuracy for images at a place that the training images did not come from, each against its group."""
    right = total = 0.0
    for place in track(np.unique(data.place), "unseen places"):
        for train, test in splits(data, seed):
            scores = score(fit(data, train[data.place[train] != place], config)[0], data.features[:1, test])[0]
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


def row(data: Data, name: str, scores: Array) -> str:
    """A line of a table in the card: mean and standard deviation over repetitions, percent; scores (seeds, n)."""
    table = 100 * np.array([accuracy(data, each) for each in scores])
    return (
        f"| {name} | "
        + " | ".join(f"{a:.1f} ± {b:.1f}" for a, b in zip(table.mean(0), table.std(0), strict=True))
        + " |"
    )


def damage_lines(scores: Array, names: Iterable[str]) -> str:
    """Lines of the card: how originals fare against changed copies; scores (seeds, versions, n) in logits."""
    lines = []
    for name in names:
        lost = scores[:, 0] - scores[:, list(VERSIONS).index(name)]
        lines.append(f"| {name} | {100 * (lost > 0).mean():.0f} % | {-lost.mean():+.2f} |")
    return "\n".join(lines)


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
        for _, test in splits(data, seed):
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
arXiv 2306.09341; Apache-2.0), and {copies} damaged copies of each image, drawn from the first table under "Damaged
copies", which it should beat by {margins} logits or more (slight, middling, strong damage). Since the
test set contains these prompts, do not report `lite` on them.

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

## Damaged copies
An image should beat a damaged copy of itself. Measured on images of prompts kept out of training (nested, as above).
Over the kinds of damage that other images were trained on, {trained_wins:.1f} % of the images beat their copy; a model
trained without copies has {wins_before:.1f} %. Over kinds or strengths never trained on: {unseen_wins:.1f} %; these
were in view while the kind of model was chosen, so damage of quite another sort may fare worse. "Beat" is by any margin
at all, and the change is the mean over images of the copy's score less the original's.

| trained on | images that beat their copy | mean change of score |
|---|---|---|
{trained_lines}

| never trained on | images that beat their copy | mean change of score |
|---|---|---|
{unseen_lines}

## What was tried around it
Constants fixed at those of the shipped model ({constants}),
so these are not nested.

| variant | pairs right (pooled) | HPD v2's official rule |
|---|---|---|
{ablations}

The explicit file facts (log bytes, width, height, bytes per pixel) are left out on principle: the same pixels must get
the same score. Textures at coarser scales and statistics of tone and colour help it to see damage but cost nearly
two points of pairs right in a trial, even at a small weight, so the model does without.

Changes that are no damage, or a matter of taste; images of prompts kept out of training, all changed alike (nested):

| images | pairs right (pooled) | HPD v2's official rule | mean change of score |
|---|---|---|---|
{changes}

## Limits
- Fine texture is all that it sees: not colour, so that a greyscale copy scores about as the original, nor anything
  larger than a few pixels. Damage that leaves fine texture alone goes unnoticed.
- Resizing or filtering an image moves its score (last column), so images of different resolution or processing are not
  comparable, and nothing should be optimised against it.
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
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of the cross-validation")
    args = parser.parse_args()

    torch.set_num_threads(1)
    name = args.data.resolve().name
    data, images, rankings = load_data(args.data, args.image_root, args.seed)
    seeds = range(args.seed, args.seed + args.repeats)

    everything = cross_validate(data, chosen(data), seeds, "nested cross-validation")
    nested = everything[:, 0]
    pooled, official = np.mean([accuracy(data, scores) for scores in nested], axis=0)
    gaps, shares = (np.concatenate(c) for c in zip(*(choices(data, scores) for scores in nested), strict=True))
    factor = temperature(gaps, shares)
    config, model = select(data, np.arange(len(images)))
    model = replace(model, weights=factor * model.weights, offset=factor * model.offset)
    facts = {
        "features": len(FEATURE_NAMES),
        "training_data": f"{name}: {len(data.wins)} prompts, {len(images)} images, {rankings} rankings",
        "cv_pair_accuracy": f"{pooled:.4f}",
        "cv_official_accuracy": f"{official:.4f}",
        "seed": args.seed,
    }
    # One metadata key: safetensors writes several in no fixed order.
    fields = list(LiteModel.__dataclass_fields__)
    packed = {field: np.ascontiguousarray(getattr(model, field), dtype=np.float32) for field in fields}
    packed["support"] = packed["support"].astype(np.float16)  # which `fit` has rounded it to
    model_bytes = save(packed, metadata={"humanpref_lite": json.dumps(facts)})

    def measure(title: str, predictor: Predictor) -> str:
        return row(data, title, cross_validate(data, predictor, seeds, title)[:, 0])

    files = fixed(replace(data, features=file_facts(images)), Config(0.25, ends=(4,), weights=(1.0,), copies=False))
    ablations = [
        measure("as shipped", fixed(data, config)),
        measure("without damaged copies", fixed(data, replace(config, copies=False))),
        measure("margins to be met exactly", fixed(data, replace(config, exact=True))),
        measure("texture only", fixed(data, replace(config, weights=(1.0, 0.0)))),
        measure("normalised texture only", fixed(data, replace(config, weights=(0.0, 1.0)))),
        measure("file size and image dimensions alone", files),
    ]
    before = cross_validate(
        data,
        lambda train, test: score(fit(data, train, replace(config, copies=False))[0], data.features[:, test]),
        seeds[:1],
        "copies against a model without them",
    )
    changes = []
    for title in CHANGES:
        changed = everything[:, list(VERSIONS).index(title)]
        changes.append(f"{row(data, title, changed)} {factor * (changed - nested).mean():+.2f} |")
    wins = everything[:, :1] > everything[:, 1 : 1 + len(TRAINED) + len(UNSEEN)]
    low, high = prompt_interval(data, nested, args.seed)
    card = CARD.format(
        d=len(FEATURE_NAMES),
        kilobytes=round(len(model_bytes) / 1000),
        prompts=len(data.wins),
        images=len(images),
        rankings=rankings,
        name=f"`{name}`",
        copies=COPIES,
        margins=", ".join(f"{factor * margin:.2f}" for margin in MARGINS),
        folds=FOLDS,
        repeats=args.repeats,
        pairs=sum(pairs_right(data, nested[0], g)[1] for g in data.groups()),
        nested=row(data, "`lite`", nested),
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
        trained_wins=100 * wins[:, : len(TRAINED)].mean(),
        unseen_wins=100 * wins[:, len(TRAINED) :].mean(),
        wins_before=100 * (before[:, :1] > before[:, 1 : 1 + len(TRAINED)]).mean(),
        trained_lines=damage_lines(factor * everything, TRAINED),
        unseen_lines=damage_lines(factor * everything, UNSEEN),
        constants=f"sharpness {config.sharpness:g}, variances {config.noise:g} of shares and {config.pair_noise:g} of "
        f"margins, weights {config.weights[0]:g} and {config.weights[1]:g}",
        ablations="\n".join(ablations),
        changes="\n".join(changes),
    )
    args.out.write_bytes(model_bytes)
    args.card.write_text(card, encoding="utf-8")
    print(f"{args.out}: {len(model_bytes)} bytes; pairs right in cross-validation {100 * pooled:.1f} %")


if __name__ == "__main__":
    main()
