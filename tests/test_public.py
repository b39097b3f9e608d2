from __future__ import annotations

import subprocess
import sys

import humanpref


def test_public_names_are_pinned() -> None:
    assert set(humanpref.__all__) == {
        "Comparison", "DataError", "DownloadError", "EvalReport", "HumanprefError", "ImageError", "ImageRef",
        "MissingExtraError", "Pair", "Ranking", "SPECS", "ScoreError", "ScoreReport", "Scorer", "ScorerSpec", "UnknownNameError", "WeightsError",
        "compare", "detect_format", "evaluate_scorers", "iter_rankings", "load_scorer", "rank", "read_rankings", "score",
        "write_rankings",
    }  # fmt: skip
    for name in humanpref.__all__:
        assert getattr(humanpref, name) is not None
        assert name in dir(humanpref)


def test_importing_loads_no_model_code() -> None:
    code = (
        "import sys, humanpref, humanpref.cli; "
        "print([m for m in ('torch', 'open_clip', 'torchvision', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import pytest

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        humanpref.nonsense  # noqa: B018
