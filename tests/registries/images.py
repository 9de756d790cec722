"""Images made in Python: layers of every kind, manifests and indexes of both families, archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
OCI_INDEX = f"{OCI}.index.v1+json"
OCI_MANIFEST = f"{OCI}.manifest.v1+json"
OCI_CONFIG = f"{OCI}.config.v1+json"
OCI_LAYER = f"{OCI}.layer.v1.tar"
DOCKER_LIST = f"{DOCKER}.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = f"{DOCKER}.distribution.manifest.v2+json"
DOCKER_CONFIG = f"{DOCKER}.container.image.v1+json"
DOCKER_LAYER = f"{DOCKER}.image.rootfs.diff.tar"

CREATED = "2024-05-06T07:08:09.123456789Z"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass
class Descriptor:
    """What a manifest says of a blob, and the blob."""

    media_type: str
    data: bytes
    platform: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return sha256(self.data)

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "mediaType": self.media_type, "digest": self.digest, "size": len(self.data),
        }  # fmt: skip
        return {**found, "platform": dict(self.platform)} if self.platform else found


@dataclass
class Layer:
    """A layer: its tar, and how it is compressed (``gzip``, ``zstd``, or nothing)."""

    tar: bytes
    compression: str = "gzip"

    def __post_init__(self) -> None:
        match self.compression:
            case "gzip":
                self.data = gzip.compress(self.tar, 1, mtime=0)
            case "zstd":
                self.data = zstandard.ZstdCompressor(3).compress(self.tar)
            case _:
                self.data = self.tar

    @property
    def diff_id(self) -> str:
        return sha256(self.tar)

    def descriptor(self, docker: bool) -> Descriptor:
        if docker:
            return Descriptor(DOCKER_LAYER + {"gzip": ".gzip"}.get(self.compression, ""), self.data)
        suffix = f"+{self.compression}" if self.compression else ""
        return Descriptor(OCI_LAYER + suffix, self.data)


@dataclass
class Image:
    """An image for one platform; ``docker``: Docker's media types rather than OCI's."""

    layers: Sequence[Layer]
    config: Mapping[str, Any] = field(default_factory=dict)
    platform: Mapping[str, str] = field(
        default_factory=lambda: {"os": "linux", "architecture": "amd64"}
    )
    docker: bool = False

    @property
    def raw_config(self) -> bytes:
        settings: dict[str, Any] = {"Cmd": ["sh"], **self.config}
        return as_json(
            {
                **dict(self.platform),
                "created": CREATED,
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in self.layers]},
                "history": [
                    {"created": CREATED, "created_by": f"layer {number}"}
                    for number in range(len(self.layers))
                ],
            }
        )

    @property
    def id(self) -> str:
        return sha256(self.raw_config)

    @property
    def manifest(self) -> Descriptor:
        config = Descriptor(DOCKER_CONFIG if self.docker else OCI_CONFIG, self.raw_config)
        media_type = DOCKER_MANIFEST if self.docker else OCI_MANIFEST
        data = as_json(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": config.json(),
                "layers": [one.descriptor(self.docker).json() for one in self.layers],
            }
        )
        return Descriptor(media_type, data, self.platform)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest."""
        found = {self.id: self.raw_config}
        found |= {sha256(layer.data): layer.data for layer in self.layers}
        return found

    def manifests(self) -> list[Descriptor]:
        """Those that the one that is named needs, and that one last."""
        return [self.manifest]


@dataclass
class Index:
    """An image for several platforms."""

    images: Sequence[Image]
    docker: bool = False

    @property
    def manifest(self) -> Descriptor:
        media_type = DOCKER_LIST if self.docker else OCI_INDEX
        data = as_json(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "manifests": [image.manifest.json() for image in self.images],
            }
        )
        return Descriptor(media_type, data)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blobs(self) -> dict[str, bytes]:
        return {digest: data for image in self.images for digest, data in image.blobs().items()}

    def manifests(self) -> list[Descriptor]:
        return [*(image.manifest for image in self.images), self.manifest]


