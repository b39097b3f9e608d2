"""The closed world of shapes, in which the right answer is known: captions, pictures, quality, sources, annotators."""

from pathlib import Path

PIPELINE = Path(__file__).parent / "pipeline"
"""A Stable Diffusion of this world in diffusers' own format, 32 x 32 pixels; its README.md says how well it draws."""
