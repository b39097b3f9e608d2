"""The parts that results are also given for: by number of images, source and style of the prompt, and image source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from humanpref.evaluation.instances import Instance
from humanpref.metrics import Array, pair_table

UNKNOWN = "unknown"

CUTS: Mapping[str, Callable[[Instance], str]] = MappingProxyType(
    {
        "images": lambda instance: str(len(instance.consensus.images)),
        "prompt_source": lambda instance: instance.consensus.prompt_source or UNKNOWN,
        "style": lambda instance: instance.consensus.style or UNKNOWN,
    }
)
"""What an instance as a whole belongs to."""


def cut(instances: Sequence[Instance]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield (by, value, places of its instances) for each part, where there are at least two to tell apart."""
    for by, value_of in CUTS.items():
        members: dict[str, list[int]] = {}
        for place, instance in enumerate(instances):
            members.setdefault(value_of(instance), []).append(place)
        if len(members) > 1:
            for value in sorted(members, key=lambda v: (len(v), v) if by == "images" else (0, v)):
                yield by, value, members[value]


def image_source_parts(
    instances: Sequence[Instance], scores: Sequence[Array]
) -> Iterator[tuple[str, list[int], Array]]:
    """Yield (generator, places of the instances with its images, (right, untied) of each (n, 2)).

    Counted are the pairs with an image of that generator which people do not tie; tied scores count one half.
    """
    sources = sorted({image.source or UNKNOWN for i in instances for image in i.consensus.images})
    if len(sources) < 2:
        return
    found: dict[str, list[tuple[int, float, float]]] = {source: [] for source in sources}
    for place, (instance, own) in enumerate(zip(instances, scores, strict=True)):
        names = np.asarray([image.source or UNKNOWN for image in instance.consensus.images])
        differences, preferred = pair_table(own, instance.consensus.ranks, instance.label)
        credit = (np.sign(differences) * np.sign(preferred - 0.5) + 1.0) / 2.0
        i, j = np.triu_indices(len(names), k=1)
        for source in set(names.tolist()):
            counted = ((names[i] == source) | (names[j] == source)) & (preferred != 0.5)
            found[source].append((place, float(credit[counted].sum()), float(counted.sum())))
    for source, rows in found.items():
        yield source, [row[0] for row in rows], np.asarray([row[1:] for row in rows])
