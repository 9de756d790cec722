"""Go templates: output and errors are those of Docker's client for the same format."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.cli.client import CommandError
from pyengine.cli.formatting import execute_inspect, parse_or_64
from pyengine.cli.gotemplate import Template, TemplateError

CONTAINER: dict[str, Any] = {
    "Id": "4f1d",
    "Name": "/web",
    "Created": "2026-01-02T03:04:05Z",
    "State": {"Status": "running", "Running": True, "ExitCode": 0, "Pid": 42},
    "Config": {
        "Env": ["A=1", "B=2"],
        "Labels": {"z": "26", "a": "1"},
        "Entrypoint": None,
        "Cmd": ["sleep", "9"],
        "Volumes": None,
        "Tty": False,
    },
    "HostConfig": {
        "Memory": 67108864,
        "Binds": None,
        "Init": None,
        "LogConfig": {"Type": "json-file", "Config": {}},
        "Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}],
    },
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "Aliases": None}},
    },
}

CASES = [
    ("{{.Name}}", "/web"),
    ("{{ .State.Status }} {{.State.Pid}}", "running 42"),
    ("{{json .State}}", '{"Status":"running","Running":true,"ExitCode":0,"Pid":42,"Health":null}'),
    ("{{json .Config.Labels}}", '{"a":"1","z":"26"}'),
    ("{{.Config.Labels}}", "map[a:1 z:26]"),
    ("{{.Config.Env}} {{.Config.Cmd}} {{.Config.Entrypoint}}", "[A=1 B=2] [sleep 9] []"),
    ("{{.Config.Volumes}} {{.HostConfig.Binds}} {{.HostConfig.Init}}", "map[] [] <nil>"),
    ("{{.Config.Labels.nope}}", "<no value>"),
    ('{{index .Config.Labels "nope"}}|', "|"),
    ('{{index .Config.Labels "z"}}', "26"),
    ("{{index .Config.Env 1}}", "B=2"),
    ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
    ("{{.HostConfig.LogConfig}} {{.HostConfig.Ulimits}}", "{json-file map[]} [nofile=10:20]"),
    ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
    ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=1;z=26;"),
    ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
    ("{{range .HostConfig.Binds}}{{.}}{{else}}none{{end}}", "none"),
    ("{{range .Config.Env}}{{break}}{{end}}ok", "ok"),
    ('{{range .Config.Env}}{{if eq . "A=1"}}{{continue}}{{end}}{{.}}{{end}}', "B=2"),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("{{if .State.Running}}yes{{else}}no{{end}}", "yes"),
    ("{{if .State.Health}}h{{else if .State.Running}}r{{else}}x{{end}}", "r"),
    ("{{if and .State.Running (not .Config.Tty)}}up{{end}}", "up"),
    ("{{with .State}}{{.Pid}}{{end}}", "42"),
    ("{{with .State.Health}}{{.Status}}{{else}}none{{end}}", "none"),
    ("{{$x := 5}}{{$x}}{{$x = 6}}{{$x}} {{$.Name}}", "56 /web"),
    (
        '{{printf "%s|%q|%v|%5.1f|%d|%-4s|%05d" .Name .Name .Id 1.25 3 "ab" 42}}',
        '/web|"/web"|4f1d|  1.2|3|ab  |00042',
    ),
    ('{{.HostConfig.Memory | printf "%d MiB"}}', "67108864 MiB"),
    ('{{1 | printf "%d-%d" 2}}', "2-1"),
    (
        '{{printf "%d" "x"}} {{printf "%s"}} {{printf "a" 1}}',
        "%!d(string=x) %!s(MISSING) a%!(EXTRA int=1)",
    ),
    ("{{len .Config.Env}} {{len .Name}} {{slice .Name 1 3}}", "2 4 we"),
    (
        '{{eq .State.Status "exited" "running"}} {{ne 1 2}} {{lt 1 2}} {{ge "b" "a"}}',
        "true true true true",
    ),
    ('{{and true false}} {{or "" "x"}} {{not true}}', "false x false"),
    (
        '{{join .Config.Env ","}} {{upper "ab"}} {{lower "AB"}} {{title "foo bar"}}',
        "A=1,B=2 AB ab Foo Bar",
    ),
    (
        '{{split "a,b" ","}} [{{pad "x" 1 2}}] [{{pad "" 1 2}}] {{truncate "abcdef" 3}}',
        "[a b] [ x  ] [] abc",
    ),
    ('{{print 1 2 "x" 3}} {{println "a" 1}}', "1 2x3 a 1\n"),
    ('{{html "<a>"}} {{js "a\\"b"}} {{urlquery "a b"}}', '&lt;a&gt; a\\"b a+b'),
    ('a {{- "b" -}} c {{/* gone */}}d', "abc d"),
    ("{{- /* gone */ -}} x", "x"),
    ("{{true}} {{1.5}} {{'a'}} {{0x10}} {{`raw\\n`}}", "true 1.5 97 16 raw\\n"),
    ('{{"a\\tb\\u00e9"}}', "a\tbé"),
    ('{{json "<&>"}} {{json 1.5}} {{json .Config.Entrypoint}}', '"<&>" 1.5 []'),
    ("plain", "plain"),
    ("", ""),
]


@pytest.mark.parametrize(("format", "text"), CASES)
def test_output(format: str, text: str) -> None:
    assert execute_inspect(parse_or_64(format), CONTAINER) == text


EXECUTION_ERRORS = [
    ("{{.Foo}}", ':1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
    ("{{.State.Foo}}", ':1:8: executing "" at <.State.Foo>: map has no entry for key "Foo"'),
    (
        "\n {{.State.Health.Status}}",
        ':2:9: executing "" at <.State.Health.Status>: map has no entry for key "Health"',
    ),
    (
        "{{.Name.Foo}}",
        ':1:7: executing "" at <.Name.Foo>: can\'t evaluate field Foo in type interface {}',
    ),
    (
        "{{index .Config.Env 99}}",
        ':1:2: executing "" at <index .Config.Env 99>: error calling index: index out of range: 99',
    ),
    (
        '{{index .Config.Env "a"}}',
        ':1:2: executing "" at <index .Config.Env "a">: error calling index: '
        "cannot index slice/array with type string",
    ),
    ("{{len 3}}", ':1:2: executing "" at <len 3>: error calling len: len of type int'),
    (
        '{{lt 1 "a"}}',
        ':1:2: executing "" at <lt 1 "a">: error calling lt: incompatible types for comparison',
    ),
    ("{{upper 3}}", ':1:8: executing "" at <3>: expected string; found 3'),
    ("{{nil}}", ':1:2: executing "" at <nil>: nil is not a command'),
]


@pytest.mark.parametrize(("format", "words"), EXECUTION_ERRORS)
def test_execution_errors(format: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        execute_inspect(parse_or_64(format), CONTAINER)
    assert str(caught.value) == "template parsing error: template: " + words


PARSE_ERRORS = [
    ("{{", "unclosed action"),
    ("{{.}", "bad character U+007D '}'"),
    ("{{.", 'illegal number syntax: "."'),
    ("{{if}}", "missing value for if"),
    ("{{}}", "missing value for command"),
    ("{{end}}", "unexpected {{end}}"),
    ("{{if true}}", "unexpected EOF"),
    ("{{foo}}", 'function "foo" not defined'),
    ("{{$y}}", 'undefined variable "$y"'),
    ('{{"abc}}', "unterminated quoted string"),
    ("{{break}}", "{{break}} outside {{range}}"),
    ("{{(1}}", "unclosed left paren"),
]


@pytest.mark.parametrize(("format", "words"), PARSE_ERRORS)
def test_parse_errors(format: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_or_64(format)
    assert str(caught.value) == f"template parsing error: template: :1: {words}"
    assert caught.value.code == 64


def test_variables_end_with_their_block() -> None:
    with pytest.raises(TemplateError, match="undefined variable"):
        Template("{{if true}}{{$x := 1}}{{end}}{{$x}}")


def test_deep_nesting_keeps_scopes_apart() -> None:
    template = Template(
        "{{$n := 0}}{{range .a}}{{range .}}{{$n = .}}{{with $n}}{{$n := 9}}{{end}}"
        "{{end}}{{end}}{{$n}}"
    )
    assert template.execute({"a": [[1, 2], [3]]}) == "3"
