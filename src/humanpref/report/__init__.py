"""What every report is made with: tables and their figures, Markdown and LaTeX, plots, templates, files. It knows no
stage: each package lays out its own report. Imports nothing heavy by itself."""
