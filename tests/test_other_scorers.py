"""The scorers that are not HPS v2, each from its official layout, against an independent computation of its score."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from humanpref import load_scorer
from humanpref.errors import DownloadError, MissingExtraError, ScoreError, WeightsError
from humanpref.preprocess import CLIP_MEAN, CLIP_STD, PREPROCESS, prepare_picture, preprocess, to_pixels
from humanpref.ranking import compare, score
from humanpref.scorers import SPECS
from tests import official_layouts as official
from tests.commands import one_line_error, run
from tests.toys import picture

NAMES = ("hps-v1", "pickscore", "imagereward", "clipscore", "laion-aesthetic")
PROMPTS = ["a red square", "Café, on  a “cat”'s !", "", "cat " * 90]
MEAN, STD = 0.16717362830052426, 1.0333394966054072

official_transform = transforms.Compose(
    [
        transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(CLIP_MEAN, CLIP_STD),
    ]
)
"""OpenAI's, open_clip's and ImageReward's `_transform`, on RGB pictures."""


@pytest.fixture(scope="module")
def pictures(gallery: Path) -> list[Image.Image]:
    """Real pictures, square and not, in colour and grey, one with a palette; odd rests to crop on both axes."""
    opened = [Image.open(path) for path in sorted((gallery / "test").glob("*.jpg"))]
    odd = [image for image in opened if image.width != image.height][:4]
    grey = [image for image in opened if image.mode == "L"][:1]
    square = [image for image in opened if image.width == image.height and image.mode == "RGB"][:3]
    assert len(odd) == 4
    assert grey
    cut = [square[0].crop((0, 0, 300, 227)), square[1].crop((0, 0, 225, 331)), square[2].resize((224, 224))]
    palette = odd[0].quantize(64)
    assert palette.mode == "P"
    return [*square, *odd, *grey, *cut, palette, picture(90, 40)]


def rgb(pictures: list[Image.Image]) -> list[Image.Image]:
    return [image.convert("RGB") for image in pictures]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every official file, small, in a folder of its own."""
    root = tmp_path_factory.mktemp("weights")
    for name in NAMES:
        (root / name).mkdir()
    official.arch_file(root)
    (root / "quick").mkdir()
    official.arch_file(root / "quick", quick_gelu=True)
    openai = {**official.open_clip_model(quick_gelu=True).state_dict(), "context_length": torch.tensor(77)}
    torch.save({"state_dict": openai, "epoch": 1}, root / "hps-v1" / "hpc.pt")
    save_file(official.open_clip_model().state_dict(), root / "clipscore" / "open_clip_model.safetensors")
    save_file(dict(official.transformers_clip().state_dict()), root / "pickscore" / "model.safetensors")
    head = official.aesthetic_head(48).state_dict()
    torch.save(head, root / "laion-aesthetic" / "sac+logos+ava1-l14-linearMSE.pth")
    tower = official.transformers_clip(quick_gelu=True, seed=5).state_dict()
    tower["vision_model.embeddings.position_ids"] = torch.arange(50)[None]  # as transformers saved it then
    save_file(dict(tower), root / "laion-aesthetic" / "clip-vit-large-patch14.safetensors")
    torch.save(official.imagereward_file(*official.blip_pieces()), root / "imagereward" / "ImageReward.pt")
    (root / "imagereward" / "vocab.txt").write_text("\n".join(official.WORDS) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., object]:
    def load_one(name: str, **options: object) -> object:
        quick = name in {"hps-v1", "laion-aesthetic"}
        arch = None if name == "imagereward" else (folder / "quick" if quick else folder) / "arch.json"
        weights = folder / name / Path(str(SPECS[name].file)).name
        return load_scorer(name, **{"weights": weights, "arch": arch, "precision": "fp32", **options})

    return load_one


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-5 of the scale of the scores, which differ from each other by far more."""
    scale = float(expected.abs().max())
    assert found.shape == expected.shape
    assert float(expected.std()) > 1e-3 * scale, "the test could not tell pictures apart"
    difference = float((found - expected).abs().max())
    print(f"largest difference {difference:.2e} of {scale:.3g}")
    assert difference <= 1e-5 * scale


