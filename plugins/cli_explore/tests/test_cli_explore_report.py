"""What the engine lists, read; the report as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from pyengine.cli.client import CommandError
from pyengine_cli_explore import explore, report, source

LINES: list[dict[str, Any]] = [
    {"image": {"id": "sha256:1", "names": ["test:latest"]}},
    {
        "layer": {
            "digest": "sha256:a", "diff_id": "sha256:b", "size": 1234, "created": "2024",
            "created_by": "/bin/sh -c #(nop)  ADD   rootfs in /",
        }
    },
    {"path": "etc", "kind": "directory", "mode": 0o755},
    {"path": "etc/a", "kind": "file", "size": 1000, "mode": 0o600, "uid": 3, "gid": 4},
    {"path": "etc/b", "kind": "symlink", "mode": 0o777, "link": "a"},
    {"path": "opt", "kind": "directory", "mode": 0o755},
    {"path": "opt/x", "kind": "file", "size": 3000, "mode": 0o644},
    {"path": "opt/y", "kind": "hardlink", "link": "opt/x"},
    {"layer": {"digest": "sha256:c", "diff_id": "sha256:d", "size": 99}},
    {"path": "etc/a", "kind": "file", "size": 2000, "mode": 0o600, "uid": 3, "gid": 4},
    {"path": "opt", "kind": "whiteout"},
    {"path": "etc", "kind": "directory", "mode": 0o700, "gid": 5},
    {"path": "dev", "kind": "directory", "mode": 0o755},
    {"path": "dev/null", "kind": "char", "mode": 0o666},
    {"path": "tab\there", "kind": "file", "size": 1, "mode": 0o644},
    {"path": "\udcff", "kind": "file", "mode": 0o644},
    {"end": True},
]  # fmt: skip


def test_the_text() -> None:
    assert list(report.text(source.history(LINES))) == [
        "Image:       test:latest, sha256:1",
        "Layers:      2, with 6.001kB in files",
        "Wasted:      4kB",
        "Efficiency:  33.3%",
        "",
        "LAYER   ADDED   CHANGED   REMOVED   IN FILES   WASTED   COMPRESSED   CREATED BY",
        "0       6       0         0         4kB        4kB      1.23kB       ADD rootfs in /",
        "1       4       2         3         2kB        0B       99B          ",
        "",
        "Layer 0: sha256:a",
        "  A /etc/  1kB in 2 files",
        "  A /opt/  3kB in 2 files",
        "",
        "Layer 1: sha256:c",
        "  A /dev/  0B in 1 file",
        "  C /etc/  0700 0:5",
        "  C /etc/a  2kB",
        "  D /opt/  3kB in 2 files",
        "  A /tab\\there  1B",
        "  A /\\xff  0B",
        "",
        "WASTED   PATH     STORED BY   GONE SINCE   HOW",
        "3kB      /opt/x   layer 0     layer 1      removed",
        "1kB      /etc/a   layer 0     layer 1      overwritten",
    ]


def test_the_full_text() -> None:
    lines = list(report.text(source.history(LINES), full=True))
    assert lines[10:16] == [
        "  A /etc/  1kB in 2 files",
        "  A /etc/a  1kB",
        "  A /etc/b  -> a",
        "  A /opt/  3kB in 2 files",
        "  A /opt/x  3kB",
        "  A /opt/y  = opt/x",
    ]
    assert "  A /dev/null  char" in lines


def test_an_image_that_wastes_nothing() -> None:
    lines = list(report.text(source.history([*LINES[:8], LINES[-1]])))
    assert lines[3] == "Efficiency:  100.0%"
    assert lines[-1] == "Nothing is wasted."


def test_the_document() -> None:
    found = report.document(source.history(LINES))
    layers = found.pop("layers")
    assert found == {
        "image": "sha256:1",
        "names": ["test:latest"],
        "bytes": 6001,
        "wasted_bytes": 4000,
        "efficiency": pytest.approx(2001 / 6001, abs=1e-6),
        "wasted": [
            {
                "path": "/opt/x",
                "bytes": 3000,
                "copies": [{"bytes": 3000, "layer": 0, "by": 1, "how": "removed"}],
            },
            {
                "path": "/etc/a",
                "bytes": 1000,
                "copies": [{"bytes": 1000, "layer": 0, "by": 1, "how": "overwritten"}],
            },
        ],
    }
    assert len(layers[0].pop("changes")) == 6
    assert layers[0] == {
        "index": 0, "digest": "sha256:a", "diff_id": "sha256:b", "created": "2024",
        "created_by": "/bin/sh -c #(nop)  ADD   rootfs in /", "compressed_bytes": 1234,
        "bytes": 4000, "wasted_bytes": 4000, "added": 6, "changed": 0, "removed": 0,
    }  # fmt: skip
    assert {
        "path": "/etc/a", "change": "changed", "kind": "file", "bytes": 2000, "mode": "0600",
        "uid": 3, "gid": 4,
    } in layers[1]["changes"]  # fmt: skip
    assert {one["path"]: one["change"] for one in layers[1]["changes"]} == {
        "/dev": "added", "/dev/null": "added", "/etc": "changed", "/etc/a": "changed",
        "/opt": "removed", "/opt/x": "removed", "/opt/y": "removed", "/tab\\there": "added",
        "/\\xff": "added",
    }  # fmt: skip


def test_a_list_that_breaks_off() -> None:
    for end in range(len(LINES)):
        with pytest.raises(ValueError, match="cut short"):
            source.history(LINES[:end])


# -- the command -----------------------------------------------------------------------------------


class Answer:
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def lines(self) -> Iterator[bytes]:
        return (json.dumps(line).encode() for line in self._lines)


class FakeSession:
    """A session whose engine answers with ``lines``."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.asked: list[str] = []
        self.client = self
        self._lines = lines

    def open(self, method: str, path: str) -> Answer:
        self.asked.append(f"{method} {path}")
        return Answer(self._lines)


@pytest.fixture
def run() -> Callable[..., Any]:
    def call(*words: str, lines: list[dict[str, Any]] = LINES) -> Any:
        session = FakeSession(lines)
        done = CliRunner().invoke(explore, [*words], obj=session)
        assert session.asked in ([], ["GET /pyengine/images/r%2Fx%3Av1/layers"])
        return done

    return call


def test_into_a_pipe_goes_text(run: Callable[..., Any]) -> None:
    for words in ([], ["--plain"], ["--format", "text"]):
        done = run("r/x:v1", *words)
        assert done.exit_code == 0
        assert done.stdout.startswith("Image:       test:latest")
    assert "  A /opt/x  3kB\n" in run("r/x:v1", "--full").stdout


def test_json(run: Callable[..., Any]) -> None:
    done = run("r/x:v1", "--format", "json")
    assert json.loads(done.stdout)["wasted_bytes"] == 4000


def test_wrong_words(run: Callable[..., Any]) -> None:
    assert run().exit_code == 2
    assert run("r/x:v1", "--format", "xml").exit_code == 2


def test_an_error_of_the_engine_in_the_midst(run: Callable[..., Any]) -> None:
    done = run("r/x:v1", lines=[*LINES[:4], {"error": "damaged gzip stream"}])
    assert isinstance(done.exception, CommandError)
    assert str(done.exception) == "damaged gzip stream"


def test_an_answer_cut_short_is_an_error(run: Callable[..., Any]) -> None:
    for end in range(1, len(LINES)):
        done = run("r/x:v1", lines=LINES[:end])
        assert isinstance(done.exception, CommandError)
        assert "cut short" in str(done.exception)
