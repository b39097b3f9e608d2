"""Images from prompts by many models, as one resumable run. Importing this loads no backend's libraries."""

from __future__ import annotations

from humanpref.generate.contract import Backend, GenerateError, GenerateReport, Outcome, Request, seed_of
from humanpref.generate.groups import read_groups
from humanpref.generate.inputs import read_prompts
from humanpref.generate.options import make_backend
from humanpref.generate.run import generate
from humanpref.prompts.records import Prompt

__all__ = [
    "Backend",
    "GenerateError",
    "GenerateReport",
    "Outcome",
    "Prompt",
    "Request",
    "generate",
    "make_backend",
    "read_groups",
    "read_prompts",
    "seed_of",
]
