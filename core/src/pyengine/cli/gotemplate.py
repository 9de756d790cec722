"""Go's text/template for ``--format``: the language of pkg.go.dev/text/template.

Parsing gives a tree of small tuples; executing walks it. Data are what JSON decodes to, with two
refinements: a ``Struct`` is a Go struct (a missing field is an error of its own, null is a typed
zero value), and a ``Row`` computes its fields when they are asked for. ``define``, ``template``
and ``block`` are left out: a format is one template.
"""

from __future__ import annotations

import re

from pyengine.cli import gofunctions
from pyengine.cli.govalues import NO_VALUE, GoError, Row, Struct, display, truth, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Scope = list[dict[str, Any]]


class TemplateError(Exception):
    """The template cannot be parsed or executed; the message is Go's."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<comment>/\*.*?\*/)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
  | (?P<char>'(?:[^'\\\n]|\\.)+')
  | (?P<number>[+-]?(?: 0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
                      | \d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+))
  | (?P<declare>:=)
  | (?P<variable>\$[\w]*)
  | (?P<field>\.[^\W\d]\w*)
  | (?P<dot>\.)
  | (?P<word>[^\W\d]\w*)
  | (?P<mark>[|(),=])
    """,
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = {"if", "range", "with", "else", "end", "break", "continue", "nil", "true", "false"}


class _Token:
    __slots__ = ("kind", "position", "spaced", "text")

    def __init__(self, kind: str, text: str, position: int, spaced: bool) -> None:
        self.kind, self.text, self.position, self.spaced = kind, text, position, spaced


class Node:
    """An expression: ``kind`` says how to evaluate it, ``text`` how Go prints it in errors."""

    __slots__ = ("kind", "parts", "position", "text")

    def __init__(self, kind: str, position: int, text: str, parts: Any = None) -> None:
        self.kind, self.position, self.text, self.parts = kind, position, text, parts


class _Pipe:
    """A pipeline: commands fed one into the next, and the variables it sets."""

    __slots__ = ("assign", "commands", "names", "position")

    def __init__(
        self, position: int, names: list[str], assign: bool, commands: list[list[Node]]
    ) -> None:
        self.position, self.names, self.assign, self.commands = position, names, assign, commands

    def __str__(self) -> str:
        text = " | ".join(" ".join(node.text for node in words) for words in self.commands)
        if self.names:
            return f"{', '.join(self.names)} {'=' if self.assign else ':='} {text}"
        return text


