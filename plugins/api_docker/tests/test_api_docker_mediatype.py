"""Content types, read as Go reads them."""

from __future__ import annotations

import pytest

from pyengine.errors import InvalidParameter
from pyengine_api_docker import mediatype

JSON = "application/json"


@pytest.mark.parametrize(
    "header",
    [
        JSON,
        "Application/JSON",
        "application/json;",
        "application/json; charset=utf-8",
        'application/json ; charset="utf-8";a=b',
        "application/json; a=b; A=b",
    ],
)
def test_what_is_json(header: str) -> None:
    mediatype.require(header, JSON)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "no media type"),
        ("; charset=utf-8", "no media type"),
        ("application/", "expected token after slash"),
        ("application json", "expected slash after first token"),
        ("application/json, text/plain", "unexpected content after media subtype"),
        ("application/json; charset", "invalid media parameter"),
        ("application/json;;", "invalid media parameter"),
        ('application/json; charset="utf-8', "invalid media parameter"),
        ("application/json; a=b; a=c", "duplicate parameter name"),
    ],
)
def test_what_cannot_be_read(header: str, why: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        mediatype.require(header, JSON)
    assert caught.value.message() == f"malformed Content-Type header ({header}): mime: {why}"


@pytest.mark.parametrize("header", ["text/json", "application", "application/jsonx", "*/*"])
def test_what_is_something_else(header: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        mediatype.require(header, JSON)
    assert caught.value.message() == (
        f"unsupported Content-Type header ({header}): must be 'application/json'"
    )
