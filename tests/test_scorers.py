from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from humanpref import load_scorer
from humanpref.errors import DownloadError, ImageError, ScoreError, UnknownNameError
from humanpref.preprocess import to_pixels
from humanpref.scorers import SPECS, Scorer
from humanpref.scorers.base import align_prompts, map_ahead, overlapped
from tests.conftest import TINY_ARCH
from tests.toys import picture

PROMPTS = ["a red square", "a café", "", "a red square"]


@pytest.fixture(scope="module")
def tiny(load_tiny):
    return load_tiny()


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"no scorer is called 'hps'; choose from: hps-v2.1, hps-v2.0, .*lite"):
        load_scorer("hps")
    with pytest.raises(UnknownNameError, match="antialias, no-antialias"):
        load_scorer("hps-v2.1", resize="smooth")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="auto, fp32, bf16, fp16"):
        load_scorer("hps-v2.1", precision="int8")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no device is called 'tpux'"):
        load_scorer("hps-v2.1", device="tpux")
    if not torch.cuda.is_available():
        with pytest.raises(UnknownNameError, match="no CUDA device is available"):
            load_scorer("hps-v2.1", device="cuda")


def test_every_scorer_keeps_the_contract(tiny) -> None:
    for scorer in (tiny, load_scorer("lite")):
        assert isinstance(scorer, Scorer)
        assert scorer.spec in SPECS.values()
        images = [picture(seed=s) for s in range(4)]
        scores = scorer.score(images, PROMPTS)
        assert scores.shape == (4,)
        assert scores.dtype == torch.float32
        assert torch.isfinite(scores).all()
        assert scorer.score(images[0], PROMPTS[0]).shape == (1,)
        assert torch.allclose(scorer.score(images[:1], PROMPTS[0]), scores[:1], atol=1e-6)
        assert scorer.score([], "x").shape == (0,)
        assert scorer.logit_scale > 0


def test_all_ways_to_give_an_image_agree(tiny, tmp_path: Path) -> None:
    from humanpref import ImageRef

    path = tmp_path / "x.png"
    picture().save(path)
    pixels = to_pixels(picture())
    for scorer in (tiny, load_scorer("lite")):
        scores = scorer.score([path, str(path), ImageRef(path), picture(), pixels], "a red square")
        scores = torch.cat([scores, scorer.score(pixels[None], "a red square"), scorer.score(pixels, "a red square")])
        assert (scores - scores[0]).abs().max() < 1e-5, scorer.spec.name


