"""Images: in by import and load, out by rmi, and what holds them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker

FILES = (
    {"etc/one": "1", "etc/two": "2", "dir/a": "a", "dir/b": "b"},
    {"etc/.wh.two": "", "etc/three": "3", "dir/.wh..wh..opq": "", "dir/c": "c"},
)


def layer(files: dict[str, str], base: Path | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if base is not None:
            with tarfile.open(base) as source:
                for member in source:
                    tar.addfile(member, source.extractfile(member) if member.isfile() else None)
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def archive(path: Path, layers: list[bytes], names: list[str], *, lie: bool = False) -> Path:
    """What ``docker save`` writes, in the form that every version reads."""
    diff_ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
    if lie:
        diff_ids[0] = "sha256:" + "0" * 64
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2020-01-02T03:04:05Z",
            "config": {"Cmd": ["cat", "/etc/three"], "Env": ["LOADED=yes"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"layer {n}"} for n in range(len(layers))],
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [
        {
            "Config": name,
            "RepoTags": names,
            "Layers": [f"{n}/layer.tar" for n in range(len(layers))],
        }
    ]
    with tarfile.open(path, "w") as tar:
        for file, data in (
            (name, config),
            ("manifest.json", json.dumps(manifest).encode()),
            *((f"{n}/layer.tar", data) for n, data in enumerate(layers)),
        ):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def loaded(engine: EngineProcess, busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("loaded")
    layers = [layer(FILES[0], busybox), layer(FILES[1])]
    path = archive(place / "image.tar", layers, ["loaded:1"])
    out = engine.out("load", "-i", str(path))
    assert out == "Loaded image: loaded:1"
    return "loaded:1"


def test_a_loaded_image_runs_with_its_layers_and_whiteouts(docker: Docker, loaded: str) -> None:
    assert docker.out("run", "--rm", loaded) == "3"
    out = docker.out("run", "--rm", loaded, "sh", "-c", "echo $LOADED; ls /dir; ls /etc")
    assert out.splitlines()[:2] == ["yes", "c"]
    assert {"one", "three"} <= set(out.splitlines())
    assert "two" not in out.splitlines()


def test_inspect_and_history(docker: Docker, loaded: str) -> None:
    image = json.loads(docker.out("image", "inspect", loaded))[0]
    assert image["RepoTags"] == ["loaded:1"]
    assert image["Config"]["Labels"] == {"a": "b"}
    assert len(image["RootFS"]["Layers"]) == 2
    assert image["Created"] == "2020-01-02T03:04:05Z"
    assert docker.out("history", "--format", "{{.CreatedBy}}", loaded).splitlines() == [
        "layer 1",
        "layer 0",
    ]


def test_import_from_a_stream_with_changes(docker: Docker, busybox: Path) -> None:
    done = subprocess.run(
        docker.engine.command(
            "import",
            "-c",
            "ENV A=1",
            "-c",
            'CMD ["sh", "-c", "echo $A$PWD"]',
            "-c",
            "WORKDIR /var",
            "-m",
            "from a test",
            "-",
            "streamed:x",
        ),
        stdin=busybox.open("rb"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("sha256:")
    assert docker.out("run", "--rm", "streamed:x") == "1/var"
    assert docker.out("history", "--format", "{{.Comment}}", "streamed:x") == "from a test"
    docker("rmi", "streamed:x")


def test_export_and_import_again(docker: Docker, tmp_path: Path) -> None:
    name = docker.name()
    docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "echo text >/file; ln /file /hard; ln -s file /soft; chmod 4755 /file",
    )
    docker("export", "-o", str(tmp_path / "e.tar"), name)
    docker("import", str(tmp_path / "e.tar"), "again")
    out = docker.out("run", "--rm", "again", "sh", "-c", "cat /soft; stat -c '%a %h' /hard")
    assert out == "text\n4755 2"
    docker("rmi", "again")


def test_tags(docker: Docker) -> None:
    docker("tag", "busybox", "example.org:5000/group/name:v1")
    listed = docker.out("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    assert "example.org:5000/group/name:v1" in listed
    assert docker.out("rmi", "example.org:5000/group/name:v1") == (
        "Untagged: example.org:5000/group/name:v1"
    )
    docker.fails("tag", "nonesuch", "x", code=1, says="No such image: nonesuch")
    docker.fails("tag", "busybox", "BAD", code=1, says="lowercase")


def test_an_image_in_use_is_not_removed(docker: Docker, loaded: str) -> None:
    docker("tag", loaded, "loaded:2")
    name = docker.up(loaded, "sleep", "60")
    id = docker.out("image", "inspect", "-f", "{{.Id}}", loaded)
    running = "image is being used by running container"
    docker.fails("rmi", id, code=1, says=running)
    docker.fails("rmi", "-f", id, code=1, says=running)
    docker("kill", name)
    docker.fails("rmi", id, code=1, says="image is referenced in multiple repositories")
    docker("rmi", "loaded:2")
    text = docker.fails("rmi", loaded, code=1, says="unable to remove repository reference")
    assert "must force" in text
    docker.fails("rmi", id, code=1, says="image is being used by stopped container")


def test_bad_archives(docker: Docker, busybox: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tar at all" * 1000)
    docker.fails("load", "-i", str(tmp_path / "noise"), code=1, says="")
    lying = archive(tmp_path / "lying.tar", [layer(FILES[0], busybox)], ["lying:1"], lie=True)
    docker.fails("load", "-i", str(lying), code=1, says="")
    docker.fails("image", "inspect", "lying:1", code=1, says="No such image")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(busybox.read_bytes()[:200000])
    docker.fails("import", str(cut), "cut", code=1, says="")
    assert "cut" not in docker.out("images", "--format", "{{.Repository}}").split()


def test_pull_is_an_error_that_says_so(docker: Docker) -> None:
    docker.fails("pull", "nonesuch:1", code=1, says="registry")
