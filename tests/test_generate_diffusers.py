"""Images by a real (tiny, random) Stable Diffusion pipeline of diffusers, read from disk."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from humanpref.generate import GenerateError, Prompt, generate, make_backend
from tests.generating import ROOT, command, contents, environment, one_line, rows
from tests.tiny_pipeline import write_pipeline

ASKED = tuple(Prompt(f"a cat number {n}, in oil", f"p{n}") for n in range(7))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """So small a model is only slowed by threads, a hundredfold where the processors are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Run with options -> the SHA-256 of each prompt's image."""
    count = iter(range(99))

    def run(options: str = "", asked: tuple[Prompt, ...] = ASKED, model: Path = tiny, **more: Any) -> dict[str, str]:
        out = tmp_path / f"out{next(count)}"
        report = generate(
            asked,
            [
                make_backend(
                    f"diffusers:{model}{options}" if "steps=" in options else f"diffusers:{model},steps=3{options}"
                )
            ],
            out,
            **more,
        )
        assert report.made == len(asked), rows(out)
        last.clear()
        last.update({row["prompt_id"]: np.asarray(Image.open(out / row["path"]), dtype=int) for row in rows(out)})
        return {row["prompt_id"]: row["sha256"] for row in rows(out)}

    return run


last: dict[str, np.ndarray] = {}


