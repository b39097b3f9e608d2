"""On a CUDA device: the same scores as the official implementation. Run with: pytest -m gpu"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.toys import picture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


# fp32 on a GPU is not bit for bit: cuDNN may take TF32 for the patch convolution
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("auto", 5e-3), ("bf16", 2e-2)])
def test_parity(load_tiny, gallery: Path, expected_rows, precision: str, tolerance: float) -> None:
    scorer = load_tiny(device="cuda", precision=precision)
    assert scorer.precision == {"auto": "fp16"}.get(precision, precision)
    found = scorer.score([gallery / "test" / r["image"] for r in expected_rows], [r["prompt"] for r in expected_rows])
    assert (found - torch.tensor([r["score"] for r in expected_rows])).abs().max() < tolerance


def test_gradients(load_tiny) -> None:
    scorer = load_tiny(device="cuda", precision="auto")
    pixels = torch.rand(2, 3, 224, 224, device="cuda", requires_grad=True)
    (gradient,) = torch.autograd.grad(scorer.score(pixels, "a cat").sum(), pixels)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    assert scorer.score([picture()], "a cat").device.type == "cpu"