class _Parser:
    def __init__(self, source: str, name: str, functions: dict[str, Any]) -> None:
        self._source, self._name, self._functions = source, name, functions
        self._pieces = self._split()
        self._next = 0
        self._tokens: list[_Token] = []
        self._at = 0
        self._variables = ["$"]
        self._ranges = 0

    def _fail(self, message: str, position: int) -> TemplateError:
        line = self._source.count("\n", 0, position) + 1
        return TemplateError(f"template: {self._name}:{line}: {message}")

    def _split(self) -> list[tuple[str, int, str]]:
        """The source as ("text" | "action", position, content), whitespace trimmed."""
        pieces: list[tuple[str, int, str]] = []
        source, position, trim = self._source, 0, False
        while True:
            start = source.find("{{", position)
            text = source[position:] if start < 0 else source[position:start]
            if trim:
                text = text.lstrip(" \t\r\n")
            if start < 0:
                if text:
                    pieces.append(("text", position, text))
                return pieces
            inner = start + 2
            if source[inner : inner + 1] == "-" and source[inner + 1 : inner + 2] in tuple(
                " \t\r\n"
            ):
                text = text.rstrip(" \t\r\n")
                inner += 2
            if text:
                pieces.append(("text", position, text))
            end = self._action_end(inner)
            content = source[inner:end]
            trim = content.endswith("-") and content[-2:-1] in tuple(" \t\r\n")
            if trim:
                content = content[:-2]
            if not content.strip().startswith("/*"):
                pieces.append(("action", inner, content))
            position = end + 2

    def _action_end(self, start: int) -> int:
        position, source = start, self._source
        while position < len(source):
            if source.startswith("}}", position):
                return position
            match = _TOKEN.match(source, position)
            if match and match.lastgroup in ("string", "char", "comment"):
                position = match.end()
            elif source[position] == '"':
                raise self._fail("unterminated quoted string", position)
            elif source[position] == "\n" and "}}" not in source[position:]:
                break
            else:
                position += 1
        rest = source[start:].rstrip()
        if rest.endswith("."):
            raise self._fail('illegal number syntax: "."', start)
        if rest.endswith("}"):
            raise self._fail("bad character U+007D '}'", start)
        raise self._fail("unclosed action", start)

    def parse(self) -> list[Any]:
        nodes, end = self._list(("",))
        if end:
            raise self._fail(f"unexpected {{{{{end}}}}}", 0)
        return nodes

    def _list(self, ends: tuple[str, ...]) -> tuple[list[Any], str]:
        nodes: list[Any] = []
        while self._next < len(self._pieces):
            kind, position, content = self._pieces[self._next]
            self._next += 1
            if kind == "text":
                nodes.append(("text", content))
                continue
            self._tokenize(content, position)
            word = self._peek()
            if word is None:
                raise self._fail("missing value for command", position)
            if word.kind == "keyword" and word.text in ("else", "end"):
                if word.text not in ends:
                    raise self._fail(f"unexpected {{{{{word.text}}}}}", position)
                self._at += 1
                return nodes, word.text
            nodes.append(self._action(word, position))
        if "end" in ends:
            raise self._fail("unexpected EOF", len(self._source))
        return nodes, ""

    def _action(self, word: _Token, position: int) -> Any:
        if word.kind == "keyword" and word.text in ("if", "with", "range"):
            self._at += 1
            return self._control(word.text, position)
        if word.kind == "keyword" and word.text in ("break", "continue"):
            if not self._ranges:
                raise self._fail(f"{{{{{word.text}}}}} outside {{{{range}}}}", position)
            self._at += 1
            return (word.text,)
        pipe = self._pipe("command")
        self._expect_end("command")
        return ("action", pipe)

    def _control(self, word: str, position: int) -> Any:
        mark = len(self._variables)
        pipe = self._pipe(word)
        self._expect_end(word)
        self._ranges += word == "range"
        body, end = self._list(("else", "end"))
        self._ranges -= word == "range"
        other: list[Any] = []
        if end == "else":
            following = self._peek()
            if following is not None and following.text in ("if", "with") and word != "range":
                self._at += 1
                other = [self._control(following.text, position)]
            else:
                self._expect_end("else")
                other, _ = self._list(("end",))
        else:
            self._expect_end("end")
        del self._variables[mark:]
        return (word, pipe, body, other)

    def _tokenize(self, content: str, offset: int) -> None:
        self._tokens, self._at, position, spaced = [], 0, 0, True
        while position < len(content):
            match = _TOKEN.match(content, position)
            if match is None:
                raise self._fail(
                    f"unexpected {_quoted(content[position])} in command", offset + position
                )
            kind, text = str(match.lastgroup), match.group()
            if kind == "word" and text in _KEYWORDS:
                kind = "keyword"
            if kind not in ("space", "comment"):
                self._tokens.append(_Token(kind, text, offset + position, spaced))
            spaced = kind == "space"
            position = match.end()

    def _peek(self, ahead: int = 0) -> _Token | None:
        index = self._at + ahead
        return self._tokens[index] if index < len(self._tokens) else None

    def _expect_end(self, context: str) -> None:
        token = self._peek()
        if token is not None:
            raise self._fail(f"unexpected {_quoted(token.text)} in {context}", token.position)

    def _pipe(self, context: str, closing: bool = False) -> _Pipe:
        first = self._peek()
        position = first.position if first else 0
        names, assign = self._declaration(context)
        commands: list[list[Node]] = []
        while True:
            words = self._command()
            if not words:
                raise self._fail(
                    f"missing value for {'parenthesized pipeline' if closing else context}",
                    position,
                )
            if commands and words[0].kind not in ("function", "field", "variable", "chain", "pipe"):
                raise self._fail(
                    f"non executable command in pipeline stage {len(commands) + 1}", position
                )
            commands.append(words)
            token = self._peek()
            if token is not None and token.text == "|":
                self._at += 1
                continue
            return _Pipe(position, names, assign, commands)

    def _declaration(self, context: str) -> tuple[list[str], bool]:
        names: list[str] = []
        start = self._at
        while True:
            token, following = self._peek(), self._peek(1)
            if token is None or token.kind != "variable" or following is None:
                break
            if following.text == "," and context == "range" and not names:
                names.append(token.text)
                self._at += 2
                continue
            if following.text in (":=", "="):
                names.append(token.text)
                self._at += 2
                if following.text == ":=":
                    self._variables += names
                return names, following.text == "="
            break
        self._at = start
        return [], False

    def _command(self) -> list[Node]:
        words: list[Node] = []
        while True:
            token = self._peek()
            if token is None or (token.text in ("|", ")") and token.kind == "mark"):
                return words
            if words and not token.spaced:
                raise self._fail(f"unexpected {_quoted(token.text)} in operand", token.position)
            words.append(self._operand(token))

    def _operand(self, token: _Token) -> Node:
        node = self._term(token)
        fields: list[str] = []
        position, text = node.position, node.text
        while (following := self._peek()) and following.kind == "field" and not following.spaced:
            if not fields:
                position = following.position
            fields.append(following.text[1:])
            text += following.text
            self._at += 1
        if not fields:
            return node
        if node.kind in ("field", "variable"):
            return Node(node.kind, position, text, [*node.parts, *fields])
        if node.kind in ("constant", "nil"):
            raise self._fail(f"unexpected . after term {_quoted(node.text)}", position)
        return Node("chain", position, text, (node, fields))

    def _term(self, token: _Token) -> Node:
        self._at += 1
        kind, text, position = token.kind, token.text, token.position
        if kind == "field":
            return Node("field", position, text, [text[1:]])
        if kind == "dot":
            return Node("dot", position, ".")
        if kind == "variable":
            if text not in self._variables:
                raise self._fail(f"undefined variable {_quoted(text)}", position)
            return Node("variable", position, text, [text])
        if kind == "word":
            if text not in self._functions:
                raise self._fail(f"function {_quoted(text)} not defined", position)
            return Node("function", position, text)
        if text == "nil":
            return Node("nil", position, text)
        if text in ("true", "false"):
            return Node("constant", position, text, text == "true")
        if kind in ("string", "char", "number"):
            return Node("constant", position, text, gofunctions.constant(kind, text))
        if text == "(":
            pipe = self._pipe("parenthesized pipeline", closing=True)
            closing = self._peek()
            if closing is None or closing.text != ")":
                raise self._fail("unclosed left paren", position)
            self._at += 1
            return Node("pipe", position, f"({pipe})", pipe)
        raise self._fail(f"unexpected {_quoted(text)} in operand", position)


