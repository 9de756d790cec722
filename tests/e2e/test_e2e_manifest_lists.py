"""``manifest``: lists that docker's command and ours put together, alone and by turns, and push."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from registries.images import Image, Index, Layer, noise, tar_of
from registries.server import Registry

if TYPE_CHECKING:
    from .conftest import Site

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TURNS = ["d", "p", "dp", "pd"]
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}

Said = tuple[int, str, str]
Step = Callable[..., Said]


class Desk:
    """A configuration that both commands use by turns."""

    def __init__(self, site: Site, config: Path, turns: str) -> None:
        self.site, self.config = site, config
        self._turns = cycle(turns)

    def __call__(self, verb: str, *words: str) -> Said:
        """Exit code, standard output, standard error of ``manifest VERB``."""
        if next(self._turns) == "d":
            # The registry is plain; docker's client asks it itself and wants to be told so.
            insecure = ["--insecure"] if verb in ("create", "inspect", "push") else []
            done = self.site("manifest", verb, *insecure, *words, check=False, config=self.config)
        else:
            engine = f"unix://{self.site.engine.socket}"
            command = [sys.executable, "-m", "pyengine", "-H", engine, "manifest", verb, *words]
            env = {"DOCKER_CONFIG": str(self.config)}
            done = self.site.lab.sh(*command, check=False, env=env)
        plain = done.stderr.replace("pyengine", "docker")
        return done.returncode, done.stdout, plain

    def kept(self) -> dict[str, object]:
        """The lists' files."""
        return {
            str(path.relative_to(self.config)): json.loads(path.read_text())
            for path in sorted((self.config / "manifests").rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def registry(site: Site) -> Registry:
    found = site.lab.plain()
    base = Layer(tar_of({"a": noise(20_000, 1)}))
    one, arm = Image([base, Layer(tar_of({"b": "2"}))]), Image([base], platform=ARM)
    for name, image in (("one", one), ("arm", arm)):
        site.lab.put(found, "app", name, image)
        docker = Image(image.layers, platform=image.platform, docker=True)
        site.lab.put(found, "app", f"docker-{name}", docker)
    site.lab.put(found, "app", "index", Index([one, arm]))
    site.lab.put(found, "other", "one", Image([Layer(tar_of({"c": "3"}))]))
    return found


@pytest.fixture
def desks(site: Site, tmp_path: Path) -> list[Desk]:
    return [Desk(site, tmp_path / turns, turns) for turns in TURNS]


@pytest.fixture
def both(desks: list[Desk]) -> Step:
    """Runs a step on every desk; all must say the same, which is returned."""

    def step(*words: str) -> Said:
        said = [desk(*words) for desk in desks]
        for turns, outcome in zip(TURNS, said, strict=True):
            assert outcome == said[0], (words, turns)
        return said[0]

    return step


def test_a_list_from_its_making_to_the_registry(
    both: Step, desks: list[Desk], registry: Registry, site: Site
) -> None:
    name = registry.name
    target = name("app:list")
    assert both("create", target, name("app:one"), name("app:arm"))[0] == 0
    assert all(desk.kept() == desks[0].kept() for desk in desks)
    for words in (
        [target],
        ["-v", target],
        [target, name("app:one")],
        ["-v", target, name("app:arm")],
    ):
        assert both("inspect", *words)[0] == 0
    assert both("create", target, name("app:one"))[0] == 1
    both("annotate", target, name("app:arm"), "--os-features", "x,y", "--os-version", "5")
    both("annotate", target, name("app:arm"), "--os-features", "y,z", "--variant", "v9")
    # One that is in the list already keeps what it was annotated with.
    assert both("create", "--amend", target, name("other:one"), name("app:arm"))[0] == 0
    code, out, _ = both("inspect", target)
    platforms = [entry["platform"] for entry in json.loads(out)["manifests"]]
    assert {"variant": "v9", "os.version": "5", "os.features": ["x", "y", "z"]}.items() <= (
        platforms[0].items()
    )
    assert all(desk.kept() == desks[0].kept() for desk in desks)
    code, out, _ = both("push", target)
    assert code == 0
    assert out.splitlines()[0].startswith(f"Pushed ref {name('app')}@sha256:")
    assert site.lab.inspect(registry, "app:list")["Name"].endswith("/app")
    code, out, _ = both("push", "-p", target)
    assert both("push", "-p", target)[0] == 1
    assert [desk.kept() for desk in desks] == [{}] * len(desks)
    # Now it is the registry that answers.
    assert both("inspect", target)[0] == 0


def test_the_registry_has_nothing_but_what_the_list_brings(
    site: Site, registry: Registry, tmp_path: Path
) -> None:
    """Ours alone pushes: an image of another repository is taken over, and can be pulled."""
    desk, name = Desk(site, tmp_path / "client", "p"), registry.name
    assert desk("create", name("fresh:list"), name("other:one"), name("app:docker-arm"))[0] == 0
    code, out, err = desk("push", name("fresh:list"))
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 3
    assert site.out("pull", "-q", name("fresh:list")) == name("fresh:list")
    site.out("rmi", name("fresh:list"))


def test_docker_manifests_make_a_docker_list(both: Step, registry: Registry) -> None:
    name = registry.name
    both("create", name("app:old"), name("app:docker-one"), name("app:docker-arm"))
    _, out, _ = both("inspect", name("app:old"))
    assert "manifest.list.v2+json" in json.loads(out)["mediaType"]
    both("inspect", "-v", name("app:old"))
    assert both("push", name("app:old"))[0] == 0
    assert both("rm", name("app:old")) == (0, "", "")


def test_what_is_refused(both: Step, registry: Registry) -> None:
    name = registry.name
    both("create", name("app:list"), name("app:one"))
    for words in (
        *(["create", name("app:l"), name("app:index")], ["create", name("app:l"), name("app:no")]),
        *(["create", "BAD", name("app:one")], ["create", name("app:l"), "BAD"]),
        *(["create", name("app:l")], ["annotate", name("app:list")], ["rm"], ["push"]),
        ["annotate", name("app:list"), name("app:one"), "--arch", "bogus"],
        ["annotate", name("app:list"), name("app:no"), "--arch", "amd64"],
        ["annotate", name("app:no"), name("app:one"), "--arch", "amd64"],
        ["annotate", "BAD", name("app:one")],
        ["annotate", name("app:list"), "BAD"],
        *(["inspect", name("app:list"), name("app:no")], ["inspect", name("app:no"), "BAD"]),
        *(["push", name("app:no")], ["push", "BAD"], ["rm", name("app:no"), "BAD", name("app:n")]),
    ):
        assert both(*words)[0] == 1, words
    assert both("create", "localhost:1/x:y", name("app:one"))[0] == 0
    for verb in ("inspect", "push"):
        assert "a different registry" in both(verb, "localhost:1/x:y")[2]
    both("rm", "localhost:1/x:y", name("app:list"))


def test_the_engine_checks_what_it_pushes(site: Site, registry: Registry, tmp_path: Path) -> None:
    desk, name = Desk(site, tmp_path / "client", "p"), registry.name
    desk("create", name("app:list"), name("app:one"), name("app:arm"))
    file = next((tmp_path / "client/manifests").rglob("*app-one"))
    item = json.loads(file.read_text())
    item["Ref"] = name("other:one")
    file.write_text(json.dumps(item))
    code, _, err = desk("push", name("app:list"))
    assert code == 1
    assert "manifest unknown" in err or "not found" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Members": []}, "the members are not those that the list names"),
        ({"Raw": "e30="}, "manifest"),
        ({"Raw": "!"}, "Raw is not base64"),
        ({"Members": [{"Name": "BAD", "Digest": "x"}]}, "invalid reference format"),
    ],
)
def test_lists_that_are_none(
    site: Site, registry: Registry, change: dict[str, object], says: str
) -> None:
    entry = {"mediaType": OCI, "size": 2, "digest": f"sha256:{'0' * 64}"}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    body = {
        "MediaType": INDEX,
        "Raw": base64.b64encode(json.dumps(index).encode()).decode(),
        "Members": [{"Name": registry.name("app"), "Digest": entry["digest"]}],
    }
    url = f"http://x/pyengine/manifests/{quote(registry.name('app:none'), safe='')}"
    socket = ["--unix-socket", str(site.engine.socket)]
    data = json.dumps({**body, **change})
    kind = ["-H", "Content-Type: application/json"]
    said = site.lab.sh("curl", "-s", *socket, *kind, "-X", "PUT", "-d", data, url).stdout
    assert says in json.loads(said)["message"]