def test_scores_do_not_depend_on_the_batch(tiny) -> None:
    images = [picture(width=40 + 7 * s, seed=s) for s in range(21)]
    prompts = [f"prompt {s % 5}" for s in range(21)]
    together = tiny.score(images, prompts)
    alone = torch.cat([tiny.score(i, p) for i, p in zip(images, prompts, strict=True)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_images_and_prompts_must_fit_together(tiny) -> None:
    with pytest.raises(ScoreError, match="2 images but 3 prompts"):
        tiny.score([picture(), picture()], ["a", "b", "c"])
    with pytest.raises(ScoreError, match="a prompt must be text"):
        align_prompts(["a", 3], 2)  # type: ignore[list-item]
    with pytest.raises(ImageError, match="absent.png: no such file"):
        tiny.score([picture(), "absent.png"], "a")
    outcomes = list(tiny.score_each([picture(), "absent.png", picture()], "a"))
    assert [isinstance(o, ImageError) for o in outcomes] == [False, True, False]
    assert outcomes[0] == pytest.approx(outcomes[2], abs=1e-6)


def test_each_distinct_prompt_is_encoded_once(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    original = tiny.model.encode_text
    monkeypatch.setattr(tiny.model, "encode_text", lambda tokens: encoded.append(len(tokens)) or original(tokens))
    tiny._text_cache.clear()
    tiny.score([picture()] * 20, ["one", "two"] * 10)
    tiny.score([picture()] * 3, ["two", "one", "three"])
    assert sum(encoded) == 3
    monkeypatch.setattr("humanpref.scorers.clip.TEXT_CACHE_SIZE", 2)
    tiny.score([picture()] * 4, ["a", "b", "c", "d"])  # more distinct prompts than are remembered
    assert len(tiny._text_cache) == 2


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_second_call_never_touches_the_file(tiny_checkpoint: Path, tmp_path: Path, load_tiny, kind: str) -> None:
    from safetensors.torch import save_file

    tensors = {k: v.float() for k, v in torch.load(tiny_checkpoint, weights_only=True)["state_dict"].items()}
    copy = tmp_path / f"w.{kind}"
    save_file(tensors, copy) if kind == "safetensors" else torch.save(tensors, copy)
    scorer = load_tiny(weights=copy)  # the file's own number format: nothing needs converting
    before = scorer.score(picture(), "a")
    with copy.open("r+b") as file:
        file.write(b"\0" * copy.stat().st_size)
        file.truncate(10)
    assert torch.equal(scorer.score(picture(), "another"), load_tiny().score(picture(), "another"))
    assert torch.equal(scorer.score(picture(), "a"), before)


def test_the_callers_autocast_leaves_no_trace(load_tiny) -> None:
    scorer, fresh = load_tiny(), load_tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scorer.score(torch.rand(1, 3, 64, 64), "p")
        inside = scorer.score([picture()], "p")
    assert torch.equal(scorer.score([picture()], "p"), fresh.score([picture()], "p"))
    assert torch.equal(inside, fresh.score([picture()], "p"))


def test_scoring_from_several_threads(load_tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr("humanpref.scorers.clip.TEXT_CACHE_SIZE", 3)
    scorer = load_tiny()
    prompts = [f"prompt {i % 7}" for i in range(60)]
    expected = {p: float(scorer.score([picture()], p)) for p in set(prompts)}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda p: float(scorer.score([picture()], p)), prompts))
    assert found == pytest.approx([expected[p] for p in prompts], abs=1e-6)


def test_one_lazy_picture_given_many_times(load_tiny, tmp_path: Path) -> None:
    from PIL import Image

    picture(300, 300).save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as lazy:
        scores = load_tiny().score([lazy] * 16, "a")
    assert (scores == scores[0]).all() or torch.allclose(scores, scores[0].expand(16), atol=1e-6)
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "half.jpg") as broken, pytest.raises(ImageError, match="image in memory: damaged"):
        load_tiny().score([broken], "a")


@pytest.mark.parametrize("bad", [None, 3, b"bytes", [None], [b"x"]])
def test_what_is_no_image_is_refused(load_tiny, bad: object) -> None:
    with pytest.raises((ImageError, ScoreError), match="is not an image"):
        load_tiny().score(bad, "a")


def test_one_tensor_keeps_its_gradient_and_a_list_says_it_cannot(load_tiny) -> None:
    scorer, pixels = load_tiny(), torch.rand(3, 40, 40, requires_grad=True)
    assert scorer.score(pixels, "a").requires_grad
    with pytest.raises(ScoreError, match=r"torch\.stack"):
        scorer.score([pixels, pixels], "a")
    assert scorer.score((i for i in [picture(), picture()]), "a").shape == (2,)
    for prompts in (None, 3, [None], [[]]):
        with pytest.raises(ScoreError, match="must be text|prompts must be"):
            scorer.score([picture()], prompts)


@pytest.mark.parametrize(
    "arch",
    ["ViT-S-32-alt", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("RN50-quickgelu", "MobileCLIP2-S0"))],
)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_other_architectures_and_sizes(tmp_path: Path, arch: str, precision: str) -> None:
    import open_clip

    torch.manual_seed(0)
    config = open_clip.get_model_config(arch)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    torch.save(kind(**config).state_dict(), tmp_path / "w.pt")
    scorer = load_scorer("hps-v2.1", weights=tmp_path / "w.pt", arch=arch, precision=precision)
    assert torch.isfinite(scorer.score([picture(), picture(seed=1)], "a cat")).all()


def test_another_image_size_is_taken_from_the_architecture(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import json

    from tests.conftest import TINY_ARCH

    config = json.loads(TINY_ARCH.read_text())
    config["vision_cfg"]["image_size"] = 112
    (tmp_path / "a.json").write_text(json.dumps(config))
    tensors = torch.load(tiny_checkpoint, weights_only=True)["state_dict"]
    tensors["visual.positional_embedding"] = tensors["visual.positional_embedding"][:65].clone()
    torch.save(tensors, tmp_path / "w.pt")
    scorer = load_scorer("hps-v2.1", weights=tmp_path / "w.pt", arch=tmp_path / "a.json", precision="fp32")
    assert torch.isfinite(scorer.score([picture()], "a cat")).all()


def test_truncation_is_noticed_at_the_exact_token(tiny) -> None:
    assert not tiny.truncated("cat " * 75)
    assert tiny.truncated("cat " * 76)
    same = tiny.score([picture()] * 2, ["cat " * 75, "cat " * 75 + "dog"])
    assert same[0] == pytest.approx(float(same[1]), abs=1e-6)


def test_gradients_reach_the_pixels_and_are_right(tiny) -> None:
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 260, 200, requires_grad=True)
    scores = tiny.score(pixels, ["a cat", "a dog"])
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    assert gradient.shape == pixels.shape
    direction = F.normalize(gradient.flatten(), dim=0).view_as(pixels)
    step = 0.5
    with torch.no_grad():
        change = (
            tiny.score(pixels + step * direction, ["a cat", "a dog"])
            - tiny.score(pixels - step * direction, ["a cat", "a dog"])
        ).sum() / (2 * step)
    assert float(change) == pytest.approx(float(gradient.norm()), rel=0.02)
    assert all(p.grad is None for p in tiny.model.parameters())


