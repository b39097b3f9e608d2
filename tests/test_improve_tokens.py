"""Quality tokens: what the model reads, what is kept, and the files that hold tokens."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humanpref.errors import DataError, HumanprefError, UnknownNameError
from humanpref.generate import Prompt, Request, generate, make_backend, read_groups
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve import apply_methods, make_methods
from humanpref.improve.methods import ImproveError
from humanpref.improve.tokens.method import TokensBackend, spec_of, with_tokens
from humanpref.improve.tokens.templates import TEMPLATES, VOCABULARY, Template, join_negatives, join_templates
from humanpref.improve.tokens.vocabulary import check_vocabulary, place_token, read_vocabulary
from humanpref.shapes.grammar import captions
from tests.generating import rows
from tests.improving import Painter, things

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
TEMPLATE = st.builds(Template, st.just("x"), TEXTS, TEXTS, TEXTS)


@given(TEMPLATE, TEMPLATE, TEMPLATE)
def test_joining_is_associative_and_keeps_every_text(a: Template, b: Template, c: Template) -> None:
    joined = join_templates([a, b, c])
    assert a.then(b).then(c).texts == a.then(b.then(c)).texts == joined.texts
    assert joined.around("P") == a.prefix + b.prefix + c.prefix + "P" + a.suffix + b.suffix + c.suffix
    at = 0
    for one in (a, b, c):
        at = joined.negative.index(one.negative.strip(), at) + len(one.negative.strip())
    nothing = Template("")
    assert nothing.then(a).texts == a.texts == a.then(nothing).texts


@given(TEXTS, TEXTS, TEXTS)
def test_negative_prompts_join_associatively(a: str, b: str, c: str) -> None:
    assert join_negatives(join_negatives(a, b), c) == join_negatives(a, join_negatives(b, c))


def test_negative_prompts_read_well() -> None:
    assert join_negatives("blurry", "text") == "blurry, text"
    assert join_negatives("Weird image. ", "blurry") == "Weird image. blurry"
    assert join_negatives(None, "blurry") == "blurry" == join_negatives("blurry", "  ")


@given(prefix=TEXTS, suffix=TEXTS)
def test_the_model_reads_exactly_prefix_prompt_suffix(tmp_path_factory, prefix: str, suffix: str) -> None:
    painter = Painter()
    backend = with_tokens(painter, Template("x", prefix, suffix))
    out = tmp_path_factory.mktemp("run")
    generate([Prompt("a cat", "c", "toys", "photo")], [backend], out)
    assert painter.log == [f"{prefix}a cat{suffix}"]
    assert rows(out)[0]["prompt"] == "a cat"


def test_everything_kept_is_about_the_prompt_that_was_asked_for(tmp_path: Path) -> None:
    painter = Painter()
    (method,) = make_methods("tokens:quality,own,prefix=good ")
    backend = method.apply(painter)
    generate([*things(2), Prompt("refuse", "r"), Prompt("fail", "f")], [backend], tmp_path, images_per_prompt=2)
    assert painter.log[0] == "good thing 0, best quality, masterpiece"
    made = rows(tmp_path)
    assert [row["prompt"] for row in made[::2]] == ["thing 0", "thing 1", "refuse", "fail"]
    assert [row["status"] for row in made[::2]] == ["done", "done", "refused", "failed"]
    assert made[0]["settings"]["methods"] == [
        {"method": "tokens", "prefix": "good ", "suffix": ", best quality, masterpiece"}
    ]
    assert (made[0]["model"], made[0]["made_with"]) == ("painter", "numpy")
    assert [group.prompt for group in read_groups(tmp_path)] == ["thing 0", "thing 1"]
    with pytest.raises(HumanprefError, match="holds another run: methods of painter was"):
        generate(things(2), [make_methods("tokens:detailed")[0].apply(painter)], tmp_path)
    with pytest.raises(HumanprefError, match="holds another run: methods of painter was"):
        generate(things(2), [painter], tmp_path)


def test_images_of_one_prompt_and_number_keep_their_seeds() -> None:
    """As those that best-of asks for."""
    backend = with_tokens(Painter(), TEMPLATES["quality"])
    asked = [Request(Prompt("thing", "t"), 0, seed, 0) for seed in range(6)]
    assert [outcome.request for outcome in backend.generate(asked)] == asked
    assert pickle.loads(pickle.dumps(backend)) == backend  # as it travels to a worker
    chosen = Painter(settings={"methods": [{"method": "best-of", "n": 4}]})
    with pytest.raises(ImproveError, match="tokens come before best-of"):
        with_tokens(chosen, TEMPLATES["quality"])


def test_names_are_joined_by_commas_as_by_plus() -> None:
    painter = Painter()
    one = apply_methods(make_methods("tokens:quality,a-photo-of,detailed"), painter)
    other = apply_methods(make_methods("tokens:quality+tokens:a-photo-of,detailed"), painter)
    assert isinstance(one, TokensBackend)
    assert one == other
    assert one.template.around("x") == "a photo of x, best quality, masterpiece, highly detailed, intricate"


def test_a_negative_prompt_is_appended_to_the_one_there_is() -> None:
    plain = make_backend("diffusers:shapes,negative_prompt=blurry")
    backend = apply_methods(make_methods("tokens:shapes-bad-negative+tokens:weird-negative"), plain)
    assert isinstance(backend, DiffusersBackend)
    assert backend.config.negative_prompt == "blurry, bad picture. Weird image. "
    assert plain.settings["negative_prompt"] == "blurry"
    both = apply_methods(make_methods("tokens:shapes-good,shapes-bad-negative+tokens:quality,weird-negative"), plain)
    assert both.settings["negative_prompt"] == "blurry, bad picture. Weird image. "
    assert both.settings["methods"] == [
        {"method": "tokens", "prefix": "good picture. ", "suffix": ", best quality, masterpiece"}
    ]


@pytest.mark.parametrize(
    ("spec", "backend", "message"),
    [
        ("tokens:weird-negative", "shapes:clean", "a negative prompt is for diffusers:MODEL, .*got clean"),
        ("tokens:quality", "folder:.", "the images of folder:. are made already"),
    ],
)
def test_backends_that_cannot(spec: str, backend: str, message: str) -> None:
    with pytest.raises(ImproveError, match=message):
        apply_methods(make_methods(spec), make_backend(backend))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tokens", "a method is one of none, .*tokens:NAME"),
        ("tokens:better", "'better' is no template of tokens; there are weird-negative, "),
        ("tokens:own", "tokens:own: adds nothing; name a template"),
        ("tokens:quality,sufix=x", "no option 'sufix'; did you mean suffix"),
    ],
)
def test_tokens_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(HumanprefError, match=message):
        make_methods(spec)


@given(TEMPLATE)
def test_a_spec_does_what_its_template_does(template: Template) -> None:
    if (spec := spec_of(template)) is not None:
        (method,) = make_methods(spec)
        assert method.template.texts == template.texts


def test_named_templates_and_usual_tokens_have_a_spec() -> None:
    for template in (*TEMPLATES.values(), place_token("8k, by night", "suffix")):
        assert (spec_of(template) is None) == template.empty
    assert spec_of(Template("x", suffix=",prefix=y")) is None
    assert TEMPLATES["weird-negative"].negative.startswith("Weird image.")
    check_vocabulary(TEMPLATES[name] for name in VOCABULARY)


def test_a_real_pipeline_reads_the_tokens(tmp_path: Path) -> None:
    caption = captions(1, 777)[0]
    long = with_tokens(make_backend("diffusers:shapes,steps=1,name=long"), place_token("red " * 30, "suffix"))
    good = with_tokens(make_backend("diffusers:shapes,steps=1,name=good"), TEMPLATES["shapes-good"])
    plain = make_backend("diffusers:shapes,steps=1,name=plain")
    report = generate([Prompt(caption, "c")], [plain, good, long], tmp_path)
    assert report.truncated == 1
    assert [row.get("truncated") for row in rows(tmp_path)] == [None, None, True]
    direct = tmp_path / "direct"
    generate([Prompt(f"good picture. {caption}", "c")], [make_backend("diffusers:shapes,steps=1")], direct)
    pictures = [Image.open(tmp_path / row["path"]).tobytes() for row in rows(tmp_path)]
    assert Image.open(direct / rows(direct)[0]["path"]).tobytes() == pictures[1]
    assert len(set(pictures)) == 3


def test_vocabularies(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text("sharp focus\n\n  8k \n")
    assert [one.texts for one in read_vocabulary(file)] == [("", ", sharp focus", ""), ("", ", 8k", "")]
    assert read_vocabulary(file, "prefix")[0].around("a cat") == "sharp focus a cat"
    assert read_vocabulary(file, "negative")[1].texts == ("", "", "8k")
    given = [{"prefix": "good picture. "}, {"name": "both", "suffix": ", 8k", "negative": "blurry", "source": "me"}]
    file.write_text("\n".join(map(json.dumps, given)))
    found = read_vocabulary(file)
    assert [one.name for one in found] == ["good picture.", "both"]
    assert found[1] == Template("both", "", ", 8k", "blurry", "me")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the vocabulary is empty"),
        ("\n \n", "the vocabulary is empty"),
        ("8k\nsharp\n8k", "line 3: the token '8k' is there twice"),
        ('{"name": "a", "suffix": "x"}\n{"name": "b", "suffix": "x"}', "line 2: 'b' and 'a' are the same tokens"),
        ('{"suffix": "x", "weight": "1"}', "line 1: no field 'weight' is known"),
        ('{"suffix": 3}', "line 1: suffix must be a text"),
        ('{"name": "a"}', "line 1: the token 'a' adds nothing"),
        ('{"suffix": ', "line 1"),
    ],
)
def test_vocabularies_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_vocabulary(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_vocabulary(tmp_path / "none")


def test_a_template_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="is no template"):
        make_methods("tokens:quality,nope")
