"""What ``docker load`` reads: archives of ``docker save``, old and new, and OCI image layouts.

The order of members is free and the list of contents may come last. So layers go into the content
store as they come, plain ones compressed on the way, and JSON stays in memory; what belongs to what
is found out at the end. Names, and links between them, only ever select a member.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import posixpath
import re
from collections.abc import Coroutine, Iterator, Sequence
from concurrent import futures
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import msgspec
from msgspec import field

from pyengine.archive import TarReader, decompress
from pyengine.archive.compression import CHUNK, sniff
from pyengine.archive.reader import HARD_LINK, REGULAR, SYMLINK
from pyengine.archive.unpack import clean
from pyengine.engine.images.content import Blob, Content, Lease
from pyengine.engine.images.making import Gzip
from pyengine.errors import InvalidParameter
from pyengine.oci import reference
from pyengine.oci.image import (
    DOCKER_LAYER,
    OCI_LAYER,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    decode,
    digest,
    host_platform,
    parse_manifest,
)
from pyengine.state.content import Ingest

T = TypeVar("T")

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
#: Configurations, manifests and indexes are held in memory: each of them, and all.
_MAX_JSON = 16 << 20
_MAX_MEMORY = 128 << 20
#: Neither JSON nor a layer: a version, say.
_MAX_OTHER = 1 << 20
_MAX_NESTING = 4
_HEADER = 512


class _ManifestItem(msgspec.Struct, rename="pascal"):
    """An entry of ``manifest.json``."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = field(name="RepoTags", default=None)
    parent: str = ""


class ArchivedLayer(NamedTuple):
    """``digest`` of its blob in the content store; ``diff_id`` where it was seen, or empty."""

    digest: str
    diff_id: str = ""


class ArchivedImage(NamedTuple):
    """One image in an archive. ``manifest``: the bytes of its manifest if there is one that names
    its layers as they are in the content store."""

    config: bytes
    layers: list[ArchivedLayer]
    references: list[reference.Reference]
    parent: str = ""
    manifest: bytes = b""


