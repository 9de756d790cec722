"""The functions of Go's templates, and those that Docker adds for ``--format``."""

from __future__ import annotations

import re

from pyengine.cli.govalues import NO_VALUE, GoError, display, to_json, truth, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


def unquote(text: str) -> str:
    """The value of a Go string or character literal."""
    if text[0] == "`":
        return text[1:-1]

    def replace(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code.isdigit() and len(code) == 3:
            return chr(int(code, 8))
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(replace, text[1:-1])


def quote(text: str) -> str:
    """strconv.Quote: a double-quoted Go literal."""
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char in "\a\b\f\n\r\t\v":
            out.append("\\" + "abfnrtv"["\a\b\f\n\r\t\v".index(char)])
        elif char.isprintable():
            out.append(char)
        elif ord(char) < 0x80:
            out.append(f"\\x{ord(char):02x}")
        else:
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return "".join(out) + '"'


def constant(kind: str, text: str) -> Any:
    """The value of a literal token."""
    if kind == "string":
        return unquote(text)
    if kind == "char":
        return ord(unquote(text))
    plain = text.replace("_", "")
    if re.fullmatch(r"[+-]?\d+", plain):
        return int(plain)
    if re.match(r"[+-]?0[xXbBoO]", plain):
        return int(plain, 0)
    return float(plain)


def _basic(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "other"


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise GoError("missing argument for comparison")
    for other in others:
        if first in (None, NO_VALUE) or other in (None, NO_VALUE):
            if first in (None, NO_VALUE) and other in (None, NO_VALUE):
                return True
            continue
        if _basic(first) != _basic(other):
            raise GoError("incompatible types for comparison")
        if _basic(first) == "other":
            raise GoError("non-comparable type " + f"{display(first)}: {type_name(first)}")
        if first == other:
            return True
    return False


def _less(first: Any, second: Any) -> bool:
    if _basic(first) != _basic(second):
        raise GoError("incompatible types for comparison")
    if _basic(first) not in ("number", "string"):
        raise GoError("invalid type for comparison")
    return bool(first < second)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or value is NO_VALUE:
            raise GoError("index of untyped nil")
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise GoError(f"value has type {type_name(key)}; should be string")
            value = value.get(key, _zero_of(value))
        elif isinstance(value, (list, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise GoError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise GoError(f"index out of range: {key}")
            value = value[key] if isinstance(value, list) else value.encode()[key]
        else:
            raise GoError(f"can't index item of type {type_name(value)}")
    return value


def _zero_of(mapping: dict[str, Any]) -> Any:
    """The zero value of the map's elements, as far as the ones that are there show it."""
    for item in mapping.values():
        if isinstance(item, str):
            return ""
        if isinstance(item, list):
            return []
        if isinstance(item, bool):
            return False
        if isinstance(item, int):
            return 0
        break
    return NO_VALUE


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (list, str)):
        raise GoError(f"can't slice item of type {type_name(value)}")
    items = value.encode() if isinstance(value, str) else value
    low, high = (*bounds, None, None)[:2]
    low, high = low or 0, len(items) if high is None else high
    if not 0 <= low <= high <= len(items):
        raise GoError(f"index out of range: {high if high > len(items) else low}")
    cut = items[low:high]
    return cut.decode("utf-8", "replace") if isinstance(cut, bytes) else cut


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    raise GoError(f"len of type {type_name(value)}")


_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+))?(.)", re.DOTALL)


def sprintf(pattern: str, *values: Any) -> str:
    """fmt.Sprintf for the verbs that make sense on JSON values."""
    left = list(values)

    def replace(match: re.Match[str]) -> str:
        options, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        if width == "*":
            width = str(left.pop(0))
        text = _verb(verb, left.pop(0), options, precision)
        if width:
            if "-" in options:
                return text.ljust(int(width))
            return text.zfill(int(width)) if "0" in options else text.rjust(int(width))
        return text

    out = _VERB.sub(replace, pattern)
    if left:
        extra = ", ".join(f"{type_name(value)}={display(value)}" for value in left)
        out += f"%!(EXTRA {extra})"
    return out


def _verb(verb: str, value: Any, options: str, precision: str | None) -> str:
    kind = _basic(value)
    if verb == "v":
        return display(value)
    if verb == "T":
        return type_name(value)
    if verb == "s" and not isinstance(value, (bool, int, float)):
        text = display(value)
        return text[: int(precision)] if precision else text
    if verb == "q" and kind == "string":
        return quote(value)
    if verb == "q" and isinstance(value, list):
        return "[" + " ".join(quote(display(item)) for item in value) + "]"
    if verb == "t" and kind == "bool":
        return display(value)
    if kind == "string" and verb in "xX":
        return str(value.encode().hex() if verb == "x" else value.encode().hex().upper())
    if isinstance(value, int) and kind == "number":
        sign = "+" if "+" in options and value >= 0 else ""
        if verb in "dbox":
            return sign + format(value, verb)
        if verb == "X":
            return sign + format(value, "X")
        if verb == "c":
            return chr(value)
        if verb == "U":
            return f"U+{value:04X}"
    if isinstance(value, float) and verb in "feEgG":
        return format(value, f"{'+' if '+' in options else ''}.{precision or 6}{verb}")
    if value is None or value is NO_VALUE:
        return f"%!{verb}(<nil>)"
    return f"%!{verb}({type_name(value)}={display(value)})"


def _print(*values: Any) -> str:
    """fmt.Sprint: spaces between operands when neither is a string."""
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += display(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(display(value) for value in values) + "\n"


def _text(value: Any) -> str:
    """A piped value where a string is needed; others were checked by ``PARAMETERS``."""
    if not isinstance(value, str):
        raise GoError(f"wrong type for value; expected string; got {type_name(value)}")
    return value


def _join(values: Any, separator: str) -> str:
    if values is None or values is NO_VALUE:
        return ""
    if isinstance(values, list):
        return separator.join(display(value) for value in values)
    if isinstance(values, dict):
        return separator.join(sorted(display(value) for value in values.values()))
    raise GoError(f"expected slice, got {type_name(values)}")


def _title(text: str) -> str:
    return re.sub(r"\b\w", lambda match: match[0].upper(), _text(text))


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text.encode()[:length].decode("utf-8", "ignore")


def _html(*values: Any) -> str:
    text = _print(*values).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&#34;").replace("'", "&#39;")


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: values[-1],
    "or": lambda *values: values[-1],
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _less,
    "le": lambda first, second: _less(first, second) or _equal(first, second),
    "gt": lambda first, second: not (_less(first, second) or _equal(first, second)),
    "ge": lambda first, second: not _less(first, second),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": _print,
    "printf": lambda pattern, *values: sprintf(_text(pattern), *values),
    "println": _println,
    "html": _html,
    "js": lambda *values: to_json(_print(*values))[1:-1],
    "urlquery": _urlquery,
    "json": to_json,
    "split": lambda text, separator: _text(text).split(separator),
    "join": _join,
    "title": _title,
    "lower": lambda text: _text(text).lower(),
    "upper": lambda text: _text(text).upper(),
    "pad": _pad,
    "truncate": _truncate,
}

# Types that Go checks before the call; the error then points at the argument.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "lower": ("string",),
    "upper": ("string",),
    "title": ("string",),
    "split": ("string", "string"),
    "join": ("any", "string"),
    "pad": ("string", "int", "int"),
    "truncate": ("string", "int"),
    "printf": ("string",),
}

# In a table's heading the columns' names must come through untouched.
HEADER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda text: text,
    "split": lambda text, _: text,
    "join": lambda text, _: text,
    "title": lambda text: text,
    "lower": lambda text: text,
    "upper": lambda text: text,
    "truncate": lambda text, _: text,
}
