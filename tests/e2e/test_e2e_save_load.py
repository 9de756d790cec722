"""save, load, import, export and commit: what goes out comes in again, here and elsewhere.

Elsewhere is skopeo, GNU tar, and a real dockerd if PYENGINE_PEER names its socket.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.e2e.conftest import Site
from tests.registries import images
from tests.registries.images import Image, Index, Layer
from tests.registries.trees import every_kind, listing, pack, unpack

LAYERS = [
    Layer(images.tar_of({"d/": "", "d/a": "a", "gone": "x", "kept": "1"})),
    Layer(images.tar_of({".wh.gone": "", "d/": "", "d/.wh..wh..opq": "", "d/c": "c"}), "zstd"),
    Layer(images.tar_of({"kept": "2"}), ""),
]


@pytest.fixture
def names(site: Site) -> Iterator[list[str]]:
    """Names of images that the test makes; they go with it."""
    made: list[str] = []
    yield made
    for name in made:
        site("rmi", "-f", name, check=False)


def load(site: Site, path: Path, *flags: str) -> str:
    return site.out("load", "-i", str(path), *flags)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_load_save_load(site: Site, names: list[str], tmp_path: Path, form: str) -> None:
    image = Image(LAYERS, {"Labels": {"form": form}}, docker=form == "docker")
    name = f"trip.test/{form}:1"
    names.append(name)
    if form == "docker":
        archive = images.docker_archive(tmp_path / "in.tar", [(image, [name])])
    else:
        archive = images.oci_archive(tmp_path / "in.tar", {name: image})
    assert load(site, archive) == f"Loaded image: {name}"
    before = site.inspect(name)
    assert before["Id"] == image.id
    assert before["RootFS"]["Layers"] == [layer.diff_id for layer in LAYERS]
    site("save", "-o", str(tmp_path / "out.tar"), name)
    site("rmi", name)
    assert load(site, tmp_path / "out.tar") == f"Loaded image: {name}"
    after = site.inspect(name)
    for key in ("Id", "RootFS", "Created", "Config", "Architecture", "Size"):
        assert after[key] == before[key]
    site("save", "-o", str(tmp_path / "again.tar"), name)
    assert members(tmp_path / "again.tar") == members(tmp_path / "out.tar")


def test_an_archive_of_ours_is_both_docker_s_and_an_oci_layout(
    site: Site, names: list[str], tmp_path: Path
) -> None:
    image = Image(LAYERS)
    names += ["both.test/x:1", "both.test/x:2"]
    load(site, images.oci_archive(tmp_path / "in.tar", {names[0]: image}))
    site("tag", *names)
    out = tmp_path / "out.tar"
    site("save", "-o", str(out), *names)
    files = members(out)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["manifest.json"])
    assert sorted(entry["RepoTags"]) == names
    assert images.sha256(files[entry["Config"]]) == image.id
    assert len(entry["Layers"]) == len(LAYERS)
    assert set(entry["Layers"]) <= set(files)
    for path, data in files.items():
        if path.startswith("blobs/"):
            assert images.sha256(data) == "sha256:" + path.rpartition("/")[2]
    diff_ids = [layer.diff_id for layer in LAYERS]
    for number, source in enumerate((f"docker-archive:{out}:{names[0]}", f"oci-archive:{out}")):
        if number:
            source += f":{oci_name(files, names[0])}"
        site.lab.copy(source, f"dir:{tmp_path / str(number)}")
        manifest = json.loads((tmp_path / str(number) / "manifest.json").read_text())
        assert manifest["config"]["digest"] == image.id
        config = (tmp_path / str(number) / image.id.removeprefix("sha256:")).read_bytes()
        assert json.loads(config)["rootfs"]["diff_ids"] == diff_ids


def oci_name(files: dict[str, bytes], name: str) -> str:
    """What the layout's index calls the image of that name."""
    for entry in json.loads(files["index.json"])["manifests"]:
        notes = entry.get("annotations", {})
        if notes.get("io.containerd.image.name") == name:
            return str(notes["org.opencontainers.image.ref.name"])
    raise AssertionError(files["index.json"])


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_archives_that_skopeo_writes(
    site: Site, names: list[str], tmp_path: Path, form: str
) -> None:
    # Not all of skopeo's targets take zstd.
    image = Image([Layer(layer.tar) for layer in LAYERS])
    images.oci_layout(tmp_path / "layout", {"x": image})
    name = f"skopeo.test/{form}:1"
    names.append(name)
    site.lab.copy(f"oci:{tmp_path / 'layout'}:x", f"{form}:{tmp_path / 'in.tar'}:{name}")
    assert load(site, tmp_path / "in.tar") == f"Loaded image: {name}"
    assert site.inspect(name)["RootFS"]["Layers"] == [layer.diff_id for layer in LAYERS]