class ImageArchive:
    """Reads ``stream`` to its end; blocking, on a thread of its own beside ``loop``.

    What it puts into ``content`` is held by ``lease``. Raises ``InvalidParameter`` for a damaged
    archive, and for a blob whose name is not its digest.
    """

    def __init__(
        self,
        stream: BinaryIO,
        content: Content,
        lease: Lease,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._content = content
        self._lease = lease
        self._loop = loop
        self._json: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._layers: dict[str, ArchivedLayer] = {}
        self._links: dict[str, str] = {}
        self._memory = 0
        self._commits: list[futures.Future[Blob]] = []
        try:
            self._read_all(TarReader(decompress(stream)))
        finally:
            # Nothing may go on beside what comes after this, be it the end of the lease.
            futures.wait(self._commits)
        for commit in self._commits:
            commit.result()

    def _read_all(self, tar: TarReader) -> None:
        for entry in tar:
            name = clean(entry.name).decode("utf-8", "surrogateescape")
            if entry.type in REGULAR and entry.segments is None:
                self._member(name, entry.size, tar)
            elif entry.type == HARD_LINK:
                self._links[name] = clean(entry.link).decode("utf-8", "surrogateescape")
            elif entry.type == SYMLINK:
                link = entry.link.decode("utf-8", "surrogateescape")
                self._links[name] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(name), link)
                )

    # -- members as they come ----------------------------------------------------------------

    def _member(self, name: str, size: int, tar: TarReader) -> None:
        self._sizes[name] = size
        pieces = tar.data()
        start = b""
        while len(start) < min(size, _HEADER):
            start += next(pieces)
        blob = _BLOB.fullmatch(name)
        expected = f"sha256:{blob[1]}" if blob else ""
        compression = sniff(start)
        if compression in ("gzip", "zstd"):
            self._keep(name, expected, compression, start, pieces)
        elif compression or _is_tar(start) or (not size and name.endswith(".tar")):
            self._compress(name, expected, compression, start, pieces)
        elif start.lstrip()[:1] in (b"{", b"[") or size <= _MAX_OTHER:
            if size > _MAX_JSON or self._memory + size > _MAX_MEMORY:
                raise InvalidParameter(f"invalid archive: {name} is too large")
            data = start + b"".join(pieces)
            self._memory += len(data)
            self._json[name] = data
            _check(name, expected, digest(data))
        else:
            for _ in pieces:  # whatever it is, no image can need it
                pass

    def _keep(
        self,
        name: str,
        expected: str,
        compression: str,
        start: bytes,
        pieces: Iterator[memoryview],
    ) -> None:
        """A compressed layer, as it is."""
        known = expected and self._held(expected)
        media_type = DOCKER_LAYER if compression == "gzip" else f"{OCI_LAYER}+{compression}"
        if known:
            seen = _copy(start, pieces, None)
            _check(name, expected, seen)
            self._layers[name] = ArchivedLayer(expected, known.diff_id)
            return
        ingest = self._content.store.ingest()
        try:
            seen = _copy(start, pieces, ingest)
            _check(name, expected, seen)
        except BaseException:
            ingest.close()
            raise
        self._layers[name] = ArchivedLayer(seen)
        self._commit(ingest, media_type, "")

    def _compress(
        self,
        name: str,
        expected: str,
        compression: str,
        start: bytes,
        pieces: Iterator[memoryview],
    ) -> None:
        """A plain layer, or one that is compressed as no registry takes it."""
        if expected and not compression:
            for blob in self._content.by_diff_id(expected):
                if blob.media_type.endswith("gzip") and self._held(blob.digest):
                    _check(name, expected, _copy(start, pieces, None))
                    self._layers[name] = ArchivedLayer(blob.digest, expected)
                    return
        ingest = self._content.store.ingest()
        try:
            store = Gzip(ingest)
            if compression:
                source = _Hashed(start, pieces)
                plain = decompress(cast(BinaryIO, source))
                diff_id = _copy(b"", iter(lambda: memoryview(plain.read(CHUNK)), b""), store)
                seen = source.finish()
            else:
                diff_id = seen = _copy(start, pieces, store)
            store.finish()
            _check(name, expected, seen)
        except BaseException:
            ingest.close()
            raise
        self._layers[name] = ArchivedLayer(ingest.digest, diff_id)
        self._commit(ingest, DOCKER_LAYER, diff_id)

    def _held(self, digest: str) -> Blob | None:
        """The blob if it is here already; then it stays."""
        self._await(self._lease.hold([digest])).result()
        return self._content.get(digest)

    def _commit(self, ingest: Ingest, media_type: str, diff_id: str) -> None:
        """Made durable while the next one is read."""

        async def commit() -> Blob:
            try:
                return await self._content.commit(ingest, "", -1, media_type, self._lease, diff_id)
            finally:
                await self._content.on_thread(ingest.close)

        self._commits.append(self._await(commit()))

    def _await(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # -- images ------------------------------------------------------------------------------

    def images(self, platform: Platform | None) -> list[ArchivedImage]:
        """Every image; with ``platform`` only those for it."""
        if "manifest.json" in self._json:
            return [*self._docker(platform)]
        if "index.json" in self._json:
            return [*self._index(self._top(), platform, [], 0)]
        if "repositories" in self._json:
            return [*self._first(platform)]
        raise InvalidParameter("invalid archive: does not contain a manifest.json")

    def _docker(self, platform: Platform | None) -> Iterator[ArchivedImage]:
        items = decode(self._read("manifest.json"), list[_ManifestItem] | None, "manifest.json")  # type: ignore[arg-type]
        if items is None:
            raise InvalidParameter("invalid manifest, manifest cannot be null (but can be [])")
        manifests = self._manifests()
        for item in items:
            config = self._read(item.config)
            if not _wanted(config, platform):
                continue
            layers = [self._layer(name) for name in item.layers or []]
            tags = []
            for tag in item.repo_tags or []:
                name = reference.parse(tag)
                if not name.tag:
                    raise InvalidParameter(f'invalid tag "{tag}"')
                tags.append(name)
            manifest = manifests.get((digest(config), *(layer.digest for layer in layers)), b"")
            yield ArchivedImage(config, layers, tags, item.parent, manifest)

    def _manifests(self) -> dict[tuple[str, ...], bytes]:
        """What manifests there are, by the digests of configuration and layers; an archive of
        ``docker save`` need not have any, and is none the worse for a bad one."""
        found = {}
        for name, data in self._json.items():
            if _BLOB.fullmatch(name) and b'"schemaVersion"' in data:
                try:
                    manifest = parse_manifest(data)
                except InvalidParameter:
                    continue
                if isinstance(manifest, Manifest):
                    layers = (layer.digest for layer in manifest.layers)
                    found[(manifest.config.digest, *layers)] = data
        return found

    # -- OCI layout --------------------------------------------------------------------------

    def _top(self) -> Index:
        index = parse_manifest(self._read("index.json"))
        if not isinstance(index, Index):
            raise InvalidParameter("invalid index.json: it is a manifest")
        return index

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
            if _is_attestation(descriptor):
                continue
            data = self._blob(descriptor)
            inner = parse_manifest(data, descriptor.media_type)
            if isinstance(inner, Index):
                inner.manifests = _for_platform(inner.manifests or [], platform)
                yield from self._index(inner, platform, known, depth + 1)
            elif inner.artifact:
                raise InvalidParameter(f"{descriptor.digest} is no image", inner.artifact)
            else:
                yield from self._manifest(data, inner, platform, known)

    def _manifest(
        self, data: bytes, manifest: Manifest, platform: Platform | None, names: list[str]
    ) -> Iterator[ArchivedImage]:
        config = self._blob(manifest.config)
        if not _wanted(config, platform):
            return
        layers = [self._described(layer) for layer in manifest.layers]
        same = [layer.digest for layer in layers] == [one.digest for one in manifest.layers]
        tags = []
        for name in names:
            # A bare tag names no repository, so there is nothing to call the image by.
            if "/" in name or ":" in name:
                tags.append(reference.parse(name).with_default_tag())
        yield ArchivedImage(config, layers, tags, "", data if same else b"")

    # -- before there was a manifest.json ----------------------------------------------------

    def _first(self, platform: Platform | None) -> Iterator[ArchivedImage]:
        """A directory for each layer, with the configuration of the image that ends with it."""
        repositories = decode(self._read("repositories"), dict[str, dict[str, str]], "repositories")
        tags: dict[str, list[reference.Reference]] = {}
        for name, by_tag in repositories.items():
            for tag, id in by_tag.items():
                named = reference.with_tag(reference.parse(name), tag)
                tags.setdefault(id, []).append(named)
        for id, names in tags.items():
            config, layers = self._chain_of(id)
            if _wanted(config, platform):
                yield ArchivedImage(config, layers, names)

    def _chain_of(self, id: str) -> tuple[bytes, list[ArchivedLayer]]:
        layers: list[ArchivedLayer] = []
        history: list[dict[str, Any]] = []
        top: dict[str, Any] = {}
        while id and len(layers) < 1000:
            found = f"{id}/json"
            if found not in self._json and found not in self._links:
                raise InvalidParameter(f"invalid target ID: {id}")
            body = decode(self._read(found), dict[str, Any], found)
            top = top or body
            layers.insert(0, self._layer(f"{id}/layer.tar"))
            command = (body.get("container_config") or {}).get("Cmd") or []
            history.insert(0, {
                "created": body.get("created"),
                "created_by": " ".join(map(str, command)),
                "author": str(body.get("author", "")),
                "comment": str(body.get("comment", "")),
            })  # fmt: skip
            id = str(body.get("parent", ""))
        dropped = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
        config = {key: value for key, value in top.items() if key not in dropped}
        config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        config["history"] = history
        return json.dumps(config, sort_keys=True).encode(), layers

    # -- members by name ---------------------------------------------------------------------

    def _resolve(self, name: str) -> str:
        name = posixpath.normpath(name)
        for _ in range(10):
            if name in self._json or name in self._layers or name not in self._links:
                return name
            name = self._links[name]
        return name

    def _read(self, name: str) -> bytes:
        data = self._json.get(self._resolve(name))
        if data is None:
            raise InvalidParameter(f"invalid archive: {posixpath.normpath(name)} is missing")
        return data

    def _layer(self, name: str) -> ArchivedLayer:
        layer = self._layers.get(self._resolve(name))
        if layer is None:
            raise InvalidParameter(f"invalid archive: layer {posixpath.normpath(name)} is missing")
        return layer

    def _described(self, descriptor: Descriptor) -> ArchivedLayer:
        layer = self._layer(_path(descriptor))
        _sized(descriptor, self._sizes[self._resolve(_path(descriptor))])
        return layer

    def _blob(self, descriptor: Descriptor) -> bytes:
        data = self._read(_path(descriptor))
        _sized(descriptor, len(data))
        return data


class _Hashed(io.RawIOBase):
    """The pieces of a member as a file, and their digest."""

    def __init__(self, start: bytes, pieces: Iterator[memoryview]) -> None:
        self._piece = memoryview(start)
        self._pieces = pieces
        self._hash = hashlib.sha256(start)

    def read(self, size: int = -1, /) -> bytes:
        if not self._piece:
            self._piece = next(self._pieces, memoryview(b""))
            self._hash.update(self._piece)
        taken = self._piece if size < 0 else self._piece[:size]
        self._piece = self._piece[len(taken) :]
        return bytes(taken)

    def finish(self) -> str:
        for piece in self._pieces:
            self._hash.update(piece)
        return "sha256:" + self._hash.hexdigest()


def _copy(start: bytes, pieces: Iterator[memoryview], out: Gzip | Ingest | None) -> str:
    """Everything to ``out``; its digest."""
    hash = hashlib.sha256()
    for piece in itertools.chain([memoryview(start)], pieces):
        if not isinstance(out, Ingest):  # which counts for itself
            hash.update(piece)
        if out is not None:
            out.write(piece)
    return out.digest if isinstance(out, Ingest) else "sha256:" + hash.hexdigest()


def _check(name: str, expected: str, seen: str) -> None:
    if expected and seen != expected:
        raise InvalidParameter(
            f"invalid archive: blob {expected} is damaged", f"its digest is {seen}"
        )


def _is_tar(start: bytes) -> bool:
    """True for the first block of a tar; an empty one begins with zeros."""
    if len(start) < _HEADER:
        return False
    block = start[:_HEADER]
    if block.count(0) == _HEADER:
        return True
    try:
        stored = int(block[148:156].split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return False
    return stored == sum(block[:148]) + 256 + sum(block[156:])


def _path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.digest.removeprefix('sha256:')}"


def _sized(descriptor: Descriptor, size: int) -> None:
    if size != descriptor.size:
        raise InvalidParameter(
            f"invalid archive: blob {descriptor.digest} is {size} bytes long",
            f"its descriptor says {descriptor.size}",
        )


def _wanted(config: bytes, platform: Platform | None) -> bool:
    if platform is None:
        return True
    return decode(config, ImageConfig, "image configuration").platform.matches(platform)


def _is_attestation(descriptor: Descriptor) -> bool:
    kind = (descriptor.annotations or {}).get("vnd.docker.reference.type", "")
    unknown = descriptor.platform is not None and descriptor.platform.os == "unknown"
    return unknown or kind == "attestation-manifest"


def _for_platform(manifests: Sequence[Descriptor], platform: Platform | None) -> list[Descriptor]:
    """Of an image for many platforms, the one that is asked for, or this machine's."""
    images = [descriptor for descriptor in manifests if not _is_attestation(descriptor)]
    wanted = platform or host_platform()
    for descriptor in images:
        if descriptor.platform is None or descriptor.platform.matches(wanted):
            return [descriptor]
    return images if platform is None and len(images) == 1 else []