def every(pictures: list[Image.Image]) -> tuple[list[Image.Image], list[str]]:
    """Every picture with every prompt."""
    return [p for p in pictures for _ in PROMPTS], [t for _ in pictures for t in PROMPTS]


@pytest.mark.parametrize(("name", "quick"), [("clipscore", False), ("hps-v1", True)])
def test_clip_scores_are_open_clips(load, pictures: list[Image.Image], name: str, quick: bool) -> None:
    import open_clip

    model = official.open_clip_model(quick_gelu=quick)
    with torch.no_grad():
        images = model.encode_image(torch.stack([official_transform(p) for p in rgb(pictures)]), normalize=True)
        texts = model.encode_text(open_clip.SimpleTokenizer()(PROMPTS), normalize=True)
    scorer = load(name)
    close(scorer.score(*every(pictures)), (100 * images @ texts.T).flatten())
    assert scorer.logit_scale == pytest.approx(math.exp(3.7) / 100)
    wrong = official.open_clip_model(quick_gelu=not quick)
    with torch.no_grad():
        other = wrong.encode_image(torch.stack([official_transform(p) for p in rgb(pictures)]), normalize=True)
    assert (100 * (images - other) @ texts.T).abs().max() > 0.01  # the activation matters here


def test_pickscore_is_transformers(load, pictures: list[Image.Image]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = official.transformers_clip()
    inputs = CLIPImageProcessorPil()(images=rgb(pictures), return_tensors="pt")["pixel_values"]
    tokens = official.clip_tokenizer()(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=inputs, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    scorer = load("pickscore")
    close(scorer.score(*every(pictures)), out.logits_per_image.flatten())
    assert scorer.logit_scale == 1.0
    probabilities = out.logits_per_image[:2, 0].softmax(0)  # as on the model's card
    found = compare(pictures[:2], PROMPTS[0], scorer).probabilities[0][1]
    assert found == pytest.approx(float(probabilities[0]), abs=1e-4)


def test_pickscores_prompts_are_cut_into_transformers_tokens(load) -> None:
    scorer, reference = load("pickscore"), official.clip_tokenizer()
    prompts = [
        *PROMPTS,
        "&amp; <b>don't</b> ΣΊΣΥΦΟΣ İstanbul",
        "a\u00a0b\tc\n",
        "e\u0301te\u0301 ﬁ 12345 ½",
        "猫🐈‍⬛ — ’quoted’",
    ]
    for prompt in prompts:
        expected = reference(prompt, truncation=True, max_length=77)["input_ids"]
        assert [t for t in scorer.tokenizer([prompt])[0].tolist() if t][: len(expected)] == expected, prompt
    assert [scorer.truncated("cat " * n) for n in (75, 76)] == [False, True]


def test_imagereward_is_blip(load, pictures: list[Image.Image]) -> None:
    image_tower, text_tower, head = official.blip_pieces()
    scorer = load("imagereward")
    encoded = scorer.tokenizer.encode_batch(PROMPTS)
    assert [len(e.ids) for e in encoded] == [35] * 4
    with torch.no_grad():
        seen = image_tower(torch.stack([official_transform(p) for p in rgb(pictures)])).last_hidden_state
        rows = []
        for embeds in seen:
            hidden = text_tower(
                torch.tensor([e.ids for e in encoded]),
                attention_mask=torch.tensor([e.attention_mask for e in encoded]),
                encoder_hidden_states=embeds[None].expand(len(PROMPTS), -1, -1),
                encoder_attention_mask=torch.ones(len(PROMPTS), embeds.shape[0], dtype=torch.long),
                is_decoder=False,
            ).last_hidden_state
            rows.append(((head.layers(hidden[:, 0]) - MEAN) / STD).squeeze(-1))
    close(scorer.score(*every(pictures)), torch.cat(rows))
    assert scorer.logit_scale == STD


def test_imagereward_prompts_are_cut_into_berts_tokens(load, folder: Path) -> None:
    """As the authors do: the slow tokenizer of bert-base-uncased with BLIP's two tokens."""
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    reference = BertTokenizerLegacy(str(folder / "imagereward" / "vocab.txt"))
    reference.add_special_tokens({"bos_token": "[DEC]"})
    reference.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    scorer = load("imagereward")
    for prompt in [*PROMPTS, "CAFÉ cats!", "猫 red,square", "[ENC] a [SEP] b [DEC]", "xyz\u00a0q\tcat\u200b", "?"]:
        expected = reference(prompt, padding="max_length", truncation=True, max_length=35)
        found = scorer.tokenizer.encode(prompt)
        assert found.ids == expected["input_ids"], prompt
        assert found.attention_mask == expected["attention_mask"], prompt
    assert [scorer.truncated("cat " * n) for n in (33, 34)] == [False, True]
    note = score([picture()], "cat " * 34, scorer).notes[-1]
    assert note == "the prompt is longer than 35 tokens: only its first 35 were read"


def test_laion_aesthetic_by_hand(load, pictures: list[Image.Image]) -> None:
    tower = official.transformers_clip(quick_gelu=True, seed=5)
    head = official.aesthetic_head(48).layers
    with torch.no_grad():
        inputs = torch.stack([official_transform(p) for p in rgb(pictures)])
        embedding = tower.visual_projection(tower.vision_model(inputs).pooler_output)
        expected = head(embedding / embedding.norm(dim=-1, keepdim=True)).squeeze(-1)
    scorer = load("laion-aesthetic")
    close(scorer.score(pictures, "any"), expected)
    assert torch.equal(scorer.score(pictures[:2], "any"), scorer.score(pictures[:2], ["other", ""]))
    assert not scorer.truncated("cat " * 500)
    assert not hasattr(scorer.model, "token_embedding")


def test_a_score_without_probabilities(load) -> None:
    scorer = load("laion-aesthetic")
    assert scorer.logit_scale is None
    report = score([picture(), picture(seed=1)], "a", scorer)
    assert [r.win_probability for r in report.results] == [None, None]
    assert sorted(r.rank for r in report.results) == [1, 2]
    assert "does not read the prompt" in report.notes[0]
    with pytest.raises(ScoreError, match="laion-aesthetic gives scores but no probabilities"):
        compare([picture(), picture(seed=1)], "a", scorer)


@pytest.mark.parametrize("name", NAMES)
def test_scores_keep_the_contract(load, name: str) -> None:
    scorer = load(name)
    images = [picture(width=60 + 7 * s, seed=s) for s in range(10)]
    prompts = [f"a red square {s % 3}" for s in range(10)]
    together = scorer.score(images, prompts)
    assert together.dtype == torch.float32
    assert together.shape == (10,)
    scale = float(together.abs().max())
    alone = torch.cat([scorer.score(i, p) for i, p in zip(images, prompts, strict=True)])
    assert float((together - alone).abs().max()) < 1e-5 * scale
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scorer.score(images, prompts), together)
    half = load(name, precision="bf16")
    assert float((half.score(images, prompts) - together).abs().max()) < 0.1 * max(1.0, float(together.std()))
    assert scorer.score([], "a").shape == (0,)
    pixels = torch.stack([to_pixels(picture(300, 260, s)) for s in range(2)])
    listed = scorer.score(list(pixels), "a")
    assert torch.allclose(listed, scorer.score(pixels, "a"), atol=1e-5 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_pixels_and_are_right(load, name: str) -> None:
    scorer = load(name)
    generator = torch.Generator().manual_seed(1)
    pixels = (0.3 + 0.4 * torch.rand(2, 3, 40, 52, generator=generator)).requires_grad_()
    prompts = ["a cat", "red square"]
    (gradient,) = torch.autograd.grad(scorer.score(pixels, prompts).sum(), pixels)
    assert gradient.shape == pixels.shape
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) > 0
    direction, step = F.normalize(gradient.flatten(), dim=0).view_as(pixels), 0.02
    with torch.no_grad():
        ahead, behind = (scorer.score(pixels + s * step * direction, prompts).sum() for s in (1, -1))
    assert float(ahead - behind) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)
    scorer.set_grad_checkpointing()
    (again,) = torch.autograd.grad(scorer.score(pixels, prompts).sum(), pixels)
    assert torch.allclose(again, gradient, rtol=1e-3, atol=1e-6 * float(gradient.abs().max()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer.score(pixels, prompts)
    assert scores.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_pixels_score_nearly_as_pictures(load, pictures: list[Image.Image], name: str) -> None:
    """Pixels are resized as floats, pictures by PIL in 8 bits: the difference is that of rounding."""
    scorer = load(name)
    exact = scorer.score(pictures, "a cat")
    soft = torch.cat([scorer.score(to_pixels(p), "a cat") for p in rgb(pictures)])
    difference = (exact - soft).abs() / exact.std()
    assert float(difference.mean()) < 0.02
    assert float(difference.max()) < 0.1  # random networks are as sensitive as they come


def test_pictures_are_prepared_as_officially(pictures: list[Image.Image]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()
    sizes = [(w, h) for w in (224, 225, 227, 300, 512) for h in (224, 226, 231, 40)] + [(1, 7), (7, 1), (900, 3)]
    for image in [*rgb(pictures), *(picture(w, h) for w, h in sizes)]:
        found = prepare_picture(image, PREPROCESS["clip"], "antialias")
        assert (found - official_transform(image)).abs().max() < 1e-6, image.size
        found = prepare_picture(image, PREPROCESS["clip-transformers"], "antialias")
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert (found - expected).abs().max() < 1e-5, image.size
        soft = preprocess(to_pixels(image)[None], PREPROCESS["clip"], "antialias")[0]
        exact = prepare_picture(image, PREPROCESS["clip"], "antialias")
        steps = (soft - exact).abs().amax(dim=(1, 2)) * torch.tensor(CLIP_STD) * 255
        assert float(steps.max()) < 1.5, (image.size, steps)


def test_very_elongated_pictures_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stripe = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3000, 3), dtype=np.uint8))
    whole = prepare_picture(stripe, PREPROCESS["clip"], "antialias")
    monkeypatch.setattr("humanpref.preprocess.LARGE_RESIZE", 1000)
    assert (prepare_picture(stripe, PREPROCESS["clip"], "antialias") - whole).abs().max() < 0.02  # one 8-bit step
    monkeypatch.undo()
    assert prepare_picture(Image.new("RGB", (1, 2_000_000)), PREPROCESS["clip"], "antialias").shape == (3, 224, 224)
    with pytest.raises(ScoreError, match="too elongated"):
        preprocess(torch.zeros(1, 3, 1, 100_000), PREPROCESS["clip"], "antialias")


