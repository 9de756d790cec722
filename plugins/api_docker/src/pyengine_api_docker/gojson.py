"""Request bodies, decoded with the leniency that clients of a Go server have come to rely on.

``encoding/json`` takes ``null`` for any field (it keeps the zero value), matches names of fields
without regard to case, and Docker takes a string where a command is a list of words. docker-py
sends nulls in almost every body. The exact way is tried first, since it is also the fast one.
"""

from __future__ import annotations

import re
import types
import typing
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from pyengine.errors import InvalidParameter

T = TypeVar("T")

#: Fields that Docker declares as a word or a list of words.
WORDS = frozenset({"Cmd", "Entrypoint"})

#: What JSON calls the types that msgspec names as Python does.
_NAMES = {"str": "string", "int": "integer", "float": "number"}

_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)")

#: Where a character is not as it should be: msgspec's words for it, and ``encoding/json``'s.
_PLACES = {
    "object keys must be strings": "looking for beginning of object key string",
    "trailing comma in object": "looking for beginning of object key string",
    "trailing comma in array": "looking for beginning of value",
    "expected ':'": "after object key",
    "expected ',' or '}'": "after object key:value pair",
    "expected ',' or ']'": "after array element",
    "invalid escape character in string": "in string escape code",
}

_MISMATCH = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$\.?([^`]*)`)?")


def decode(raw: bytes, type: type[T]) -> T:
    """``raw`` as ``type``, a msgspec struct. Unknown fields are ignored.

    Raises ``InvalidParameter`` in Docker's words for what is no JSON or has the wrong types.
    """
    if not raw.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    try:
        body: T = _decoder(cast(Any, type)).decode(raw)
        if not _misspelt(raw, type):
            return body
    except msgspec.ValidationError:
        pass
    except msgspec.DecodeError as error:
        text = str(error)
        if "trailing characters" in text:
            raise InvalidParameter("unexpected content after JSON") from error
        if "truncated" in text:
            text = "unexpected EOF"
        raise InvalidParameter(f"invalid JSON: {_explain_syntax(raw, text)}") from error
    try:
        value = msgspec.json.decode(raw)
        return msgspec.convert({} if value is None else _adapt(value, type), type)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {_explain(str(error))}") from error


@cache
def _decoder(type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type)


@cache
def _fields(type: Any) -> dict[str, tuple[str, Any]]:
    """Lower-case name -> (name on the wire, its type)."""
    return {
        item.encode_name.lower(): (item.encode_name, item.type)
        for item in msgspec.structs.fields(type)
    }


_KEY = re.compile(rb'"(\w+)"\s*:')


def _misspelt(raw: bytes, type: Any) -> bool:
    """Whether a field may be there under a name of another case, which the exact way ignores."""
    names = _names(type)
    return any(names.get(key.lower(), key) != key for key in set(_KEY.findall(raw)))


@cache
def _names(type: Any) -> dict[bytes, bytes]:
    """The names of fields of ``type`` and of all types in it, by their names in lower case."""
    found: dict[bytes, bytes] = {}
    if isinstance(type, cast(Any, msgspec.StructMeta)):
        for lower, (name, inner) in _fields(type).items():
            found[lower.encode()] = name.encode()
            found.update(_names(inner))
    else:
        for inner in typing.get_args(type):
            found.update(_names(inner))
    return found


def _adapt(value: Any, type: Any) -> Any:
    """``value`` without nulls that ``type`` has no room for, and under its exact names."""
    if isinstance(type, types.UnionType) or typing.get_origin(type) is typing.Union:
        members = [member for member in typing.get_args(type) if member is not types.NoneType]
        return _adapt(value, members[0]) if value is not None and len(members) == 1 else value
    origin = typing.get_origin(type)
    if origin is dict and isinstance(value, dict):
        return {key: _adapt(item, typing.get_args(type)[1]) for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_adapt(item, typing.get_args(type)[0]) for item in value]
    if not (isinstance(type, cast(Any, msgspec.StructMeta)) and isinstance(value, dict)):
        return value
    fields = _fields(type)
    body = {}
    for key, item in value.items():
        name, expected = fields.get(key.lower(), (key, None))
        if item is None or expected is None:
            continue
        # An exec's command is a list and nothing else; it has no entrypoint either.
        words = name in WORDS and "entrypoint" in fields and isinstance(item, str)
        body[name] = [item] if words else _adapt(item, expected)
    return body


def _explain_syntax(raw: bytes, text: str) -> str:
    """msgspec's message about what is no JSON, in ``encoding/json``'s words where it has some."""
    found = _MALFORMED.match(text)
    if found is None:
        return text
    what, place = found[1], int(found[2])
    where = _PLACES.get(what)
    if what == "invalid character" and raw[:place].rstrip()[-1:] in (b"", b"[", b":", b","):
        where = "looking for beginning of value"
    if where is None or place >= len(raw):
        return text
    character = chr(raw[place])
    shown = {"'": r"'\''", '"': "'\"'"}.get(character, f"'{character}'")
    return f"invalid character {shown} {where}"


def _explain(text: str) -> str:
    found = _MISMATCH.match(text)
    if found is None:
        return text
    expected, got, place = found.groups()
    where = f"field {place}" if place else "value"
    names = [_NAMES.get(name, name) for name in expected.split(" | ") if name != "null"]
    got = "number" if got == "int" else _NAMES.get(got, got)
    return f"cannot unmarshal {got} into {where} of type {' or '.join(names)}"
