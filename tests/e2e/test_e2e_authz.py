"""Authorization plugins with the docker CLI: a small plugin allows, refuses, is slow, is gone."""

from __future__ import annotations

import base64
import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import eventually

NAME = "pe-test-authz"


class Plugin(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens where the engine looks. ``deny``: (kind of question, end of the URI) it refuses."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.path = path
        self.deny: tuple[str, str] = ("", "")
        self.pause = 0.0
        self.error = ""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.path.unlink(missing_ok=True)


class Handler(BaseHTTPRequestHandler):
    server: Plugin

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        what = self.path.removeprefix("/")
        if what == "Plugin.Activate":
            answer: dict[str, Any] = {"Implements": ["authz"]}
        else:
            self.server.asked.append((what, question))
            time.sleep(self.server.pause)
            kind, end = self.server.deny
            refused = what.endswith(kind) and end and question["RequestUri"].endswith(end)
            answer = {"Allow": not refused, "Msg": "not today" if refused else ""}
            answer["Err"] = self.server.error
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "engine"

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    made = Plugin(Path("/run/pyengine/plugins") / f"{NAME}.sock")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def engine(
    plugin: Plugin, tmp_path: Path, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    process = EngineProcess(tmp_path / "e", docker_binary, "--authorization-plugin", NAME)
    process.root.mkdir()
    process.start()
    try:
        process.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield process
    finally:
        plugin.deny, plugin.pause, plugin.error = ("", ""), 0.0, ""
        process.dispose()


def test_requests_and_answers_are_shown(engine: EngineProcess, plugin: Plugin) -> None:
    plugin.asked.clear()
    engine.docker("run", "--rm", "busybox", "echo", "hello")
    requests = [q for what, q in plugin.asked if what == "AuthZPlugin.AuthZReq"]
    [create] = [q for q in requests if "/containers/create" in q["RequestUri"]]
    assert create["RequestMethod"] == "POST"
    body = json.loads(base64.b64decode(create["RequestBody"]))
    assert body["Cmd"] == ["echo", "hello"]
    assert create["RequestHeaders"]["Content-Type"] == "application/json"
    answers = [q for what, q in plugin.asked if what == "AuthZPlugin.AuthZRes"]
    [created] = [q for q in answers if "/containers/create" in q["RequestUri"]]
    assert created["ResponseStatusCode"] == 201
    assert "Id" in json.loads(base64.b64decode(created["ResponseBody"]))


def test_a_refused_request_is_not_carried_out(engine: EngineProcess, plugin: Plugin) -> None:
    plugin.deny = ("AuthZReq", "/volumes/create")
    done = engine.docker("volume", "create", "kept", check=False)
    assert f"authorization denied by plugin {NAME}: not today" in done.stderr
    assert engine.lines("volume", "ls", "-q") == []
    assert engine.api("POST", "/v1.45/volumes/create", {"Name": "kept"})[0] == 403
    assert engine.docker("ps").returncode == 0, "others are allowed"


def test_a_refused_answer_is_withheld(engine: EngineProcess, plugin: Plugin) -> None:
    plugin.deny = ("AuthZRes", "/volumes/create")
    status, answer = engine.api("POST", "/v1.45/volumes/create", {"Name": "made"})
    assert (status, answer["message"]) == (
        403, f"authorization denied by plugin {NAME}: not today",
    )  # fmt: skip
    assert engine.lines("volume", "ls", "-q") == ["made"]


def test_a_slow_plugin_holds_up_only_who_waits_for_it(
    engine: EngineProcess, plugin: Plugin
) -> None:
    plugin.pause = 1.0
    began = time.monotonic()
    threads = [threading.Thread(target=engine.api, args=("GET", "/version")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 7, "each is asked twice, all at once"


def test_who_cannot_be_asked_refuses(engine: EngineProcess, plugin: Plugin) -> None:
    plugin.error = "out of order"
    done = engine.docker("ps", check=False)
    assert f"plugin {NAME} failed with error: AuthZPlugin.AuthZReq: out of order" in done.stderr
    plugin.error = ""
    plugin.stop()
    done = engine.docker("ps", check=False)
    assert f'plugin "{NAME}" not found' in done.stderr
    again = Plugin(plugin.path)
    try:
        assert engine.docker("ps").returncode == 0, "it is back"
    finally:
        again.stop()
        plugin.path.parent.mkdir(exist_ok=True)
        Plugin(plugin.path)  # for the end of the engine


def test_a_reload_names_other_plugins(
    plugin: Plugin, engine_with: Callable[..., EngineProcess]
) -> None:
    engine = engine_with()
    file = Path(engine.flags[engine.flags.index("--config-file") + 1])

    def reload(text: str) -> None:
        since = engine.log.stat().st_size
        file.write_text(text)
        os.kill(engine.pid, signal.SIGHUP)
        assert eventually(lambda: "reloaded" in engine.log.read_text()[since:]), engine.tail()
        assert "next start" not in engine.log.read_text()[since:]

    engine.docker("volume", "create", "one")
    assert plugin.asked == []
    reload(json.dumps({"authorization-plugins": [NAME]}))
    plugin.deny = ("AuthZReq", "/volumes/create")
    done = engine.docker("volume", "create", "two", check=False)
    assert f"authorization denied by plugin {NAME}: not today" in done.stderr
    reload("{}")
    engine.docker("volume", "create", "two")