def _quoted(text: str) -> str:
    return gofunctions.quote(text)


class Template:
    """A parsed format. TemplateError if it is not one."""

    def __init__(
        self, source: str, name: str = "", functions: dict[str, Callable[..., Any]] | None = None
    ) -> None:
        self.name = name
        self._source = source
        self._functions = {**gofunctions.FUNCTIONS, **(functions or {})}
        self._nodes = _Parser(source, name, self._functions).parse()

    def execute(
        self,
        data: Any,
        missing_is_error: bool = False,
        functions: dict[str, Callable[..., Any]] | None = None,
    ) -> str:
        """The text for ``data``. TemplateError with Go's position and words."""
        known = {**self._functions, **(functions or {})}
        run = _Execution(self, self._source, known, missing_is_error, data)
        out: list[str] = []
        run.walk(self._nodes, data, out)
        return "".join(out)


class _Execution:
    def __init__(
        self,
        template: Template,
        source: str,
        functions: dict[str, Callable[..., Any]],
        missing_is_error: bool,
        data: Any,
    ) -> None:
        self._template, self._source, self._functions = template, source, functions
        self._missing_is_error = missing_is_error
        self._scope: Scope = [{"$": data}]

    def _fail(self, node: Node | _Pipe, message: str) -> TemplateError:
        line_start = self._source.rfind("\n", 0, node.position) + 1
        line = self._source.count("\n", 0, node.position) + 1
        shown = str(node) if isinstance(node, _Pipe) else node.text
        where = f"{self._template.name}:{line}:{node.position - line_start}"
        return TemplateError(
            f'template: {where}: executing "{self._template.name}" at <{shown}>: {message}'
        )

    def walk(self, nodes: list[Any], dot: Any, out: list[str]) -> None:
        for node in nodes:
            word = node[0]
            if word == "text":
                out.append(node[1])
            elif word == "action":
                value = self._pipe(node[1], dot)
                if not node[1].names:
                    out.append(display(value))
            elif word == "range":
                self._range(node, dot, out)
            elif word == "break":
                raise _Break()
            elif word == "continue":
                raise _Continue()
            else:
                self._branch(node, dot, out)

    def _branch(self, node: Any, dot: Any, out: list[str]) -> None:
        word, pipe, body, other = node
        self._scope.append({})
        value = self._pipe(pipe, dot)
        if truth(value):
            self.walk(body, value if word == "with" else dot, out)
        else:
            self.walk(other, dot, out)
        self._scope.pop()

    def _range(self, node: Any, dot: Any, out: list[str]) -> None:
        _, pipe, body, other = node
        self._scope.append({})
        value = self._pipe(pipe, dot, declare=False)
        pairs = self._pairs(pipe, value)
        for key, item in pairs:
            depth = len(self._scope)
            self._scope.append({})
            names = pipe.names
            if len(names) == 1:
                self._set(names[0], item, pipe.assign)
            elif names:
                self._set(names[0], key, pipe.assign)
                self._set(names[1], item, pipe.assign)
            try:
                self.walk(body, item, out)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self._scope[depth:]
        if not pairs:
            self.walk(other, dot, out)
        self._scope.pop()

    def _pairs(self, pipe: _Pipe, value: Any) -> list[tuple[Any, Any]]:
        if value is NO_VALUE or value is None:
            return []
        if isinstance(value, Struct):
            raise self._fail(pipe, f"range can't iterate over {display(value)}")
        if isinstance(value, dict):
            return sorted(value.items())
        if isinstance(value, list):
            return list(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return [(index, index) for index in range(value)]
        raise self._fail(pipe, f"range can't iterate over {display(value)}")

    def _set(self, name: str, value: Any, assign: bool) -> None:
        if assign:
            for names in reversed(self._scope):
                if name in names:
                    names[name] = value
                    return
        self._scope[-1][name] = value

    def _pipe(self, pipe: _Pipe, dot: Any, declare: bool = True) -> Any:
        value: Any = None
        for number, words in enumerate(pipe.commands):
            final = [value] if number else []
            value = self._command(words, dot, final)
        if declare:
            for name in pipe.names:
                self._set(name, value, pipe.assign)
        return value

    def _command(self, words: list[Node], dot: Any, final: list[Any]) -> Any:
        first, rest = words[0], words[1:]
        if first.kind == "function":
            return self._call(first, rest, dot, final)
        if first.kind in ("field", "variable", "chain"):
            return self._evaluate(first, dot, rest, final)
        if first.kind == "nil":
            raise self._fail(first, "nil is not a command")
        if rest or final:
            raise self._fail(first, f"can't give argument to non-function {first.text}")
        return self._evaluate(first, dot, [], [])

    def _call(self, node: Node, arguments: list[Node], dot: Any, final: list[Any]) -> Any:
        if node.text in ("and", "or"):
            return self._short_circuit(node, arguments, dot, final)
        values = [self._argument(argument, dot) for argument in arguments]
        self._check_types(node.text, arguments, values)
        values += final
        whole = " ".join([node.text, *(argument.text for argument in arguments)])
        call = Node("function", node.position, whole)
        try:
            return self._functions[node.text](*values)
        except GoError as error:
            raise self._fail(call, f"error calling {node.text}: {error}")
        except TypeError:
            raise self._fail(call, f"wrong number of args for {node.text}: got {len(values)}")

    def _check_types(self, name: str, arguments: list[Node], values: list[Any]) -> None:
        wanted = gofunctions.PARAMETERS.get(name, ())
        for kind, argument, value in zip(wanted, arguments, values, strict=False):
            if kind == "any" or type_name(value) == kind:
                continue
            if argument.kind == "constant":
                raise self._fail(argument, f"expected {kind}; found {argument.text}")
            found = type_name(value)
            raise self._fail(argument, f"wrong type for value; expected {kind}; got {found}")

    def _short_circuit(self, node: Node, arguments: list[Node], dot: Any, final: list[Any]) -> Any:
        if not arguments and not final:
            raise self._fail(node, f"wrong number of args for {node.text}: want at least 1 got 0")
        value: Any = None
        for argument in arguments:
            value = self._argument(argument, dot)
            if truth(value) == (node.text == "or"):
                return value
        return final[0] if final else value

    def _argument(self, node: Node, dot: Any) -> Any:
        return self._evaluate(node, dot, [], [])

    def _evaluate(self, node: Node, dot: Any, arguments: list[Node], final: list[Any]) -> Any:
        kind = node.kind
        if kind == "dot":
            return dot
        if kind == "constant":
            return node.parts
        if kind == "nil":
            return None
        if kind == "pipe":
            return self._pipe(node.parts, dot)
        if kind == "function":
            return self._call(node, [], dot, [])
        if kind == "field":
            return self._fields(node, dot, node.parts, dot, arguments, final)
        if kind == "variable":
            value = next(
                names[node.parts[0]] for names in reversed(self._scope) if node.parts[0] in names
            )
            return self._fields(node, value, node.parts[1:], dot, arguments, final)
        inner, fields = node.parts
        return self._fields(node, self._evaluate(inner, dot, [], []), fields, dot, arguments, final)

    def _fields(
        self,
        node: Node,
        value: Any,
        names: list[str],
        dot: Any,
        arguments: list[Node],
        final: list[Any],
    ) -> Any:
        for number, name in enumerate(names):
            last = number == len(names) - 1
            value = self._field(node, value, name, (arguments, final, dot) if last else None)
        return value

    def _field(self, node: Node, value: Any, name: str, call: Any) -> Any:
        has_arguments = call is not None and (call[0] or call[1])
        if isinstance(value, Row):
            method = value.method(name)
            if method is None:
                raise self._fail(node, f"can't evaluate field {name} in type {value.type_name}")
            if not has_arguments:
                return method()
            given = [self._argument(argument, call[2]) for argument in call[0]] + call[1]
            return method(*given)
        if isinstance(value, Struct):
            if name in value:
                return value[name]
            raise self._fail(node, f"can't evaluate field {name} in type {value.type_name}")
        if isinstance(value, dict):
            if has_arguments:
                raise self._fail(node, f"{name} is not a method but has arguments")
            if name in value:
                found = value[name]
                return NO_VALUE if found is None else found
            if self._missing_is_error:
                raise self._fail(node, f'map has no entry for key "{name}"')
            return NO_VALUE
        if value is None or value is NO_VALUE:
            raise self._fail(node, f"nil pointer evaluating {type_name(value)}.{name}")
        kind = "interface {}" if self._missing_is_error else type_name(value)
        raise self._fail(node, f"can't evaluate field {name} in type {kind}")
