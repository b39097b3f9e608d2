"""Word lists.

`artists.txt` is clip-interrogator 0.6.0's (MIT, its licence beside it); the others are written for this project:
`more_artists.txt` (short names and common misspellings), `core.txt` and `loose.txt` (words of boosters, see
`vocabulary.py`), `phrases.txt` (boosters as a whole), `media.txt` (media that are put at the end of any prompt),
`not_names.txt` (words that no name has).
"""
