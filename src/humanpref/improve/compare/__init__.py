"""Methods on the same prompts and seeds, held against the baseline."""
