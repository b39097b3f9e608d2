"""Quality tokens: text put around a prompt, or into the negative prompt, as named templates that can be joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType

from humanpref.errors import UnknownNameError


@dataclass(frozen=True)
class Template:
    """What the model is to read: exactly `prefix` + prompt + `suffix`, and `negative` to be steered away from.

    The texts are kept as they are, blanks and commas included. `source` says where the template comes from.
    """

    name: str
    prefix: str = ""
    suffix: str = ""
    negative: str = ""
    source: str = ""

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.prefix or self.suffix or self.negative.strip())

    @property
    def texts(self) -> tuple[str, str, str]:
        """Prefix, suffix and negative prompt: two templates with the same texts draw the same pictures."""
        return self.prefix, self.suffix, self.negative

    def around(self, prompt: str) -> str:
        """Return what the model reads for a prompt."""
        return f"{self.prefix}{prompt}{self.suffix}"

    def then(self, other: Template) -> Template:
        """Return the two as one, in reading order: both prefixes, the prompt, both suffixes; associative."""
        return Template(
            ",".join(name for name in (self.name, other.name) if name),
            self.prefix + other.prefix,
            self.suffix + other.suffix,
            join_negatives(self.negative, other.negative),
            "; ".join(source for source in (self.source, other.source) if source),
        )


def join_negatives(first: str | None, second: str | None) -> str:
    """Append a negative prompt to another, by a comma unless the first ends in a mark of its own; associative."""
    if not (first or "").strip() or not (second or "").strip():
        return (first if (first or "").strip() else second) or ""
    assert first is not None
    assert second is not None
    first, second = first.rstrip(), second.lstrip()
    return f"{first}{' ' if first.endswith(('.', ',', ';', '!', '?')) else ', '}{second}"


HPS_V1 = "HPS v1 (arXiv 2303.14420): its LoRA learned images that people did not prefer with this before the prompt"
AS_WRITTEN = "as users of Stable Diffusion write it"
SHAPES = "humanpref.shapes: what its diffusion model was trained with"

TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        row.name: row
        for row in (
            Template("weird-negative", negative="Weird image. ", source=f"{HPS_V1}, and gets it as negative prompt"),
            Template("weird", prefix="Weird image. ", source=f"{HPS_V1}; to see what it steers away from"),
            Template("quality", suffix=", best quality, masterpiece", source=AS_WRITTEN),
            Template("detailed", suffix=", highly detailed, intricate", source=AS_WRITTEN),
            Template("sharp", suffix=", sharp focus", source=AS_WRITTEN),
            Template("resolution", suffix=", 8k, high resolution", source=AS_WRITTEN),
            Template("lighting", suffix=", cinematic lighting", source=AS_WRITTEN),
            Template("photographic", suffix=", professional photograph, 85mm", source=AS_WRITTEN),
            Template("artstation", suffix=", trending on artstation", source=AS_WRITTEN),
            Template("award", suffix=", award winning", source=AS_WRITTEN),
            Template("vivid", suffix=", vivid colors", source=AS_WRITTEN),
            Template("a-photo-of", prefix="a photo of ", source="CLIP's prompt for class names (arXiv 2103.00020)"),
            Template("low-quality-negative", negative="low quality, worst quality, blurry", source=AS_WRITTEN),
            Template("artifacts-negative", negative="jpeg artifacts, watermark, signature, text", source=AS_WRITTEN),
            Template("anatomy-negative", negative="bad anatomy, extra limbs, deformed, disfigured", source=AS_WRITTEN),
            Template("shapes-good", prefix="good picture. ", source=SHAPES),
            Template("shapes-bad", prefix="bad picture. ", source=SHAPES),
            Template("shapes-bad-negative", negative="bad picture.", source=SHAPES),
            Template("own", source="prefix=, suffix=, negative= of your own"),
        )
    }
)
"""The named templates. `own` is empty: free text is joined to it."""

VOCABULARY: tuple[str, ...] = tuple(
    name for name in TEMPLATES if not name.startswith("shapes-") and name not in {"own", "weird"}
)
"""What is searched where no vocabulary is given: the templates that are meant to raise the score of real models."""


def get_template(name: str) -> Template:
    """Return a named template. Raises `UnknownNameError` that lists the names."""
    if name not in TEMPLATES:
        raise UnknownNameError(f"{name!r} is no template of tokens; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def join_templates(templates: Iterable[Template]) -> Template:
    """Return several templates as one, in reading order; the empty one of none."""
    return reduce(Template.then, templates, Template(""))
