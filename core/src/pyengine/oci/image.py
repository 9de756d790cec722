"""Image configurations, manifests and indexes: OCI's and Docker's, which differ in media types.

https://github.com/opencontainers/image-spec: ``config.md``, ``manifest.md``, ``image-index.md``,
``descriptor.md``. Unknown fields are accepted; the bytes they came in stay the truth, because
digests are of bytes.
"""

from __future__ import annotations

import hashlib
import platform as host
from typing import Any, TypeVar

import msgspec
from msgspec import field

from pyengine.engine.model import ContainerConfig
from pyengine.errors import InvalidParameter

T = TypeVar("T")

_MACHINES = {"x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "armv7l": ("arm", "v7")}
#: What else a processor runs: containerd's default variants.
_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}

INDEX_TYPES = frozenset(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
MANIFEST_TYPES = frozenset(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


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
    """``linux/arm64/v8``, or a part of it, with this machine's values for the rest."""
    known = {"linux", "windows", "darwin", "freebsd"}
    aliases = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm"}
    parts = text.lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise InvalidParameter(
            f'"{text}" is an invalid platform', help="os[/architecture[/variant]]"
        )
    mine = host_platform()
    if len(parts) == 1:
        if parts[0] in known:
            return Platform(os=parts[0], architecture=mine.architecture, variant=mine.variant)
        return Platform(os="linux", architecture=aliases.get(parts[0], parts[0]))
    variant = parts[2] if len(parts) == 3 else ""
    return Platform(os=parts[0], architecture=aliases.get(parts[1], parts[1]), variant=variant)


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
    annotations: dict[str, str] | None = None


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


def digest(data: bytes) -> str:
    """``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The name of each layer together with those beneath it (config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
