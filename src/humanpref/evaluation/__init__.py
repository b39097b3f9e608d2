"""Scorers held against people: instances, measures, generators, reports. Imports nothing heavy by itself."""
