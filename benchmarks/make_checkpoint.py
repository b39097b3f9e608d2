"""Make a random checkpoint of the official HPS v2 size and layout (1.97 GB, fp16, ViT-H-14), for measuring speed.

python benchmarks/make_checkpoint.py /tmp/vit_h_random.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from open_clip import CLIP, get_model_config


def make_checkpoint(path: Path, arch: str = "ViT-H-14", seed: int = 0) -> None:
    """Write `{"state_dict": ...}` with open_clip's own initialisation, in fp16, and HPS's logit scale of 100."""
    torch.manual_seed(seed)
    model = CLIP(**get_model_config(arch))
    torch.nn.init.constant_(model.logit_scale, 4.6052)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "class_embedding" in name:
            assert float(parameter.detach().std()) > 0, f"{name} was left uninitialised"
    state = {key: value.detach().half() for key, value in model.state_dict().items()}
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    part = path.with_name(path.name + ".part")
    torch.save({"state_dict": state}, part)
    part.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--arch", default="ViT-H-14")
    args = parser.parse_args()
    make_checkpoint(args.path, args.arch)
    print(args.path, f"{args.path.stat().st_size / 1e9:.2f} GB")
