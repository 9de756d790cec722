"""Images that are damaged, lie, or mean harm: a clear error, and what was there is as it was.

The same images come in by ``docker load`` (as an OCI layout) and by ``docker pull``, from a
registry that serves whatever it is given. The data root is on a disk that is smaller than one of
them unpacked.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site, eventually
from tests.registries import images
from tests.registries.hostile import HostileRegistry
from tests.registries.images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Layer,
    as_json,
    entries_of,
    entry,
    sha256,
)
from tests.registries.proxy import Fault

DISK = 48 << 20
"""Bytes of the disk under the data root."""

MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[Site]:
    """An engine with its data on a small disk, and one image that must stay as it is."""
    root = Path(tmp_path_factory.mktemp("small"))
    made = Site(root, docker_binary, busybox)
    disk = root / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK)
    made.engine.data.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, made.engine.data], check=True)
    made.daemon_json.write_text('{"max-download-attempts": 2}')
    try:
        made.engine.start()
        made.make("kept:1")
        yield made
    finally:
        made.dispose()


@pytest.fixture(scope="module")
def registry(site: Site) -> HostileRegistry:
    return site.lab.hostile()


@pytest.fixture(autouse=True)
def untouched(site: Site) -> Iterator[None]:
    """Images, blobs, layers and files are after the test what they were before it."""
    before = site.everything()
    yield
    for id in {image[0] for image in site.images()} - {image[0] for image in before[0]}:
        site("rmi", "-f", id)  # so that the next test does not suffer from it
    eventually(lambda: site.everything() == before, within=3)
    assert site.everything() == before
    assert site.fsck() == []
    assert site.engine.api("GET", "/_ping")[0] == 200
    assert not list(site.engine.data.glob("**/victim*"))


@dataclass
class Bad:
    """What a registry serves: a manifest, and blobs by the digest that they claim."""

    manifest: bytes
    media_type: str = OCI_MANIFEST
    blobs: dict[str, bytes] = field(default_factory=dict)
    more: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Manifests below an index: by digest, (media type, bytes)."""

    def serve(self, registry: HostileRegistry) -> str:
        registry.manifests.clear()
        registry.blobs = dict(self.blobs)
        registry.put("bad", "1", self.media_type, self.manifest)
        for digest, manifest in self.more.items():
            registry.manifests[f"bad@{digest}"] = manifest
        return registry.name("bad:1")

    def archive(self, path: Path) -> Path:
        """An OCI layout whose blobs may lie, as a tar."""
        digest = sha256(self.manifest)
        blobs = {**{d: data for d, (_, data) in self.more.items()}, **self.blobs}
        index = {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": self.media_type,
                    "digest": digest,
                    "size": len(self.manifest),
                    "annotations": {"org.opencontainers.image.ref.name": "bad:1"},
                }
            ],
        }
        files: dict[str, bytes | str] = {
            "oci-layout": '{"imageLayoutVersion": "1.0.0"}',
            "index.json": as_json(index),
        }
        for name, data in {**blobs, digest: self.manifest}.items():
            files["blobs/sha256/" + name.removeprefix("sha256:")] = data
        path.write_bytes(images.tar_of(files))
        return path


def good(*layers: Layer) -> Image:
    return Image(layers or [Layer(images.tar_of({"a": "first"})), Layer(images.tar_of({"b": "2"}))])


def of(image: Image, **changed: Any) -> Bad:
    """An image as it is; ``changed``: keys of its manifest."""
    manifest = {**json.loads(image.manifest.data), **changed}
    return Bad(as_json(manifest), blobs=image.blobs())


def with_layer(data: Callable[[bytes], bytes]) -> Bad:
    """The last layer's blob is not what its digest says."""
    bad = of(image := good())
    last = image.layers[-1].data
    bad.blobs[sha256(last)] = data(last)
    return bad


