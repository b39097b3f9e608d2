"""python recipes/shapes_reference_noise.py [--captions 100] [--json FILE]

Does a reference image in the initial noise make better pictures of the shapes world, and which reference? The embedded
pipeline (25 steps, guidance 2) draws captions of scenes it was never trained on, from the same seeds with and without;
`humanpref.shapes.quality` is the known truth. References are clean renderings: of the same caption, of the caption with
most words in common among 500 others, of any other caption. Prints a table of paired differences, with 95 % intervals
by bootstrap over captions. 10 to 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from humanpref.generate import Prompt, Request, make_backend, seed_of
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve.noise.method import NoiseChange, parse_strength
from humanpref.improve.noise.references import Choice, Reference, References
from humanpref.resampling import bootstrap, interval
from humanpref.scorers.weights import file_sha256
from humanpref.shapes.grammar import captions, parse
from humanpref.shapes.quality import quality
from humanpref.shapes.render import render

HELD_OUT = 777
"""The seed of the captions whose scenes `recipes/train_shapes_diffusion.py` left out."""
SIDE = 32
STRENGTHS = ("0.05", "0.1", "0.3", "0.5")


@dataclass
class Chosen:
    """References by prompt, as they are given."""

    images: Mapping[str, Reference]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def candidates(self, prompts: Sequence[Prompt], _: int) -> list[tuple[Reference, ...]]:
        """Return the one of each prompt."""
        return [(self.images[prompt.text],) for prompt in prompts]


def rendered(texts: Sequence[str], of: Sequence[str], folder: Path) -> References:
    """Draw the scene of `of[i]` as the reference of `texts[i]`."""
    folder.mkdir()
    found = {}
    for i, (text, other) in enumerate(zip(texts, of, strict=True)):
        path = folder / f"{i}.png"
        render(parse(other), SIDE, seed=50_000 + i).save(path)
        found[text] = Reference(path, path.name, file_sha256(path))
    return References(Chosen(found), Choice())


def nearest(text: str, others: Sequence[str]) -> str:
    """Return the other caption with the largest share of words in common (Jaccard), of another scene."""
    words = set(text.split())
    different = [other for other in others if parse(other) != parse(text)]
    return max(different, key=lambda other: len(words & set(other.split())) / len(words | set(other.split())))


def draw(backend: Any, texts: Sequence[str]) -> list[Image.Image]:
    requests = [Request(Prompt(text, str(i)), 0, seed_of(0, str(i), 0), i) for i, text in enumerate(texts)]
    made = [outcome for at in range(0, len(texts), 20) for outcome in backend.generate(requests[at : at + 20])]
    return [outcome.image for outcome in made if outcome.image is not None]


def truth(pictures: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
    """-> (captions, 3): fulfilled, clean, total."""
    found = [quality(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    return np.array([(one.fulfilled, one.clean, one.total) for one in found])


def row(name: str, strength: str, found: np.ndarray, base: np.ndarray, *, same: bool) -> str:
    """Return a row of the table: how much better than the baseline, caption by caption."""
    difference = found - base
    sums = np.stack([difference, np.ones_like(difference)], axis=-1)
    low, high = interval(bootstrap(sums)[:, 2], len(base)) or (float("nan"), float("nan"))
    between = "the same pictures" if same else f"{low:+.3f} to {high:+.3f}"
    fulfilled, clean, total = difference.mean(axis=0)
    mean = found[:, 2].mean()
    return f"| {name} | {strength} | {mean:.3f} | {total:+.3f} | {between} | {fulfilled:+.3f} | {clean:+.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = captions(options.captions, HELD_OUT)
    library = captions(500, HELD_OUT + 1)
    plain = make_backend("diffusers:shapes,batch_size=20")
    assert isinstance(plain, DiffusersBackend)
    began = time.monotonic()
    baseline = draw(plain, texts)
    base = truth(baseline, texts)
    print(f"baseline: fulfilled {base[:, 0].mean():.3f}, clean {base[:, 1].mean():.3f}, total {base[:, 2].mean():.3f}")
    print("\n| reference | strength | total | difference | 95 % interval | fulfilled | clean |")
    print("|---|---|---|---|---|---|---|")
    kept: dict[str, Any] = {"baseline": base.tolist()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        references = {
            "the same caption": rendered(texts, texts, folder / "same"),
            "the nearest other caption": rendered(texts, [nearest(t, library) for t in texts], folder / "nearest"),
            "any other caption": rendered(texts, library[: len(texts)], folder / "other"),
        }
        wanted = [("the same caption", "mismatch"), *((name, s) for name in references for s in STRENGTHS)]
        for name, strength in wanted:
            noisy = plain.changed(NoiseChange(references[name], parse_strength(strength), None, plain.config.steps))
            pictures = draw(noisy, texts)
            found = truth(pictures, texts)
            kept[f"{name}, {strength}"] = found.tolist()
            same = all(a.tobytes() == b.tobytes() for a, b in zip(pictures, baseline, strict=True))
            print(row(name, strength, found, base, same=same), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(kept), encoding="utf-8")
    print(f"\n{len(texts)} captions, {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