def test_an_archive_of_buildx_with_attestations(
    site: Site, names: list[str], tmp_path: Path
) -> None:
    """An index in the layout's index, of several platforms, and provenance beside the images."""
    ours = Image(LAYERS[:1], {"Labels": {"which": "ours"}})
    other = Image(LAYERS[:1], platform={"os": "linux", "architecture": "s390x"})
    statement = Image(
        [Layer(images.tar_of({"provenance": "{}"}))],
        platform={"os": "unknown", "architecture": "unknown"},
    )
    name = "docker.io/library/built:1"
    names.append("built:1")
    images.oci_archive(tmp_path / "in.tar", {name: Index([other, statement, ours])})
    assert load(site, tmp_path / "in.tar") == "Loaded image: built:1"
    assert site.inspect("built:1")["Id"] == ours.id


def test_many_images_in_one_archive(site: Site, names: list[str], tmp_path: Path) -> None:
    made = {
        f"many.test/{n}:{tag}": Image([*LAYERS[:1], Layer(images.tar_of({"which": str(n)}))])
        for n in range(3)
        for tag in ("a", "b")
    }
    names += made
    archive = images.docker_archive(
        tmp_path / "in.tar", [(image, [name]) for name, image in made.items()]
    )
    load(site, archive)
    ids = {name: site.inspect(name)["Id"] for name in names}
    assert ids == {name: image.id for name, image in made.items()}
    out = tmp_path / "out.tar"
    # A repository without a tag stands for all its tags; an id comes without a name.
    site("save", "-o", str(out), "many.test/0", "many.test/1:a", ids["many.test/2:a"])
    manifest = json.loads(members(out)["manifest.json"])
    assert sorted(sorted(entry["RepoTags"] or []) for entry in manifest) == [
        [], ["many.test/0:a", "many.test/0:b"], ["many.test/1:a"],
    ]  # fmt: skip
    layers = {layer for entry in manifest for layer in entry["Layers"]}
    assert len(layers) == 4
    site("rmi", *names)
    said = load(site, out).splitlines()
    # dockerd lists the ids of all of them if the last has no name.
    assert {
        f"Loaded image ID: {ids['many.test/2:a']}",
        *(f"Loaded image: many.test/{name}" for name in ("0:a", "0:b", "1:a")),
    } <= set(said)
    assert site.inspect("many.test/0:b")["Id"] == ids["many.test/0:b"]
    site("rmi", ids["many.test/2:a"])


def test_a_name_that_is_taken_moves(site: Site, names: list[str], tmp_path: Path) -> None:
    first, second = (Image([Layer(images.tar_of({"n": str(n)}))]) for n in range(2))
    names.append("moved.test/x:1")
    load(site, images.docker_archive(tmp_path / "1.tar", [(first, names)]))
    said = load(site, images.docker_archive(tmp_path / "2.tar", [(second, names)]))
    assert said.splitlines()[-1] == f"Loaded image: {names[0]}"
    assert f"The image {names[0]} already exists, renaming the old one with ID {first.id}" in said
    assert site.inspect(names[0])["Id"] == second.id
    assert site.inspect(first.id)["RepoTags"] == []
    site("rmi", first.id)


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "bzip2"])
def test_archives_that_are_compressed_as_a_whole(
    site: Site, names: list[str], tmp_path: Path, compression: str
) -> None:
    image = Image(LAYERS)
    names.append(f"whole.test/{compression}:1")
    plain = images.docker_archive(tmp_path / "plain.tar", [(image, names)])
    packed = tmp_path / "packed"
    data = plain.read_bytes()
    match compression:
        case "gzip":
            packed.write_bytes(gzip.compress(data))
        case "xz":
            packed.write_bytes(lzma.compress(data))
        case "zstd":
            packed.write_bytes(zstandard.ZstdCompressor().compress(data))
        case _:
            with tarfile.open(packed, "w:bz2") as tar, tarfile.open(plain) as source:
                for member in source:
                    tar.addfile(member, source.extractfile(member))
    assert load(site, packed) == f"Loaded image: {names[0]}"
    assert site.inspect(names[0])["Id"] == image.id