def with_config(config: bytes) -> Bad:
    image = good()
    descriptor = {"mediaType": images.OCI_CONFIG, "digest": sha256(config), "size": len(config)}
    bad = of(image, config=descriptor)
    bad.blobs[sha256(config)] = config
    return bad


def with_tar(tar: bytes, compression: str = "gzip") -> Bad:
    return of(good(Layer(images.tar_of({"a": "first"})), Layer(tar, compression)))


def with_blob(blob: bytes) -> Bad:
    """A layer that is what its digest says, and cannot be unpacked."""
    layer = Layer(b"", "")
    layer.data = blob
    layer.compression = "gzip"
    return of(good(Layer(images.tar_of({"a": "first"})), layer))


def descriptors(**changed: Any) -> Bad:
    """A layer's descriptor says something else."""
    bad = of(good())
    manifest = json.loads(bad.manifest)
    manifest["layers"][-1] |= changed
    bad.manifest = as_json(manifest)
    return bad


def wrong_diff_id() -> Bad:
    image = good()
    config = json.loads(image.raw_config)
    config["rootfs"]["diff_ids"][-1] = "sha256:" + "7" * 64
    return with_config(as_json(config))


def too_few_diff_ids() -> Bad:
    config = json.loads(good().raw_config)
    del config["rootfs"]["diff_ids"][-1]
    return with_config(as_json(config))


def bomb() -> Bad:
    """Twice the disk, from a blob that is small."""
    block = images.noise(8192, 1)
    size = 2 * DISK
    head = entry("large")
    head.size = size
    tar = head.tobuf(tarfile.PAX_FORMAT) + block * (size // len(block)) + bytes(10240)
    bad = with_tar(tar, "zstd")
    assert max(map(len, bad.blobs.values())) < 1_000_000
    return bad


def nested(depth: int) -> Bad:
    """An index in an index in an index."""
    inner = good()
    media_type, data = OCI_MANIFEST, inner.manifest.data
    more = {}
    for _ in range(depth):
        more[sha256(data)] = (media_type, data)
        platform = {"os": "linux", "architecture": "amd64"}
        descriptor = {
            "mediaType": media_type, "digest": sha256(data), "size": len(data),
            "platform": platform,
        }  # fmt: skip
        data = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]})
        media_type = OCI_INDEX
    return Bad(data, OCI_INDEX, inner.blobs(), more)


SCHEMA_1 = as_json(
    {
        "schemaVersion": 1,
        "name": "bad",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": sha256(b"")}],
        "history": [{"v1Compatibility": "{}"}],
        "signatures": [],
    }
)

PLATFORMLESS = as_json(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [
            {
                "mediaType": DOCKER_MANIFEST,
                "digest": sha256(b"x"),
                "size": 1,
                "platform": {"os": "windows", "architecture": "amd64"},
            }
        ],
    }
)

