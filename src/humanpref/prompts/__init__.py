"""Prompts: collecting them from public sets, and cleaning them down to their content.

`records.py` and `files.py` are what every stage shares; `collect.py` and `clean.py` are the two stages.
"""

from __future__ import annotations

from humanpref.prompts.files import iter_prompts, read_prompts, write_prompts
from humanpref.prompts.records import Cleaned, Cleaner, Prompt

__all__ = ["Cleaned", "Cleaner", "Prompt", "iter_prompts", "read_prompts", "write_prompts"]
