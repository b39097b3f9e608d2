"""A head that was trained on a frozen CLIP's embeddings (`humanpref train --config head`), as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from humanpref.errors import WeightsError
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import LoadOptions, ScorerSpec
from humanpref.scorers.clip import ClipScorer
from humanpref.scorers.clip_networks import Tokenizer, architecture, architecture_name, fresh_network, read_network
from humanpref.scorers.devices import resolve_device
from humanpref.scorers.head import PreferenceHead
from humanpref.scorers.local import read_description
from humanpref.scorers.network import Setup


class HeadScorer(ClipScorer):
    """Scores in logits: P(a preferred to b) = sigmoid(score_a - score_b). Differentiable."""

    def __init__(
        self, spec: ScorerSpec, model: nn.Module, tokenizer: Tokenizer, head: PreferenceHead, setup: Setup
    ) -> None:
        super().__init__(spec, model, tokenizer, setup)
        self.head = head.requires_grad_(False).eval()

    @classmethod
    def load(cls, spec: ScorerSpec, options: LoadOptions) -> HeadScorer:
        """Read the head, and the CLIP it was trained on: the file or scorer its description names, checked by SHA-256.

        The weights of `options` are that CLIP's file where it has moved. Raises `WeightsError`.
        """
        place = resolve_device(options.device)
        assert spec.path is not None
        path = weight_files.given_file(spec.path)
        about = read_description(path.parent)["head"]
        name = str(options.arch or spec.arch)
        checksums = [weight_files.fingerprint(path)]
        if about["base_sha256"] is None:
            model, tokenizer = fresh_network(architecture(name), int(about["seed"]))
            model.to(place)
            resolved = "fp32"
        else:
            tower = _base(about, options.weights)
            checksum = weight_files.fingerprint(tower)
            if checksum() != about["base_sha256"]:
                raise WeightsError(
                    f"{tower}: is not the CLIP that {spec.name} was trained on (SHA-256 {checksum()[:16]}..., wanted "
                    f"{about['base_sha256'][:16]}...); give that one with --weights"
                )
            checksums.append(checksum)
            model, tokenizer, resolved = read_network(tower, name, None, spec.name, options.precision, place)
        head = PreferenceHead(
            int(about["width"]),
            hidden=int(about["hidden"]),
            reads_prompt=bool(about["reads_prompt"]),
            uncertain=bool(about["uncertain"]),
        )
        tensors = weight_files.read_state_dict(path)
        weight_files.check_fit(tensors, head.state_dict(), path, "of the head it describes", "Export the model again")
        head.load_state_dict(tensors)
        origin = weight_files.Origin(architecture_name(name), tuple(checksums))
        setup = Setup(options.resize, resolved, place, options.decode, origin)
        return cls(spec, model, tokenizer, head.to(place), setup)

    @property
    def logit_scale(self) -> float:
        """1: the scores are logits already."""
        return 1.0

    def _judge_vectors(self, vectors: Tensor, prompts: Sequence[str]) -> Tensor:
        text = self.embed_text(prompts) if self.head.reads_prompt else vectors
        entries = torch.arange(len(vectors), device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            scores, _ = self.head(vectors, text, entries, entries)
        found: Tensor = scores.float()
        return found


def _base(about: dict[str, object], weights: str | Path | None) -> Path:
    """Where the CLIP under the head is: what the user names, else the scorer or file it was trained with."""
    from humanpref.scorers import SPECS

    if weights is not None:
        return weight_files.given_file(weights)
    base = str(about["base"])
    return weight_files.locate(SPECS[base], None) if base in SPECS else weight_files.given_file(base)
