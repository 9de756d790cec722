"""What ``docker load`` reads: archives of ``docker save``, and OCI image layouts.

The order of members is free and the list of contents may come last, so the archive is first spooled
to numbered files. Names, and links between them, only ever select one of those files.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import field

from pyengine.archive import TarReader, decompress
from pyengine.archive.reader import HARD_LINK, REGULAR, SYMLINK
from pyengine.archive.unpack import clean
from pyengine.errors import InvalidParameter
from pyengine.oci import reference
from pyengine.oci.image import (
    INDEX_TYPES,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    decode,
    host_platform,
)

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
#: Configurations, manifests and indexes are held in memory.
_MAX_JSON = 16 << 20
_MAX_NESTING = 4


class _ManifestItem(msgspec.Struct, rename="pascal"):
    """An entry of ``manifest.json``."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = field(name="RepoTags", default=None)
    parent: str = ""


class ArchivedImage(NamedTuple):
    """One image in an archive; ``layers`` are files, compressed or not, lowest first."""

    config: bytes
    layers: list[Path]
    references: list[reference.Reference]
    parent: str = ""


class ImageArchive:
    """Spool ``stream`` into the empty directory ``place``, which the caller removes. Blocking.

    Raises ``InvalidParameter`` for a damaged archive, and for a blob whose name is not its digest.
    """

    def __init__(self, stream: BinaryIO, place: Path) -> None:
        self._place = place
        self._files: dict[str, Path] = {}
        self._links: dict[str, str] = {}
        tar = TarReader(decompress(stream))
        for entry in tar:
            name = clean(entry.name).decode("utf-8", "surrogateescape")
            if entry.type in REGULAR and entry.segments is None:
                self._files[name] = self._spool(name, tar)
            elif entry.type == HARD_LINK:
                link = clean(entry.link).decode("utf-8", "surrogateescape")
                self._links[name] = link
            elif entry.type == SYMLINK:
                link = entry.link.decode("utf-8", "surrogateescape")
                self._links[name] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(name), link)
                )

    def _spool(self, name: str, tar: TarReader) -> Path:
        path = self._place / str(len(self._files))
        blob = _BLOB.fullmatch(name)
        hash = hashlib.sha256()
        with path.open("wb") as file:
            for piece in tar.data():
                file.write(piece)
                if blob:
                    hash.update(piece)
        if blob and hash.hexdigest() != blob[1]:
            raise InvalidParameter(
                f"invalid archive: blob sha256:{blob[1]} is damaged",
                f"its digest is sha256:{hash.hexdigest()}",
            )
        return path

    def images(self, platform: Platform | None) -> Iterator[ArchivedImage]:
        """Every image; with ``platform`` only those for it."""
        if "manifest.json" in self._files:
            yield from self._docker(platform)
        elif "index.json" in self._files:
            index = decode(self._read("index.json"), Index, "index.json")
            yield from self._index(index, platform, [], 0)
        else:
            raise InvalidParameter("invalid archive: does not contain a manifest.json")

    # -- docker save -------------------------------------------------------------------------

    def _docker(self, platform: Platform | None) -> Iterator[ArchivedImage]:
        items = decode(self._read("manifest.json"), list[_ManifestItem] | None, "manifest.json")  # type: ignore[arg-type]
        if items is None:
            raise InvalidParameter("invalid manifest, manifest cannot be null (but can be [])")
        for item in items:
            config = self._read(item.config)
            if not self._wanted(config, platform):
                continue
            layers = [self._file(name) for name in item.layers or []]
            tags = []
            for tag in item.repo_tags or []:
                name = reference.parse(tag)
                if not name.tag:
                    raise InvalidParameter(f'invalid tag "{tag}"')
                tags.append(name)
            yield ArchivedImage(config, layers, tags, item.parent)

    # -- OCI layout --------------------------------------------------------------------------

    def _index(
        self, index: Index, platform: Platform | None, names: list[str], depth: int
    ) -> Iterator[ArchivedImage]:
        if depth > _MAX_NESTING:
            raise InvalidParameter("invalid archive: indexes nested too deep")
        for descriptor in index.manifests or []:
            annotations = descriptor.annotations or {}
            own = annotations.get("io.containerd.image.name") or annotations.get(
                "org.opencontainers.image.ref.name", ""
            )
            known = [own] if own else names
            if descriptor.media_type in INDEX_TYPES:
                inner = decode(self._blob(descriptor), Index, f"index {descriptor.digest}")
                inner.manifests = _for_platform(inner.manifests or [], platform)
                yield from self._index(inner, platform, known, depth + 1)
            elif not _is_attestation(descriptor):
                yield from self._manifest(descriptor, platform, known)

    def _manifest(
        self, descriptor: Descriptor, platform: Platform | None, names: list[str]
    ) -> Iterator[ArchivedImage]:
        manifest = decode(self._blob(descriptor), Manifest, f"manifest {descriptor.digest}")
        config = self._blob(manifest.config)
        if not self._wanted(config, platform):
            return
        layers = [self._blob_file(layer) for layer in manifest.layers]
        tags = []
        for name in names:
            # A bare tag names no repository, so there is nothing to call the image by.
            if "/" in name or ":" in name:
                tags.append(reference.parse(name).with_default_tag())
        yield ArchivedImage(config, layers, tags)

    # -- members -----------------------------------------------------------------------------

    def _wanted(self, config: bytes, platform: Platform | None) -> bool:
        if platform is None:
            return True
        return decode(config, ImageConfig, "image configuration").platform.matches(platform)

    def _file(self, name: str) -> Path:
        name = posixpath.normpath(name)
        for _ in range(10):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise InvalidParameter(f"invalid archive: {name} is missing")

    def _read(self, name: str) -> bytes:
        path = self._file(name)
        if path.stat().st_size > _MAX_JSON:
            raise InvalidParameter(f"invalid archive: {name} is too large")
        return path.read_bytes()

    def _blob_file(self, descriptor: Descriptor) -> Path:
        algorithm, _, hex = descriptor.digest.partition(":")
        if algorithm != "sha256":
            raise InvalidParameter(f"invalid archive: unknown digest {descriptor.digest!r}")
        path = self._file(f"blobs/sha256/{hex}")
        if path.stat().st_size != descriptor.size:
            raise InvalidParameter(
                f"invalid archive: blob {descriptor.digest} is {path.stat().st_size} bytes long",
                f"its descriptor says {descriptor.size}",
            )
        return path

    def _blob(self, descriptor: Descriptor) -> bytes:
        path = self._blob_file(descriptor)
        if descriptor.size > _MAX_JSON:
            raise InvalidParameter(f"invalid archive: {descriptor.digest} is too large")
        return path.read_bytes()


def _is_attestation(descriptor: Descriptor) -> bool:
    kind = (descriptor.annotations or {}).get("vnd.docker.reference.type", "")
    unknown = descriptor.platform is not None and descriptor.platform.os == "unknown"
    return unknown or kind == "attestation-manifest"


def _for_platform(manifests: list[Descriptor], platform: Platform | None) -> list[Descriptor]:
    """Of an image for many platforms, the one that is asked for, or this machine's."""
    images = [descriptor for descriptor in manifests if not _is_attestation(descriptor)]
    wanted = platform or host_platform()
    for descriptor in images:
        if descriptor.platform is None or descriptor.platform.matches(wanted):
            return [descriptor]
    return images if platform is None and len(images) == 1 else []