def assert_same_but_for_rounding(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Kernels for another batch size add in another order: one level of 255, in one value of a thousand at most."""
    for name, pixels in one.items():
        difference = np.abs(pixels - other[name])
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("options", ["", ",scheduler=EulerAncestralDiscreteScheduler"])
def test_an_image_depends_on_neither_batch_nor_order(run: Callable[..., dict[str, str]], options: str) -> None:
    asked = ASKED[:5]
    single = run(f"{options},batch_size=1", asked)
    pixels = dict(last)
    assert len(set(single.values())) == 5
    assert all(np.abs(pixels["p0"] - pixels[f"p{n}"]).mean() > 10 for n in range(1, 5))
    assert run(f"{options},batch_size=1", asked[::-1]) == single  # one at a time: byte for byte
    assert run(f"{options},batch_size=1", asked[3:4]) == {"p3": single["p3"]}
    for size in (2, 3, 5):
        run(f"{options},batch_size={size}", asked)
        assert_same_but_for_rounding(pixels, dict(last))
    run(f"{options},batch_size=4", asked[::-1])
    assert_same_but_for_rounding(pixels, dict(last))


def test_every_setting_shows(run: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    one = ASKED[:1]
    options = (
        "",
        ",steps=4",
        ",guidance=2",
        ",negative_prompt=ugly, bad",
        ",scheduler=DDIMScheduler",
        ",dtype=bfloat16",
    )
    found = {option: run(option, one)["p0"] for option in options}
    assert len(set(found.values())) == len(options)
    assert run(asked=one, seed=1)["p0"] != found[""]
    run(",size=48x32", one)
    (row,) = rows(tmp_path / "out7")
    assert (row["width"], row["height"]) == (48, 32)
    assert Image.open(tmp_path / "out7" / row["path"]).size == (48, 32)
    assert row["settings"]["size"] == "48x32"
    assert row["made_with"].startswith("diffusers 0.")


def test_lora(tiny: Path, run: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = DiffusionPipeline.from_pretrained(tiny, use_safetensors=True).unet
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(unet))
    lora = tmp_path / "pytorch_lora_weights.safetensors"
    plain, one = run(asked=ASKED[:1])["p0"], ASKED[:1]
    assert len({plain, run(f",lora={lora}", one)["p0"], run(f",lora={lora},lora_scale=0.5", one)["p0"]}) == 3
    assert len(rows(tmp_path / "out1")[0]["settings"]["lora_sha256"]) == 64
    with pytest.raises(GenerateError, match="from a .safetensors file only"):
        run(f",lora={tmp_path / 'lora.bin'}")
    (tmp_path / "bad.safetensors").write_bytes(b"garbage")
    with pytest.raises(GenerateError, match="bad.safetensors: cannot be applied"):
        run(f",lora={tmp_path / 'bad.safetensors'}")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_halves_the_batch(tiny: Path, tmp_path: Path, error: Exception) -> None:
    generate(ASKED, [make_backend(f"diffusers:{tiny},steps=2,batch_size=1")], tmp_path / "whole")
    backend = make_backend(f"diffusers:{tiny},steps=2,batch_size=7")
    backend._pipeline, sizes, told = backend._load(), [], []
    call = backend._call

    def little_memory(batch: list[Any]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return call(batch)

    backend._call = little_memory
    report = generate(ASKED, [backend], tmp_path / "out", on_note=told.append)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert told == [
        "tiny-sd: out of memory with 7 images at a time; going on with 3",
        "tiny-sd: out of memory with 3 images at a time; going on with 1",
    ]
    assert list(report.notes) == told
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_out_of_memory_with_one_image_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    backend = make_backend(f"diffusers:{tiny},batch_size=2")
    backend._pipeline = backend._load()

    def no_memory(_: object) -> Any:
        raise MemoryError

    backend._call = no_memory
    with pytest.raises(GenerateError, match="out of memory with one image at a time; choose a smaller --size"):
        generate(ASKED, [backend], tmp_path)


def test_one_prompt_that_fails_is_not_the_others_fault(tiny: Path, tmp_path: Path) -> None:
    backend = make_backend(f"diffusers:{tiny},steps=2,batch_size=4")
    backend._pipeline = backend._load()
    call = backend._call

    def picky(batch: list[Any]) -> Any:
        if any("number 1" in request.prompt.text for request in batch):
            raise ValueError("not\nthis one")
        return call(batch)

    backend._call = picky
    report = generate(ASKED, [backend], tmp_path)
    assert (report.made, report.failed) == (6, 1)
    assert [row["reason"] for row in rows(tmp_path) if row["status"] == "failed"] == ["ValueError: not this one"]


def test_safety_checker_is_a_refusal(tiny: Path, tmp_path: Path) -> None:
    backend = make_backend(f"diffusers:{tiny},steps=2")
    backend._pipeline = backend._load()
    backend._pipeline.run_safety_checker = lambda image, device, dtype: (image, [True] + [False] * (len(image) - 1))
    report = generate(ASKED[:4], [backend], tmp_path)
    assert (report.made, report.refused) == (3, 1)
    assert rows(tmp_path)[0]["reason"] == "the model's safety checker"


def test_prompt_of_ten_thousand_characters_is_counted_as_truncated(tiny: Path, tmp_path: Path) -> None:
    asked = (Prompt("word " * 2000, "long"), Prompt("x" * 75, "fits"), Prompt("x" * 76, "does not"))
    report = generate(asked, [make_backend(f"diffusers:{tiny},steps=2")], tmp_path)
    assert (report.made, report.truncated) == (3, 2)
    assert {row["prompt_id"]: row.get("truncated") for row in rows(tmp_path)} == {
        "long": True,
        "fits": None,
        "does not": True,
    }


def changed(tiny: Path, folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(tiny, folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def test_pickles_and_code_of_models_are_not_run(tiny: Path, tmp_path: Path) -> None:
    trap = "import pathlib; pathlib.Path(__file__).with_name('sprung').touch()\n"
    pickled = shutil.copytree(tiny, tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, pickled / "unet" / "diffusion_pytorch_model.bin")
    custom = changed(tiny, tmp_path / "custom", "model_index.json", lambda c: c.update(unet=["mine", "Net"]))
    (custom / "mine.py").write_text(trap)
    (custom / "unet" / "mine.py").write_text(trap)
    piped = changed(tiny, tmp_path / "piped", "model_index.json", lambda c: c.update(_class_name=["pipe", "Pipe"]))
    (piped / "pipe.py").write_text(trap)
    for folder, message in ((pickled, "cannot be loaded"), (custom, "code of its own"), (piped, "code of its own")):
        with pytest.raises(GenerateError, match=message):
            generate(ASKED[:1], [make_backend(f"diffusers:{folder}")], tmp_path / f"out-{folder.name}")
    pickled = shutil.copytree(tiny, tmp_path / "pickled text")
    (pickled / "text_encoder" / "model.safetensors").unlink()
    torch.save({}, pickled / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(GenerateError, match="cannot be loaded"):
        generate(ASKED[:1], [make_backend(f"diffusers:{pickled}")], tmp_path / "out-text")
    assert not list(tmp_path.rglob("sprung"))


@pytest.mark.slow
def test_models_that_cannot_be_had(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    words = (tmp_path / "p.txt", "--out", tmp_path / "out", "-b")
    one_line(command(*words, "diffusers:nobody/nothing"), "cannot be had from the Hub", "give a folder")
    one_line(command(*words, f"diffusers:{tiny}", "--size", "33x33"), "1 images failed and 1 prompts have no image")
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(tiny, tmp_path / "broken")
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    for spec, message in {
        "/no/such/folder": "no such folder, and no model of the Hub",
        str(tmp_path / "empty"): "no model_index.json in it",
        f"{tiny},scheduler=Eular": "no scheduler of diffusers; for this model: .*EulerDiscreteScheduler",
        f"{tiny},scheduler=UNet2DModel": "no scheduler of diffusers",
        str(broken): "broken cannot be loaded",
        f"{tiny},variant=fp16": "cannot be loaded",
        f"{tiny},batch_size=0": "batch_size must be at least 1",
    }.items():
        with pytest.raises(GenerateError, match=message) as error:
            generate(ASKED[:1], [make_backend(f"diffusers:{spec}")], tmp_path / "out2")
        assert "\n" not in str(error.value)


def test_another_model_under_the_same_name_is_noticed(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    generate(ASKED[:1], [make_backend(f"diffusers:{model},steps=2")], tmp_path / "out")
    moved = shutil.move(model, tmp_path / "elsewhere" / "model")  # the same files: the same model
    generate(ASKED[:2], [make_backend(f"diffusers:{moved},steps=2")], tmp_path / "out")
    shutil.rmtree(moved)
    write_pipeline(Path(moved), seed=1)
    with pytest.raises(GenerateError, match="revision of model was 'files-"):
        generate(ASKED[:3], [make_backend(f"diffusers:{moved},steps=2")], tmp_path / "out")


@pytest.mark.slow
def test_killed_command_goes_on(tiny: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "p.txt").write_text("\n".join(f"a tree number {n}" for n in range(40)))
    words = ["generate", tmp_path / "p.txt", "-b", f"diffusers:{tiny},steps=8", "--batch-size", "1", "--out"]
    assert command(*words[1:], tmp_path / "whole").returncode == 0
    for more in (1, 5, 9):
        process = subprocess.Popen(
            list(map(str, (sys.executable, "-m", "humanpref.cli", *words, tmp_path / "out"))),
            env=environment(),
            cwd=ROOT,
        )
        before = len(rows(tmp_path / "out")) if (tmp_path / "out" / "manifest.jsonl").exists() else 0
        while process.poll() is None:
            file = tmp_path / "out" / "manifest.jsonl"
            if file.exists() and file.read_bytes().count(b"\n") >= before + more:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(rows(tmp_path / "out")) < 40
    assert command(*words[1:], tmp_path / "out").returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert np.asarray(Image.open(next((tmp_path / "out" / "tiny-sd").iterdir()))).std() > 0


@pytest.mark.parametrize("guidance", [1, 0])
def test_a_negative_prompt_that_the_pipeline_would_not_read_is_refused(tmp_path: Path, guidance: int) -> None:
    backend = make_backend(f"diffusers:shapes,steps=1,guidance={guidance},negative_prompt=ugly")
    with pytest.raises(GenerateError, match=f"a negative prompt does nothing where guidance_scale is {guidance}"):
        generate(ASKED[:1], [backend], tmp_path / "out")