WHAT = {
    "hps-v1": "a CLIP in open_clip's or OpenAI's layout",
    "pickscore": "a CLIP in transformers' layout",
    "imagereward": "ImageReward.pt",
    "clipscore": "a CLIP in open_clip's or OpenAI's layout",
    "laion-aesthetic": "the head of the LAION aesthetic predictor",
}


@pytest.mark.parametrize("name", [*NAMES, "hps-v2.1"])
def test_the_weights_of_another_scorer_are_named(load, folder: Path, name: str) -> None:
    wanted = WHAT.get(name, WHAT["clipscore"])
    for other in NAMES:
        if WHAT[other] == wanted:
            continue
        weights = folder / other / Path(str(SPECS[other].file)).name
        options = {} if name != "hps-v2.1" else {"arch": folder / "arch.json"}
        with pytest.raises(WeightsError) as caught:
            load(name, weights=weights, **options)
        message = str(caught.value)
        assert f"this is {WHAT[other]}" in message
        assert f"{name} needs {wanted}" in message
        assert "\n" not in message


def test_weights_with_something_missing_or_odd(load, folder: Path, tmp_path: Path) -> None:
    good = official.transformers_clip().state_dict()
    key = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    for change, message in (
        ({key: None}, r"1 of another shape .*attn.in_proj_weight is \(64, 32\)"),
        ({key: torch.zeros(32, 5)}, "the parts of transformer.resblocks.0.attn.in_proj_weight do not fit together"),
        ({"extra": torch.zeros(2)}, "1 unknown"),
        ({"text_projection.weight": None}, r"1 weights missing \(first: text_projection\)"),
    ):
        tensors = {k: v for k, v in {**good, **change}.items() if v is not None}
        torch.save(tensors, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=message):
            load("pickscore", weights=tmp_path / "w.pt")
    good = official.imagereward_file(*official.blip_pieces())
    (tmp_path / "vocab.txt").write_bytes((folder / "imagereward" / "vocab.txt").read_bytes())
    for change, message in (
        ({"blip.visual_encoder.pos_embed": None}, "not ImageReward's weights"),
        (
            {"blip.text_encoder.encoder.layer.1.output.dense.bias": None},
            r"1 weights missing \(first: text.layers.1.fc2",
        ),
        ({"blip.visual_encoder.norm.bias": torch.zeros(7)}, "1 of another shape"),
        ({"blip.visual_encoder.pos_embed": torch.zeros(1, 50, 100)}, "no multiples of 64"),
    ):
        torch.save({k: v for k, v in {**good, **change}.items() if v is not None}, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=message):
            load("imagereward", weights=tmp_path / "w.pt")
    torch.save(good, tmp_path / "w.pt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(WeightsError, match=r"not the vocabulary of these weights \(it has 2 words, they know"):
        load("imagereward", weights=tmp_path / "w.pt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match="not a BERT vocabulary"):
        load("imagereward", weights=tmp_path / "w.pt")


def test_weights_are_copied_out_of_the_file(load, folder: Path, tmp_path: Path) -> None:
    for name in ("pickscore", "imagereward", "laion-aesthetic"):
        copies = tmp_path / name
        copies.mkdir()
        for path in (folder / name).iterdir():
            (copies / path.name).write_bytes(path.read_bytes())
        scorer = load(name, weights=copies / Path(str(SPECS[name].file)).name)
        before = scorer.score(picture(), "a cat")
        for path in copies.iterdir():
            path.write_bytes(b"\0" * path.stat().st_size)
        assert torch.equal(scorer.score(picture(), "a cat"), before)


def test_options_that_are_not_the_scorers_to_choose(load) -> None:
    for name in NAMES:
        with pytest.raises(ScoreError, match=f"{name} resizes with PIL.*--resize no-antialias is for hps-v2"):
            load(name, resize="no-antialias")
    with pytest.raises(ScoreError, match="leave --arch out"):
        load("imagereward", arch="ViT-B-32")


def test_a_missing_extra_says_what_to_install(load, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".", maxsplit=1)[0] in {"tokenizers", "transformers"}:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "humanpref\[imagereward\]"'):
        load("imagereward")
    assert torch.isfinite(load("pickscore").score(picture(), "a cat")).all()  # the others need neither


def test_offline_every_missing_file_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DownloadError, match=r"hps-v1 needs hpc.pt.*by hand.*github.com/tgxs002/align_sd.*--weights"):
        load_scorer("hps-v1")
    for name, file in (("pickscore", "model.safetensors"), ("clipscore", "open_clip_model.safetensors")):
        with pytest.raises(DownloadError, match=rf"{name} needs {file}.*huggingface.co/.*/blob/[0-9a-f]{{40}}/"):
            load_scorer(name)
    with pytest.raises(DownloadError, match=r"imagereward needs ImageReward.pt.*vocabulary.* beside it, as vocab.txt"):
        load_scorer("imagereward")
    for name, beside in (("laion-aesthetic", "clip-vit-large-patch14.safetensors"), ("imagereward", "vocab.txt")):
        alone = tmp_path / name
        alone.mkdir()
        file = Path(str(SPECS[name].file)).name
        (alone / file).write_bytes((folder / name / file).read_bytes())
        with pytest.raises(DownloadError, match=rf"{name} also needs .*put it beside the --weights file, as {beside}"):
            load_scorer(name, weights=alone / file)


def test_the_official_sizes_fit() -> None:
    """Names and shapes at full size, without the numbers: PickScore's ViT-H/14, OpenAI's ViT-L/14, ImageReward."""
    import open_clip
    from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    from humanpref.scorers.blip import BlipSizes, RewardNetwork
    from humanpref.scorers.keys import LAYOUTS, rename

    def sizes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in tensors.items()}

    for arch, width, text_width, layers, text_layers in (
        ("ViT-H-14", 1280, 1024, 32, 24),
        ("ViT-L-14-quickgelu", 1024, 768, 24, 12),
    ):
        vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "patch_size": 14}
        text = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_hidden_layers": text_layers}
        vision, text = {**vision, "num_attention_heads": 16}, {**text, "num_attention_heads": text_width // 64}
        with torch.device("meta"):
            theirs = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=text_width))
            ours = open_clip.CLIP(**open_clip.get_model_config(arch))
        found = rename(theirs.state_dict(), LAYOUTS["transformers-clip"].rules, Path("x"))
        assert sizes(found) == sizes(ours.state_dict()), arch
    with torch.device("meta"):
        vision = BlipVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224
        )
        text = BlipTextConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, encoder_hidden_size=1024, is_decoder=True
        )
        text.vocab_size, text.intermediate_size = 30524, 3072
        towers = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)
        file = official.imagereward_file(*towers, official.aesthetic_head(768))
        found = rename(file, LAYOUTS["imagereward"].rules, Path("x"))
        blip = BlipSizes.of(found, Path("x"))
        assert sizes(found) == sizes(RewardNetwork(blip).state_dict())
    assert blip.image_size == 224
    assert blip.image_tokens == 197


