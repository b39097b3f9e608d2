"""Which of these images would a person prefer? Public names only; importing this loads no model code."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from humanpref.data.formats import detect_format, iter_rankings, read_rankings, write_rankings
    from humanpref.errors import (
        DataError,
        DownloadError,
        HumanprefError,
        ImageError,
        MissingExtraError,
        ScoreError,
        UnknownNameError,
        WeightsError,
    )
    from humanpref.evaluation.evaluate import evaluate_scorers
    from humanpref.ranking import compare, rank, score
    from humanpref.records import Comparison, EvalReport, ImageRef, Pair, Ranking, ScoreReport
    from humanpref.scorers import SPECS, Scorer, ScorerSpec, load_scorer

__version__ = "0.1.0"

__all__ = [
    "SPECS",
    "Comparison",
    "DataError",
    "DownloadError",
    "EvalReport",
    "HumanprefError",
    "ImageError",
    "ImageRef",
    "MissingExtraError",
    "Pair",
    "Ranking",
    "ScoreError",
    "ScoreReport",
    "Scorer",
    "ScorerSpec",
    "UnknownNameError",
    "WeightsError",
    "compare",
    "detect_format",
    "evaluate_scorers",
    "iter_rankings",
    "load_scorer",
    "rank",
    "read_rankings",
    "score",
    "write_rankings",
]

_HOME = {
    "detect_format": "data.formats",
    "iter_rankings": "data.formats",
    "read_rankings": "data.formats",
    "write_rankings": "data.formats",
    "DataError": "errors",
    "DownloadError": "errors",
    "HumanprefError": "errors",
    "ImageError": "errors",
    "MissingExtraError": "errors",
    "ScoreError": "errors",
    "UnknownNameError": "errors",
    "WeightsError": "errors",
    "evaluate_scorers": "evaluation.evaluate",
    "compare": "ranking",
    "rank": "ranking",
    "score": "ranking",
    "Comparison": "records",
    "EvalReport": "records",
    "ImageRef": "records",
    "Pair": "records",
    "Ranking": "records",
    "ScoreReport": "records",
    "SPECS": "scorers",
    "Scorer": "scorers",
    "ScorerSpec": "scorers",
    "load_scorer": "scorers",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"humanpref.{_HOME[name]}"), name)
    raise AttributeError(f"module 'humanpref' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
