"""Image configurations, manifests and indexes: OCI's and Docker's, which differ in media types.

https://github.com/opencontainers/image-spec: ``config.md``, ``manifest.md``, ``image-index.md``,
``descriptor.md``. Unknown fields are accepted; the bytes they came in stay the truth, because
digests are of bytes.
"""

from __future__ import annotations

import hashlib
import platform as host
import re
from typing import Any, TypeVar

import msgspec
from msgspec import field

from pyengine.engine.model import ContainerConfig
from pyengine.errors import InvalidParameter

T = TypeVar("T")

_MACHINES = {"x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "armv7l": ("arm", "v7")}
#: What else a processor runs: containerd's default variants.
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEX_TYPES = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFEST_TYPES = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
#: Some registries have lost what kind of JSON the configuration is.
CONFIG_TYPES = frozenset((OCI_CONFIG, DOCKER_CONFIG, "", "application/octet-stream"))
LAYER_TYPES = frozenset(
    (
        OCI_LAYER,
        *(f"{OCI_LAYER}+{compression}" for compression in ("gzip", "zstd")),
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    )
)
#: Said of what is not a media type of its own.
_UNTYPED = frozenset(("", "application/json", "application/octet-stream", "text/plain"))
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Platform(msgspec.Struct, omit_defaults=True):
    """``os/architecture/variant``."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = field(name="os.version", default="")
    os_features: list[str] = field(name="os.features", default_factory=list)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def matches(self, wanted: Platform) -> bool:
        """True if an image for this platform is what somebody who asks for ``wanted`` means."""
        if (self.os or "linux", self.architecture) != (wanted.os or "linux", wanted.architecture):
            return False
        default = _DEFAULT_VARIANT.get(self.architecture, "")
        return not self.variant or (self.variant or default) == (wanted.variant or default)


def host_platform() -> Platform:
    """Of this machine."""
    architecture, variant = _MACHINES.get(host.machine(), (host.machine(), ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, or a part of it, with this machine's values for the rest.

    ``InvalidParameter`` in Docker's words.
    """
    parts = text.lower().split("/")
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    for kind, part in zip(("OS component", "component", "component"), parts, strict=False):
        if not re.fullmatch(r"[a-z0-9_.-]+", part):
            raise InvalidParameter(
                f'"{part}" is an invalid {kind} of "{text}": platform specifier component must '
                'match "^[A-Za-z0-9_.-]+$": invalid argument'
            )
    parts[0] = "darwin" if parts[0] == "macos" else parts[0]
    if len(parts) == 1:
        mine = host_platform()
        if parts[0] in _SYSTEMS:
            return Platform(os=parts[0], architecture=mine.architecture, variant=mine.variant)
        architecture = _ALIASES.get(parts[0], parts[0])
        if architecture not in _ARCHITECTURES:
            raise InvalidParameter(
                f'"{text}": unknown operating system or architecture: invalid argument'
            )
        return Platform(os="linux", architecture=architecture)
    variant = parts[2] if len(parts) == 3 else ""
    return Platform(os=parts[0], architecture=_ALIASES.get(parts[1], parts[1]), variant=variant)


#: What stands alone is one of these (https://pkg.go.dev/github.com/containerd/platforms).
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386",
            "armhf": "arm", "armel": "arm"}  # fmt: skip
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64"}
    | {"ppc64le", "riscv64", "s390x", "wasm"}
)


class Descriptor(msgspec.Struct, rename="camel", omit_defaults=True):
    """Points to a blob."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, rename="camel", omit_defaults=True):
    """An image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @property
    def artifact(self) -> str:
        """What it is if it is no image: an SBOM, a chart, a module; else empty."""
        kind = self.config.media_type
        return "" if kind in CONFIG_TYPES else self.artifact_type or kind


class Index(msgspec.Struct, rename="camel", omit_defaults=True):
    """Several images, or one for several platforms."""

    manifests: list[Descriptor] | None = None
    schema_version: int = 2
    media_type: str = ""
    annotations: dict[str, str] | None = None


class RootFS(msgspec.Struct):
    """``diff_ids``: sha256 of the uncompressed layers, lowest first."""

    type: str = "layers"
    diff_ids: list[str] | None = None


