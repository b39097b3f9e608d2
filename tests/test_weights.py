from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from humanpref import load_scorer
from humanpref.errors import UnknownNameError, WeightsError
from humanpref.scorers.weights import read_state_dict, verify
from tests.conftest import TINY_ARCH
from tests.toys import picture

PROMPT = "a red square"


@pytest.fixture(scope="module")
def tensors(tiny_checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(tiny_checkpoint, weights_only=True)["state_dict"]


def score(path: Path, **options: object) -> float:
    scorer = load_scorer("hps-v2.1", weights=path, **{"arch": TINY_ARCH, "precision": "fp32", **options})
    return float(scorer.score(picture(), PROMPT))


def test_every_layout_gives_the_same_score(
    tmp_path: Path, tensors: dict[str, torch.Tensor], tiny_checkpoint: Path
) -> None:
    expected = score(tiny_checkpoint)
    torch.save(tensors, tmp_path / "flat.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 3}, tmp_path / "ddp.pt")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "x.safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "misnamed.pt")
    torch.save({"state_dict": tensors}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {k: v.float() for k, v in tensors.items()}}, tmp_path / "fp32.pt")
    optimiser = {"step": np.float64(4000), "count": np.int64(3), "exp_avg": torch.zeros(4)}
    torch.save({"state_dict": tensors, "optimizer": optimiser, "name": "run"}, tmp_path / "with_optimiser.pt")
    for name in ("flat.pt", "ddp.pt", "x.safetensors", "misnamed.pt", "old.pt", "fp32.pt", "with_optimiser.pt"):
        assert score(tmp_path / name) == expected, name


def test_numpy_scalars_of_old_numpy_are_read(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The official HPS_v2.pt was written when numpy's scalars lived in `numpy.core`."""
    torch.save({"state_dict": tensors, "loss": np.float64(0.5)}, tmp_path / "new.pt", pickle_protocol=2)
    content = (tmp_path / "new.pt").read_bytes()
    assert b"numpy._core.multiarray" in content
    import zipfile

    with zipfile.ZipFile(tmp_path / "new.pt") as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_state_dict(tmp_path / "old.pt").keys() == tensors.keys()


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": tensors, "evil": RunsCode(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"state_dict": RunsCode(tmp_path / "ran")}, protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(WeightsError, match="refused, because loading it could run code|not a PyTorch") as caught:
            score(tmp_path / name)
        assert name in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path: Path, tiny_checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    whole = tiny_checkpoint.read_bytes()
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
    parts = {
        "half.pt": whole[: len(whole) // 2],
        "head.pt": whole[:100],
        "empty.pt": b"",
        "text.pt": b"<html>404 not found</html>",
        "half.safetensors": (tmp_path / "w.safetensors").read_bytes()[:100_000],
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=r"damaged|half-downloaded|empty|not a PyTorch") as caught:
            score(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    for content in ({"epoch": 3}, {"state_dict": 5}, {"state_dict": [1]}, [1, 2]):
        torch.save(content, tmp_path / "none.pt")
        with pytest.raises(WeightsError, match="holds no weights"):
            score(tmp_path / "none.pt")
    for odd in (torch.ones(80, 64, dtype=torch.int32), torch.ones(80, 64, dtype=torch.complex64)):
        torch.save({**tensors, "visual.proj": odd}, tmp_path / "odd.pt")
        with pytest.raises(WeightsError, match=r"1 not plain numbers of the right kind \(first: visual.proj"):
            score(tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match="no such file"):
        score(tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        score(tmp_path)


def test_weights_that_do_not_fit(tmp_path: Path, tensors: dict[str, torch.Tensor], tiny_checkpoint: Path) -> None:
    missing = {k: v for k, v in tensors.items() if k != "visual.proj"}
    torch.save({"state_dict": missing}, tmp_path / "missing.pt")
    with pytest.raises(WeightsError, match=r"1 weights missing \(first: visual.proj\)"):
        score(tmp_path / "missing.pt")
    torch.save({"state_dict": {**tensors, "head.weight": torch.zeros(3)}}, tmp_path / "extra.pt")
    with pytest.raises(WeightsError, match=r"1 unknown \(first: head.weight\)"):
        score(tmp_path / "extra.pt")
    torch.save({"state_dict": {**tensors, "visual.proj": torch.zeros(3, 3)}}, tmp_path / "shape.pt")
    with pytest.raises(WeightsError, match=r"visual.proj is \(3, 3\), not \(80, 64\)"):
        score(tmp_path / "shape.pt")
    with pytest.raises(WeightsError, match=r"does not fit architecture ViT-B-32.*--arch"):
        score(tiny_checkpoint, arch="ViT-B-32")


def test_architectures(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match="no architecture 'ViT-Z'"):
        score(tiny_checkpoint, arch="ViT-Z")
    with pytest.raises(WeightsError, match="no such architecture file"):
        score(tiny_checkpoint, arch=tmp_path / "absent.json")
    for content, message in (
        ("{", "not a JSON"),
        ("[]", "needs embed_dim"),
        ('{"embed_dim": 8, "vision_cfg": {"wdth": 3}, "text_cfg": {}}', "not one open_clip can build"),
        ('{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": "x"}}', "own text tower"),
        ('{"embed_dim": 8, "vision_cfg": null, "text_cfg": 5}', "must be objects"),
        ('{"embed_dim": 8, "vision_cfg": {"patch_size": 0}, "text_cfg": {}}', "not one open_clip can build"),
        ("[" * 100_000, "not a JSON"),
    ):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(WeightsError, match=message):
            score(tiny_checkpoint, arch=tmp_path / "a.json")
    (tmp_path / "wrapped.json").write_text(json.dumps({"model_cfg": json.loads(TINY_ARCH.read_text())}))
    assert score(tiny_checkpoint, arch=tmp_path / "wrapped.json") == score(tiny_checkpoint)


def test_a_second_size_by_its_open_clip_name(tmp_path: Path) -> None:
    """A checkpoint of another open_clip architecture, scored by open_clip itself and by us."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config("ViT-S-32-alt")).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "s32.pt")
    scorer = load_scorer("hps-v2.1", weights=tmp_path / "s32.pt", arch="ViT-S-32-alt", precision="fp32")
    pixels = torch.rand(2, 3, 224, 224)
    tokens = open_clip.SimpleTokenizer()([PROMPT])
    from humanpref.preprocess import PREPROCESS, preprocess

    inputs = preprocess(pixels, PREPROCESS["hps-v2"], "antialias")
    with torch.no_grad():
        expected = (model.encode_image(inputs, normalize=True) @ model.encode_text(tokens, normalize=True).T)[:, 0]
    assert torch.allclose(scorer.score(pixels, PROMPT), expected, atol=1e-6)


def test_checksum(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    good = hashlib.sha256(b"weights").hexdigest()
    verify(path, None)
    verify(path, good)
    verify(path, good)  # remembered
    with pytest.raises(WeightsError, match="the published file has 0000"):
        verify(path, "0" * 64)
    path.write_bytes(b"changed")  # what was remembered no longer holds
    with pytest.raises(WeightsError, match="delete it and download again"):
        verify(path, good)
