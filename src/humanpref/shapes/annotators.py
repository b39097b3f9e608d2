"""Simulated people of the closed world: they rank images by the known quality, with noise of a known size.

A person whose `temperature` is t prefers image a to image b with probability 1 / (1 + exp(-(q_a - q_b) / t)), q being
`Quality.total`: Bradley-Terry; whole rankings are Plackett-Luce, from the same Gumbel noise. So the best accuracy that
any scorer can reach is known exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from humanpref.images import open_image
from humanpref.metrics import Array, competition_ranks, sigmoid
from humanpref.records import Group, Ranking
from humanpref.shapes.quality import quality

TEMPERATURE = 0.035
"""With this two people agree on about four pairs in five of the images of ten sources, as in HPD v2's gallery."""


@dataclass(frozen=True)
class Annotator:
    """One simulated person; the lower the temperature, the more careful."""

    name: str
    temperature: float = TEMPERATURE


def people(count: int, seed: int = 0, temperature: float = TEMPERATURE) -> list[Annotator]:
    """Make people who differ in care: temperatures spread evenly in the logarithm from half to twice the given one."""
    spread = 2.0 ** np.random.default_rng(seed).uniform(-1, 1, count)
    return [Annotator(f"person-{i + 1}", float(temperature * s)) for i, s in enumerate(spread)]


def group_qualities(group: Group) -> Array:
    """The known quality of a group's images, (images,), in [0, 1]. Raises `ImageError` or `DataError`."""
    return np.asarray([quality(open_image(image), group.prompt).total for image in group.images])


def simulate_rankings(
    groups: Sequence[Group],
    annotators: Sequence[Annotator],
    *,
    seed: int = 0,
    qualities: Sequence[Array] | None = None,
) -> list[Ranking]:
    """Let every person rank every group -> rankings, group by group, without ties.

    A ranking depends on the seed, the person, and the group's prompt and images alone. `qualities`: what
    `group_qualities` gives for each group, where it is known already.
    """
    rankings = []
    for number, group in enumerate(groups):
        appeal = group_qualities(group) if qualities is None else qualities[number]
        for who in annotators:
            name = "\0".join([str(seed), who.name, group.prompt, *(image.path.name for image in group.images)])
            own = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
            felt = appeal / who.temperature + own.gumbel(size=len(appeal))
            ranks = tuple(competition_ranks([float(x) for x in felt]))
            rankings.append(
                Ranking(
                    group.prompt,
                    group.images,
                    ranks,
                    who.name,
                    group.id,
                    prompt_source=group.prompt_source,
                    style=group.style,
                )
            )
    return rankings


def best_accuracy(qualities: Sequence[Array], annotators: Sequence[Annotator]) -> float:
    """The share of pairs on which a scorer that knows every image's quality agrees with one of these people.

    Exact for the simulation, over all pairs of all groups: no scorer can do better on average.
    """
    shares = []
    for own in qualities:
        i, j = np.triu_indices(len(own), k=1)
        gap = np.abs(own[i] - own[j])
        shares.append(np.mean([sigmoid(gap / who.temperature) for who in annotators], axis=0))
    return float(np.mean(np.concatenate(shares)))


def expected_accuracy(scores: Sequence[Array], qualities: Sequence[Array], annotators: Sequence[Annotator]) -> float:
    """The share of pairs on which a scorer would agree with one of these people, in expectation over what they say.

    scores, qualities: (images,) for each group. Tied scores count one half. At most `best_accuracy`.
    """
    shares = []
    for own, given in zip(qualities, scores, strict=True):
        i, j = np.triu_indices(len(own), k=1)
        first = np.mean([sigmoid((own[i] - own[j]) / who.temperature) for who in annotators], axis=0)
        side = np.sign(np.asarray(given)[i] - np.asarray(given)[j])
        shares.append(0.5 + side * (first - 0.5))
    return float(np.mean(np.concatenate(shares)))
