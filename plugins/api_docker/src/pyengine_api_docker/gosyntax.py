"""What is wrong with a text that is no JSON, in the words of Go's ``encoding/json``.

Clients and their tests know these words. The scanner runs only on what the fast decoder has
refused, and says no more than where the first value ends or why it does not.
"""

from __future__ import annotations

import re
from typing import NoReturn

#: Go's limit of arrays and objects in each other.
DEEPEST = 10_000

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9]*")
_LITERALS = {b"t": b"true", b"f": b"false", b"n": b"null"}
_HEX = b"0123456789abcdefABCDEF"


class Malformed(Exception):
    """Go's complaint; ``unexpected EOF`` where the text breaks off."""


def end_of_value(text: bytes) -> int:
    """Where the first JSON value of ``text`` ends; :class:`Malformed` if there is none."""
    open_: list[bytes] = []
    at, expected = 0, "value"
    while True:
        at = _space(text, at)
        byte = text[at : at + 1]
        if expected == "value" or (expected == "element" and byte != b"]"):
            if byte in (b"{", b"["):
                open_.append(byte)
                if len(open_) > DEEPEST:
                    _complain(text, at, "exceeded max depth")
                at, expected = at + 1, "first key" if byte == b"{" else "element"
                continue
            at = _scalar(text, at)
        elif expected in ("key", "first key") and not (expected == "first key" and byte == b"}"):
            if byte != b'"':
                _complain(text, at, "looking for beginning of object key string")
            at = _space(text, _string(text, at + 1))
            if text[at : at + 1] != b":":
                _complain(text, at, "after object key")
            at, expected = at + 1, "value"
            continue
        elif expected == "next" and byte == b",":
            at, expected = at + 1, "key" if open_[-1] == b"{" else "value"
            continue
        elif expected == "next" and byte != (b"}" if open_[-1] == b"{" else b"]"):
            pair = open_[-1] == b"{"
            _complain(text, at, "after object key:value pair" if pair else "after array element")
        else:
            open_.pop()
            at += 1
        if not open_:
            return at
        expected = "next"


def _space(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _scalar(text: bytes, at: int) -> int:
    byte = text[at : at + 1]
    if byte == b'"':
        return _string(text, at + 1)
    if byte in _LITERALS:
        return _literal(text, at, _LITERALS[byte])
    if byte == b"-" or byte.isdigit():
        return _number(text, at)
    _complain(text, at, "looking for beginning of value")


def _string(text: bytes, at: int) -> int:
    while True:
        plain = _PLAIN.match(text, at)
        assert plain is not None
        at = plain.end()
        byte = text[at : at + 1]
        if byte == b'"':
            return at + 1
        if byte != b"\\":
            _complain(text, at, "in string literal")
        kind = text[at + 1 : at + 2]
        if kind == b"u":
            for place in range(at + 2, at + 6):
                digit = text[place : place + 1]
                if not digit or digit not in _HEX:
                    _complain(text, place, r"in \u hexadecimal character escape")
            at += 6
        elif kind and kind in b'"\\/bfnrt':
            at += 2
        else:
            _complain(text, at + 1, "in string escape code")


def _literal(text: bytes, at: int, word: bytes) -> int:
    for offset in range(1, len(word)):
        if text[at + offset : at + offset + 1] != word[offset : offset + 1]:
            expected = word[offset : offset + 1].decode()
            _complain(text, at + offset, f"in literal {word.decode()} (expecting '{expected}')")
    return at + len(word)


def _number(text: bytes, at: int) -> int:
    if text[at : at + 1] == b"-":
        at += 1
    if text[at : at + 1] == b"0":
        at += 1
    else:
        at = _digits(text, at, "in numeric literal")
    if text[at : at + 1] == b".":
        at = _digits(text, at + 1, "after decimal point in numeric literal")
    if text[at : at + 1] in (b"e", b"E"):
        at += 2 if text[at + 1 : at + 2] in (b"+", b"-") else 1
        at = _digits(text, at, "in exponent of numeric literal")
    return at


def _digits(text: bytes, at: int, where: str) -> int:
    found = _DIGITS.match(text, at)
    assert found is not None
    if found.end() == at:
        _complain(text, at, where)
    return found.end()


def _complain(text: bytes, at: int, where: str) -> NoReturn:
    if at >= len(text):
        raise Malformed("unexpected EOF")
    raise Malformed(f"invalid character {_quoted(text[at])} {where}")


def _quoted(byte: int) -> str:
    """A byte as Go quotes it, which takes it for a code point."""
    sign = chr(byte)
    if sign == "'":
        return r"'\''"
    if sign == '"' or (sign.isprintable() and sign != "\\"):
        return f"'{sign}'"
    named = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 92: "\\"}
    if byte in named:
        return f"'\\{named[byte]}'"
    return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"