# What it is called: what makes it, and words of which the error has one.
CASES: dict[str, tuple[Callable[[], Bad], tuple[str, ...]]] = {
    "layer of another digest": (
        lambda: with_layer(lambda data: data[:-1] + b"?"),
        ("verification failed", "digest"),
    ),
    "truncated layer": (
        lambda: with_layer(lambda data: data[:-9]),
        ("digest", "EOF", "size", "short"),
    ),
    "longer layer": (lambda: with_layer(lambda data: data + b"more"), ("digest", "bytes came")),
    "wrong diff_id": (wrong_diff_id, ("diff",)),
    "too few diff_ids": (too_few_diff_ids, ("layer", "diff")),
    "compressed noise": (lambda: with_blob(gzip.compress(images.noise(5000, 2))), ("tar",)),
    "cut compression": (
        lambda: with_blob(gzip.compress(images.tar_of({"x": images.noise(9000, 3)}))[:5000]),
        ("EOF", "ended", "end", "truncated", "cut"),
    ),
    "larger than the disk": (bomb, ("no space left on device",)),
    "parent directories": (
        lambda: with_tar(images.tar_of({"../../victim": "x"})),
        ("outside", "breakout", "invalid"),
    ),
    "parent in the middle": (
        lambda: with_tar(images.tar_of({"x/../../../victim": "x"})),
        ("outside", "breakout", "invalid"),
    ),
    "hard link to the outside": (
        lambda: with_tar(
            entries_of(entry("link", tarfile.LNKTYPE, "../../../../../../etc/passwd"))
        ),
        ("outside", "breakout", "invalid", "link"),
    ),
    "hard link to nothing": (
        lambda: with_tar(entries_of(entry("link", tarfile.LNKTYPE, "not/there"))),
        ("link", "not/there"),
    ),
    "unknown kind of entry": (lambda: with_tar(entries_of(entry("odd", b"Z"))), ("type", "tar")),
    "manifest is a list": (lambda: Bad(b"[]"), ("manifest",)),
    "manifest is a word": (lambda: Bad(b'"manifest"'), ("manifest",)),
    "manifest is null": (lambda: Bad(b"null"), ("manifest",)),
    "manifest is cut": (lambda: Bad(good().manifest.data[:-20]), ("manifest",)),
    "manifest is no text": (lambda: Bad(b"\xff\xfe{}"), ("manifest",)),
    "manifest is deep": (lambda: Bad(b"[" * 100_000), ("manifest",)),
    "manifest is 50 MB": (lambda: of(good(), annotations={"a": "x" * 50_000_000}), ("large",)),
    "no layers": (lambda: Bad(as_json({"schemaVersion": 2})), ("manifest", "config")),
    "layers are words": (lambda: of(good(), layers=["x"]), ("manifest",)),
    "config is a list": (lambda: with_config(b"[]"), ("config", "image")),
    "config is a number": (lambda: with_config(b"5"), ("config", "image")),
    "config of no layers": (lambda: with_config(b"{}"), ("config", "rootfs", "layer", "os")),
    "schema 1": (lambda: Bad(SCHEMA_1, MANIFEST_V1), ("schema 1", "schema1", "manifest.v1")),
    "unknown kind of manifest": (
        lambda: Bad(b"{}", "application/vnd.example.manifest.v9+json"),
        ("application/vnd.example.manifest.v9+json",),
    ),
    "unknown kind of layer": (
        lambda: descriptors(mediaType="application/vnd.example.layer+lzip"),
        ("application/vnd.example.layer+lzip",),
    ),
    "negative size": (lambda: descriptors(size=-1), ("size", "manifest")),
    "size is a word": (lambda: descriptors(size="12"), ("size", "manifest")),
    "enormous size": (lambda: descriptors(size=1 << 60), ("bytes long", "EOF", "too large")),
    "digest is a path": (lambda: descriptors(digest="sha256:../../../../etc/passwd"), ("digest",)),
    "unknown digest": (lambda: descriptors(digest="md5:" + "0" * 32), ("digest",)),
    "missing layer": (
        lambda: descriptors(digest="sha256:" + "1" * 64),
        ("unknown", "not found", "missing", "no such"),
    ),
    "no platform of ours": (
        lambda: Bad(PLATFORMLESS, DOCKER_LIST),
        ("no matching manifest", "is missing"),
    ),
    "index in index in index": (lambda: nested(50), ("nested", "deep", "index", "manifest")),
}  # fmt: skip

# What may be the registry's mistake or the network's, and not the image's: what has come so far is
# kept for the next pull.
TRANSFERS = {
    "layer of another digest",
    "truncated layer",
    "longer layer",
    "enormous size",
    "missing layer",
    "no platform of ours",
}


def is_clear(said: str, words: tuple[str, ...]) -> None:
    """A sentence on what is wrong, not where the program was when it saw it."""
    assert any(word.lower() in said.lower() for word in words), said
    assert "Traceback" not in said
    assert "Error: " not in said.replace("Error response", "")
    assert len(said) < 2000


