"""Multipart forms: what clients send comes out as it went in; what is made to be slow is refused at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanpref.serve.bodies import ScoreBody, read_form, read_json
from humanpref.serve.errors import RequestError
from humanpref.serve.forms import FormError, Part, TooManyPartsError, read_parts

KIND = "multipart/form-data; boundary=b"
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\'), min_size=1, max_size=20
)
CONTENTS = st.one_of(
    st.binary(max_size=200), st.lists(st.sampled_from([b"\r\n", b"--", b"b", b"\r", b"-", b"x"]), max_size=40).map(b"".join)
)  # fmt: skip


def part(content: bytes, *headers: bytes) -> bytes:
    head = headers or (b'Content-Disposition: form-data; name="image"; filename="a"',)
    return b"\r\n".join((b"--b", *head, b"", content, b""))


@settings(max_examples=200, deadline=None)
@given(files=st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=5), texts=st.lists(st.text("aé😂\r\n-\"", max_size=30), max_size=3))  # fmt: skip
def test_forms_of_a_client_come_out_as_they_went_in(files: list[tuple[str, bytes]], texts: list[str]) -> None:
    sent = [("image", (name, content)) for name, content in files]
    request = httpx.Request("POST", "http://a", files=sent, data={"prompt": texts})
    expected = [Part("prompt", None, text.encode()) for text in texts]
    expected += [Part("image", name, content) for name, content in files]
    assert read_parts(request.read(), request.headers["content-type"], len(expected)) == expected
    with pytest.raises(TooManyPartsError):
        read_parts(request.content, request.headers["content-type"], len(expected) - 1)
    for end in range(0, len(request.content) - 4, 7):
        with pytest.raises(FormError):
            read_parts(request.content[:end], request.headers["content-type"], 100)


def test_what_is_around_a_form_is_nobodys() -> None:
    form = b"before\r\n" + part(b"x") + b"--b--\r\nafter --b"
    assert read_parts(form, 'multipart/form-data; charset="UTF-8"; boundary="b"', 1) == [Part("image", "a", b"x")]


@pytest.mark.parametrize(
    ("form", "kind", "says"),
    [
        (part(b"x") + b"--b--", "multipart/form-data", "names no boundary"),
        (part(b"x") + b"--b--", "multipart/form-data; boundary=c", "nowhere in the body"),
        (part(b"x"), KIND, "incomplete"),
        (part(b"x\r\n--bX") + b"--b--", KIND, "within a file"),
        (b"--b\r\n\r\nx\r\n--b--", KIND, "Content-Disposition"),
        (b"--b\r\nx\r\n--b--", KIND, "no headers"),
        (part(b"x", b"Content-Disposition: attachment") + b"--b--", KIND, "Content-Disposition"),
        (part(b"x", b"A: " + b"a" * 9000) + b"--b--", KIND, "over 8,192 bytes"),
        (part(b"x") + b"--b--", KIND + "; charset=punycode", "must be utf-8"),
        (part(b"x", b'Content-Disposition: form-data; name="prompt"', b"Content-Type: text/plain; charset=latin-1") + b"--b--", KIND, "utf-8"),
        (part(b"\xe9", b'Content-Disposition: form-data; name="prompt"') + b"--b--", KIND, "prompt: is not UTF-8"),
        (part(b"x", b'content-disposition: form-data; name="image"; filename="a"', b"content-transfer-encoding: base64") + b"--b--", KIND, "Transfer-Encoding"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_form_is_said(form: bytes, kind: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as raised:
        read_form(form, kind, max_images=2)
    assert raised.value.code == "bad_request"


def json_of(prompts: list[str]) -> bytes:
    return json.dumps({"prompts": prompts, "images": [{"data": ""}] * len(prompts)}).encode()


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_form(part(b"\r\n--bX" * (8 * 2**20 // 6)) + b"--b--", KIND, max_images=64),
        lambda: read_form(part(b"\r\n--" * (8 * 2**20 // 4)) + b"--b--", KIND, max_images=64),
        lambda: read_form(b"\r\n" * 2**22 + part(b"x") + b"--b--", KIND, max_images=64),
        lambda: read_form(part(b"x", b"A" * 2**23) + b"--b--", KIND, max_images=64),
        lambda: read_form(part(b"a" * 80_000, b'Content-Disposition: form-data; name="prompt"') * 60 + b"--b--", KIND + "; charset=punycode", max_images=64),
        lambda: read_json(json_of([f"{n:04}" + ("x" * 990 + " ") * 20 for n in range(50)]), ScoreBody, max_images=64),
    ],
)  # fmt: skip
def test_nothing_is_slow_to_read(read: Callable[[], object]) -> None:
    """A parser of streams, a decoder and a pattern took 2, 11 and 2 seconds for the first and the last two."""
    began = time.thread_time()
    try:
        read()
    except RequestError as error:
        assert error.code in {"bad_request", "invalid"}  # noqa: PT017 - what is refused is refused soon
    assert time.thread_time() - began < 0.15


def test_images_are_counted_before_anything_is_done_for_each() -> None:
    for read in (
        lambda: read_json(json_of(["x" * 20_001 if n > 3 else str(n) for n in range(3)] + ["y"]), ScoreBody, max_images=3),
        lambda: read_json(b'{"prompt":"x","images":[{},{},{},{}]}', ScoreBody, max_images=3),
        lambda: read_form(part(b"x") * 4 + b"--b--", KIND, max_images=3),
        lambda: read_form(part(b"x") * 900 + b"--b--", KIND, max_images=3),
    ):  # fmt: skip
        with pytest.raises(RequestError, match="at most 3") as raised:
            read()
        assert raised.value.code == "too_many_images"


def test_what_some_clients_send_is_taken() -> None:
    """Blanks after a boundary (RFC 2046, 5.1.1), and a charset that ASCII has nothing to do with."""
    text = b"Content-Type: text/plain; charset=ISO-8859-1"
    form = (
        part(b"a fox", b'Content-Disposition: form-data; name="prompt"', text).replace(b"--b\r\n", b"--b \t\r\n")
        + b"--b--"
    )
    assert read_parts(form, KIND, 1) == [Part("prompt", None, b"a fox")]
    with pytest.raises(FormError, match="must be utf-8"):
        read_parts(part(b"a f\xf6x", b'Content-Disposition: form-data; name="prompt"', text) + b"--b--", KIND, 1)
