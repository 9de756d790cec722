"""The store of contexts, and which engine a command talks to."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.cli import contextarchive
from pyengine.cli.client import CommandError
from pyengine.cli.contexts import Context, ContextNotFound
from pyengine.cli.flags import Options
from pyengine.cli.session import GLOBAL_FLAGS, Session

Run = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration, and an environment that names no engine."""
    for name in ("DOCKER_HOST", "PYENGINE_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def session(**given: Any) -> Session:
    options = Options(GLOBAL_FLAGS)
    options.update(given)
    return Session(options)


def test_where_things_are(config: Path) -> None:
    store = session().contexts
    meta = {"Host": "tcp://h:1", "SkipTLSVerify": False}
    store.write(
        Context("name", {"Description": "d"}, {"docker": meta}), {"docker": {"ca.pem": b"x"}}
    )
    id = hashlib.sha256(b"name").hexdigest()
    written = config / "contexts/meta" / id / "meta.json"
    assert json.loads(written.read_text()) == {
        "Name": "name",
        "Metadata": {"Description": "d"},
        "Endpoints": {"docker": meta},
    }
    secret = config / "contexts/tls" / id / "docker/ca.pem"
    assert secret.read_bytes() == b"x"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for folder in (secret.parent, secret.parents[1], secret.parents[2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [
        path for path in config.rglob("*") if path.is_file() and path not in (written, secret)
    ]
    store.remove("name")
    assert not [path for path in config.rglob("*") if path.is_file()]
    with pytest.raises(
        ContextNotFound, match=r'context "name": context not found: open .*meta.json'
    ):
        store.get("name")


@pytest.mark.parametrize("text", ["", "[]", '{"Metadata": 1}', '{"Endpoints": {"docker": 1}}'])
def test_a_broken_file_is_named(config: Path, pyengine: Run, text: str) -> None:
    store = session().contexts
    store.write(Context("broken", {}, {}), {})
    path = Path(store.folders("broken")[0]) / "meta.json"
    path.write_text(text)
    for words in (["context", "ls"], ["-c", "broken", "ps"], ["context", "inspect", "broken"]):
        outcome = pyengine(*words)
        assert outcome.code == 1
        assert str(path) in outcome.err


def test_the_tls_of_a_context(config: Path) -> None:
    store = session().contexts

    def tls(skip: bool, *files: str) -> Any:
        meta = {"Host": "tcp://h:1", "SkipTLSVerify": skip}
        store.write(Context("one", {}, {"docker": meta}), {"docker": dict.fromkeys(files, b"")})
        return session(context="one").endpoint().tls

    assert tls(False) is None
    assert (tls(True).verify, tls(True).ca) == (False, "")
    full = tls(False, "ca.pem", "cert.pem", "key.pem")
    assert full.verify
    assert [Path(path).name for path in (full.ca, full.cert, full.key)] == [
        *("ca.pem", "cert.pem", "key.pem")
    ]
    # A certificate without its key is of no use; no authority of its own means the system's.
    assert (tls(False, "cert.pem").cert, tls(False, "cert.pem").ca) == ("", "")


def test_which_context_and_host(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = session().contexts
    for name in ("one", "two"):
        store.write(Context(name, {}, {"docker": {"Host": f"unix:///{name}"}}), {})
    store.write(Context("nowhere", {}, {"docker": {}}), {})

    def used(**given: Any) -> tuple[str, str]:
        found = session(**given)
        return found.context_name, found.endpoint().url

    default = ("default", "unix:///run/pyengine.sock")
    assert used() == default
    assert used(context="nowhere") == ("nowhere", default[1])
    (config / "config.json").write_text('{"currentContext": "one"}')
    assert used() == ("one", "unix:///one")
    monkeypatch.setenv("DOCKER_CONTEXT", "two")
    assert used() == ("two", "unix:///two")
    assert used(context="one") == ("one", "unix:///one")
    monkeypatch.setenv("DOCKER_HOST", "unix:///docker")
    assert used() == ("default", "unix:///docker")
    monkeypatch.setenv("PYENGINE_HOST", "unix:///ours")
    assert used() == ("default", "unix:///ours")
    assert used(host=["unix:///flag"]) == ("default", "unix:///flag")
    assert used(context="one") == ("one", "unix:///one")
    with pytest.raises(CommandError, match="cannot specify both --host and --context"):
        used(context="one", host=["unix:///flag"])
    store.write(Context("other", {}, {"kubernetes": {}}), {})
    for name in ("none", "other"):
        with pytest.raises(CommandError, match="unable to resolve docker endpoint"):
            used(context=name)


def test_a_variable_that_overrides_is_named(
    config: Path, pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    session().contexts.write(Context("one", {}, {"docker": {}}), {})
    assert "Warning" not in pyengine("context", "ls").err
    for name in ("DOCKER_HOST", "PYENGINE_HOST"):
        monkeypatch.setenv(name, "unix:///x")
        for words in (["ls"], ["use", "one"]):
            assert f"unset {name} environment" in pyengine("context", *words).err
        monkeypatch.delenv(name)


def test_certificates_of_a_context_are_used(
    engine: Any,
    pyengine: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    certificates: Callable[[Path], ssl.SSLContext],
) -> None:
    server = certificates(tmp_path)
    engine.wrap = lambda stream: server.wrap_socket(stream, server_side=True)
    engine.on("GET /containers/json", [])
    monkeypatch.delenv("DOCKER_HOST")
    host = f"host=tcp://127.0.0.1:{engine.listen_tcp()}"
    ca, cert, key = (f"{what}={tmp_path / what}.pem" for what in ("ca", "cert", "key"))
    contexts = {
        "secure": [ca, cert, key],
        "no-authority": [cert, key],
        "lax": [cert, key, "skip-tls-verify=true"],
        "anonymous": [ca],
    }
    for name, keys in contexts.items():
        created = pyengine("context", "create", name, "--docker", ",".join([host, *keys]))
        assert created.code == 0, created.err
    for path in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / path).unlink()  # the contexts have copies
    codes = {name: pyengine("-c", name, "ps", "-q") for name in contexts}
    assert [outcome.code for outcome in codes.values()] == [0, 1, 0, 1]
    assert "certificate verify failed" in codes["no-authority"].err
    assert "certificate required" in codes["anonymous"].err


def test_an_engine_is_started_for_the_default_context_only(
    config: Path, pyengine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyengine.cli import autostart

    def start(_: Any) -> None:
        raise CommandError("started")

    monkeypatch.setattr("pyengine.cli.session.DEFAULT_HOST", "unix:///none")
    monkeypatch.setattr(autostart, "allowed", lambda: True)
    monkeypatch.setattr(autostart, "start", start)
    meta = {"Host": "unix:///none"}
    session().contexts.write(Context("one", {}, {"docker": meta}), {})
    assert pyengine("volume", "create").err == "started\n"
    assert "Cannot connect" in pyengine("-c", "one", "volume", "create").err


def test_use_keeps_what_else_config_json_says(config: Path, pyengine: Run) -> None:
    config.mkdir()
    session().contexts.write(Context("one", {}, {}), {})
    before = {"auths": {"r": {"auth": "eDp5"}}, "detachKeys": "ctrl-a"}
    (config / "config.json").write_text(json.dumps(before))
    assert pyengine("context", "use", "one").code == 0
    assert json.loads((config / "config.json").read_text()) == {**before, "currentContext": "one"}
    assert pyengine("context", "rm", "-f", "one").code == 0
    assert json.loads((config / "config.json").read_text()) == before
    (config / "config.json").write_text("not JSON")
    session().contexts.write(Context("one", {}, {}), {})
    outcome = pyengine("context", "use", "one")
    assert (outcome.code, "cannot be read, and so is not overwritten" in outcome.err) == (1, True)
    assert (config / "config.json").read_text() == "not JSON"


def _tar(*entries: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


META = b'{"Name":"x","Endpoints":{"docker":{"Host":"tcp://h:1"}}}'


def test_archives() -> None:
    context, tls = contextarchive.unpack(_tar(("meta.json", META), ("tls/docker/ca.pem", b"ca")))
    assert (context.host, tls) == ("tcp://h:1", {"docker": {"ca.pem": b"ca"}})
    again = contextarchive.unpack(contextarchive.pack(context, tls))
    assert (again[0].document(), again[1]) == (context.document(), tls)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("meta.json", META)
    assert contextarchive.unpack(zipped.getvalue())[0].host == "tcp://h:1"


def test_an_archive_without_its_end_is_whole_if_its_files_are() -> None:
    whole = _tar(("meta.json", META), ("tls/docker/ca.pem", b"12345"))
    end = whole.index(b"12345") + 5
    assert contextarchive.unpack(whole[:end])[1] == {"docker": {"ca.pem": b"12345"}}
    with pytest.raises(CommandError, match="unexpected EOF"):
        contextarchive.unpack(whole[: end - 1])


def test_archives_that_are_refused() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", META)
        archive.writestr("tls/docker/ca.pem", bytes(contextarchive.LIMIT))
    sparse = tarfile.TarInfo("meta.json")
    sparse.size = 1 << 40
    for data, words in (
        (bomb.getvalue(), "exceeds the defined limit"),
        (bytes(contextarchive.LIMIT + 1), "exceeds the defined limit"),
        (sparse.tobuf(), "exceeds the defined limit"),
        (b"PK\x03\x04 and no more", "not a valid zip file"),
        (_tar(("tls/docker/ca.pem", b"")), "no metadata found"),
        (_tar(("meta.json", b"{")), "parsing meta.json"),
        (_tar(("meta.json", META), ("tls/../../x", b"")), "unexpected path format"),
        (_tar(("meta.json", META), ("/etc/x", b"")), "unexpected context file"),
        (_tar(("meta.json", META), ("tls/docker/deep/er", b"")), "archive format is invalid"),
    ):
        with pytest.raises(CommandError, match=words):
            contextarchive.unpack(data)


def test_nothing_is_stored_of_an_archive_that_is_refused(
    config: Path, pyengine: Run, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(_tar(("meta.json", META), ("hello", b"")))
    assert pyengine("context", "import", "one", str(path)).err == "hello: unexpected context file\n"
    assert not config.exists()
