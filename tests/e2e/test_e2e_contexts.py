"""``context``: docker's command and ours on one store, step by step, by turns, and each alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import EngineProcess

PYENGINE = [sys.executable, "-m", "pyengine"]
TURNS = ["d", "p", "dp", "pd"]
TLS = "host=tcp://1.2.3.4:2376,ca=ca.pem,cert=cert.pem,key=key.pem"


class Desk:
    """A folder to work in, with a configuration of its own that both commands use by turns."""

    def __init__(self, folder: Path, docker: str, turns: str) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.environment: dict[str, str] = {}
        self._commands = cycle([{"d": [docker], "p": PYENGINE}[turn] for turn in turns])

    def __call__(self, *words: str, input: bytes | None = None) -> tuple[int, str, str]:
        """Exit code, standard output and standard error, without what may differ."""
        done = self.run(next(self._commands), *words, input=input)
        return done.returncode, self.plain(done.stdout), self.plain(done.stderr)

    def run(
        self, command: list[str], *words: str, input: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        gone = ("DOCKER_HOST", "DOCKER_CONTEXT", "PYENGINE_HOST", "DOCKER_TLS_VERIFY")
        kept = {name: value for name, value in os.environ.items() if name not in gone}
        return subprocess.run(
            [*command, *words],
            cwd=self.folder,
            env={**kept, "DOCKER_CONFIG": str(self.config), **self.environment},
            input=input,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def plain(self, output: bytes) -> str:
        text = output.decode(errors="replace").replace(str(self.folder), "/desk")
        text = text.replace("unix:///var/run/docker.sock", "unix:///DEFAULT")
        text = text.replace("unix:///run/pyengine.sock", "unix:///DEFAULT")
        # Columns are as wide as the default address.
        text = re.sub(r"  +", "  ", text)
        return re.sub(r"(?m)(^|Usage:  |'|command: )(docker|pyengine)\b", "\\1PROGRAM", text)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("pem"))
    for name in ("ca", "cert", "other"):
        key = "key.pem" if name == "cert" else f"{name}-key.pem"
        words = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x"
        )
        files = ["-keyout", str(folder / key), "-out", str(folder / f"{name}.pem")]
        subprocess.run([*words.split(), *files], check=True, capture_output=True)
    (folder / "junk.pem").write_text("junk\n")
    return folder


@pytest.fixture
def desks(tmp_path: Path, docker_binary: str, certificates: Path) -> list[Desk]:
    """One folder for every order of turns."""
    found = []
    for turns in TURNS:
        folder = tmp_path / turns
        folder.mkdir()
        for path in certificates.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        found.append(Desk(folder, docker_binary, turns))
    return found


Step = Callable[..., tuple[int, str, str]]


@pytest.fixture
def both(desks: list[Desk]) -> Step:
    """Runs a step on every desk; all must say the same, which is returned."""

    def step(*words: str, **settings: bytes) -> tuple[int, str, str]:
        outcomes = {
            turns: desk(*words, **settings) for turns, desk in zip(TURNS, desks, strict=True)
        }
        first = outcomes["d"]
        for turns, outcome in outcomes.items():
            assert outcome[0] == first[0], (words, turns, outcome, first)
            for ours, theirs in zip(outcome[1:], first[1:], strict=True):
                assert ours.splitlines() == theirs.splitlines(), (words, turns)
        return first

    return step


def say(desks: list[Desk], **environment: str) -> None:
    for desk in desks:
        desk.environment = environment


def test_create_list_inspect_update_remove(both: Step) -> None:
    both("context", "ls")
    assert both("context", "show")[1] == "default\n"
    assert both("context", "create", "local", "--docker", "host=unix:///x")[0] == 0
    both("context", "create", "v10", "--docker", "host=tcp://a:1", "--description", "some text")
    both(
        "context",
        "create",
        "v9",
        "--docker",
        "host=tcp://a:1",
        "--docker",
        "host=tcp://b:2",
        "--description",
        "<b> & c",
    )
    both("context", "create", "copy", "--from", "v10")
    both("context", "create", "copy2", "--from", "v10", "--description", "another")
    both("context", "create", "copy3", "--docker", "from=v10")
    both("context", "create", "plain")
    both("context", "create", "nohost", "--docker", "host=")
    both("context", "create", "secure", "--docker", TLS)
    both("context", "create", "half", "--docker", "host=tcp://a:1,cert=cert.pem")
    both("context", "create", "lax", "--docker", "host=tcp://a:1,skip-tls-verify=true")
    both("context", "create", "copied", "--from", "secure")
    both("context", "create", "remote", "--docker", "host=ssh://me@there:2222/run/x.sock")
    names = both("context", "ls", "-q")[1].split()
    assert names.index("v9") < names.index("v10")
    both("context", "ls")
    both("context", "ls", "--format", "json")
    both("context", "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}")
    both("context", "ls", "--format", "table {{.Name}}\t{{.Description}}")
    both("context", "ls", "--format", "{{.Nothing}}")
    code, out, _ = both("context", "inspect", *names)
    assert code == 0
    assert len(json.loads(out)) == len(names)
    both("context", "inspect", "secure", "--format", "json")
    for format in (
        "{{.Name}} {{.Endpoints.docker.Host}} {{.TLSMaterial}} {{.Storage.MetadataPath}}",
        "{{.Metadata}} {{.Metadata.Metadata.Description}} {{.Endpoints}}",
        "{{json .Metadata}} {{json .Endpoints}} {{json .TLSMaterial}}",
        "{{.Metadata.Description}}",
        "{{.Nothing}}",
        "{{.Endpoints.docker.SkipTLSVerify}} {{.Endpoints.other}}",
        "{{",
    ):
        both("context", "inspect", "secure", "v10", "--format", format)
    both("context", "update", "v10", "--description", "changed")
    both("context", "update", "v10", "--description", "")
    both("context", "update", "secure", "--description", "keeps its files")
    both("context", "update", "copied", "--docker", "host=tcp://c:3,ca=ca.pem")
    both("context", "update", "local")
    assert both("context", "inspect", *names)[0] == 0
    both("context", "rm", "v9", "copy3")
    both("context", "rm", "v9", "copy", "v9")
    assert both("context", "rm", "-f", "v9", "secure")[1] == "v9\nsecure\n"
    assert "secure" not in both("context", "ls", "-q")[1]


def test_what_is_refused(both: Step) -> None:
    both("context", "create", "known", "--docker", "host=unix:///x")
    for name in ("a", "default", "bad name", ".x", "", "known", "-x"):
        both("context", "create", name)
        both("context", "create", "--", name)
        assert both("context", "import", "--", name, "ca.pem")[0] == 1
    for docker in (
        *(
            "foo=bar",
            "host",
            "host=zzz",
            "",
            "host=tcp://x,ca=none",
            "from=none",
            "host=tcp://x, ca=y",
        ),
        *(
            "host=tcp://x,skip-tls-verify=maybe",
            "host=tcp://x,ca=junk.pem",
            'host=tcp://x,"ca=a,b"',
        ),
        *("host=tcp://x,cert=cert.pem,key=junk.pem", "host=ssh://u:p@h", "host=ssh://"),
        *("host=ssh://h?x=1", "host=ssh://h#f"),
    ):
        assert both("context", "create", "new", "--docker", docker)[0] in (1, 125), docker
        assert both("context", "update", "known", "--docker", docker)[0] in (1, 125), docker
    both("context", "create", "new", "--from", "known", "--docker", "host=unix:///y")
    both("context", "create", "new", "--from", "none")
    for words in (
        *(["inspect", "none"], ["inspect", "none", "known"], ["export", "none"], ["use", "none"]),
        *(["update", "none"], ["update", "default"], ["rm", "none"], ["rm", "default"]),
        *(["rm", "-f", "default"], ["rm"], ["create"], ["create", "a", "b"], ["import", "x"]),
        *(["export"], ["show", "x"], ["ls", "x"], ["export", "known", "/none/x"], ["nothing"]),
        *(["export", "bad name"], ["import", "new", "none"], ["use", ".x"]),
    ):
        assert both("context", *words)[0] == 1, words
    assert both("context", "ls", "-q")[1] == "default\nknown\n"


def test_which_context_is_used(both: Step, desks: list[Desk]) -> None:
    for name in ("one", "two"):
        both("context", "create", name, "--docker", f"host=unix:///{name}")
    assert both("context", "use", "one") == (0, "one\n", 'Current context is now "one"\n')
    for desk in desks:
        assert json.loads((desk.config / "config.json").read_text())["currentContext"] == "one"
    shown = lambda *words: both(*words, "context", "show")[1]  # noqa: E731
    assert shown() == "one\n"
    assert shown("-c", "two") == shown("--context=two") == "two\n"
    assert shown("-H", "unix:///z") == "default\n"
    assert shown("-c", "") == "one\n"
    assert shown("-c", "none") == "none\n"
    say(desks, DOCKER_CONTEXT="two")
    assert shown() == "two\n"
    assert both("context", "rm", "two")[0] == 1
    say(desks, DOCKER_CONTEXT="two", DOCKER_HOST="unix:///h")
    assert shown() == "default\n"
    assert shown("-c", "one") == "one\n"
    both("context", "ls")
    both("context", "use", "two")
    both("context", "inspect")
    both("context", "use", "default")
    say(desks, DOCKER_CONTEXT="default")
    assert shown() == "default\n"
    say(desks)
    for words in (["context", "ls"], ["context", "show"], ["ps"]):
        code, _, err = both("-c", "one", "-H", "unix:///z", *words)
        assert (code, err) == (1, "conflicting options: cannot specify both --host and --context\n")
    both("-c", "none", "ps")
    both("-c", "none", "context", "ls")
    both("-c", "none", "context", "create", "three")
    both("context", "use", "two")
    assert both("context", "rm", "two")[0] == 1
    assert both("context", "rm", "-f", "two")[0] == 0
    assert shown() == "default\n"
    for desk in desks:
        assert "currentContext" not in json.loads((desk.config / "config.json").read_text())
        (desk.config / "config.json").write_text('{"currentContext": "gone"}')
    for words in (["show"], ["ls"], ["inspect"], ["create", "more"], ["rm", "gone"]):
        both("context", *words)
    both("ps")
    both("context", "use", "default")


def test_export_and_import(both: Step, desks: list[Desk]) -> None:
    both("context", "create", "secure", "--docker", TLS, "--description", "d")
    assert both("context", "export", "secure")[0] == 0
    assert both("context", "export", "secure")[0] == 1
    assert both("context", "export", "secure", "again.tar")[0] == 0
    both("context", "export", "default")
    for desk in desks:
        assert (desk.folder / "again.tar").stat().st_mode & 0o777 == 0o600
    assert both("context", "import", "first", "secure.dockercontext")[0] == 0
    assert both("context", "import", "first", "secure.dockercontext")[0] == 1
    exported = (desks[0].folder / "secure.dockercontext").read_bytes()
    ours = (desks[1].folder / "secure.dockercontext").read_bytes()
    assert both("context", "import", "second", "-", input=exported)[0] == 0
    assert both("context", "import", "third", "-", input=ours)[0] == 0
    for desk in desks:
        with zipfile.ZipFile(desk.folder / "a.zip", "w") as archive:
            archive.writestr(
                "meta.json",
                '{"Name":"x","Metadata":{},"Endpoints":'
                '{"docker":{"Host":"tcp://z:1","SkipTLSVerify":false}}}',
            )
            archive.writestr("tls/docker/ca.pem", "an authority")
        for name in ("hello", "tls/../up", "tls/docker", "tls/./x/y", "tls/a\\b/c"):
            with tarfile.open(desk.folder / f"bad-{name.replace('/', '_')}.tar", "w") as tar:
                tar.add(desk.folder / "ca.pem", name)
        with tarfile.open(desk.folder / "other.tar", "w") as tar:
            (desk.folder / "meta.json").write_text(
                '{"Name":"x","Metadata":{"Description":"e","More":{"b":1,"a":[2]}},'
                '"Endpoints":{"kubernetes":{"Host":"k","Extra":1}}}'
            )
            tar.add(desk.folder / "meta.json", "meta.json")
    assert both("context", "import", "zipped", "a.zip")[0] == 0
    assert both("context", "import", "other", "other.tar")[0] == 0
    for name in ("hello", "tls_.._up", "tls_docker", "tls_._x_y", "tls_a\\b_c"):
        assert both("context", "import", "bad", f"bad-{name}.tar")[0] == 1, name
    assert both("context", "import", "bad", "junk.pem")[0] == 1
    assert both("context", "import", "bad", "/dev/null")[0] == 1
    for number in range(3):
        both("context", "update", "other", "--description", f"f{number}")
    names = both("context", "ls", "-q")[1].split()
    assert "bad" not in names
    both("context", "inspect", *names)
    both("context", "ls")
    written = [
        {
            path.relative_to(desk.config): (path.stat().st_mode & 0o777, path.read_bytes())
            for path in sorted((desk.config / "contexts").rglob("*"))
            if path.is_file()
        }
        for desk in desks
    ]
    for files in written:
        assert files == written[0]


def test_a_context_reaches_its_engine(engine: EngineProcess, desks: list[Desk]) -> None:
    desk = desks[0]
    url = f"unix://{engine.socket}"
    assert desk("context", "create", "here", "--docker", f"host={url}")[0] == 0
    id = engine.out("create", "busybox", "true").strip()
    try:
        for words in (["-c", "here"], []):
            done = desk.run(PYENGINE, *words, "ps", "-aq", "--no-trunc")
            assert done.stdout.decode().split() == [id], done.stderr
            shown = desk.run(PYENGINE, *words, "version", "--format", "{{.Client.Context}}")
            assert shown.stdout == b"here\n"
            desk.run(PYENGINE, "context", "use", "here")
        assert b"Context:    here" in desk.run(PYENGINE, "info").stdout
        # The user's -H goes before the context that is in use; a variable does too.
        refused = desk.run(PYENGINE, "-H", "unix:///none", "ps")
        assert b"unix:///none" in refused.stderr
        desk.environment = {"DOCKER_HOST": "unix:///none"}
        assert b"unix:///none" in desk.run(PYENGINE, "ps").stderr
    finally:
        engine.docker("rm", id)
