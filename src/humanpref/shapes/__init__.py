"""The closed world of shapes, in which the right answer is known: captions, pictures, quality, sources, annotators."""
