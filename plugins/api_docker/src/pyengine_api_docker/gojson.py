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
from pyengine_api_docker import gosyntax

T = TypeVar("T")

#: Fields that Docker declares as a word or a list of words.
WORDS = frozenset({"Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"})

#: What Go's ``int64`` holds; Python's numbers know no end.
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1

#: What JSON calls the types that msgspec names as Python does.
_NAMES = {"str": "string", "int": "integer", "float": "number"}

#: A number that its field has no room for.
_BOUNDS = re.compile(r"Expected `int` ([<>]= -?\d+) - at `\$\.?([^`]*)`")

_MISMATCH = re.compile(r"Expected `([^`]*)`, got `([^`]*)`(?: - at `\$\.?([^`]*)`)?")


def decode(raw: bytes, type: type[T]) -> T:
    """``raw`` as ``type``, a msgspec struct. Unknown fields are ignored.

    Raises ``InvalidParameter`` in Docker's words for what is no JSON or has the wrong types.
    """
    if not raw.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    try:
        body: T = _decoder(cast(Any, type)).decode(raw)
        if not _misspelt(raw, type) and not _LONG.search(raw):
            return body
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        end = gosyntax.end_of_value(raw)
        # what is no UTF-8 becomes U+FFFD, as in Go
        value = msgspec.json.decode(raw[:end].decode(errors="replace"))
        body = msgspec.convert({} if value is None else _adapt(value, type, ""), type)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {_explain(str(error))}") from error
    except (gosyntax.Malformed, msgspec.DecodeError) as error:
        raise InvalidParameter(f"invalid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidParameter("invalid JSON: exceeded max depth") from error
    if raw[end:].strip():
        raise InvalidParameter("unexpected content after JSON")
    return body


#: A number that may be too long for an ``int64``.
_LONG = re.compile(rb"\d{19}")


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


def names_any(raw: bytes, type: Any) -> bool:
    """Whether the object ``raw``, which can be read, has a field of ``type`` at all."""
    value = msgspec.json.decode(raw.decode(errors="replace"))
    return any(key.lower() in _fields(type) for key in value or ())


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


def _adapt(value: Any, type: Any, place: str) -> Any:
    """``value`` without nulls that ``type`` has no room for, and under its exact names.

    ``place``: the path of the field, for errors.
    """
    if isinstance(type, types.UnionType) or typing.get_origin(type) is typing.Union:
        members = [member for member in typing.get_args(type) if member is not types.NoneType]
        if value is None or len(members) != 1:
            return value
        return _adapt(value, members[0], place)
    if typing.get_origin(type) is typing.Annotated:
        type = typing.get_args(type)[0]
    origin = typing.get_origin(type) or type
    if value is None:
        # in a list or a map, where Go puts the zero value
        return {} if isinstance(type, cast(Any, msgspec.StructMeta)) else _ZERO.get(origin)
    if origin is int and isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        raise InvalidParameter(
            f"invalid JSON: cannot unmarshal number {value} into field {place} of type int64"
        )
    if origin is dict and isinstance(value, dict) and typing.get_args(type):
        inner = typing.get_args(type)[1]
        return {key: _adapt(item, inner, f"{place}.{key}") for key, item in value.items()}
    if origin is list and isinstance(value, list) and typing.get_args(type):
        inner = typing.get_args(type)[0]
        return [_adapt(item, inner, f"{place}[{n}]") for n, item in enumerate(value)]
    if not (isinstance(type, cast(Any, msgspec.StructMeta)) and isinstance(value, dict)):
        return value
    fields = _fields(type)
    body = {}
    for key, item in value.items():
        name, expected = fields.get(key.lower(), (key, None))
        if item is None or expected is None:
            continue
        # An exec's command is a list and nothing else; it has no entrypoint either.
        words = (
            name in WORDS and isinstance(item, str) and (name != "Cmd" or "entrypoint" in fields)
        )
        path = f"{place}.{name}" if place else name
        body[name] = [item] if words else _adapt(item, expected, path)
    return body


_ZERO: dict[Any, Any] = {str: "", int: 0, bool: False, float: 0.0, dict: {}, list: []}


def _explain(text: str) -> str:
    found = _MISMATCH.match(text)
    if found is None:
        return _BOUNDS.sub(r"cannot unmarshal number into field \2 of type integer \1", text)
    expected, got, place = found.groups()
    where = f"field {place}" if place else "value"
    names = [_NAMES.get(name, name) for name in expected.split(" | ") if name != "null"]
    got = "number" if got == "int" else _NAMES.get(got, got)
    return f"cannot unmarshal {got} into {where} of type {' or '.join(names)}"