class History(msgspec.Struct, omit_defaults=True):
    """How a layer, or a change of the configuration, came about."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, omit_defaults=True):
    """The configuration; its sha256 is the image's id."""

    rootfs: RootFS
    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = None
    author: str = ""
    comment: str = ""
    config: ContainerConfig | None = None
    container: str = ""
    container_config: Any = None
    docker_version: str = ""
    history: list[History] | None = None
    os_version: str = field(name="os.version", default="")
    os_features: list[str] | None = field(name="os.features", default=None)

    @property
    def diff_ids(self) -> list[str]:
        return self.rootfs.diff_ids or []

    @property
    def platform(self) -> Platform:
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)


def decode(data: bytes, type: type[T], what: str) -> T:
    """Parse JSON as ``type``; ``InvalidParameter`` says that ``what`` is wrong, and where."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid {what}", str(error)) from error


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """A manifest or an index, checked. ``media_type``: what the registry or a descriptor said it
    is, or empty.

    Raises ``InvalidParameter`` for what is neither, for what contradicts itself (one that could be
    read as both is refused: CVE-2021-41190), for schema 1, and for unknown types of an image's
    layers. The configurations and layers of artifacts may be of any type.
    """
    media_type = media_type.partition(";")[0].strip().lower()
    head = decode(data, _Head, "manifest")
    if head.schema_version == 1 or media_type.startswith(_SCHEMA_1):
        raise InvalidParameter(
            "images of Docker's manifest schema 1 are not supported",
            help="ask its author to push it again as an OCI image or with manifest schema 2",
        )
    if media_type in _UNTYPED:
        media_type = head.media_type
    if media_type and media_type not in INDEX_TYPES | MANIFEST_TYPES:
        raise InvalidParameter(f"unsupported manifest media type: {media_type}")
    if head.schema_version != 2:
        raise InvalidParameter("invalid manifest", f"schemaVersion is {head.schema_version}")
    if head.media_type and head.media_type != media_type:
        raise InvalidParameter(
            "invalid manifest", f"its mediaType is {head.media_type}, announced was {media_type}"
        )
    is_index = head.manifests is not msgspec.UNSET
    is_image = head.layers is not msgspec.UNSET or head.config is not msgspec.UNSET
    if is_index and is_image:
        raise InvalidParameter("invalid manifest", "it has both manifests and layers")
    if not media_type:
        media_type = OCI_INDEX if is_index else OCI_MANIFEST
    if (media_type in INDEX_TYPES) != is_index:
        raise InvalidParameter("invalid manifest", f"it is not what {media_type} promises")
    if is_index:
        index = decode(data, Index, "index")
        index.media_type = media_type
        for descriptor in index.manifests or []:
            _check(descriptor)
        return index
    manifest = decode(data, Manifest, "manifest")
    manifest.media_type = media_type
    for descriptor in (manifest.config, *manifest.layers):
        _check(descriptor)
    if not manifest.artifact:
        for layer in manifest.layers:
            if layer.media_type not in LAYER_TYPES:
                raise InvalidParameter(f"unsupported layer media type: {layer.media_type}")
    return manifest


class _Head(msgspec.Struct, rename="camel"):
    """What says which kind of manifest it is."""

    schema_version: int = 0
    media_type: str = ""
    manifests: Any = msgspec.UNSET
    layers: Any = msgspec.UNSET
    config: Any = msgspec.UNSET


def _check(descriptor: Descriptor) -> None:
    if not _DIGEST.fullmatch(descriptor.digest):
        raise InvalidParameter(
            f"invalid manifest: unsupported digest {descriptor.digest!r}",
            help="only sha256 is supported",
        )
    if descriptor.size < 0:
        raise InvalidParameter(f"invalid manifest: {descriptor.digest} has a negative size")


def digest(data: bytes) -> str:
    """``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The name of each layer together with those beneath it (config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else "", diff_id))
    return chain


def chain_id(parent: str, diff_id: str) -> str:
    """The name of a layer on those of chain id ``parent``, which may be empty."""
    return digest(f"{parent} {diff_id}".encode()) if parent else diff_id
