"""The live display of transfers, as a terminal shows it, and the plain one."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pyengine.cli.bars import Bars, clock_text
from pyengine.cli.progress import _print

Run = Callable[..., Any]


class Screen(io.StringIO):
    """A terminal that understands what the bars write."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.row = 0

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Z]|\n|[^\x1b\n]+", text):
            if part == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
                self.column = 0
            elif part.endswith("F") and part.startswith("\x1b"):
                self.row -= int(part[2:-1])
                assert self.row >= 0
            elif part == "\x1b[K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif part == "\x1b[J":
                del self.lines[self.row :]
                self.lines.append("")
            else:
                assert not part.startswith("\x1b"), part
                self.lines[self.row] = part
                self.column = len(part)
        return len(text)

    @property
    def text(self) -> list[str]:
        return [line.rstrip() for line in self.lines[:-1]]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def resize(columns: int, lines: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))

    resize(100, 24)
    return resize


def step(id: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if current or total else {}
    return {"id": id, "status": status, "progressDetail": detail}


def feed(bars: Bars, clock: Clock, *steps: dict[str, Any], seconds: float = 1.0) -> None:
    for one in steps:
        clock.now += seconds
        bars.update(one)


def test_a_pull_with_rate_and_time_left() -> None:
    screen, clock = Screen(), Clock()
    bars = Bars(screen, "from r:5000", clock=clock)
    feed(bars, clock, step("aaa", "Pulling fs layer"), step("bbb", "Waiting"))
    feed(bars, clock, step("aaa", "Downloading", 1_000_000, 10_000_000))
    assert screen.text == [
        "aaa           Downloading         ██░░░░░░░░░░░░░░░░░░░░░░  1MB/10MB",
        "bbb           Waiting",
        "0/2 layers  1MB/10MB  from r:5000",
    ]
    feed(bars, clock, step("aaa", "Downloading", 3_000_000, 10_000_000))
    # Nobody knows yet how large the other one is.
    assert screen.text[-1] == "0/2 layers  3MB/10MB  667kB/s  from r:5000"
    feed(bars, clock, step("bbb", "Downloading", 0, 2_000_000), seconds=0)
    feed(bars, clock, step("aaa", "Downloading", 5_000_000, 10_000_000))
    assert screen.text[-1] == "0/2 layers  5MB/12MB  1MB/s  7s left  from r:5000"
    feed(bars, clock, step("aaa", "Download complete"), step("bbb", "Download complete"))
    assert screen.text[-1] == "0/2 layers  12MB  from r:5000"
    feed(bars, clock, step("aaa", "Extracting", 5_000_000, 10_000_000))
    assert screen.text[0].startswith("aaa           Extracting          ████████████░")
    assert screen.text[-1] == "0/2 layers  12MB  from r:5000"
    feed(bars, clock, step("aaa", "Pull complete"), step("bbb", "Pull complete"))
    assert screen.text == [
        "aaa           Pull complete       10MB",
        "bbb           Pull complete       2MB",
        "2/2 layers  12MB  from r:5000",
    ]


def test_what_an_earlier_pull_left_is_not_speed() -> None:
    screen, clock = Screen(), Clock()
    bars = Bars(screen, clock=clock)
    feed(bars, clock, step("aaa", "Downloading", 900_000_000, 1_000_000_000))
    feed(bars, clock, step("aaa", "Downloading", 901_000_000, 1_000_000_000))
    assert screen.text[-1] == "0/1 layers  901MB/1GB  1MB/s  1m39s left"


def test_the_rate_is_of_the_last_seconds() -> None:
    screen, clock = Screen(), Clock()
    bars = Bars(screen, clock=clock)
    for current in (*range(0, 100, 10), *range(100, 110)):
        feed(bars, clock, step("aaa", "Downloading", current * 1000, 1_000_000))
    assert "  1kB/s  14m51s left" in screen.text[-1]


def test_drawings_are_few() -> None:
    screen, clock = Screen(), Clock()
    drawn = []
    screen.flush = lambda: drawn.append(clock.now)  # type: ignore[method-assign]
    bars = Bars(screen, clock=clock)
    for current in range(1000):
        feed(bars, clock, step("aaa", "Downloading", current, 1000), seconds=0.01)
    assert 90 <= len(drawn) <= 101
    bars.close()
    assert "999B/1kB" in screen.text[0]


def test_a_line_between_finishes_the_block() -> None:
    screen, clock = Screen(), Clock()
    bars = Bars(screen, clock=clock)
    feed(bars, clock, step("aaa", "Already exists"))
    bars.print("Digest: x")
    feed(bars, clock, step("bbb", "Pushed"))
    bars.close()
    bars.close()
    assert screen.text == [
        "aaa           Already exists",
        "1/1 layers",
        "Digest: x",
        "bbb           Pushed",
        "1/1 layers",
    ]


def test_more_layers_than_lines(size: Callable[[int, int], None]) -> None:
    size(60, 8)
    screen, clock = Screen(), Clock()
    bars = Bars(screen, clock=clock)
    for number in range(20):
        feed(bars, clock, step(f"l{number}", "Waiting"))
    for number in range(8):
        feed(bars, clock, step(f"l{number}", "Pull complete"))
    feed(bars, clock, step("l12", "Downloading", 1, 100), step("l15", "Extracting", 5, 100))
    assert [line.split()[0] for line in screen.text] == ["l8", "l9", "l10", "l12", "l15", "8/20"]
    assert all(len(line) < 60 for line in screen.text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1s"), (59, "59s"), (59.5, "1m00s"), (3599, "59m59s"), (7260, "2h01m")],
)
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


PULL = (
    {"status": "Pulling from x", "id": "v1"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "aaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
    {"status": "Digest: sha256:1"},
    {"status": "Status: Downloaded newer image for r:5000/x:v1"},
)


def answer(*messages: dict[str, Any]) -> Callable[[Any], None]:
    lines = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
    return lambda request: request.chunks(lines)


def test_a_pull_into_a_pipe(engine: Any, pyengine: Run) -> None:
    engine.routes["POST /images/create"] = answer(*PULL)
    assert pyengine("pull", "r:5000/x:v1").out == (
        "v1: Pulling from x\naaa: Pulling fs layer\naaa: Pull complete\nDigest: sha256:1\n"
        "Status: Downloaded newer image for r:5000/x:v1\nr:5000/x:v1\n"
    )
    assert pyengine("pull", "-q", "r:5000/x:v1").out == "r:5000/x:v1\n"
    assert pyengine("pull", "-q", "x").out == "docker.io/library/x:latest\n"


def test_a_pull_on_a_terminal(engine: Any) -> None:
    engine.routes["POST /images/create"] = answer(*PULL)
    pid, terminal = pty.fork()
    if pid == 0:
        program = "from pyengine.cli import main; import sys; sys.exit(main())"
        os.execv(sys.executable, [sys.executable, "-c", program, "pull", "r:5000/x:v1"])
    seen = b""
    try:
        while data := os.read(terminal, 4096):
            seen += data
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    screen = Screen()
    screen.write(seen.decode().replace("\r\n", "\n"))
    assert screen.text == [
        "v1: Pulling from x",
        "aaa           Pull complete       10B",
        "1/1 layers  10B  from r:5000",
        "Digest: sha256:1",
        "Status: Downloaded newer image for r:5000/x:v1",
        "r:5000/x:v1",
    ]


def test_a_mirror_is_named() -> None:
    screen = Screen()
    bars = Bars(screen, "from docker.io")
    _print({"status": "Pulling from library/x", "id": "v1"}, screen, bars)
    _print({"status": "Using mirror:5000, a mirror of docker.io"}, screen, bars)
    _print(step("aaa", "Already exists"), screen, bars)
    assert screen.text[1:] == [
        "Using mirror:5000, a mirror of docker.io",
        "aaa           Already exists",
        "1/1 layers  from mirror:5000",
    ]


def test_what_a_pull_asks_for(engine: Any, pyengine: Run) -> None:
    engine.routes["POST /images/create"] = answer()
    digest = "sha256:" + "a" * 64
    pyengine("pull", "-q", "-a", "r/x")
    pyengine("pull", "-q", "--platform", "linux/arm64/v8", f"r/x:v1@{digest}")
    queries = [request.query for request in engine.requests("POST /images/create")]
    assert queries == [
        "fromImage=r%2Fx",
        f"fromImage=r%2Fx&tag={digest.replace(':', '%3A')}&platform=linux%2Farm64%2Fv8",
    ]
    assert pyengine("pull", "-a", "r/x:v1").err == "tag can't be used with --all-tags/-a\n"


def test_a_platform_for_all(engine: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    engine.routes["POST /images/create"] = answer()
    engine.on("POST /containers/create", {"Id": "c1", "Warnings": []}, 201)
    pyengine("pull", "-q", "r/x:v1")
    pyengine("pull", "-q", "--platform", "linux/amd64", "r/x:v1")
    pyengine("create", "r/x:v1")
    queries = [request.query for request in engine.seen if request.method == "POST"]
    assert [query.rpartition("platform=")[2] for query in queries] == [
        "linux%2Farm64", "linux%2Famd64", "linux%2Farm64",
    ]  # fmt: skip


def test_what_a_push_asks_for(engine: Any, pyengine: Run) -> None:
    engine.routes["POST /images/r%2Fx/push"] = answer(
        {"status": "The push refers to repository [r/x]"},
        {"progressDetail": {}, "aux": {"Tag": "v1", "Digest": "sha256:1", "Size": 1}},
    )
    assert pyengine("push", "r/x").out == (
        "Using default tag: latest\nThe push refers to repository [r/x]\n"
    )
    assert pyengine("push", "-q", "--platform", "linux/arm64", "r/x:v1").out == "docker.io/r/x:v1\n"
    pyengine("push", "-q", "-a", "r/x")
    queries = [request.query for request in engine.requests("POST /images/r%2Fx/push")]
    platform = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm64%22%7D"
    assert queries == ["tag=latest", f"tag=v1&platform={platform}", ""]
    assert pyengine("push", "--platform", "arm64", "r/x").code == 1


def test_an_error_in_the_stream(engine: Any, pyengine: Run) -> None:
    failure = {"errorDetail": {"message": "denied"}, "error": "denied"}
    engine.routes["POST /images/r%2Fx/push"] = answer({"status": "Preparing"}, failure)
    outcome = pyengine("push", "-q", "r/x")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "denied\n")
