"""Text-to-image models on a suite of prompts: a number with an error bar, beside the published ones."""