def test_published_figures_and_files_are_in_the_table() -> None:
    expected = {
        "clipscore": (57.1, 65.1, 60.8), "laion-aesthetic": (57.4, 76.8, 56.8), "imagereward": (65.1, 74.0, 61.1),
        "hps-v1": (61.2, 77.6, 66.7), "pickscore": (62.9, 79.8, 70.5),
    }  # fmt: skip
    for name, figures in expected.items():
        spec = SPECS[name]
        found = [100 * spec.published[key] for key in ("imagereward-test", "hpdv2-test", "pickapic-test")]
        assert found == pytest.approx(figures), name
        for item in (spec, *spec.companions):
            assert item.sha256 is None or len(item.sha256) == 64
            assert item.revision is None or len(item.revision) == 40
            assert item.repo is None or item.revision or item.sha256, "neither pinned nor checked"


@pytest.mark.slow
def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    for seed in range(2):
        picture(seed=seed).save(tmp_path / f"{seed}.png")
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    reward = folder / "imagereward" / "ImageReward.pt"
    done = run("score", *images, "-p", "a cat", "-m", "imagereward", "--weights", reward, "--format", "json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    gap = results[0]["score"] - results[1]["score"]
    assert results[0]["win_probability"] == pytest.approx(1 / (1 + math.exp(-STD * gap)), abs=1e-6)
    head = folder / "laion-aesthetic" / "sac+logos+ava1-l14-linearMSE.pth"
    options = ("-p", "a cat", "-m", "laion-aesthetic", "--weights", head, "--arch", folder / "quick" / "arch.json")
    done = run("score", *images, *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.split()[:1] in (["1"], ["2"])] == ["-", "-"]
    one_line_error(run("compare", *images, *options), "laion-aesthetic", "no probabilities")
    one_line_error(run("score", *images, "-p", "a", "-m", "hps-v1"), "hpc.pt", "align_sd", "--weights")
    one_line_error(run("download", "hps-v1"), "hpc.pt", "align_sd")
    models = {row["name"]: row for row in json.loads(run("models", "--format", "json").stdout)}
    assert models["imagereward"]["companions"][0]["file"] == "vocab.txt"
    assert "by hand" in next(line for line in run("models").stdout.splitlines() if line.strip().startswith("hps-v1"))
