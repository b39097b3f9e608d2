"""Methods by name, joined and refused."""

from __future__ import annotations

import pytest

from humanpref.errors import UnknownNameError
from humanpref.generate import make_backend
from humanpref.improve import apply_methods, make_methods


def test_doing_nothing_leaves_the_backend_as_it_is() -> None:
    backend = make_backend("shapes:clean")
    assert apply_methods(make_methods("none"), backend) is backend
    assert len(make_methods("none+none")) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("better", "'better': a method is one of none, "),
        ("none:thing", "none takes no :"),
        ("none,size=3", "none has no option 'size' \\(options: none\\)"),
        ("", "a method is one of none"),
        ("none+better", "'none\\+better': a method is one of"),
    ],
)
def test_methods_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make_methods(spec)
