"""Keeping the best of n images, and what n is worth."""
