"""Preference data: foreign formats to `Ranking`."""
