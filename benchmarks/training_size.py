"""python benchmarks/training_size.py

What one forward and backward pass of the HPS v2 recipe on ViT-H/14 takes, counted, not timed: FLOPs by PyTorch's
counter and the bytes that autograd keeps, on tensors without data (nothing of this size is computed or allocated).
From these and from published peak rates, the time and memory of the real run; docs/training.md has the table.
"""

from __future__ import annotations

import argparse

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from humanpref.scorers.attention import use_fused_self_attention
from humanpref.training.batches import Batch
from humanpref.training.config import TrainConfig
from humanpref.training.model import ClipPreference, apply, free_layers, free_parameters
from humanpref.training.terms import loss_terms

PAIRS, GROUPS = 645_090, 107_515  # HPD v2's training set
PEAK = {"H100 SXM": 989e12, "A100": 312e12}  # dense bf16, as their maker publishes
USED = 0.4  # the share of it that such a run reaches, an assumption


def batch_of(pairs: int, *, groups: bool) -> Batch:
    """16 pairs of 32 images, or groups of 4 images with all their 6 pairs."""
    sizes = (4,) * pairs if groups else (2,) * pairs
    images = sum(sizes)
    owner = torch.arange(len(sizes)).repeat_interleave(sizes[0])
    own = torch.combinations(torch.arange(sizes[0]))
    first = (own[None, :, 0] + torch.arange(0, images, sizes[0])[:, None]).flatten()
    second = (own[None, :, 1] + torch.arange(0, images, sizes[0])[:, None]).flatten()
    return Batch(
        torch.zeros(images, 3, 224, 224), torch.zeros(pairs, 77, dtype=torch.long), torch.arange(images), owner,
        torch.ones(images), sizes, first, second, torch.ones(len(first)),
    )  # fmt: skip


def count(examples: int, *, groups: bool, bf16: bool, checkpointing: bool) -> dict[str, float]:
    """FLOPs of a pass, and bytes of weights, gradients, optimiser and activations."""
    import open_clip

    config = TrainConfig(precision="bf16" if bf16 else "fp32")
    with FakeTensorMode():
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
        use_fused_self_attention(clip)
        free_layers(clip, config.vision_free, config.text_free)
        clip.set_grad_checkpointing(checkpointing)
        model = ClipPreference(clip, config)
        batch = batch_of(examples, groups=groups)
        free, parameters = free_parameters(model)
        own = {id(p) for p in model.parameters()}
        kept: dict[int, tuple[torch.Tensor, int]] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if id(tensor) not in own and not isinstance(tensor, torch.nn.Parameter):
                kept[id(storage)] = (tensor, storage.nbytes())
            return tensor

        with FlopCounterMode(display=False) as flops:
            hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
            with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores, _ = apply(model, batch)
                loss = loss_terms(scores.float(), None, batch, config).mean()
            held = sum(size for _, size in kept.values())
            loss.backward()
    return {"flops": flops.get_total_flops(), "activations": held, "free": free, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    base = count(options.batch, groups=False, bf16=True, checkpointing=False)
    fixed = 4 * base["parameters"] + 4 * base["free"] * 3 + 4 * base["free"]  # weights, gradients, two moments, buckets
    print(f"{base['parameters'] / 1e6:.0f} M weights, {base['free'] / 1e6:.0f} M of them trained")
    for bf16 in (True, False):
        for checkpointing in (False, True):
            found = count(options.batch, groups=False, bf16=bf16, checkpointing=checkpointing)
            total = fixed + found["activations"]
            kind = f"{'bf16' if bf16 else 'fp32'}, {'with' if checkpointing else 'without'} checkpointing"
            kept, work = found["activations"] / 1e9, found["flops"] / options.batch / 1e12
            print(
                f"{kind}: {work:.2f} TFLOP a pair; {kept:.1f} GB kept for {options.batch} pairs, {total / 1e9:.1f} GB "
                "with weights, gradients, optimiser and DDP's buckets"
            )
    for name, groups, number in (("pairs", False, PAIRS), ("groups", True, GROUPS)):
        for checkpointing in (False, True):
            per = count(4, groups=groups, bf16=True, checkpointing=checkpointing)["flops"] / 4
            hours = {gpu: per * number / (peak * USED) / 3600 for gpu, peak in PEAK.items()}
            text = ", ".join(f"{gpu} {h:.2f}" for gpu, h in hours.items())
            kind = f"{name}{', checkpointing' if checkpointing else ''}"
            print(f"an epoch as {kind}: {per * number:.2e} FLOP; GPU-hours: {text}")


if __name__ == "__main__":
    main()