def test_differentiable_path_agrees_with_the_exact_one(tiny, gallery: Path) -> None:
    from PIL import Image

    paths = sorted((gallery / "test").glob("*.jpg"))[:40]
    pictures = [Image.open(p).convert("RGB") for p in paths]
    paths = [p for p, i in zip(paths, pictures, strict=True) if i.size == (512, 512)]
    pixels = torch.stack([to_pixels(i) for i in pictures if i.size == (512, 512)])
    assert len(paths) > 30
    exact = tiny.score(paths, "a photo")
    soft = tiny.score(pixels.requires_grad_(), "a photo")
    assert soft.requires_grad
    assert (exact - soft.detach()).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_works_under_autocast(tiny, dtype: torch.dtype) -> None:
    pixels = torch.rand(2, 3, 224, 224, requires_grad=True)
    plain = tiny.score(pixels, "a cat").detach()
    with torch.autocast("cpu", dtype=dtype):
        scores = tiny.score(pixels, "a cat")
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    assert scores.dtype == torch.float32
    assert (scores.detach() - plain).abs().max() < 0.02
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_gradient_checkpointing_changes_memory_not_results(load_tiny) -> None:
    scorer = load_tiny()
    pixels = torch.rand(2, 3, 224, 224, requires_grad=True)

    def gradient_and_saved() -> tuple[torch.Tensor, int]:
        saved = [0]

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scores = scorer.score(pixels, "a cat")
        return torch.autograd.grad(scores.sum(), pixels)[0], saved[0]

    plain, plain_saved = gradient_and_saved()
    scorer.set_grad_checkpointing()
    checkpointed, checkpointed_saved = gradient_and_saved()
    assert torch.allclose(plain, checkpointed, atol=1e-7)
    assert checkpointed_saved < 0.6 * plain_saved


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bit_precision_stays_close(load_tiny, tiny, precision: str) -> None:
    half = load_tiny(precision=precision)
    images = [picture(seed=s, width=200, height=200) for s in range(8)]
    assert half.precision == precision
    assert half.model.visual.transformer.resblocks[0].mlp.c_fc.weight.element_size() == 2
    assert half.model.visual.ln_pre.weight.dtype == torch.float32
    assert (half.score(images, "a cat") - tiny.score(images, "a cat")).abs().max() < 0.01
    pixels = torch.rand(1, 3, 224, 224, requires_grad=True)
    (gradient,) = torch.autograd.grad(half.score(pixels, "a cat").sum(), pixels)
    assert torch.isfinite(gradient).all()


def test_fused_attention_equals_pytorchs_own() -> None:
    from humanpref.scorers.attention import SelfAttention

    torch.manual_seed(0)
    original = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(3, 7, 32)
    mask = torch.full((7, 7), float("-inf")).triu_(1)
    for attn_mask in (None, mask):
        expected = original(x, x, x, need_weights=False, attn_mask=attn_mask)[0]
        assert torch.allclose(SelfAttention(original)(x, x, x, attn_mask=attn_mask)[0], expected, atol=1e-6)


def test_map_ahead_keeps_order_and_bounds_what_is_ahead() -> None:
    started: list[int] = []

    def note(i: int) -> int:
        started.append(i)
        return i

    results = map_ahead(note, range(50), ahead=4)
    assert next(results) == 0
    assert len(started) <= 6
    assert list(results) == list(range(1, 50))
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda i: 1 // i, [1, 0, 2], ahead=2))


def test_lite_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ScoreError, match="not differentiable"):
        load_scorer("lite").score(torch.rand(1, 3, 32, 32, requires_grad=True), "a")
    with pytest.raises(ScoreError, match="leave these options out"):
        load_scorer("lite", arch="ViT-B-32")
    with pytest.raises(ScoreError, match="leave these options out"):
        load_scorer("lite", device="cuda:9")


