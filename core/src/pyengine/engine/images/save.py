"""Save: images as one tar that is an archive of ``docker save`` and an OCI image layout at once.

Blobs are in it as they are in the content store, so saving reads and never compresses; equal images
give equal bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec

from pyengine import timestamps
from pyengine.archive.compression import CHUNK
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Images
from pyengine.errors import InvalidParameter, NotFound
from pyengine.oci import reference
from pyengine.oci.image import OCI_INDEX, Platform
from pyengine.oci.reference import Reference

_RECORD = 10240
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Archive:
    """The members, in order: names, and bytes or the files that hold them."""

    def __init__(
        self, members: Sequence[tuple[str, bytes | Path | None]], times: Mapping[str, int]
    ) -> None:
        """``times``: names -> seconds since the epoch, which those without one have."""
        self._parts: list[bytes | Path] = []
        self.size = 0
        for name, body in members:
            size = body.stat().st_size if isinstance(body, Path) else len(body or b"")
            self._add(_header(name, size, times.get(name, 0), directory=body is None))
            if body:
                self._parts.append(body)
                self.size += size
            self._add(bytes(-size % tarfile.BLOCKSIZE))
        self._add(bytes(2 * tarfile.BLOCKSIZE))
        self._add(bytes(-self.size % _RECORD))

    def parts(self) -> Iterator[bytes | Path]:
        """What to send, one after the other: bytes, and whole files. ``size`` bytes in all."""
        yield from self._parts

    def read(self) -> Iterator[bytes]:
        """The bytes themselves, in large pieces (blocking)."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            with part.open("rb", buffering=0) as file:
                while piece := file.read(CHUNK):
                    yield piece

    def _add(self, data: bytes) -> None:
        if not data:
            return
        if self._parts and isinstance(self._parts[-1], bytes):
            self._parts[-1] += data
        else:
            self._parts.append(data)
        self.size += len(data)


@asynccontextmanager
async def save_images(
    images: Images, names: Sequence[str], platform: Platform | None = None
) -> AsyncIterator[Archive]:
    """The archive of ``names``, whose content stays for the length of the block.

    A name without tag means all tags of its repository, an id the image without its names.
    ``NotFound`` in Docker's words for what is not here or not for ``platform``.
    """
    wanted: dict[str, list[Reference]] = {}
    for name in names:
        for id, tags in _find(images, name):
            known = wanted.setdefault(id, [])
            known += [tag for tag in tags if tag not in known]
    found = [images.get(id) for id in wanted]
    for image in found:
        if platform is not None and not image.platform.matches(platform):
            raise NotFound(f"no suitable export target found for platform {platform}")
    async with images.content.lease(f"save {token_hex(8)}") as lease:
        await lease.hold({blob for image in found for blob in image.blobs})
        yield await images.content.on_thread(_archive, images, found, [*wanted.values()])
        for image in found:
            images.tell("save", image, image.id)


def _find(images: Images, name: str) -> Iterator[tuple[str, list[Reference]]]:
    image: Image | None = None
    if not reference.digest_of(name) and not name.startswith("sha256:"):
        parsed = reference.parse(name)
        tagged = {one: image for one, image in images.named(parsed.name).items() if one.tag}
        if parsed.tag and not parsed.digest:
            if parsed not in tagged:
                raise NotFound(f"reference does not exist: {parsed.familiar}")
            yield tagged[parsed].id, [parsed]
            return
        if not parsed.digest and tagged:
            for tag, image in sorted(tagged.items()):
                yield image.id, [tag]
            return
    try:
        yield images.get(name).id, []
    except NotFound:
        raise NotFound(f"No such image: {name}") from None


def _archive(images: Images, found: Sequence[Image], tags: Sequence[list[Reference]]) -> Archive:
    content = images.content
    blobs: dict[str, Path] = {}
    times: dict[str, int] = {}
    items: list[dict[str, Any]] = []
    descriptors: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for image, names in zip(found, tags, strict=True):
        manifest = images.manifest(image)
        if not image.chain:
            raise InvalidParameter(f"image {image.shown} has no layers to save", image.artifact)
        for digest in image.blobs:
            if not content.has(digest):
                raise NotFound(
                    f"content {digest} of image {image.shown} is missing",
                    help="pull or load the image again",
                )
            blobs[digest] = content.path(digest)
            if digest != image.manifest:
                times[_path(digest)] = _seconds(image.created)
        described = {
            "mediaType": manifest.media_type,
            "digest": image.manifest,
            "size": blobs[image.manifest].stat().st_size,
        }
        for name in sorted(names):
            annotations = {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag,
            }
            descriptors.append(described | {"annotations": annotations})
            repository = repositories.setdefault(name.familiar_name, {})
            repository[name.tag] = manifest.layers[-1].digest[7:]
        if not names:
            descriptors.append(described)
        items.append(
            {
                "Config": _path(image.id),
                "RepoTags": [name.familiar for name in sorted(names)] or None,
                "Layers": [_path(layer.digest) for layer in manifest.layers],
            }
        )
    ids = [image.id for image in found]
    for image, item in zip(found, items, strict=True):
        if image.parent in ids:
            item["Parent"] = image.parent
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
    members: list[tuple[str, bytes | Path | None]] = [("blobs/", None), ("blobs/sha256/", None)]
    members += [(_path(digest), blobs[digest]) for digest in sorted(blobs)]
    members.append(("index.json", msgspec.json.encode(index)))
    members.append(("manifest.json", msgspec.json.encode(items)))
    members.append(("oci-layout", _LAYOUT))
    if repositories:
        members.append(("repositories", msgspec.json.encode(repositories) + b"\n"))
    return Archive(members, times)


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


def _seconds(created: str) -> int:
    """What a member of a tar can hold of when an image was made; 0 for no time."""
    try:
        return max(0, timestamps.parse(created) // 10**9)
    except ValueError:
        return 0


def _header(name: str, size: int, time: int, *, directory: bool) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = time
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.GNU_FORMAT)
