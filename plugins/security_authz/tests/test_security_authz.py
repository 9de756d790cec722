"""Where plugins are found, and what becomes of answers that are none."""

from __future__ import annotations

import base64
import json
import ssl
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
    (files / "described.json").write_text(json.dumps({"Addr": "unix:///x.sock"}))
    (second / "one.sock").touch()
    (second / "two/two.sock").touch()

    def find(name: str) -> str:
        return client.find(name, (first, second), (files,))

    assert find("one") == f"unix://{second}/one.sock"
    (first / "one.sock").touch()
    assert find("one") == f"unix://{first}/one.sock"
    assert find("two") == f"unix://{second}/two/two.sock"
    assert find("spec") == "tcp://127.0.0.1:7"
    assert find("described") == "unix:///x.sock"
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


def test_what_does_not_answer_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find", lambda name: "unix:///nonexistent/p.sock")
    with pytest.raises(DriverError, match=r"plugin p failed with error: AuthZPlugin\.AuthZReq"):
        made(tmp_path, plugins="p").security_authorize_request(ApiRequest("GET", "/info"))


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