def test_load_from_stdin_with_progress(site: Site, names: list[str], tmp_path: Path) -> None:
    image = images.large_image(2, 3_000_000, seed=5)
    names.append("progress.test/x:1")
    archive = images.docker_archive(tmp_path / "in.tar", [(image, names)])
    with archive.open("rb") as source:
        done = subprocess.run(
            site.engine.command("load"), stdin=source, capture_output=True, text=True, check=True
        )
    assert done.stdout.splitlines()[-1] == f"Loaded image: {names[0]}"
    site("rmi", names[0])
    answer = site.lab.sh(
        "curl", "-s", "--unix-socket", str(site.engine.socket), "-X", "POST",
        "-H", "Content-Type: application/x-tar", "-T", str(archive),
        "http://docker/v1.45/images/load?quiet=0",
    ).stdout  # fmt: skip
    messages = [json.loads(line) for line in answer.splitlines() if line.strip()]
    assert messages[-1] == {"stream": f"Loaded image: {names[0]}\n"}
    loading = [m for m in messages if m.get("status") == "Loading layer"]
    for layer in image.layers:
        short = layer.diff_id.removeprefix("sha256:")[:12]
        seen = [m["progressDetail"] for m in loading if m["id"] == short]
        assert seen, (short, messages)
        assert seen[-1]["current"] <= seen[-1]["total"]


