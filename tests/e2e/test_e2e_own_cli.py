"""Our own command line against an engine and registries; the docker CLI beside it says the same."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from registries.images import Artifact, Image, Index, Layer, noise, tar_of
from registries.server import Registry

if TYPE_CHECKING:
    from .conftest import Site

ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}

HELPER = """#!/bin/sh
# keeps one secret in a file
case $1 in
store) cat > {store} ;;
get) cat {store} || {{ echo credentials not found in native keychain; exit 1; }} ;;
erase) rm -f {store} ;;
list) echo '{{}}' ;;
esac
"""


class Pyengine:
    """The ``pyengine`` command beside a site's docker CLI, with a configuration of its own."""

    def __init__(self, site: Site, config: Path) -> None:
        self.site = site
        self.config = config
        self.command = [sys.executable, "-m", "pyengine", "-H", f"unix://{site.engine.socket}"]
        self.env = {"DOCKER_CONFIG": str(config)}

    def __call__(
        self, *words: str, code: int = 0, input: str = "", path: str = ""
    ) -> subprocess.CompletedProcess[str]:
        more = {"PATH": f"{path}:{os.environ['PATH']}"} if path else {}
        done = subprocess.run(
            [*self.command, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            input=input,
            env={**os.environ, **self.env, **more},
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    def out(self, *words: str) -> str:
        return self(*words).stdout

    def on_terminal(self, *words: str, press: bytes = b"", after: bytes = b"") -> tuple[int, str]:
        """Exit code and what a terminal of 100 columns got; ``press`` is typed when ``after``
        has come."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(self.env, COLUMNS="100", LINES="30", TERM="xterm-256color")
            os.execv(self.command[0], [*self.command, *words])
        seen = b""
        try:
            while data := os.read(terminal, 65536):
                seen += data
                if press and after in seen:
                    os.write(terminal, press)
                    press = b""
        except OSError:
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(terminal)
        return code, seen.decode(errors="replace")


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Pyengine:
    return Pyengine(site, tmp_path / "client")


@pytest.fixture(scope="module")
def plain(site: Site) -> Registry:
    registry = site.lab.plain()
    base = Layer(tar_of({"a": noise(200_000, 1)}))
    one, arm = Image([base, Layer(tar_of({"b": "2"}))]), Image([base], platform=ARM)
    site.lab.put(registry, "app", "oci", one)
    site.lab.put(registry, "app", "index", Index([one, arm]))
    docker = [Image(image.layers, platform=image.platform, docker=True) for image in (one, arm)]
    site.lab.put(registry, "app", "docker", docker[0])
    site.lab.put(registry, "app", "list", Index(docker, docker=True))
    return registry


@pytest.fixture(scope="module", params=["basic", "token"])
def closed(site: Site, plain: Registry, request: pytest.FixtureRequest) -> Registry:
    """A registry that wants to know who asks."""
    registry: Registry = getattr(site.lab, request.param)(f"own-{request.param}")
    source, target = (f"docker://{one.name('app')}:" for one in (plain, registry))
    site.lab.copy(f"{source}oci", f"{target}v1", of=plain, to=registry)
    return registry


# -- credentials -----------------------------------------------------------------------------------


def test_login_pull_push_logout(own: Pyengine, closed: Registry) -> None:
    image = closed.name("app:v1")
    refused = own("pull", image, code=1).stderr
    wrong = own("login", "-u", closed.user, "--password-stdin", closed.host, code=1, input="no")
    assert "unauthorized" in wrong.stderr.lower()
    assert not own.config.exists()
    words = ["login", "-u", closed.user, "--password-stdin", closed.host]
    done = own(*words, input=closed.password + "\n")
    assert done.stdout == "Login Succeeded\n"
    # The token service hands out identity tokens, which are kept in place of the password.
    kept = (own.config / "config.json").read_text()
    assert ("identitytoken" in kept) is (closed.tokens is not None)
    assert ("stored unencrypted" in done.stderr) is (closed.tokens is None)
    assert own.out("pull", "-q", image) == f"{image}\n"
    if closed.tokens is None:
        assert "existing credentials" in own("login", closed.host).stderr
    # The docker CLI finds them, too.
    own.site("pull", image, config=own.config)
    assert own.out("manifest", "inspect", image).startswith("{")
    own("tag", image, closed.name("copy:v2"))
    pushed = own.out("push", closed.name("copy:v2"))
    assert "v2: digest: sha256:" in pushed
    assert own.site.lab.inspect(closed, "copy:v2")["Name"].endswith("/copy")
    own("logout", closed.host)
    assert own("pull", image, code=1).stderr == refused


def test_a_credential_helper(own: Pyengine, closed: Registry, tmp_path: Path) -> None:
    store = tmp_path / "secret"
    helper = tmp_path / "docker-credential-drawer"
    helper.write_text(HELPER.format(store=store))
    helper.chmod(0o755)
    own.config.mkdir()
    settings = {"credHelpers": {closed.host: "drawer"}, "mine": [1]}
    (own.config / "config.json").write_text(json.dumps(settings))
    image = closed.name("app:v1")
    missing = own("pull", image, code=1).stderr
    assert 'exec: "docker-credential-drawer": executable file not found in $PATH' in missing
    words = ["login", "-u", closed.user, "--password-stdin", closed.host]
    own(*words, input=closed.password, path=str(tmp_path))
    secret = json.loads(store.read_text())
    assert (secret["Username"] == "<token>") is (closed.tokens is not None)
    assert (secret["Secret"] == closed.password) is (closed.tokens is None)
    written = json.loads((own.config / "config.json").read_text())
    assert written == {**settings, "auths": {closed.host: {}}}
    own("pull", "-q", image, path=str(tmp_path))
    own("logout", closed.host, path=str(tmp_path))
    assert not store.exists()
    own("pull", image, code=1, path=str(tmp_path))


# -- the same words --------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["oci", "docker", "list", "index"])
def test_manifest_inspect_is_what_docker_shows(own: Pyengine, plain: Registry, tag: str) -> None:
    name = plain.name(f"app:{tag}")
    for flags in ([], ["-v"]):
        theirs = own.site.out("manifest", "inspect", "--insecure", *flags, name)
        ours = own.out("manifest", "inspect", *flags, name)
        assert json.loads(ours) == json.loads(theirs)
        if tag not in ("list", "index") or flags:
            assert ours.strip() == theirs
    theirs = own.site("manifest", "inspect", "--insecure", plain.name("app:no"), check=False).stderr
    assert own("manifest", "inspect", plain.name("app:no"), code=1).stderr == theirs


def test_the_docker_cli_prints_the_same(own: Pyengine, plain: Registry) -> None:
    own.env["DOCKER_API_VERSION"] = "1.50"
    for tag in ("oci", "docker"):
        own("pull", "-q", plain.name(f"app:{tag}"))
    image = plain.name("app:oci")
    for words in (
        ["images"],
        ["images", "--digests", "--no-trunc"],
        ["image", "ls", "--format", "json"],
        ["images", "-q", "--filter", "reference=*/app:d*"],
        ["history", image],
        ["history", "--platform", "linux/amd64", image],
        ["image", "inspect", image],
        ["system", "df"],
        ["system", "df", "--format", "json"],
        ["system", "df", "-v"],
        ["pull", image],
        ["pull", "-q", plain.name("app:docker")],
    ):
        ours, theirs = own.out(*words), own.site(*words).stdout
        if words[:2] in (["image", "ls"], ["images"], ["images", "--digests"]):
            # The docker CLI has the repositories of one image in a random order.
            assert sorted(ours.splitlines()) == sorted(theirs.splitlines()), words
        else:
            assert ours == theirs, words
    for words in (
        ["history", "--platform", "linux/arm64", image],
        ["image", "inspect", "--platform", "linux/arm64", image],
        ["rmi", "--platform", "linux/arm64", image],
        ["pull", plain.name("nobody:v1")],
        ["pull", plain.name("app:nothing")],
        ["push", plain.name("notthere:v1")],
        ["search", f"{plain.host}/x"],
    ):
        theirs = own.site(*words, check=False)
        ours = own(*words, code=theirs.returncode)
        assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr), words


# -- progress --------------------------------------------------------------------------------------


def test_bars_of_a_pull_and_a_load(own: Pyengine, plain: Registry, tmp_path: Path) -> None:
    layers = [Layer(tar_of({f"f{n}": noise(3_000_000, 10 + n)})) for n in range(3)]
    own.site.lab.put(plain, "bars", "v1", Image(layers))
    name = plain.name("bars:v1")
    code, shown = own.on_terminal("pull", name)
    assert code == 0
    for layer in layers:
        digest = layer.descriptor(docker=False).digest
        assert f"{digest[7:19]}  Pull complete" in shown
    assert f"3/3 layers  9MB  from {plain.host}" in shown
    assert shown.rstrip().endswith(name)
    archive = tmp_path / "bars.tar"
    own("save", "-o", str(archive), name)
    own("rmi", name)
    code, shown = own.on_terminal("load", "-i", str(archive))
    assert code == 0
    assert "archive       Sending" in shown
    assert shown.endswith(f"Loaded image: {name}\r\n")


# -- image explore ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wasteful(site: Site) -> str:
    """An image whose upper layers come from containers, so that they are as overlay makes them."""
    site.out("import", "-c", "CMD sh", str(site.busybox), "waste:0")
    steps = (
        # bytes that stay, that are overwritten, that are removed, with two names
        "mkdir -p /d/e /o && head -c 100000 /dev/zero >/d/stays && head -c 20000 /dev/zero >/d/over"
        " && head -c 3000 /dev/zero >/d/e/gone && head -c 400 /dev/zero >/d/link1"
        " && ln /d/link1 /d/link2 && head -c 50 /dev/zero >/o/old && ln -s d /s",
        "head -c 7 /dev/zero >/s/over && rm -r /d/e && rm /d/link1 && rm -r /o && mkdir /o"
        " && echo new >/o/new && chmod 600 /d/stays",
        "rm -r /d && echo file >/d",
    )
    for number, script in enumerate(steps):
        site("run", "--name", "waste", "--network", "none", f"waste:{number}", "sh", "-c", script)
        site("commit", "waste", f"waste:{number + 1}")
        site("rm", "waste")
    return "waste:3"


def explored(own: Pyengine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(own.out("image", "explore", "--format", "json", image))
    return found


def changes(layer: dict[str, Any]) -> dict[str, str]:
    return {one["path"]: one["change"] for one in layer["changes"]}


def test_explore_counts_what_containers_wasted(own: Pyengine, wasteful: str) -> None:
    found = explored(own, wasteful)
    base, first, second, third = found["layers"]
    made = "/d /d/e /d/e/gone /d/link1 /d/link2 /d/over /d/stays /o /o/old /s"
    assert changes(first) == dict.fromkeys(made.split(), "added")
    assert changes(second) == {
        "/d/e": "removed", "/d/e/gone": "removed", "/d/link1": "removed", "/d/over": "changed",
        "/d/stays": "changed", "/o/new": "added", "/o/old": "removed",
    }  # fmt: skip
    assert changes(third) == {
        "/d": "changed", "/d/link2": "removed", "/d/over": "removed", "/d/stays": "removed",
    }  # fmt: skip
    assert [layer["bytes"] for layer in (first, second, third)] == [123_450, 100_011, 5]
    wasted = {
        path: [(one["bytes"], one["layer"], one["by"], one["how"]) for one in copies]
        for path, copies in ((one["path"], one["copies"]) for one in found["wasted"])
    }
    assert wasted == {
        # chmod stores a file again
        "/d/stays": [(100_000, 1, 2, "overwritten"), (100_000, 2, 3, "removed")],
        "/d/over": [(20_000, 1, 2, "overwritten"), (7, 2, 3, "removed")],
        "/d/e/gone": [(3_000, 1, 2, "removed")],
        # both names of it are gone only now
        "/d/link1": [(400, 1, 3, "removed")],
        "/o/old": [(50, 1, 2, "removed")],
    }
    assert found["wasted_bytes"] == 223_457
    total = base["bytes"] + 223_466
    assert found["bytes"] == total
    assert found["efficiency"] == pytest.approx(1 - 223_457 / total, abs=1e-6)
    assert first["created_by"].startswith("sh -c mkdir")


def test_the_tree_at_the_end_is_the_container_s(own: Pyengine, wasteful: str) -> None:
    """What the layers add up to is what a container sees."""
    tree: dict[str, str] = {}
    for layer in explored(own, wasteful)["layers"]:
        for one in layer["changes"]:
            if one["change"] == "removed":
                tree.pop(one["path"])
            else:
                tree[one["path"]] = one["kind"]
    script = "find / -xdev -mindepth 1"
    words = ["run", "--rm", "--network", "none", wasteful, "sh", "-c", script]
    seen = set(own.site(*words).stdout.split())
    # What the engine itself puts into a container.
    engine_s = ("/dev", "/proc", "/sys", "/etc", "/.dockerenv")
    assert {path for path in tree if not path.startswith(engine_s)} == {
        path for path in seen if not path.startswith(engine_s)
    }


def test_explore_in_a_pipe_and_on_a_terminal(own: Pyengine, wasteful: str) -> None:
    lines = own.out("image", "explore", wasteful).splitlines()
    assert lines[1].startswith("Layers:      4, with ")
    assert lines[2] == "Wasted:      223.5kB"
    assert "  D /d/e/  3kB in 1 file" in lines
    assert "100kB    /d/stays    layer 1     layer 2      overwritten" in lines
    code, shown = own.on_terminal("image", "explore", wasteful, press=b"q", after=b"efficiency")
    assert code == 0
    assert "\x1b[?1049h" in shown
    assert "Layers" in shown
    assert "bin/" in shown


def test_explore_of_damaged_layers(own: Pyengine, plain: Registry) -> None:
    layer = Layer(tar_of({"hurt": noise(5000, 9)}))
    own.site.lab.put(plain, "hurt", "v1", Image([layer]))
    name = plain.name("hurt:v1")
    own("pull", "-q", name)
    blob = own.site.engine.data / "content/blobs/sha256" / layer.descriptor(False).digest[7:]
    blob.unlink()
    missing = own("image", "explore", name, code=1).stderr
    assert f"layer sha256:{blob.name} of image {name} is missing" in missing
    blob.write_bytes(layer.data[:2000])
    assert "damaged gzip stream" in own("image", "explore", name, code=1).stderr
    blob.write_bytes(layer.data)
    assert explored(own, name)["bytes"] == 5000
    own("rmi", name)


def test_explore_what_is_no_image(own: Pyengine, plain: Registry) -> None:
    own.site.lab.put(plain, "chart", "v1", Artifact())
    own("pull", "-q", plain.name("chart:v1"))
    error = own("image", "explore", plain.name("chart:v1"), code=1).stderr
    assert f"{plain.name('chart:v1')} has no layers: it is no image" in error


def test_explore_what_is_not_there(own: Pyengine) -> None:
    error = own("image", "explore", "nothing", code=1).stderr
    assert error == "Error response from daemon: No such image: nothing:latest\n"
    assert own("image", "explore", code=2).stderr.startswith("Usage: pyengine image explore")
