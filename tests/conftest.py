"""Fixtures shared by the tests. Real data lies outside the repository, at ../shared/data."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")  # a test that passed once passes again; search for more with --hypothesis-profile
if "PYTEST_XDIST_WORKER" in os.environ:  # set before torch is imported: as many workers as cores, one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests that mean to download set their own endpoint in a subprocess

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TINY_ARCH = ROOT / "tests" / "hps_layout_tiny.json"


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through what all tests have imported, a million objects, time and again."""
    gc.freeze()


def skip_or_fail(reason: str) -> None:
    """Skip a test for something that is not here; in CI (HUMANPREF_NO_SKIP set) that is a failure."""
    if os.environ.get("HUMANPREF_NO_SKIP"):
        pytest.fail(f"not allowed to skip: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def gallery() -> Path:
    if not (folder := SHARED / "hpdv2-gallery").is_dir():
        skip_or_fail(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    if not (path := SHARED / "parity" / "hps_layout_tiny.pt").is_file():
        skip_or_fail(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def expected_rows(tiny_checkpoint: Path) -> list[dict[str, object]]:
    return json.loads((tiny_checkpoint.parent / "expected.json").read_text())


@pytest.fixture(scope="session")
def load_tiny(tiny_checkpoint: Path) -> Callable[..., object]:
    """Load the small random checkpoint in the official layout."""
    from humanpref import load_scorer

    def load(**options: object) -> object:
        return load_scorer(
            "hps-v2.1", **{"weights": tiny_checkpoint, "arch": TINY_ARCH, "precision": "fp32", **options}
        )

    return load


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as the official file holds them: flat, in PyTorch's old file layout."""
    from unittest.mock import patch

    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    from humanpref.evaluation.inception import INCEPTION_FILE

    class Unloaded(module.FeatureExtractorInceptionV3):  # its own constructor always loads a file
        def load_state_dict(self, *_: object) -> None:
            pass

    with patch.object(module, "load_state_dict_from_url", lambda *_, **__: {}):
        network = Unloaded("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for value in state.values():
        if value.ndim == 4:  # keeps the spread of what goes through, so that features differ as they do in use
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    state["fc.weight"].normal_(0, 0.05, generator=generator)
    path = tmp_path_factory.mktemp("inception") / INCEPTION_FILE
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(autouse=True)
def score_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test's cache of scores is: never the user's own. Processes it starts inherit it."""
    path = tmp_path_factory.mktemp("cache") / "scores.sqlite"
    monkeypatch.setenv("HUMANPREF_CACHE", str(path))
    return path