@pytest.mark.parametrize("case", CASES)
def test_bad_images_by_load(site: Site, case: str, tmp_path: Path) -> None:
    make, words = CASES[case]
    path = make().archive(tmp_path / "bad.tar")
    is_clear(site.fails("load", "-i", str(path), says=""), words)


@pytest.mark.parametrize("case", CASES)
def test_bad_images_by_pull(site: Site, case: str, registry: HostileRegistry) -> None:
    make, words = CASES[case]
    is_clear(site.fails("pull", make().serve(registry), says=""), words)
    if case in TRANSFERS:
        mended(site, registry)


def mended(site: Site, registry: HostileRegistry) -> None:
    """The registry serves what it should: the next pull goes on with what the last one had."""
    name = of(good()).serve(registry)
    site("pull", name)
    site("rmi", name)


def test_a_wrong_config_by_load_and_pull(
    site: Site, registry: HostileRegistry, tmp_path: Path
) -> None:
    image = good()
    bad = of(image)
    bad.blobs[image.id] = image.raw_config.replace(b"sh", b"su")
    for said in (
        site.fails("load", "-i", str(bad.archive(tmp_path / "bad.tar")), says=""),
        site.fails("pull", bad.serve(registry), says=""),
    ):
        is_clear(said, ("digest", "verification failed"))
    mended(site, registry)


@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_a_registry_that_redirects_for_ever(
    site: Site, registry: HostileRegistry, what: str
) -> None:
    of(good()).serve(registry)
    proxy = site.lab.proxy(registry)
    with proxy.wrong(
        Fault(f"/{what}/", 1000, loop=True), Fault(f"/{what}/", 1000, "HEAD", loop=True)
    ):
        is_clear(site.fails("pull", proxy.name("bad:1"), says=""), ("redirect",))
        assert len(proxy.log) < 200
    site("pull", proxy.name("bad:1"))
    site("rmi", proxy.name("bad:1"))


