"""manifest inspect, and images that go in and out as archives."""

from __future__ import annotations

import base64
import json
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

Run = Callable[..., Any]

MANIFEST = {"schemaVersion": 2, "config": {"digest": "sha256:c"}, "layers": []}
INDEX = {"schemaVersion": 2, "manifests": [{"digest": "sha256:m", "annotations": {"a": "ü"}}]}


def remote(ref: str, value: Any, kind: str, **more: Any) -> dict[str, Any]:
    raw = json.dumps(value).encode()
    descriptor = {"mediaType": kind, "digest": "sha256:x", "size": len(raw)}
    raw_text = base64.b64encode(raw).decode()
    return {"Ref": ref, "Descriptor": descriptor, "Raw": raw_text, **more}


DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"


def test_a_manifest(engine: Any, pyengine: Run) -> None:
    route = "GET /pyengine/manifests/r%3A5000%2Fx%3Av1"
    engine.on(route, remote("r:5000/x:v1", MANIFEST, DOCKER))
    assert pyengine("manifest", "inspect", "r:5000/x:v1").out == (
        '{\n\t"schemaVersion": 2,\n\t"config": {\n\t\t"digest": "sha256:c"\n\t},\n'
        '\t"layers": []\n}\n'
    )
    shown = json.loads(pyengine("manifest", "inspect", "-v", "r:5000/x:v1").out)
    assert list(shown) == ["Ref", "Descriptor", "Raw", "SchemaV2Manifest"]
    assert shown["SchemaV2Manifest"] == MANIFEST
    assert [request.query for request in engine.requests(route)] == ["", "verbose=1"]


def test_an_index(engine: Any, pyengine: Run) -> None:
    member = remote("r/x@sha256:m", MANIFEST, OCI)
    found = remote("r/x:latest", INDEX, "application/vnd.oci.image.index.v1+json")
    engine.on("GET /pyengine/manifests/r%2Fx", {**found, "Manifests": [member]})
    out = pyengine("manifest", "inspect", "r/x").out
    assert out.splitlines()[1:3] == ['   "schemaVersion": 2,', '   "manifests": [']
    assert "ü" in out
    assert json.loads(out) == INDEX
    shown = json.loads(pyengine("manifest", "inspect", "-v", "r/x").out)
    assert [one["OCIManifest"] for one in shown] == [MANIFEST]
    assert "Manifests" not in shown[0]


def test_manifests_that_cannot_be_shown(engine: Any, pyengine: Run) -> None:
    engine.on("GET /pyengine/manifests/x", {"message": "manifest unknown"}, 404)
    outcome = pyengine("manifest", "inspect", "x")
    assert (outcome.code, outcome.err) == (1, "no such manifest: docker.io/library/x:latest\n")
    engine.on("GET /pyengine/manifests/x", {"message": "denied"}, 403)
    assert pyengine("manifest", "inspect", "x").err == "Error response from daemon: denied\n"
    outcome = pyengine("manifest", "inspect", "X")
    assert "must be lowercase" in outcome.err
    outcome = pyengine("manifest", "inspect", "--insecure", "x")
    assert outcome.code == 1
    assert "insecure-registries" in outcome.err


def test_load_and_save_of_one_platform(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"tar")
    engine.on("POST /images/load", {"stream": "Loaded image: x\n"})
    engine.routes["GET /images/get"] = lambda request: request.chunks(b"out")
    assert pyengine("load", "--platform", "linux/arm64", "-i", str(archive)).out == (
        "Loaded image: x\n"
    )
    words = ["save", "--platform", "linux/arm64", "-o", str(tmp_path / "out"), "x", "y"]
    assert pyengine(*words).code == 0
    assert (tmp_path / "out").read_bytes() == b"out"
    platform = "platform=%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm64%22%7D"
    assert engine.requests("POST /images/load")[0].query == f"quiet=1&{platform}"
    assert engine.requests("GET /images/get")[0].query == f"names=x&names=y&{platform}"
    assert pyengine("save", "--platform", "a/b/c/d", "x").code == 1


def test_one_platform_of_an_image(engine: Any, pyengine: Run) -> None:
    def arm(variant: str = "") -> str:
        platform = {"os": "linux", "architecture": "arm64"}
        text = json.dumps({**platform, **({"variant": variant} if variant else {})})
        return text.replace(" ", "")

    engine.on("GET /images/x/history", [])
    engine.on("GET /images/x/json", {"Id": "sha256:1"})
    engine.on("DELETE /images/x", [{"Deleted": "sha256:1"}])
    pyengine("history", "--platform", "linux/arm64", "x")
    pyengine("image", "inspect", "--platform", "linux/arm64", "x")
    pyengine("rmi", "--platform", "linux/arm64,linux/arm64/v8", "x")
    queries = [parse_qs(request.query) for request in engine.seen if "x" in request.path]
    assert queries == [
        {"platform": [arm()]},
        {"platform": [arm()]},
        {"platforms": [arm(), arm("v8")]},
    ]


@pytest.mark.parametrize(("words", "bar"), [(["load"], True), (["load", "-q"], False)])
def test_load_tells_how_much_was_sent(
    engine: Any, tmp_path: Path, words: list[str], bar: bool
) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(os.urandom(3 << 20))
    engine.on("POST /images/load", {"stream": "Loaded image: x\n"})
    pid, terminal = pty.fork()
    if pid == 0:
        program = "from pyengine.cli import main; import sys; sys.exit(main())"
        os.execv(sys.executable, [sys.executable, "-c", program, *words, "-i", str(archive)])
    seen = b""
    try:
        while data := os.read(terminal, 4096):
            seen += data
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert (b"Sending             3.15MB" in seen) is bar
    assert seen.endswith(b"Loaded image: x\r\n")
