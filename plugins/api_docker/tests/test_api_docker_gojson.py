"""Bodies, decoded as leniently and refused in the same words as by a Go server."""

from __future__ import annotations

import json
import random

import pytest

from pyengine.errors import InvalidParameter
from pyengine_api_docker import gojson, gosyntax
from pyengine_api_docker.requests import CreateContainer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected EOF"),
        ("nul", "unexpected EOF"),
        ('{"a":"\\', "unexpected EOF"),
        ('{"a":"\\u00', "unexpected EOF"),
        ("[1,", "unexpected EOF"),
        ("nulx", "invalid character 'x' in literal null (expecting 'l')"),
        ("tree", "invalid character 'e' in literal true (expecting 'u')"),
        ("}", "invalid character '}' looking for beginning of value"),
        ('{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("{]", "invalid character ']' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"a"}', "invalid character '}' after object key"),
        ('{"a":1]', "invalid character ']' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ('["\\x"]', "invalid character 'x' in string escape code"),
        ('["\\u12x4"]', r"invalid character 'x' in \u hexadecimal character escape"),
        ('["\t"]', r"invalid character '\t' in string literal"),
        ('["\x01"]', r"invalid character '\x01' in string literal"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1e+x", "invalid character 'x' in exponent of numeric literal"),
        ("'", r"invalid character '\'' looking for beginning of value"),
        ("\\", r"invalid character '\\' looking for beginning of value"),
        ("ä", "invalid character 'Ã' looking for beginning of value"),
        ("[" * 10_001, "invalid character '[' exceeded max depth"),
        ("[" * 10_000, "unexpected EOF"),
    ],
)
def test_what_is_no_json(text: str, message: str) -> None:
    with pytest.raises(gosyntax.Malformed) as caught:
        gosyntax.end_of_value(text.encode())
    assert str(caught.value) == message
    if text:
        with pytest.raises(InvalidParameter) as refused:
            gojson.decode(text.encode(), CreateContainer)
        assert refused.value.message() == f"invalid JSON: {message}"


def test_the_first_value_ends_where_pythons_decoder_says() -> None:
    chance = random.Random(4)
    pieces = ["{}", "[]", '"a\\"\\u00e4\\n"', "-1.5e-3", "0", "true", "null", '{"k":[1,{"":[]}]}']
    for _ in range(2000):
        text = chance.choice(pieces)
        for _ in range(chance.randrange(4)):
            text = (
                f"[ {text} ,{chance.choice(pieces)}]"
                if chance.random() < 0.5
                else f'{{"x" : {text}}}'
            )
        text += chance.choice(["", " ", "\n", " x", "]", "{"])
        assert gosyntax.end_of_value(text.encode()) == json.JSONDecoder().raw_decode(text)[1]


def test_nulls_are_zero_values_also_in_lists_and_maps() -> None:
    raw = b"""{"Image": "x", "Cmd": [null], "Env": ["A=1", null], "Labels": {"a": null},
               "HostConfig": {"Mounts": [null], "ConsoleSize": [null, 3], "Binds": null}}"""
    body = gojson.decode(raw, CreateContainer)
    assert (body.cmd, body.env, body.labels) == ([""], ["A=1", ""], {"a": ""})
    assert body.host_config.mounts is not None
    assert body.host_config.mounts[0].type == ""
    assert body.host_config.console_size == [0, 3]
    assert body.host_config.binds is None


def test_a_word_for_a_list_of_words() -> None:
    raw = b"""{"Image": "x", "Cmd": "a b", "Entrypoint": "c", "Shell": "d",
               "HostConfig": {"CapAdd": "NET_ADMIN", "CapDrop": "ALL"}}"""
    body = gojson.decode(raw, CreateContainer)
    assert (body.cmd, body.entrypoint, body.shell) == (["a b"], ["c"], ["d"])
    assert (body.host_config.cap_add, body.host_config.cap_drop) == (["NET_ADMIN"], ["ALL"])
    with pytest.raises(InvalidParameter, match=r"field HostConfig\.Dns of type array"):
        gojson.decode(b'{"HostConfig": {"Dns": "1.1.1.1"}}', CreateContainer)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1])
def test_a_number_that_is_too_long_is_refused(number: int) -> None:
    raw = json.dumps({"HostConfig": {"Ulimits": [{"Name": "core", "Hard": number}]}}).encode()
    with pytest.raises(InvalidParameter) as caught:
        gojson.decode(raw, CreateContainer)
    assert caught.value.message() == (
        f"invalid JSON: cannot unmarshal number {number} into field HostConfig.Ulimits[0].Hard of "
        "type int64"
    )


@pytest.mark.parametrize("number", [-1, 1 << 16])
def test_a_number_that_its_field_has_no_room_for(number: int) -> None:
    with pytest.raises(
        InvalidParameter, match=r"number into field HostConfig\.BlkioWeight of type"
    ):
        gojson.decode(b'{"HostConfig": {"BlkioWeight": %d}}' % number, CreateContainer)


def test_long_numbers_that_are_none() -> None:
    raw = b'{"Labels": {"a": "99999999999999999999"}, "StopTimeout": 9223372036854775807}'
    body = gojson.decode(raw, CreateContainer)
    assert body.labels == {"a": "99999999999999999999"}
    assert body.stop_timeout == 2**63 - 1


def test_an_error_of_type_comes_before_what_trails() -> None:
    with pytest.raises(InvalidParameter, match="into field Image of type string"):
        gojson.decode(b'{"Image": 5} x', CreateContainer)
    with pytest.raises(InvalidParameter, match="unexpected content after JSON"):
        gojson.decode(b'{"Image": "5"} x', CreateContainer)


def test_depth_that_python_cannot_follow() -> None:
    with pytest.raises(InvalidParameter, match="exceeded max depth"):
        gojson.decode(b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}", CreateContainer)