def test_offline_without_weights_says_what_to_do() -> None:
    with pytest.raises(DownloadError, match=r"HPS_v2.1_compressed.pt.*--weights FILE.*--model lite"):
        load_scorer("hps-v2.1")


def test_overlapped_begins_ahead_and_keeps_the_order() -> None:
    log: list[str] = []

    def begun() -> Iterator[Callable[[], int]]:
        for n in range(4):
            log.append(f"begin {n}")
            yield lambda n=n: log.append(f"wait {n}") or n

    assert list(overlapped(begun(), 0)) == [0, 1, 2, 3]
    assert log == [f"{what} {n}" for n in range(4) for what in ("begin", "wait")]
    log.clear()
    assert list(overlapped(begun(), 2)) == [0, 1, 2, 3]
    assert log == ["begin 0", "begin 1", "begin 2", "wait 0", "begin 3", "wait 1", "wait 2", "wait 3"]
    assert list(overlapped([], 3)) == []


def test_overlapped_gives_nothing_in_place_of_what_failed() -> None:
    def fail() -> int:
        raise ValueError("waiting")

    found = overlapped([lambda: 0, fail, lambda: 2, lambda: 3], 1)
    assert next(found) == 0
    with pytest.raises(ValueError, match="waiting"):
        next(found)

    def begun() -> Iterator[Callable[[], int]]:
        yield lambda: 0
        yield lambda: 1
        raise ValueError("beginning")

    found = overlapped(begun(), 1)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="beginning"):
        next(found)


def test_batches_in_flight_do_not_move_scores(load_tiny) -> None:
    scorer = load_tiny()
    images = [picture(seed=s) if s % 7 else Path("absent.png") for s in range(30)]
    prompts = [f"prompt {s % 5}" for s in range(30)]
    one = list(scorer.score_each(images, prompts))
    scorer.in_flight = 2
    other = list(scorer.score_each(images, prompts))
    assert [str(score) for score in one] == [str(score) for score in other]
    assert sum(isinstance(score, ImageError) for score in one) == 5


def test_a_tokenizer_does_not_remember_all_words(load_tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tiny().tokenizer
    assert len(tokenizer.cache) == 2
    prompts = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)} and {'long' * 20}" for n in range(50)]
    expected = tokenizer(prompts)
    assert len(tokenizer.cache) == 53
    assert not any(len(word) > 64 for word in tokenizer.cache)
    monkeypatch.setattr("humanpref.scorers.clip_tokens.MOST_WORDS", 10)
    other = load_tiny().tokenizer
    assert torch.equal(other(prompts), expected)
    assert torch.equal(other(prompts), expected)
    assert len(other.cache) == 10


@pytest.mark.slow
def test_a_compiled_tower_says_the_same(load_tiny) -> None:
    plain, compiled = load_tiny(), load_tiny(compiled=True)
    images = [picture(seed=s) for s in range(19)]
    assert torch.allclose(compiled.score(images, "a"), plain.score(images, "a"), atol=1e-5)
    with torch.no_grad():  # more than a batch at once
        pixels = torch.rand(11, 3, 224, 224)
        assert torch.allclose(compiled.embed_pixels(pixels), plain.embed_pixels(pixels), atol=1e-5)
    pixels = torch.rand(2, 3, 224, 224, requires_grad=True)
    gradients = [torch.autograd.grad(s.score(pixels, "a").sum(), pixels)[0] for s in (plain, compiled)]
    assert torch.equal(*gradients)
    assert f" compiled={torch.__version__} " in compiled.identity
    assert "compiled" not in plain.identity


@pytest.mark.slow
def test_a_compiled_tower_in_16_bits(load_tiny) -> None:
    plain, compiled = load_tiny(precision="bf16"), load_tiny(precision="bf16", compiled=True)
    images = [picture(seed=s) for s in range(9)]
    assert torch.allclose(compiled.score(images, "a"), plain.score(images, "a"), atol=5e-3)


@pytest.mark.slow
def test_where_nothing_can_be_compiled_it_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    code = "from humanpref.cli import main; main()"
    (tmp_path / "images").mkdir()
    picture().save(tmp_path / "images" / "x.png")
    run = subprocess.run(
        [sys.executable, "-c", code, "batch", str(tmp_path / "images"), str(tmp_path / "out"), "-m", "hps-v2.1",
         "--weights", str(tiny_checkpoint), "--arch", str(TINY_ARCH), "--prompt", "a", "--compiled"],
        env=os.environ | {"PATH": "", "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "torch.compile does not work here" in run.stderr
    assert "leave --compiled out" in run.stderr
    assert "Traceback" not in run.stderr
