"""Raising the score: better initial noise, better prompts, best-of-n, fine-tuning on the reward; and what each gains.

Importing this loads neither torch nor diffusers.
"""

from __future__ import annotations

from humanpref.improve.methods import Method, apply_methods, make_methods

__all__ = ["Method", "apply_methods", "make_methods"]