def test_save_to_a_pipe_and_load_from_it(site: Site, names: list[str], tmp_path: Path) -> None:
    image = Image(LAYERS)
    names.append("piped.test/x:1")
    load(site, images.docker_archive(tmp_path / "in.tar", [(image, names)]))
    save, into = site.engine.command("save", names[0]), site.engine.command("load", "-q")
    with subprocess.Popen(save, stdout=subprocess.PIPE) as source:
        done = subprocess.run(into, stdin=source.stdout, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"Loaded image: {names[0]}"


def test_what_cannot_be_saved(site: Site, tmp_path: Path) -> None:
    site.fails(
        "save", "-o", str(tmp_path / "x.tar"), "no.test/such", says="No such image: no.test/such"
    )
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.skipif("PYENGINE_PEER" not in os.environ, reason="PYENGINE_PEER names no dockerd")
def test_to_dockerd_and_back(site: Site, names: list[str], tmp_path: Path) -> None:
    peer = [site.engine.command()[0], "-H", os.environ.get("PYENGINE_PEER", "")]
    image = Image(LAYERS, {"Env": ["A=b"]})
    name = "between.test/engines:1"
    names.append(name)
    load(site, images.oci_archive(tmp_path / "in.tar", {name: image}))
    site("save", "-o", str(tmp_path / "ours.tar"), name)

    def ask(*words: str) -> str:
        done = subprocess.run([*peer, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert ask("load", "-i", str(tmp_path / "ours.tar")) == f"Loaded image: {name}"
    try:
        assert ask("image", "inspect", "-f", "{{.Id}}", name) == image.id
        ask("save", "-o", str(tmp_path / "theirs.tar"), name)
    finally:
        ask("rmi", name)
    site("rmi", name)
    assert load(site, tmp_path / "theirs.tar") == f"Loaded image: {name}"
    assert site.inspect(name)["Id"] == image.id


# -- tar to overlay and back -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An image with every kind of file below /kinds, and the tree that it was made of."""
    place = tmp_path_factory.mktemp("kinds")
    tree = every_kind(place / "kinds")
    pack(tree, place / "kinds.tar")
    with tarfile.open(place / "kinds.tar") as probe:
        assert len(probe.getmembers()) > 20
    whole = place / "whole.tar"
    whole.write_bytes(site.busybox.read_bytes())
    subprocess.run(["tar", "--concatenate", "-f", whole, place / "kinds.tar"], check=True)
    site("import", str(whole), "kinds.test/x:1")
    yield "kinds.test/x:1", tree
    site("rmi", "kinds.test/x:1")


def exported(site: Site, container: str, place: Path) -> dict[str, Any]:
    """GNU tar's view of ``docker export``, below /kinds."""
    site("export", "-o", str(place) + ".tar", container)
    return listing(unpack(Path(str(place) + ".tar"), place) / "kinds")


def test_every_kind_of_file_through_import_and_export(
    site: Site, kinds: tuple[str, Path], tmp_path: Path
) -> None:
    name, tree = kinds
    container = site.out("create", name, "sh")
    found = exported(site, container, tmp_path / "out")
    site("rm", container)
    assert found == listing(tree)
    used = site.out("run", "--rm", "--network=none", name, "du", "-k", "/kinds/sparse").split()[0]
    assert int(used) < 100  # of 50 MB


def test_every_kind_of_file_through_run_commit_save_load_export(
    site: Site, kinds: tuple[str, Path], names: list[str], tmp_path: Path
) -> None:
    """A container adds, changes, removes and replaces; all of it is in the committed layer."""
    name, _ = kinds
    script = """
        cd /kinds &&
        rm plain links/soft &&
        rm -r replaced && mkdir replaced && echo new >replaced/new &&
        echo more >>sparse-not &&
        mkfifo -m 600 new-fifo && mknod new-device c 1 5 && mknod new-block b 7 1 &&
        echo hard >new-hard && ln new-hard new-hard-too && ln -s /nowhere new-soft &&
        chown 1234:4321 modes/setuid && chmod 6711 modes/setuid &&
        touch -d '2001-02-03 04:05:06' times &&
        mkdir -p deep/er/and && echo x >deep/er/and/file && chmod 1700 deep/er &&
        rm -r directory && echo 'a file now' >directory
    """
    container = site.out("create", "--network=none", "--user=0", name, "sh", "-ec", script)
    started = site("start", "-a", container)
    assert site.out("wait", container) == "0", started
    expected = exported(site, container, tmp_path / "container")
    assert "plain" not in expected
    assert expected["directory"]["size"] == 11
    committed = "committed.test/x:1"
    names.append(committed)
    id = site.out("commit", container, committed)
    site("rm", container)
    site("save", "-o", str(tmp_path / "saved.tar"), committed)
    layer_names = check_layer(tmp_path / "saved.tar")
    assert {"kinds/.wh.plain", "kinds/links/.wh.soft", "kinds/directory"} <= layer_names
    assert {"kinds/replaced/.wh..wh..opq", "kinds/replaced/new"} <= layer_names
    assert "kinds/links/hard" not in layer_names
    site("rmi", committed)
    load(site, tmp_path / "saved.tar")
    assert site.inspect(committed)["Id"] == id
    again = site.out("create", committed, "sh")
    assert exported(site, again, tmp_path / "loaded") == expected
    site("rm", again)


def check_layer(archive: Path) -> set[str]:
    """Names in the uppermost layer, as GNU tar lists them."""
    files = members(archive)
    (entry,) = json.loads(files["manifest.json"])
    data = files[entry["Layers"][-1]]
    diff_id = json.loads(files[entry["Config"]])["rootfs"]["diff_ids"][-1]
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    assert images.sha256(data) == diff_id
    listed = subprocess.run(["tar", "-tf", "-"], input=data, capture_output=True, check=True)
    return {line.rstrip("/") for line in listed.stdout.decode(errors="replace").splitlines()}


def test_the_same_container_exported_twice_has_the_same_digest(
    site: Site, kinds: tuple[str, Path], tmp_path: Path
) -> None:
    container = site.out("create", kinds[0], "sh")
    digests = set()
    for number in range(2):
        path = tmp_path / str(number)
        site("export", "-o", str(path), container)
        digests.add(images.sha256(path.read_bytes()))
    site("rm", container)
    assert len(digests) == 1


def test_the_same_changes_committed_twice_have_the_same_diff_id(
    site: Site, kinds: tuple[str, Path]
) -> None:
    container = site.out("create", "--network=none", kinds[0], "sh", "-c", "echo x >/kinds/new")
    site("start", "-a", container)
    ids = [site.out("commit", container) for _ in range(2)]
    layers = [site.inspect(id)["RootFS"]["Layers"] for id in ids]
    assert layers[0] == layers[1]
    assert len(layers[0]) == 2
    site("rm", container)
    site("rmi", *set(ids))


# -- commit ----------------------------------------------------------------------------------------


def test_commit_with_author_message_and_changes(
    site: Site, kinds: tuple[str, Path], names: list[str]
) -> None:
    name = "commit.test/x:1"
    names.append(name)
    container = site.out("run", "-d", "--network=none", "-e", "A=1", kinds[0], "sleep", "60")
    changes = [
        "ENV B=2 C=three", 'CMD ["echo", "committed"]', "WORKDIR /tmp", "LABEL l=m", "USER nobody",
        "EXPOSE 80/tcp", "VOLUME /data", 'ENTRYPOINT ["env"]', "STOPSIGNAL SIGINT",
    ]  # fmt: skip
    id = site.out(
        "commit", "-a", "An Author <a@b.test>", "-m", "a message",
        *(word for change in changes for word in ("-c", change)), container, name,
    )  # fmt: skip
    seen = site.inspect(name)
    assert (seen["Id"], seen["Author"], seen["Comment"]) == (
        id,
        "An Author <a@b.test>",
        "a message",
    )
    config = seen["Config"]
    assert {"A=1", "B=2", "C=three"} <= set(config["Env"])
    assert (config["Cmd"], config["Entrypoint"]) == (["echo", "committed"], ["env"])
    assert (config["WorkingDir"], config["User"]) == ("/tmp", "nobody")
    assert config["Labels"] == {"l": "m"}
    assert set(config["ExposedPorts"]) == {"80/tcp"}
    assert set(config["Volumes"]) == {"/data"}
    assert config["StopSignal"] == "SIGINT"
    assert len(seen["RootFS"]["Layers"]) == 1  # nothing was changed: there is no layer
    history = site.out("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", name)
    assert history.splitlines()[0] == "sleep 60|a message"
    assert site.out("inspect", "-f", "{{.State.Status}}", container) == "running"
    site("rm", "-f", container)


@pytest.mark.parametrize("pause", [True, False])
def test_a_container_is_paused_while_it_is_committed(
    site: Site, kinds: tuple[str, Path], pause: bool
) -> None:
    container = site.out("run", "-d", "--network=none", kinds[0], "sleep", "60")
    since = f"{time.time():.6f}"
    id = site.out("commit", f"--pause={str(pause).lower()}", container)
    events = site.out(
        "events", f"--since={since}", f"--until={time.time() + 0.01:.6f}",
        "--filter", f"container={container}", "--format", "{{.Action}}",
    ).splitlines()  # fmt: skip
    wanted = ["pause", "commit", "unpause"] if pause else ["commit"]
    assert sorted(e for e in events if e in ("pause", "commit", "unpause")) == sorted(wanted)
    assert site.out("inspect", "-f", "{{.State.Status}}", container) == "running"
    site("rm", "-f", container)
    site("rmi", id)


@pytest.mark.parametrize("compression", ["gz", "xz", "bz2", "zstd"])
def test_import_of_compressed_tars(site: Site, tmp_path: Path, compression: str) -> None:
    tar = images.tar_of({"a/": "", "a/file": "contents"})
    path = tmp_path / "in"
    if compression == "zstd":
        path.write_bytes(zstandard.ZstdCompressor().compress(tar))
    else:
        with (
            tarfile.open(path, f"w:{compression}") as out,  # type: ignore[call-overload]
            tarfile.open(fileobj=io.BytesIO(tar)) as source,
        ):
            for member in source:
                out.addfile(member, source.extractfile(member))
    id = site.out("import", "-m", "by a test", str(path))
    container = site.out("create", id, "x")
    site("cp", f"{container}:/a/file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "contents"
    assert site.inspect(id)["Comment"] == "by a test"
    site("rm", container)
    site("rmi", id)
