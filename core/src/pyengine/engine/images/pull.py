"""Pull: from a name in a registry to an image here.

A tag is resolved to a digest; what has that digest here already is done. Otherwise come manifest,
configuration, and then all layers at once, each unpacked when it has arrived; the image and its
names are recorded when everything is there and verified. What an interrupted pull has brought stays
held by a lease, and the next pull goes on from there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from pyengine.engine.images.content import Blob, Lease
from pyengine.engine.images.layers import LayerSource
from pyengine.engine.images.progress import Line, Meter, Progress
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Emit, Images
from pyengine.engine.images.transfers import Say, Transfers, together
from pyengine.engine.timings import IMAGE_ACTIONS, timed
from pyengine.errors import EngineError, Forbidden, InvalidParameter, NotFound, Unsupported
from pyengine.oci import platforms
from pyengine.oci.image import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    chain_ids,
    decode,
    host_platform,
    parse_manifest,
)
from pyengine.oci.image import digest as digest_of
from pyengine.oci.reference import Reference
from pyengine.registry import names
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository

#: Seconds for which what a failed pull has brought is kept.
KEEP = 24 * 3600.0
#: Bytes; real ones have some thousands.
LARGEST_CONFIG = 8 << 20
#: Seconds between two lines of a countdown.
TICK = 1.0
#: An index may hold indexes, but nobody means more than this.
DEEPEST_INDEX = 3


class Inspection(NamedTuple):
    """What a registry has under a name: a manifest or an index, and for which platforms."""

    descriptor: Descriptor
    platforms: list[Platform]


class Puller:
    """Pulls of any number of clients, who share what they have in common."""

    def __init__(self, images: Images, registries: Registries, emit: Emit) -> None:
        self.images = images
        self.registries = registries
        self.downloads: Transfers[Blob] = Transfers(registries.downloads)
        self.configs: Transfers[Blob] = Transfers()
        #: Who is told about the unpacking of a blob, which is done once for all of them.
        self.audience: dict[str, list[Progress]] = {}
        self._emit = emit

    @timed(IMAGE_ACTIONS, "pull")
    async def pull(
        self,
        name: Reference,
        progress: Progress,
        credentials: Credentials | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Pull ``name``, or all tags of a name without tag and digest.

        ``platform`` None: this machine's. Errors in Docker's words: ``NotFound``, ``Unauthorized``,
        ``Forbidden``, ``Unavailable`` of the registry; ``InvalidParameter`` for what is no image.
        """
        _check_name(name)
        repository = self.registries.repository(name, credentials)
        newer, warnings = False, []
        if name.digest:
            name = name._replace(tag="")
        tags = [name.tag] if name.tag or name.digest else await repository.tags()
        for tag in tags:
            one = _Pull(self, repository, credentials, name._replace(tag=tag), progress, platform)
            newer |= await one.run()
            warnings += [one.warning] if one.warning else []
        what = "Downloaded newer image" if newer else "Image is up to date"
        progress.message(f"Status: {what} for {name.familiar}")
        for warning in warnings:
            progress.message(f"WARNING: {warning}")
        labels = self.labels(name.with_default_tag())
        self._emit("image", "pull", name.familiar, {**labels, "name": name.familiar_name})

    def find(self, name: str) -> Image | None:
        try:
            return self.images.get(name)
        except NotFound:
            return None

    def labels(self, name: Reference) -> dict[str, str]:
        image = self.find(str(name))
        return (image.config.labels or {}) if image is not None else {}

    async def inspect(self, name: Reference, credentials: Credentials | None = None) -> Inspection:
        """What the registry has under ``name``; nothing is kept. Errors as :meth:`pull`."""
        _check_name(name)
        name = name.with_default_tag()
        repository = self.registries.repository(name, credentials)
        found = await repository.manifest(name.digest or name.tag)
        descriptor = Descriptor(
            media_type=found.media_type, digest=found.digest, size=len(found.data)
        )
        manifest = parse_manifest(found.data, found.media_type)
        if isinstance(manifest, Index):
            entries = manifest.manifests or []
            return Inspection(descriptor, [one.platform or Platform() for one in entries])
        if manifest.artifact:
            return Inspection(descriptor, [])
        config = _config_of(manifest)
        buffer = _Buffer()
        await repository.fetch(config, buffer, lambda count: None)
        if digest_of(buffer.data) != config.digest:
            raise EngineError(f"image config verification failed for digest {config.digest}")
        platform = decode(buffer.data, Platform, "image configuration")
        known = platform.os or platform.architecture
        return Inspection(descriptor, [platform] if known else [])


