"""The LAION aesthetic predictor: a small head on CLIP's image embedding. It judges the picture alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humanpref.scorers import keys
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import LoadOptions, ScorerSpec
from humanpref.scorers.clip import ClipScorer
from humanpref.scorers.clip_networks import Tokenizer, architecture_name, read_network
from humanpref.scorers.devices import resolve_device
from humanpref.scorers.head import apply_head, reward_head
from humanpref.scorers.network import Setup


class AestheticScorer(ClipScorer):
    """Predicted mean rating, about 1 to 10, of the unit CLIP ViT-L/14 image embedding. Differentiable."""

    def __init__(self, spec: ScorerSpec, model: nn.Module, tokenizer: Tokenizer, head: nn.Module, setup: Setup) -> None:
        super().__init__(spec, model, tokenizer, setup)
        self.head = head.requires_grad_(False).eval()
        for part in ("transformer", "token_embedding", "ln_final", "text"):  # the text tower is not needed
            if hasattr(model, part):
                delattr(model, part)

    @classmethod
    def load(cls, spec: ScorerSpec, options: LoadOptions) -> AestheticScorer:
        """Read the head, and the CLIP whose image tower it was trained on (beside it, or published)."""
        place = resolve_device(options.device)
        path = weight_files.locate(spec, options.weights)
        found = weight_files.read_state_dict(path)
        keys.check_layout(found, spec.layout, path, spec.name)
        tensors = keys.rename(found, keys.LAYOUTS[spec.layout].rules, path)
        (tower,) = weight_files.locate_companions(spec, options.weights)
        name = str(options.arch or spec.arch)
        checksums = (weight_files.fingerprint(path), weight_files.fingerprint(tower))
        model, tokenizer, resolved = read_network(tower, name, None, spec.name, options.precision, place)
        with torch.device("meta"):
            head = reward_head(int(model.visual.output_dim))  # type: ignore[arg-type,union-attr]
        weight_files.check_fit(tensors, head.state_dict(), path, f"of a head for {name}")
        head.load_state_dict({key: t.to(place, torch.float32, copy=True) for key, t in tensors.items()}, assign=True)
        origin = weight_files.Origin(architecture_name(name), checksums)
        return cls(spec, model, tokenizer, head, Setup(options.resize, resolved, place, options.decode, origin))

    @property
    def logit_scale(self) -> None:
        """None: it was trained on ratings of single pictures and says nothing about how often one is preferred."""
        return

    def truncated(self, prompt: str) -> bool:  # noqa: ARG002
        """Tell whether the prompt was cut: never, since it is not read."""
        return False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory when gradients flow through `score(pixels, ...)`."""
        self.model.visual.set_grad_checkpointing(enable)  # type: ignore[operator,union-attr]

    def _judge_vectors(self, vectors: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        return apply_head(self.head, vectors)
