"""login, logout, and the credentials in config.json and in helpers."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.cli.client import CommandError
from pyengine.cli.credentials import INDEX, Auth, Credentials, hostname

Run = Callable[..., Any]

#: A helper that keeps what it is given in a file, one line of JSON each.
HELPER = """#!{python}
import json, os, sys
path = {store!r}
known = json.load(open(path)) if os.path.exists(path) else {{}}
verb, text = sys.argv[1], sys.stdin.read()
if verb == "store":
    entry = json.loads(text)
    known[entry["ServerURL"]] = entry
elif verb == "get":
    if text not in known:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(known[text]))
elif verb == "erase":
    known.pop(text, None)
elif verb == "list":
    print(json.dumps({{server: entry["Username"] for server, entry in known.items()}}))
json.dump(known, open(path, "w"))
"""


@pytest.fixture
def config(engine: Any, tmp_path: Path) -> Path:
    return tmp_path / "config" / "config.json"


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker-credential-drawer on the PATH; the file it writes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    store = tmp_path / "drawer.json"
    program = folder / "docker-credential-drawer"
    program.write_text(HELPER.format(python=sys.executable, store=str(store)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return store


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def sent_auth(request: Any) -> Any:
    return json.loads(base64.urlsafe_b64decode(request.headers["x-registry-auth"]))


def accept(engine: Any, token: str = "") -> None:
    engine.on("POST /auth", {"Status": "Login Succeeded", "IdentityToken": token})


# -- login -----------------------------------------------------------------------------------------


def test_login_keeps_the_credentials(
    engine: Any, pyengine: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(engine)
    stdin(monkeypatch, "secret word\n")
    outcome = pyengine("login", "-u", "ann", "--password-stdin", "https://r.example:5000/v2/")
    assert (outcome.code, outcome.out) == (0, "Login Succeeded\n")
    assert outcome.err == (
        f"\nWARNING! Your credentials are stored unencrypted in '{config}'.\n"
        "Configure a credential helper to remove this warning. See\n"
        "https://docs.docker.com/go/credential-store/\n\n"
    )
    assert engine.requests("POST /auth")[0].json() == {
        "username": "ann",
        "password": "secret word",
        "serveraddress": "r.example:5000",
    }
    assert json.loads(config.read_text()) == {
        "auths": {"r.example:5000": {"auth": base64.b64encode(b"ann:secret word").decode()}}
    }
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert [path.name for path in config.parent.iterdir()] == ["config.json"]


def test_login_leaves_the_rest_of_the_file_alone(
    engine: Any, pyengine: Run, config: Path, tmp_path: Path
) -> None:
    accept(engine)
    real = tmp_path / "elsewhere.json"
    write(real, {"zz": [1], "psFormat": "x", "auths": {"a": {"auth": "YTpi", "note": 1}}, "b": {}})
    real.chmod(0o644)
    config.parent.mkdir()
    config.symlink_to(real)
    outcome = pyengine("login", "-u", "u", "-p", "p", "r:5000")
    assert outcome.code == 0
    assert outcome.err.startswith(
        "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n"
    )
    loaded = json.loads(real.read_text())
    assert list(loaded) == ["zz", "psFormat", "auths", "b"]
    assert loaded["auths"]["a"] == {"auth": "YTpi", "note": 1}
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert config.is_symlink()
    before = real.stat().st_ino
    again = pyengine("login", "-u", "u", "-p", "p", "r:5000")
    assert "unencrypted" not in again.err
    assert real.stat().st_ino == before


def test_an_identity_token_takes_the_password_s_place(
    engine: Any, pyengine: Run, config: Path
) -> None:
    accept(engine, "t0ken")
    outcome = pyengine("login", "-u", "u", "-p", "p")
    assert "unencrypted" not in outcome.err
    assert json.loads(config.read_text())["auths"][INDEX] == {
        "auth": base64.b64encode(b"u:").decode(),
        "identitytoken": "t0ken",
    }
    engine.routes["POST /images/create"] = lambda request: request.chunks()
    pyengine("pull", "busybox")
    assert sent_auth(engine.requests("POST /images/create")[0]) == {
        "username": "u",
        "identitytoken": "t0ken",
        "serveraddress": INDEX,
    }


def test_what_is_refused_is_not_kept(engine: Any, pyengine: Run, config: Path) -> None:
    engine.on("POST /auth", {"message": "unauthorized: authentication required"}, 401)
    outcome = pyengine("login", "-u", "u", "-p", "p", "r:5000")
    assert outcome.code == 1
    assert outcome.err.endswith(
        "Error response from daemon: unauthorized: authentication required\n"
    )
    assert not config.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["-u", "a", "-p", "b", "--password-stdin"],
            "conflicting options: cannot specify both --password and --password-stdin",
        ),
        (["--password-stdin"], "the --password-stdin option requires --username to be set"),
        (["-u", ""], "username is empty"),
        (["-u", "a", "-p", ""], "password is empty"),
        (["-u", "a"], "Error: Cannot perform an interactive login from a non TTY device"),
        (
            ["-u", "a", "--password-stdin"],
            "Error: Cannot perform an interactive login from a non TTY device",
        ),
    ],
)
def test_wrong_words(
    engine: Any, pyengine: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    stdin(monkeypatch, "")
    outcome = pyengine("login", *words, "r:5000")
    assert (outcome.code, outcome.err) == (1, says + "\n")
    assert engine.seen == []


def test_stored_credentials_are_tried_first(
    engine: Any, pyengine: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(engine)
    write(config, {"auths": {"r:5000": {"auth": base64.b64encode(b"ann:pw").decode()}}})
    outcome = pyengine("login", "r:5000")
    assert (outcome.code, outcome.out) == (0, "Login Succeeded\n")
    assert outcome.err.startswith(
        "Authenticating with existing credentials... [Username: ann]\n"
        "To login with a different account, run 'pyengine logout'"
    )
    engine.on("POST /auth", {"message": "no"}, 401)
    stdin(monkeypatch, "")
    outcome = pyengine("login", "r:5000")
    assert outcome.code == 1
    assert outcome.err.endswith(
        "Stored credentials invalid or expired\n"
        "Error: Cannot perform an interactive login from a non TTY device\n"
    )


def test_a_broken_file_is_not_overwritten(engine: Any, pyengine: Run, config: Path) -> None:
    accept(engine)
    config.parent.mkdir()
    config.write_text("{bad")
    outcome = pyengine("login", "-u", "u", "-p", "p", "r:5000")
    assert outcome.code == 1
    assert f"error saving credentials: {config} cannot be read" in outcome.err
    assert config.read_text() == "{bad"


def test_the_terminal_is_asked_and_shows_no_password(engine: Any, config: Path) -> None:
    accept(engine)
    pid, terminal = pty.fork()
    if pid == 0:
        program = "from pyengine.cli import main; import sys; sys.exit(main())"
        os.execv(sys.executable, [sys.executable, "-c", program, "login", "r:5000"])
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in seen:
            assert time.monotonic() < deadline, seen
            seen += os.read(terminal, 1024)

    until(b"Username: ")
    os.write(terminal, b"ann\n")
    until(b"Password: ")
    time.sleep(0.2)
    os.write(terminal, b"hidden\n")
    until(b"Login Succeeded")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"hidden" not in seen
    assert Credentials(str(config.parent)).get("r:5000").password == "hidden"


# -- logout ----------------------------------------------------------------------------------------


def test_logout_forgets_every_spelling(engine: Any, pyengine: Run, config: Path) -> None:
    entry = {"auth": "YTpi"}
    write(
        config,
        {"auths": {"r:5000": entry, "https://r:5000": entry, "other": entry, INDEX: entry}, "k": 1},
    )
    outcome = pyengine("logout", "https://r:5000/v1/")
    assert (outcome.code, outcome.out) == (0, "Removing login credentials for r:5000\n")
    assert json.loads(config.read_text()) == {"auths": {"other": entry, INDEX: entry}, "k": 1}
    assert pyengine("logout").out == f"Removing login credentials for {INDEX}\n"
    assert set(json.loads(config.read_text())["auths"]) == {"other"}
    assert engine.seen == []


def test_logout_without_a_file_makes_none(engine: Any, pyengine: Run, config: Path) -> None:
    assert pyengine("logout", "r:5000").code == 0
    assert not config.parent.exists()


# -- helpers ---------------------------------------------------------------------------------------


def test_a_helper_keeps_the_secret(engine: Any, pyengine: Run, config: Path, helper: Path) -> None:
    accept(engine)
    write(config, {"credsStore": "nope", "credHelpers": {"r:5000": "drawer"}})
    outcome = pyengine("login", "-u", "ann", "-p", "pw", "r:5000")
    assert outcome.code == 0
    assert "unencrypted" not in outcome.err
    assert json.loads(config.read_text())["auths"] == {"r:5000": {}}
    assert json.loads(helper.read_text())["r:5000"]["Secret"] == "pw"
    engine.routes["POST /images/create"] = lambda request: request.chunks()
    pyengine("pull", "-q", "r:5000/x")
    assert sent_auth(engine.requests("POST /images/create")[0]) == {
        "username": "ann",
        "password": "pw",
        "serveraddress": "r:5000",
    }
    assert pyengine("logout", "r:5000").code == 0
    assert json.loads(helper.read_text()) == {}
    assert json.loads(config.read_text())["auths"] == {}


def test_a_helper_keeps_an_identity_token(config: Path, helper: Path) -> None:
    write(config, {"credsStore": "drawer"})
    kept = Credentials(str(config.parent))
    assert kept.get("r").body() == {}
    kept.store(Auth("r", "ann", identity_token="t"))
    assert json.loads(helper.read_text())["r"]["Username"] == "<token>"
    assert kept.get("r").body() == {"identitytoken": "t", "serveraddress": "r"}
    assert kept.servers() == ["r"]


def test_a_helper_that_is_not_there_is_an_error(engine: Any, pyengine: Run, config: Path) -> None:
    accept(engine)
    write(config, {"credsStore": "nope"})
    for words in (["login", "-u", "u", "-p", "p", "r:5000"], ["pull", "-q", "r:5000/x"]):
        outcome = pyengine(*words)
        assert outcome.code == 1
        assert 'exec: "docker-credential-nope": executable file not found in $PATH' in outcome.err
        assert "install docker-credential-nope" in outcome.err
    outcome = pyengine("logout", "r:5000")
    assert outcome.code == 0
    assert "WARNING: could not erase credentials:\nr:5000: error erasing" in outcome.err


def test_a_helper_that_fails_is_an_error(config: Path, helper: Path) -> None:
    program = helper.parent / "bin" / "docker-credential-drawer"
    program.write_text("#!/bin/sh\necho locked\nexit 3\n")
    write(config, {"credsStore": "drawer"})
    with pytest.raises(CommandError, match="exit status 3, out: `locked`"):
        Credentials(str(config.parent)).get("r")


# -- looking up ------------------------------------------------------------------------------------


def test_requests_carry_the_registry_s_credentials(
    engine: Any, pyengine: Run, config: Path
) -> None:
    pair = base64.b64encode(b"u:p:q").decode()
    write(config, {"auths": {"https://r.example/v1/": {"auth": pair}, INDEX: {"auth": "YTpi"}}})
    engine.routes["POST /images/create"] = lambda request: request.chunks()
    engine.routes["POST /images/r.example%2Fa/push"] = lambda request: request.chunks()
    engine.on("POST /containers/create", {"Id": "c"})
    for words in (
        "pull -q r.example/a:b",
        "push -q r.example/a:b",
        "pull -q library/a",
        "pull -q other.example/a",
        "create --pull always r.example/a:b",
    ):
        outcome = pyengine(*words.split())
        assert (outcome.code, outcome.err) == (0, ""), words
    first, second, third, fourth = engine.requests("POST /images/create")
    push = engine.requests("POST /images/r.example%2Fa/push")[0]
    whole = {"username": "u", "password": "p:q", "serveraddress": "r.example"}
    assert sent_auth(first) == sent_auth(fourth) == sent_auth(push) == whole
    assert sent_auth(second)["username"] == "a"
    assert sent_auth(third) == {}


@pytest.mark.parametrize("auth", ["!!", "YQ==", base64.b64encode(b":x").decode()])
def test_a_broken_entry_is_named(engine: Any, pyengine: Run, config: Path, auth: str) -> None:
    write(config, {"auths": {"r": {"auth": auth}}})
    with pytest.raises(CommandError, match="the credentials of r are"):
        Credentials(str(config.parent)).get("r")


@pytest.mark.parametrize(
    ("given", "host"),
    [("r", "r"), ("r:1/x", "r:1"), ("http://r:1/v1/", "r:1"), ("https://[::1]:5", "[::1]:5")],
)
def test_hostname(given: str, host: str) -> None:
    assert hostname(given) == host


def test_two_logins_at_once_keep_both(config: Path) -> None:
    config.parent.mkdir()
    logins = [
        threading.Thread(
            target=Credentials(str(config.parent)).store, args=(Auth(f"r{n}", "u", "p"),)
        )
        for n in range(20)
    ]
    for login in logins:
        login.start()
    for login in logins:
        login.join()
    assert len(json.loads(config.read_text())["auths"]) == 20
