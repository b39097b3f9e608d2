"""The generators of the HPS v2 benchmark by the names of their image archives (repository zhwang/HPDv2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from humanpref.benchmark import published

ARCHIVES: Mapping[str, str] = MappingProxyType(
    {archive: model for model, archive in published.ARCHIVES.items()}
    | {"SDXL-base-1.0": "SDXL Base 1.0", "SDXL-refiner-1.0": "SDXL Refiner 1.0"}  # images without a published row
)
"""{archive name without .tar.gz: the model's name}. An archive that is not here goes by its own name."""
