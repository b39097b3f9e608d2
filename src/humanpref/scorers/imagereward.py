"""ImageReward (arXiv 2304.05977; official `ImageReward/ImageReward.py`): a BLIP with a reward head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from humanpref.errors import MissingExtraError, WeightsError
from humanpref.scorers import keys
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import LoadOptions, ScorerSpec
from humanpref.scorers.blip import BlipSizes, RewardNetwork
from humanpref.scorers.devices import resolve_device, to_device
from humanpref.scorers.network import (
    DTYPES,
    NetworkScorer,
    Setup,
    convert_matrices,
    convert_rest,
    fp32_keys,
    resolve_precision,
)

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward over the authors' training data."""

BLIP_TOKENS = ("[DEC]", "[ENC]")
"""What BLIP adds to BERT's vocabulary, in this order. No prompt has them but one that spells them out."""


class ImageRewardScorer(NetworkScorer):
    """The reward, standardised by the authors' mean and deviation. Differentiable. The weights are frozen."""

    def __init__(
        self,
        spec: ScorerSpec,
        network: RewardNetwork,
        tokenizer: Any,
        setup: Setup,
        image_size: int,
    ) -> None:
        super().__init__(spec, setup, image_size)
        self.network = network.requires_grad_(False).eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, spec: ScorerSpec, options: LoadOptions) -> ImageRewardScorer:
        """Read the network and BERT's vocabulary (beside it, or published); see `load_scorer`."""
        require_tokenizers()
        place = resolve_device(options.device)
        path = weight_files.locate(spec, options.weights)
        resolved = resolve_precision(options.precision, place, path.stat().st_size)
        dtype = DTYPES[resolved]
        checksum = weight_files.fingerprint(path, spec.sha256 if options.weights is None else None)
        found = weight_files.read_state_dict(path)
        keys.check_layout(found, spec.layout, path, spec.name)
        (vocabulary,) = weight_files.locate_companions(spec, options.weights)
        tensors = keys.rename(convert_matrices(found, dtype, place), keys.LAYOUTS[spec.layout].rules, path)
        sizes = BlipSizes.of(tensors, path)
        with torch.device("meta"):
            network = RewardNetwork(sizes)
        weight_files.check_fit(tensors, network.state_dict(), path, "ImageReward", advice="")
        fp32 = fp32_keys(network)
        network.load_state_dict(convert_rest(tensors, fp32, dtype, place), assign=True)
        network.head.float()
        tokenizer = bert_tokenizer(vocabulary, spec.tokens, sizes.words)
        origin = weight_files.Origin("ImageReward", (checksum, weight_files.fingerprint(vocabulary)))
        setup = Setup(options.resize, resolved, place, options.decode, origin)
        return cls(spec, network, tokenizer, setup, sizes.image_size)

    @property
    def logit_scale(self) -> float:
        """The deviation: training took the raw reward as the logit (official `train.py`, `loss_func`)."""
        return STD

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt has more tokens than are read (35 with the start and end marks)."""
        (encoded,) = self.tokenizer.encode_batch([prompt])  # `encode` does not let other threads run meanwhile
        return bool(encoded.overflowing)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory when gradients flow through `score(pixels, ...)`."""
        self.network.checkpointing = enable

    def _judge(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer.encode_batch(list(prompts))
        ids = to_device(torch.tensor([item.ids for item in encoded]), self.device)
        seen = to_device(torch.tensor([item.attention_mask for item in encoded]), self.device)
        with self._image_precision():
            raw: Tensor = self.network(inputs, ids, seen)
        return (raw - MEAN) / STD


def bert_tokenizer(path: Path, tokens: int, words: int) -> Any:
    """Make BERT's uncased tokenizer with BLIP's two tokens, cutting and padding to `tokens`, from its `vocab.txt`.

    Raises `WeightsError` for a file that is not the vocabulary of a network that knows `words` of them.
    """
    from tokenizers import BertWordPieceTokenizer

    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a BERT vocabulary ({error})") from None
    vocabulary = {word.rstrip("\r"): index for index, word in enumerate(lines if lines[-1] else lines[:-1])}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    if len(vocabulary) + len(BLIP_TOKENS) != words or any(word not in vocabulary for word in special):
        raise WeightsError(
            f"{path}: not the vocabulary of these weights (it has {len(vocabulary):,} words, they know "
            f"{words - len(BLIP_TOKENS):,}); take vocab.txt of bert-base-uncased"
        )
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.add_special_tokens(list(BLIP_TOKENS))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=vocabulary["[PAD]"])
    return tokenizer


def require_tokenizers() -> None:
    """Raise `MissingExtraError` where the extra `imagereward` is not installed."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise MissingExtraError('imagereward needs a BERT tokenizer: pip install "humanpref[imagereward]"') from None
