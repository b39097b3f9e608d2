"""The official size: ViT-H-14 with random weights. Memory, not time: that is what benchmarks/ is for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.toys import picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = """
import json, sys, threading, time
from pathlib import Path

peak = [0]
def sample():
    while True:
        status = Path("/proc/self/status").read_text()
        peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]))
        time.sleep(0.005)

threading.Thread(target=sample, daemon=True).start()
from humanpref import load_scorer
scorer = load_scorer("hps-v2.1", weights=sys.argv[1], precision=sys.argv[2])
scores = scorer.score([sys.argv[3]] * 2, "a cat").tolist()
weights = sum(p.numel() * p.element_size() for p in scorer.model.parameters())
print(json.dumps({"anonymous": peak[0] * 1024, "weights": weights, "scores": scores, "precision": scorer.precision}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit_h") / "random.pt"
    subprocess.run([sys.executable, ROOT / "benchmarks" / "make_checkpoint.py", path], check=True)
    assert path.stat().st_size == pytest.approx(1_972_490_005, rel=0.001)
    yield path
    path.unlink()


def test_no_second_copy_of_the_weights_at_any_precision(checkpoint: Path, tmp_path: Path) -> None:
    picture(512, 512).save(tmp_path / "x.png")
    found = {}
    for precision in ("fp32", "bf16"):
        command = [sys.executable, "-c", SCRIPT, str(checkpoint), precision, str(tmp_path / "x.png")]
        found[precision] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found[precision]["anonymous"] < 1.3 * found[precision]["weights"], found
    assert found["fp32"]["weights"] == pytest.approx(2 * found["bf16"]["weights"], rel=0.01)
    assert found["bf16"]["scores"] == pytest.approx(found["fp32"]["scores"], abs=0.005)