class _Buffer:
    """Takes in a small blob that is only looked at."""

    def __init__(self) -> None:
        self.data = b""
        self.size = 0

    def write(self, data: bytes) -> None:
        self.data += data
        self.size = len(self.data)

    def reset(self) -> None:
        self.data = b""
        self.size = 0


class _Pull:
    """One tag or digest, for one client."""

    def __init__(
        self,
        puller: Puller,
        repository: Repository,
        credentials: Credentials | None,
        name: Reference,
        progress: Progress,
        platform: Platform | None,
    ) -> None:
        self._content = puller.images.content
        self._layers = puller.images.layers
        self._images = puller.images
        self._downloads = puller.downloads
        self._configs = puller.configs
        self._attempts = puller.registries.config.limits.attempts
        self._find = puller.find
        self._audience = puller.audience
        self._repository = repository
        #: Who fails with these fails for everybody who has the same.
        self._origin = (name.name, credentials)
        self._name = name
        self._progress = progress
        self._platform = platform
        self.warning = ""

    async def run(self) -> bool:
        """True if the name stands for another image than before."""
        name = self._name
        before = self._find(str(name))
        top = await self._repository.resolve(name.digest or name.tag)
        image = self._find(str(name._replace(tag="", digest=top.digest)))
        if image is not None and image is before and self._fits(image) and self._whole(image):
            self._begin()
        else:
            async with self._content.lease(f"pull {self._name}", keep=KEEP) as lease:
                image = await self._bring(top, lease)
        self._progress.message(f"Digest: {top.digest}")
        return before is None or before.id != image.id

    def _fits(self, image: Image) -> bool:
        """An index may offer something better than what somebody pulled for another platform."""
        if self._platform is not None:
            return platforms.same(image.platform, self._platform)
        return platforms.runs(image.platform, platforms.best_host_platform())

    def _whole(self, image: Image) -> bool:
        """A pull is also how one repairs what a damaged disk has lost."""
        return (
            bool(image.manifest)
            and all(map(self._content.has, image.blobs))
            and all(map(self._layers.has, image.chain))
        )

    def _begin(self) -> None:
        """The first line: from here on errors are lines, too."""
        name, host = self._name, self._repository.host
        # a digest is shown with the whole name before it, as Docker does
        self._progress.message(f"Pulling from {name.path}", name.tag or str(name))
        if names.normalize(host) != name.domain:
            self._progress.message(f"Using {host}, a mirror of {name.domain}")

    async def _bring(self, top: Descriptor, lease: Lease) -> Image:
        found = await self._manifest(top, lease)
        self._begin()
        chosen, manifest = top.digest, found
        if isinstance(manifest, Index):
            chosen, manifest = await self._choose(manifest, lease)
        raw = await self._config(manifest, lease)
        names = [] if self._name.digest else [self._name]
        digests = [self._name._replace(tag="", digest=top.digest)]
        if manifest.artifact:
            await self._gather(manifest.layers, lease)
            return await self._images.install_artifact(names, manifest=chosen, digests=digests)
        config = decode(raw, ImageConfig, "image configuration")
        _check(config, manifest)
        known = self._find(manifest.config.digest)
        if known is None or known.manifest != chosen or not self._whole(known):
            await self._unpack(manifest.layers, config.diff_ids, lease)
        image = await self._images.install(
            raw, names, manifest=chosen, digests=digests, lease=lease
        )
        if not isinstance(found, Index):
            self._compare(image)
        return image

    def _compare(self, image: Image) -> None:
        """An image that is for one platform alone is taken whatever was asked for, as in Docker."""
        wanted = self._platform
        if wanted is not None and not platforms.runs(image.platform, wanted):
            self.warning = (
                f"image with reference {self._name.familiar} was found but its platform "
                f"({image.platform}) does not match the specified platform ({wanted})"
            )

    # -- manifest and configuration --------------------------------------------------------------

    async def _manifest(self, descriptor: Descriptor, lease: Lease) -> Manifest | Index:
        """A manifest or index, which is in the content store afterwards."""
        digest = descriptor.digest
        await lease.hold([digest])
        blob = self._content.get(digest)
        if blob is not None:
            return parse_manifest(self._content.read(digest), blob.media_type)
        found = await self._repository.manifest(digest)
        manifest = parse_manifest(found.data, found.media_type)
        await self._content.add(found.data, manifest.media_type, lease)
        return manifest

    async def _choose(self, index: Index, lease: Lease, depth: int = 1) -> tuple[str, Manifest]:
        """The manifest in an index that fits the platform, and its digest."""
        for entry in platforms.choose(index.manifests or [], self._platform):
            found = await self._manifest(entry, lease)
            if isinstance(found, Manifest):
                return entry.digest, found
            if depth < DEEPEST_INDEX:
                return await self._choose(found, lease, depth + 1)
        wanted = self._platform or host_platform()
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")

    async def _config(self, manifest: Manifest, lease: Lease) -> bytes:
        config = _config_of(manifest)
        digest = config.digest
        await lease.hold([digest])

        async def work(say: Say) -> Blob:
            return await self._download(config, lease, say)

        if not self._content.has(digest):
            await self._configs.share(digest, digest[7:19], self._origin, Progress(), work)
        return self._content.read(digest)

    # -- layers ----------------------------------------------------------------------------------

    async def _gather(self, blobs: Sequence[Descriptor], lease: Lease) -> None:
        """Bring blobs that are not unpacked."""
        await lease.hold(blob.digest for blob in blobs)
        missing = {blob.digest: blob for blob in blobs if not self._content.has(blob.digest)}
        for blob in missing.values():
            self._refuse_absurd(blob)
        for digest in dict.fromkeys(blob.digest for blob in blobs):
            self._announce(digest, there=digest not in missing)
        async with together() as group:
            for blob in missing.values():
                group.create_task(self._fetch(blob, lease))
        for digest in missing:
            self._progress.step(digest[7:19], "Pull complete")

    async def _unpack(
        self, layers: Sequence[Descriptor], diff_ids: Sequence[str], lease: Lease
    ) -> None:
        """Bring the blobs that are missing, and unpack the layers that are."""
        chain = chain_ids([*diff_ids])
        await lease.hold(layer.digest for layer in layers)
        await lease.hold_layers(chain)
        missing = {one.digest: one for one in layers if not self._content.has(one.digest)}
        for layer in missing.values():
            self._refuse_absurd(layer)
            await self._refuse_foreign(layer)
        unpacked = {layer.digest: True for layer in layers}
        for layer, chain_id in zip(layers, chain, strict=True):
            unpacked[layer.digest] &= self._layers.has(chain_id)
        for digest, there in unpacked.items():
            self._announce(digest, there=there and digest not in missing)
            if not there and digest not in missing:
                self._progress.step(digest[7:19], "Download complete")
        awaited = [digest for digest, there in unpacked.items() if not there]
        async with self._listening(awaited), together() as group:
            # The largest ones first: nobody shall wait for one of them alone at the end.
            blobs = {
                layer.digest: group.create_task(self._fetch(layer, lease))
                for layer in sorted(missing.values(), key=lambda layer: -layer.size)
            }
            sources = [
                self._source(layer, diff_id, blobs.get(layer.digest), silent=unpacked[layer.digest])
                for layer, diff_id in zip(layers, diff_ids, strict=True)
            ]
            group.create_task(self._layers.ensure(sources, lease))
        for digest, there in unpacked.items():
            if there and digest in missing:
                self._progress.step(digest[7:19], "Pull complete")
            await self._content.add_source(digest, self._name.name)

    def _announce(self, digest: str, *, there: bool) -> None:
        self._progress.step(digest[7:19], "Already exists" if there else "Pulling fs layer")

    @asynccontextmanager
    async def _listening(self, digests: Sequence[str]) -> AsyncIterator[None]:
        """Within the block this client is told how the unpacking of ``digests`` goes on, though
        another pull may have begun it."""
        for digest in digests:
            self._audience.setdefault(digest, []).append(self._progress)
        try:
            yield
        finally:
            for digest in digests:
                self._audience[digest].remove(self._progress)
                if not self._audience[digest]:
                    del self._audience[digest]

    def _source(
        self, layer: Descriptor, diff_id: str, arriving: asyncio.Task[str] | None, *, silent: bool
    ) -> LayerSource:
        """``arriving`` None: the blob is here. ``silent``: so is the layer."""
        blob: asyncio.Future[str] | None = arriving
        if blob is None:
            blob = asyncio.get_running_loop().create_future()
            blob.set_result(layer.digest)
        if silent:
            return LayerSource(diff_id, blob)
        id = layer.digest[7:19]

        def tell(line: Line) -> None:
            for progress in self._audience.get(layer.digest, ()):
                progress.put(line)

        def ready() -> None:
            self._progress.step(id, "Extracting", layer.size, layer.size)
            self._progress.step(id, "Pull complete")

        return LayerSource(diff_id, blob, Meter(tell, id, "Extracting", layer.size), ready)

    def _refuse_absurd(self, layer: Descriptor) -> None:
        """A registry that never stops sending would fill the disk before it is found out."""
        room = self._content.store.capacity()
        if layer.size > room:
            raise InvalidParameter(
                f"layer {layer.digest} is too large",
                f"it is said to have {layer.size} bytes, and the disk {room}",
            )

    async def _refuse_foreign(self, layer: Descriptor) -> None:
        """What lies somewhere else is not fetched from there; some registries have it all the
        same."""
        if layer.urls and not await self._repository.has_blob(layer.digest):
            raise Unsupported(
                f"layer {layer.digest} is not in the registry",
                f"it is to be had at {layer.urls[0]}, where the engine does not go",
            )

    async def _fetch(self, layer: Descriptor, lease: Lease) -> str:
        """Its digest, when the blob is in the content store."""

        async def work(say: Say) -> Blob:
            return await self._download(layer, lease, say)

        digest = layer.digest
        await self._downloads.share(digest, digest[7:19], self._origin, self._progress, work)
        return digest

    async def _download(self, blob: Descriptor, lease: Lease, say: Say) -> Blob:
        """Bring one blob, going on where an earlier attempt ended, and verify it."""
        id = blob.digest[7:19]
        here = self._content.get(blob.digest)
        if here is not None:
            return here

        def waiting(seconds: float) -> None:
            left = math.ceil(seconds)
            if left:
                say(Line(f"Retrying in {left} second{'s' if left != 1 else ''}", id, bar=True))

        for attempt in range(1, self._attempts + 1):
            found = await self._try(blob, lease, say, waiting)
            if found is not None:
                say(Line("Download complete", id, bar=True))
                return found
            # The repository asks another mirror then, if there is one.
            for left in range(attempt if attempt < self._attempts else 0, 0, -1):
                waiting(left)
                await asyncio.sleep(TICK)
        raise InvalidParameter(f"filesystem layer verification failed for digest {blob.digest}")

    async def _try(
        self, blob: Descriptor, lease: Lease, say: Say, waiting: Callable[[float], None]
    ) -> Blob | None:
        """None if what came is something else."""
        id = blob.digest[7:19]
        ingest = await self._content.ingest(blob.digest)
        try:
            meter = Meter(say, id, "Downloading", blob.size)
            await self._repository.fetch(blob, ingest, meter, waiting)
            say(Line("Verifying Checksum", id, bar=True))
            if ingest.digest == blob.digest:
                return await self._content.commit(
                    ingest, blob.digest, blob.size, blob.media_type, lease, source=self._name.name
                )
            await self._content.on_thread(ingest.discard)
            return None
        finally:
            await self._content.on_thread(ingest.close)


def _check_name(name: Reference) -> None:
    if name.familiar_name == "scratch":
        raise Forbidden("'scratch' is a reserved name")


def _config_of(manifest: Manifest) -> Descriptor:
    config = manifest.config
    if config.size > LARGEST_CONFIG:
        raise InvalidParameter(f"image configuration of {config.size} bytes is too large")
    return config


def _check(config: ImageConfig, manifest: Manifest) -> None:
    if config.os not in ("", "linux"):
        raise InvalidParameter(
            f'cannot download image with operating system "{config.os}" when requesting "linux"'
        )
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidParameter("layers from manifest don't match image configuration")