# -- within its root -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["absolute", "symlink", "symlink-in-parts", "hard-link-to-symlink"])
@pytest.mark.parametrize("by", ["load", "pull", "import"])
def test_nothing_is_written_outside_of_the_root(
    site: Site, registry: HostileRegistry, tmp_path: Path, way: str, by: str
) -> None:
    """Refused, or done below the root as a container would see it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("as it was")
    file = entry(f"{outside}/file", size=5)
    link = entry("escape", tarfile.SYMTYPE, str(outside))
    through = entry("escape/file", size=5)
    tar = {
        "absolute": entries_of(file),
        "symlink": entries_of(link, through),
        "symlink-in-parts": entries_of(
            entry("up", tarfile.SYMTYPE, "../../../../../../../../.."),
            entry(f"up{outside}/file", size=5),
        ),
        "hard-link-to-symlink": entries_of(
            entry("escape", tarfile.SYMTYPE, f"{outside}/file"),
            entry("hard", tarfile.LNKTYPE, "escape"),
            entry("hard", size=5),
        ),
    }[way]
    bad = with_tar(tar)
    if by == "load":
        done = site("load", "-i", str(bad.archive(tmp_path / "bad.tar")), check=False)
        name = "bad:1"
    elif by == "pull":
        name = bad.serve(registry)
        done = site("pull", name, check=False)
    else:
        (tmp_path / "bad.tar").write_bytes(tar)
        name = "bad:1"
        done = site("import", str(tmp_path / "bad.tar"), name, check=False)
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "as it was"
    if done.returncode:
        site.fails("image", "inspect", name, says="No such image")
    else:
        site("rmi", name)


def test_a_hundred_thousand_entries_of_one_name(site: Site, tmp_path: Path) -> None:
    """Refused, at once and without memory to speak of."""
    block = entry("again", size=4).tobuf() + b"data" + bytes(508)
    tar = block * 100_000 + bytes(1024)
    before = resident(site)
    path = with_tar(tar, "zstd").archive(tmp_path / "many.tar")
    site.fails("load", "-i", str(path), says="over 1000 entries replace earlier ones")
    assert resident(site) - before < 100 << 20


def resident(site: Site) -> int:
    """The daemon's memory, in bytes."""
    status = Path(f"/proc/{site.engine.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


# -- archives --------------------------------------------------------------------------------------


def docker_archive(**changed: Any) -> bytes:
    """A good one; ``changed``: keys of its manifest."""
    image = good()
    config = image.id.removeprefix("sha256:") + ".json"
    manifest = {"Config": config, "RepoTags": ["bad:1"], "Layers": ["0.tar", "1.tar"], **changed}
    return images.tar_of(
        {
            config: image.raw_config,
            "0.tar": image.layers[0].tar,
            "1.tar": image.layers[1].tar,
            "manifest.json": as_json([manifest]),
        }
    )


ARCHIVES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (b"", ("EOF", "empty", "manifest", "tar")),
    "noise": (images.noise(20_000, 4), ("tar",)),
    "no manifest": (images.tar_of({"x": "y"}), ("manifest.json", "archive")),
    "manifest is an object": (images.tar_of({"manifest.json": "{}"}), ("manifest",)),
    "manifest is cut": (images.tar_of({"manifest.json": "[{"}), ("manifest",)),
    "manifest of numbers": (images.tar_of({"manifest.json": "[1]"}), ("manifest",)),
    "manifest is 50 MB": (images.tar_of({"manifest.json": b"[" + b" " * 50_000_000}), ("large",)),
    "config outside": (docker_archive(Config="../../../../etc/passwd"), ("etc/passwd", "config")),
    "config is absolute": (docker_archive(Config="/etc/passwd"), ("etc/passwd", "config")),
    "layer outside": (
        docker_archive(Layers=["0.tar", "../../../../../etc/passwd"]), ("etc/passwd", "layer"),
    ),
    "layer is missing": (docker_archive(Layers=["0.tar", "2.tar"]), ("2.tar",)),
    "layer too few": (docker_archive(Layers=["0.tar"]), ("layer",)),
    "layers the wrong way round": (docker_archive(Layers=["1.tar", "0.tar"]), ("diff", "layer")),
    "name that is none": (docker_archive(RepoTags=["BAD NAME:1"]), ("reference", "name")),
    "ends early": (docker_archive()[:3000], ("EOF", "end", "cut", "truncated", "manifest")),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_bad_archives(site: Site, tmp_path: Path, name: str) -> None:
    data, words = ARCHIVES[name]
    (tmp_path / "bad.tar").write_bytes(data)
    is_clear(site.fails("load", "-i", str(tmp_path / "bad.tar"), says=""), words)


def test_an_archive_whose_layer_is_a_link_to_the_host(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tar"
    secret.write_bytes(images.tar_of({"secret": "of the host"}))
    image = good(Layer(secret.read_bytes()))
    config = image.id.removeprefix("sha256:") + ".json"
    manifest = [{"Config": config, "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(entry("layer.tar", tarfile.SYMTYPE, str(secret)))
        for name, data in ((config, image.raw_config), ("manifest.json", as_json(manifest))):
            path = tmp_path / "member"
            path.write_bytes(data)
            tar.add(path, name)
    is_clear(site.fails("load", "-i", str(tmp_path / "bad.tar"), says=""), ("layer.tar", "link"))


def test_a_load_that_is_cut_off(site: Site, tmp_path: Path) -> None:
    """The client goes away in the middle of the body."""
    image = images.large_image(2, 4_000_000)
    path = images.docker_archive(tmp_path / "in.tar", [(image, ["bad:1"])])
    with subprocess.Popen(site.engine.command("load"), stdin=subprocess.PIPE) as loading:
        assert loading.stdin is not None
        loading.stdin.write(path.read_bytes()[:3_000_000])
        loading.stdin.flush()
        loading.kill()
    site.fails("image", "inspect", "bad:1", says="No such image")
