"""An option that could do nothing where it stands is refused in one line that says what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from humanpref import ImageRef, Ranking
from humanpref.cli import app
from humanpref.data.validate import validate_data
from humanpref.engines import Engine
from humanpref.errors import HumanprefError
from humanpref.generate import Prompt
from humanpref.improve.tokens.vocabulary import read_vocabulary
from humanpref.training.config import TrainConfig, get_preset


@pytest.fixture(scope="module")
def command() -> Any:
    """The command line, made out once: that takes longer than any of the calls here."""
    return typer.main.get_command(app)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with files of all kinds, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    Path("p.txt").write_text("a cat\na dog\n")
    Path("tokens.jsonl").write_text('{"suffix": ", sharp"}\n')
    Path("shards").mkdir()
    Path("shards", "shards.json").write_text("{}")
    Image.new("RGB", (8, 8)).save("a.png")


SERVE = ("serve", "--port", "0")
TOKENS = ("improve", "tokens", "p.txt", "-b", "shapes:clean", "--out", "found", "--model", "lite")
RUN = ("benchmark", "run", "images", "--model", "lite")
CLEAN = ("prompts", "clean", "p.txt", "--out", "out.jsonl")
LLM = (*CLEAN, "--cleaner", "llm", "--llm-model", "m")
TRAIN = ("train", "--data", "data.json", "--out", "run")
GENERATE = ("generate", "p.txt", "-b", "shapes:clean", "--out", "out")
BATCH = ("batch", "p.txt", "out", "--model", "lite")
TUNE = ("improve", "finetune", "p.txt", "-b", "diffusers:tiny", "--out", "run")
EXCLUDE = ("annotate", "exclude", "--db", "none.db", "--reason", "he left")
TWO = (*SERVE, "--model", "hps-v2.1", "--model", "lite")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*SERVE, "--model", "hps-v2.1", "--device", "cpu", "--device", "cuda:1"), "say which scorer each is of"),
        ((*SERVE, "--model", "hps-v2.1", "--device", "hps-v2.1=cpu", "--device", "cpu"), "--device cpu: is of no use"),
        ((*TWO, "--device", "lite=cuda"), "lite has no arch, resize, precision, device"),
        ((*TWO, "--device", "pickscore=cuda"), "pickscore is not among the scorers of this command"),
        ((*CLEAN, "--concurrency", "3"), "--concurrency is for --cleaner llm; leave it out"),
        ((*CLEAN, "--timeout", "3"), "--timeout is for --cleaner llm"),
        ((*CLEAN, "--retries", "3"), "--retries is for --cleaner llm"),
        ((*CLEAN, "--price-in", "3"), "--price-in is for --cleaner llm"),
        ((*CLEAN, "--price-out", "3"), "--price-out is for --cleaner llm"),
        ((*CLEAN, "--llm-model", "m"), "--llm-model is for --cleaner llm"),
        ((*CLEAN, "--ray-address", "host:1"), "--ray-address is for a Ray cluster"),
        ((*LLM, "--workers", "2"), "--workers is for --cleaner rules"),
        ((*LLM, "--ray-address", "host:1"), "--ray-address is for --cleaner rules"),
        ((*LLM, "--engine", "local"), "--engine is for --cleaner rules"),
        ((*GENERATE, "--ray-address", "host:1"), "--ray-address is for a Ray cluster"),
        ((*GENERATE, "--cpus-per-worker", "2"), "--cpus-per-worker is for a Ray cluster"),
        ((*GENERATE, "--gpus-per-worker", "1"), "leave gpus_per_worker out, or take more"),
        ((*BATCH, "--workers", "1", "--gpus-per-worker", "1"), "leave gpus_per_worker out, or take more"),
        ((*TUNE, "--check-weights", "w.pt"), "--check-weights is for --check-model"),
        ((*TRAIN, "--patience", "3"), "give --val, or leave it out"),
        ((*TRAIN, "--val-images", "images"), "--val-images says where the images of --val are"),
        ((*TRAIN[:2], "shards", "--out", "run", "--images", "images"), "shards hold their images; leave --images out"),
        ((*RUN, "--seed", "3"), "--seed is for --backend"),
        ((*RUN, "--images-per-prompt", "3"), "--images-per-prompt is for --backend"),
        (("benchmark", "compare", "p.txt", "a.png", "--results", "b"), "--results is for generators by name"),
        (("data", "validate", "d.json", "--against-image-root", "b"), "where the images of --against are"),
        ((*TOKENS, "--place", "prefix"), "--place is for a --vocabulary of text"),
        ((*TOKENS, "--place", "prefix", "--vocabulary", "tokens.jsonl"), "leave --place out"),
        ((*EXCLUDE, "--suspects"), "--reason is for people named by number who are left out"),
        ((*EXCLUDE, "2", "--readmit"), "--reason is for people named by number who are left out"),
    ],
)
def test_a_command_refuses_what_it_would_not_use(words: tuple[str, ...], says: str, command: Any) -> None:
    with pytest.raises(HumanprefError) as refused:
        command.main(list(words), standalone_mode=False)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(Path(name).exists() for name in ("out", "out.jsonl", "run", "found", "none.db"))


@pytest.mark.parametrize(
    "options",
    [
        {"address": "host:1"},
        {"cpus_per_worker": 2.0},
        {"object_store_mib": 100},
        {"gpus_per_worker": 0.5},
        {"workers": 2, "address": "host:1"},
    ],
)
def test_the_local_engine_has_no_cluster(options: Mapping[str, Any]) -> None:
    with pytest.raises(HumanprefError, match="leave .*out, or"):
        Engine(**options)
    Engine("ray", **options)


@pytest.mark.parametrize(
    ("preset", "options", "says"),
    [
        ("hps-v2", {"margin": 2.0}, "margin is for loss=margin"),
        ("hps-v2", {"hidden": 8}, "hidden is for model=head"),
        ("hps-v2", {"text_head": False}, "text_head is for model=head"),
        ("hps-v2", {"lora_alpha": 8}, "lora_alpha is for lora_rank above 0"),
        ("head", {"vision_free": -1}, "vision_free is for model=clip"),
        ("head", {"text_free": 0}, "text_free is for model=clip"),
    ],
)
def test_a_training_refuses_fields_it_would_not_use(preset: str, options: Mapping[str, Any], says: str) -> None:
    with pytest.raises(HumanprefError, match=says):
        TrainConfig(**{**vars(get_preset(preset)), **options})


def test_records_say_where_their_images_are(tmp_path: Path) -> None:
    from humanpref.improve.finetune.config import FinetuneConfig
    from humanpref.improve.finetune.run import finetune
    from humanpref.training.run import train
    from tests.finetuning import Red

    rankings = [Ranking("a cat", (ImageRef(tmp_path / "a.png"), ImageRef(tmp_path / "b.png")), (1, 2))]
    for more in ({"images": tmp_path}, {"validation": rankings, "validation_images": tmp_path}):
        with pytest.raises(HumanprefError, match="leave it out"):
            train(rankings, tmp_path / "run", TrainConfig(), device="cpu", **more)
    tuning: Any = {"backend": None, "scorer": Red(), "images": tmp_path}  # refused before the backend is asked
    for algorithm, data in (("draft", [Prompt("a cat", "1")]), ("refl", "p.txt"), ("dpo", rankings)):
        with pytest.raises(HumanprefError, match="those of a file of rankings"):
            finetune(data, tmp_path / "run", FinetuneConfig(algorithm=algorithm), **tuning)
    with pytest.raises(HumanprefError, match="which is not given"):
        validate_data(tmp_path / "d.json", against_image_root=tmp_path)
    assert not (tmp_path / "run").exists()


def test_what_is_meant_is_taken(command: Any) -> None:
    """The nearest calls that are not refused."""
    command.main([*CLEAN, "--workers", "2"], standalone_mode=False)
    assert Path("out.jsonl").read_text().count("unchanged") == 2
    Path("tokens.txt").write_text("sharp\n")
    assert read_vocabulary("tokens.txt", "prefix")[0].prefix == "sharp "
    assert read_vocabulary("tokens.jsonl")[0].suffix == ", sharp"
