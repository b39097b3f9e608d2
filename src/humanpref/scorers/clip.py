"""Scorers that are a CLIP: cosine of image and text embeddings. One class, several rows (`humanpref.scorers.SPECS`)."""

from __future__ import annotations

import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humanpref.errors import ImageError
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import LoadOptions, ScorerSpec, merge
from humanpref.scorers.clip_networks import Tokenizer, architecture_name, image_size, read_network
from humanpref.scorers.compiled import Encode, compile_for_batches
from humanpref.scorers.devices import bring_back, resolve_device, to_device
from humanpref.scorers.network import (
    NetworkInput,
    NetworkScorer,
    Setup,
)

TEXT_CACHE_SIZE = 4096

FACTORS: Mapping[str, float | None] = MappingProxyType(
    {"cosine": 1.0, "100 x cosine": 100.0, "logit scale x cosine": None}
)
"""What the cosine is multiplied by on each published scale; None: the checkpoint's own logit scale."""


class ClipScorer(NetworkScorer):
    """Cosine of CLIP embeddings, times the factor of the row's scale.

    HPS v2: arXiv 2306.09341 section 4, official `hpsv2/img_score.py`. HPS v1: `evaluate_hps.py` of tgxs002/align_sd.
    PickScore: the card of yuvalkirstain/PickScore_v1. Differentiable with respect to pixels. The weights are frozen.
    """

    def __init__(self, spec: ScorerSpec, model: nn.Module, tokenizer: Tokenizer, setup: Setup) -> None:
        super().__init__(spec, setup, image_size(model))
        self.model = model.requires_grad_(False).eval()
        self._compiled: Encode | None = None
        self.tokenizer = tokenizer
        self._text_lock = threading.Lock()
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()
        factor = FACTORS.get(spec.scale, 1.0)
        self._factor = self._temperature() if factor is None else factor

    @classmethod
    def load(cls, spec: ScorerSpec, options: LoadOptions) -> ClipScorer:
        """Build the network without initialising it and put the checkpoint's tensors in; see `load_scorer`."""
        place = resolve_device(options.device)
        path = weight_files.locate(spec, options.weights)
        name = str(options.arch or spec.arch)
        checksum = weight_files.fingerprint(path, spec.sha256 if options.weights is None else None)
        model, tokenizer, resolved = read_network(path, name, spec.layout, spec.name, options.precision, place)
        if spec.layout == "transformers-clip":
            tokenizer.clean_fn = transformers_clean  # type: ignore[attr-defined]  # SimpleTokenizer's own attribute
        origin = weight_files.Origin(architecture_name(name), (checksum,))
        return cls(spec, model, tokenizer, Setup(options.resize, resolved, place, options.decode, origin))

    def _settings(self) -> dict[str, str]:
        compiled = {} if self._compiled is None else {"compiled": torch.__version__}
        return {**super()._settings(), **compiled}

    @property
    def logit_scale(self) -> float | None:
        """exp of the checkpoint's own logit scale, clamped to at most 100 as in training, for the published scale.

        1 where the score is multiplied by it already.
        """
        if FACTORS.get(self.spec.scale, 1.0) is None:
            return 1.0
        return min(self._temperature(), 100.0) / self._factor

    def _temperature(self) -> float:
        return float(self.model.logit_scale.float().exp().reshape(()))  # type: ignore[operator]

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt has more tokens than the text tower reads (77 with the start and end marks)."""
        encode = getattr(self.tokenizer, "encode", None)
        return encode is not None and len(encode(prompt)) + 2 > int(self.model.context_length)  # type: ignore[arg-type]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory when gradients flow through `score(pixels, ...)`."""
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts -> unit vectors (n, d), float32. Each distinct prompt is encoded once and remembered.

        The caller's autocast does not apply, since what is remembered outlives it. Safe to call from several threads.
        """
        unique = dict.fromkeys(prompts)
        with self._text_lock:
            known = {prompt: self._text_cache[prompt] for prompt in unique if prompt in self._text_cache}
        new = [prompt for prompt in unique if prompt not in known]
        for start in range(0, len(new), 32):
            chunk = new[start : start + 32]
            with torch.no_grad(), self._own_precision():
                tokens = to_device(self.tokenizer(chunk), self.device)
                encoded = self.model.encode_text(tokens)  # type: ignore[operator]
            vectors = F.normalize(encoded.float(), dim=-1)
            known.update({prompt: vector.clone() for prompt, vector in zip(chunk, vectors, strict=True)})
        with self._text_lock:
            for prompt in unique:
                self._text_cache[prompt] = known[prompt]
                self._text_cache.move_to_end(prompt)
            while len(self._text_cache) > TEXT_CACHE_SIZE:
                self._text_cache.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])

    def embed_pixels(self, inputs: Tensor) -> Tensor:
        """Encode preprocessed images (n, 3, size, size) -> unit vectors (n, d), float32, keeping gradients.

        In fp32 the caller's autocast, if any, applies.
        """
        encode = self.model.encode_image if self._compiled is None or torch.is_grad_enabled() else self._compiled
        with self._image_precision():
            encoded = encode(inputs)  # type: ignore[operator]
        return F.normalize(encoded.float(), dim=-1)

    @property
    def embedding_width(self) -> int:
        """The length d of the vectors that images become."""
        return int(self.model.visual.output_dim)  # type: ignore[arg-type,union-attr]

    def begin_with_vectors(
        self, batch: Sequence[NetworkInput], prompts: Sequence[str]
    ) -> Callable[[], tuple[list[float | ImageError], Tensor]]:
        """As `begin`; also the unit vectors (m, d), float32 on the CPU, of the m images that have scores."""
        inputs, errors = self.collate(batch)
        good = [prompt for n, prompt in enumerate(prompts) if n not in errors]
        if not good:
            return lambda: (merge((), errors), torch.empty(0, self.embedding_width))
        with torch.no_grad(), self._own_precision():
            vectors = self.embed_pixels(inputs)
            scores, copied = bring_back(self._judge_vectors(vectors, good)), bring_back(vectors)
        return lambda: (merge(scores().tolist(), errors), copied())

    def compile(self) -> None:
        """Compile the image tower for whole batches (torch.compile); what gradients flow through stays as it is.

        Raises `ScoreError` where that does not work here.
        """
        shape = (self.batch_size, 3, self._preprocess.size, self._preprocess.size)
        with torch.no_grad(), self._image_precision():
            self._compiled = compile_for_batches(self.model.encode_image, shape, self.device)  # type: ignore[arg-type]

    def _judge(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._judge_vectors(self.embed_pixels(inputs), prompts)

    def _judge_vectors(self, vectors: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images by their unit vectors (n, d), float32, with one prompt each -> (n,), float32."""
        return (vectors * self.embed_text(prompts)).sum(dim=-1) * self._factor


def transformers_clean(text: str) -> str:
    """Normalise a prompt as transformers' CLIP tokenizer does: NFC, single spaces, lower case letter by letter.

    open_clip's also mends broken encodings, unescapes HTML and straightens quotation marks.
    """
    return "".join(letter.lower() for letter in " ".join(unicodedata.normalize("NFC", text).split()))