@dataclass
class Artifact:
    """Something that is kept in a registry but is no image: it has a type of its own."""

    data: bytes = b"a chart, a policy, a signature"
    media_type: str = "application/vnd.example.thing.v1"

    @property
    def manifest(self) -> Descriptor:
        config = Descriptor("application/vnd.oci.empty.v1+json", b"{}")
        layer = Descriptor(self.media_type + ".layer", self.data)
        data = as_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": self.media_type,
                "config": config.json(),
                "layers": [layer.json()],
            }
        )
        return Descriptor(OCI_MANIFEST, data)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blobs(self) -> dict[str, bytes]:
        return {sha256(b"{}"): b"{}", sha256(self.data): self.data}

    def manifests(self) -> list[Descriptor]:
        return [self.manifest]


Pushable = Image | Index | Artifact


# -- layers ----------------------------------------------------------------------------------------


def tar_of(files: Mapping[str, bytes | str] | Iterable[tuple[str, bytes | str]]) -> bytes:
    """A tar of regular files; a name that ends with / is a directory."""
    out = io.BytesIO()
    pairs = files.items() if isinstance(files, Mapping) else files
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in pairs:
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime = 1_700_000_000
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def entries_of(*entries: tarfile.TarInfo) -> bytes:
    """A tar of these entries; those with a size have that many bytes of ``x``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.size else None)
    return out.getvalue()


def entry(
    name: str, type: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = type, link, size
    found.mode = 0o755 if type == tarfile.DIRTYPE else 0o644
    return found


def noise(size: int, seed: int) -> bytes:
    """Bytes that no compression makes smaller, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def large_image(layers: int = 8, size: int = 2_000_000, seed: int = 1) -> Image:
    """``layers`` layers of about ``size`` bytes of blob, each over files of those below it."""
    found = []
    for number in range(layers):
        files: dict[str, bytes | str] = {
            f"layer{number}/": "",
            f"layer{number}/noise": noise(size, seed * 1000 + number),
            "shared": f"from layer {number}",
        }
        files |= {f"layer{number}/small{n}": f"{number} {n}" for n in range(20)}
        if number:
            files[f"layer{number - 1}/.wh.small0"] = ""
        found.append(Layer(tar_of(files), "zstd" if number % 3 == 2 else "gzip"))
    return Image(found, {"Labels": {"seed": str(seed)}})


# -- archives --------------------------------------------------------------------------------------


def oci_layout(path: Path, images: Mapping[str, Pushable]) -> Path:
    """An OCI layout as a directory; names are in the annotations of its index."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = []
    for name, image in images.items():
        files = {**image.blobs(), **{one.digest: one.data for one in image.manifests()}}
        for digest, data in files.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        annotations = {"org.opencontainers.image.ref.name": name}
        if "/" in name or ":" in name:
            annotations["io.containerd.image.name"] = name
        entries.append({**image.manifest.json(), "annotations": annotations})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    (path / "index.json").write_bytes(as_json(index))
    return path


def oci_archive(path: Path, images: Mapping[str, Pushable]) -> Path:
    """The same as a tar."""
    place = oci_layout(path.with_suffix(".layout"), images)
    with tarfile.open(path, "w") as tar:
        for name in ("oci-layout", "index.json", "blobs"):
            tar.add(place / name, name)
    return path


def docker_archive(path: Path, images: Sequence[tuple[Image, Sequence[str]]]) -> Path:
    """What ``docker save`` wrote until Docker 24: manifest.json, configs, plain layers."""
    files: dict[str, bytes | str] = {}
    manifest = []
    for image, names in images:
        config = image.id.removeprefix("sha256:") + ".json"
        files[config] = image.raw_config
        layers = []
        for layer in image.layers:
            name = layer.diff_id.removeprefix("sha256:") + "/layer.tar"
            files[name] = layer.tar
            layers.append(name)
        manifest.append({"Config": config, "RepoTags": list(names), "Layers": layers})
    path.write_bytes(tar_of({**files, "manifest.json": as_json(manifest)}))
    return path
