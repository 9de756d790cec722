"""Bytes to JSON, a chunk at a time.

Docker's json-file has an encoder of its own: Go's rules for JSON in HTML (``<``, ``>``, ``&``,
U+2028 and U+2029 escaped), all control characters but newline and carriage return as ``\\u00XX``,
and one U+FFFD for every byte that is not UTF-8.

Everything here works on whole chunks with operations that run in C: a Python step per line or per
character would cost ten times as much.
"""

from __future__ import annotations

import codecs
import time as clock

_CONTROLS = bytes(code for code in range(0x20) if code != 0x0A)
_SPECIAL = _CONTROLS + b'"\\<>&'
_HARMLESS = bytes(code for code in range(0x100) if code not in _SPECIAL)
# The backslash comes first: the others bring new ones in.
_ESCAPES = [
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    *((bytes([code]), b"\\u%04x" % code) for code in _CONTROLS + b"<>&" if code != 0x0D),
]


def _one_mark_per_byte(error: UnicodeError) -> tuple[str, int]:
    """Go replaces every undecodable byte; Python's own handler only every sequence."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("pyengine-json-file", _one_mark_per_byte)


def escape(chunk: bytes) -> bytes:
    """What stands between the quotes of a JSON string for ``chunk``, but with its newlines raw."""
    if not chunk.isascii():
        try:
            chunk.decode()
        except UnicodeDecodeError:
            chunk = chunk.decode("utf-8", "pyengine-json-file").encode()
    if chunk.translate(None, _HARMLESS):
        for raw, escaped in _ESCAPES:
            chunk = chunk.replace(raw, escaped)
    if b"\xe2\x80" in chunk:
        chunk = chunk.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return chunk


def quote(text: str) -> bytes:
    """A whole JSON string."""
    return b'"' + escape(text.encode("utf-8", "surrogateescape")).replace(b"\n", b"\\n") + b'"'


def timestamp(time: int) -> bytes:
    """RFC 3339 in UTC as Go's RFC3339Nano: without the trailing zeros of the fraction."""
    seconds, fraction = divmod(time, 1_000_000_000)
    year, month, day, hour, minute, second = clock.gmtime(seconds)[:6]
    text = b"%04d-%02d-%02dT%02d:%02d:%02d" % (year, month, day, hour, minute, second)
    if fraction:
        text += (b".%09d" % fraction).rstrip(b"0")
    return text + b"Z"
