"""Where plugins are found, and what becomes of answers that are none."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.errors import DriverError, Forbidden, InvalidParameter
from pyengine.hooks.manager import Hooks
from pyengine.hooks.security import ApiRequest
from pyengine_security_authz import client
from pyengine_security_authz.plugin import AuthzPlugin, _question


def made(tmp_path: Path, **options: str) -> AuthzPlugin:
    context = DriverContext(
        engine_id="e" * 16, prefix="pe", root=tmp_path, run=tmp_path, options=options
    )
    return AuthzPlugin(context)


def test_places_in_their_order(tmp_path: Path) -> None:
    first, second, files = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for directory in (first, second, files, second / "two"):
        directory.mkdir(exist_ok=True)
    (files / "spec.spec").write_text("tcp://127.0.0.1:7\n")
    (files / "described.json").write_text(
        json.dumps({"Addr": "tcp://x:7", "TLSConfig": {"CAFile": "/ca.pem"}})
    )
    (second / "one.sock").touch()
    (second / "two/two.sock").touch()

    def find(name: str) -> str:
        return client.find(name, (first, second), (files,)).address

    assert find("one") == f"unix://{second}/one.sock"
    (first / "one.sock").touch()
    assert find("one") == f"unix://{first}/one.sock"
    assert find("two") == f"unix://{second}/two/two.sock"
    assert find("spec") == "tcp://127.0.0.1:7"
    described = client.find("described", (first, second), (files,))
    assert described == ("tcp://x:7", {"CAFile": "/ca.pem"})
    with pytest.raises(DriverError, match='plugin "three" not found'):
        find("three")


def test_nobody_is_asked_where_nobody_is_named(tmp_path: Path) -> None:
    hooks = Hooks()
    hooks.register(made(tmp_path), "security.authz")
    assert not hooks.has_authorization()
    hooks.register(made(tmp_path, plugins="p"), "security.another")
    assert hooks.has_authorization()
    with pytest.raises(InvalidParameter, match="unknown option 'plugin'"):
        made(tmp_path, plugin="x")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "authorization denied by plugin p: no reason given"),
        ({"Allow": "yes"}, "authorization denied by plugin p"),
        ({"Allow": False, "Msg": "no"}, "authorization denied by plugin p: no"),
        ({"Allow": True, "Err": "broken"}, "plugin p failed with error: .*: broken"),
    ],
)
def test_only_a_clear_yes_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, object], words: str
) -> None:
    monkeypatch.setattr(client.Plugin, "ask", lambda self, what, question: answer)
    with pytest.raises(Forbidden, match=words):
        made(tmp_path, plugins="p").security_authorize_request(ApiRequest("GET", "/info"))


def test_each_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(self: client.Plugin, what: str, question: object) -> dict[str, object]:
        asked.append(self.name)
        return {"Allow": True}

    monkeypatch.setattr(client.Plugin, "ask", ask)
    made(tmp_path, plugins="p,q,p").security_authorize_request(ApiRequest("GET", "/info"))
    assert asked == ["p", "q"]


def test_what_does_not_answer_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find", lambda name: client.Place("unix:///nonexistent/p.sock"))
    with pytest.raises(DriverError, match=r"plugin p failed with error: AuthZPlugin\.AuthZReq"):
        made(tmp_path, plugins="p").security_authorize_request(ApiRequest("GET", "/info"))


class Answering(BaseHTTPRequestHandler):
    """A plugin that allows GET and fails for everything else, with ``Err`` for PUT."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body, status = b'{"Allow": true}', 200
        if self.path == "/Plugin.Activate":
            body = b'{"Implements": ["authz"]}'
        elif question["RequestMethod"] != "GET":
            errs = question["RequestMethod"] == "PUT"
            body, status = (b'{"Err": "out of order"}' if errs else b" plain words\n"), 500
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    found = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize("scheme", ["tcp", "http", "https"])
def test_plugins_behind_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HTTPServer, scheme: str
) -> None:
    tls = None
    if scheme == "https":
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=plugin", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        tls = {"CAFile": str(certificate)}
    place = client.Place(f"{scheme}://127.0.0.1:{server.server_port}", tls)
    monkeypatch.setattr(client, "find", lambda name: place)
    plugin = made(tmp_path, plugins="p")
    plugin.security_authorize_request(ApiRequest("GET", "/info"))
    with pytest.raises(DriverError, match=r"p failed with error: AuthZPlugin\.AuthZReq") as error:
        plugin.security_authorize_request(ApiRequest("PUT", "/info"))
    assert error.value.detail == "out of order"
    with pytest.raises(DriverError) as error:
        plugin.security_authorize_request(ApiRequest("POST", "/info"))
    assert error.value.detail == "plain words"
    if scheme == "https":
        place = place._replace(tls=None)
        with pytest.raises(DriverError, match="certificate verify failed"):
            plugin.security_authorize_request(ApiRequest("GET", "/info"))
        place = place._replace(tls={"InsecureSkipVerify": True})
        plugin.security_authorize_request(ApiRequest("GET", "/info"))


def test_a_question_has_dockers_fields() -> None:
    """Names and encodings of the authorization plugins' protocol: bodies and PEM in base64."""
    request = ApiRequest("GET", "/v1.45/info", user="bob", certificates=(b"der",), body=b"{}")
    question = _question(request)
    assert (question["RequestUri"], question["UserAuthNMethod"]) == ("/v1.45/info", "TLS")
    assert base64.b64decode(question["RequestBody"]) == b"{}"
    [certificate] = question["RequestPeerCertificates"]
    pem = base64.b64decode(certificate).decode()
    assert pem.startswith("-----BEGIN CERTIFICATE-----\n")
    assert ssl.PEM_cert_to_DER_cert(pem) == b"der"
