"""Methods by name. A method makes a backend of a backend: it draws better pictures of the same prompts and seeds.

So all that takes a backend (`humanpref generate`, the benchmark, the comparison of methods) takes an improved one.
`KIND:WHAT,option=value,...` names one, `+` joins several, applied from left to right: `tokens:quality+best-of:4`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from humanpref import specs
from humanpref.generate.contract import Backend, GenerateError
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.specs import Kind


class ImproveError(GenerateError):
    """A method that cannot be used here, or a search or a fine-tuning that cannot go on: a run ends with it."""


class Method(Protocol):
    """A way of raising the score."""

    def apply(self, backend: Backend) -> Backend:
        """Return a backend that draws by this method what `backend` would draw without; `backend` stays as it is.

        It has the same `name`; its `settings` tell them apart. Raises `ImproveError` for a backend that it is not for.
        """
        ...


@dataclass(frozen=True)
class NoConfig:
    """No options."""


@dataclass(frozen=True)
class Nothing:
    """The baseline: the backend as it is."""

    what: str = ""
    config: NoConfig = NoConfig()

    def apply(self, backend: Backend) -> Backend:
        """Return the backend itself."""
        return backend


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "none": Kind("humanpref.improve.methods", "Nothing", "NoConfig"),
        "best-of": Kind("humanpref.improve.best_of.method", "BestOf", "BestOfConfig", "N"),
        "tokens": Kind("humanpref.improve.tokens.method", "Tokens", "TokensConfig", "NAME[,NAME...]"),
        "noise": Kind("humanpref.improve.noise.method", "ReferenceNoise", "NoiseConfig", "FILE_OR_FOLDER"),
        "zero-snr": Kind("humanpref.improve.noise.zero_snr", "ZeroSnr", "ZeroSnrConfig"),
        "lora": Kind("humanpref.improve.finetune.method", "LoraMethod", "LoraConfig", "FILE"),
    }
)
"""The methods: `none` is doing nothing."""


def make_methods(spec: str) -> tuple[Method, ...]:
    """Make the methods that `KIND:WHAT[,option=value...][+KIND:WHAT...]` names, in the order they are applied.

    Raises `UnknownNameError` naming the valid kinds or options, and whatever a method raises for what it is given.
    """
    kinds = "|".join(map(re.escape, KINDS))
    parts = re.split(rf"\+(?=(?:{kinds})(?:[:,+]|$))", spec)  # a + that no kind follows belongs to a path or a text
    return tuple(specs.make(part, KINDS, "a method") for part in parts)


def apply_methods(methods: Sequence[Method], backend: Backend) -> Backend:
    """Return the backend with all methods applied, from left to right."""
    for method in methods:
        backend = method.apply(backend)
    return backend


def only_diffusers(backend: Backend, method: str) -> DiffusersBackend:
    """Return the backend if it is a pipeline of diffusers that nothing was wrapped around. Raises `ImproveError`."""
    if not isinstance(backend, DiffusersBackend):
        raise ImproveError(
            f"{method} is for diffusers:MODEL, and comes before methods that work on any backend (tokens, best-of); "
            f"got {backend.name}"
        )
    return backend
