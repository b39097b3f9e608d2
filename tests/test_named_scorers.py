"""`--model A B` means the same everywhere: two scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from humanpref import UnknownNameError
from humanpref.cli import app
from humanpref.cli_scorers import addressed, by_scorer, named_scorers, split_words
from humanpref.errors import HumanprefError, ScoreError


@pytest.fixture(scope="module")
def command() -> Any:
    """The command line, made out once."""
    return typer.main.get_command(app)


def test_scorers_are_named_by_options_commas_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_scorers(None) == ["hps-v2.1"]
    assert named_scorers(["lite,hps-v2.0", "pickscore"]) == ["lite", "hps-v2.0", "pickscore"]
    assert split_words(["data.json", "lite"], ["hps-v2.1"]) == (["data.json"], ["hps-v2.1", "lite"])
    assert split_words(["data.json", "lite"], None) == (["data.json", "lite"], ["hps-v2.1"])  # nothing says it is one
    Path("lite").mkdir()
    assert split_words(["s3://b/data", "lite"], ["hps-v2.1"]) == (["s3://b/data", "lite"], ["hps-v2.1"])
    with pytest.raises(UnknownNameError, match="no scorer is called 'nonsense'"):
        named_scorers(["lite,nonsense"])


def test_a_value_belongs_to_a_scorer_by_name_or_by_path() -> None:
    names = ["hps-v2.1", "runs/rate=0.1/export"]
    assert addressed("runs/rate=0.1/export=cuda:1", names, "--device") == ("runs/rate=0.1/export", "cuda:1")
    assert addressed("cuda:1", names, "--device") == (None, "cuda:1")
    assert by_scorer(["hps-v2.1=a=b.pt"], names, "--weights") == {"hps-v2.1": "a=b.pt"}
    assert by_scorer(["a=b.pt"], names[:1], "--weights") == {"hps-v2.1": "a=b.pt"}
    for value, says in (("lite=a.pt", "not among the scorers of this command"), ("a.pt", "say which scorer")):
        with pytest.raises(ScoreError, match=says):
            by_scorer([value], names, "--weights")
    with pytest.raises(ScoreError, match="--weights is given twice for lite"):
        by_scorer(["a.pt", "lite=b.pt"], ["lite"], "--weights")


def test_batch_takes_scorers_that_follow_and_no_scorer_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Image.new("RGB", (32, 32), "red").save("images/a.png")
    words = ["batch", "images", "scores", "--prompt", "a red circle", "--workers", "1"]
    command.main([*words, "--model", "lite", "shapes-truth"], standalone_mode=False)
    assert {"score_lite", "score_shapes_truth"} <= set(pq.read_schema(next(Path("scores").rglob("*.parquet"))).names)
    assert not Path("shapes-truth").exists()
    with pytest.raises(typer.BadParameter, match="last the folder of the scores"):
        command.main(["batch", "images", "--model", "lite", "shapes-truth"], standalone_mode=False)
    with pytest.raises(HumanprefError, match="OUT is pickscore, a scorer's name"):
        command.main(["batch", "images", "pickscore"], standalone_mode=False)
    assert not Path("pickscore").exists()


def test_serve_takes_scorers_that_follow(command: Any) -> None:
    for words, says in (
        (["--model", "hps-v2.1", "lite", "--device", "lite=cuda"], "lite has no arch"),
        (["--model", "lite", "nonsense"], "no scorer is called 'nonsense'"),
        (["lite"], "lite: what to serve is named by --model"),
    ):
        with pytest.raises(HumanprefError, match=says):
            command.main(["serve", *words], standalone_mode=False)
