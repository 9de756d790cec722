"""Push: from an image here to a name in a registry.

The blobs go as they lie in the content store and the manifest as it was pulled or made, so the
digest that others see is the one that is known here.
"""

from __future__ import annotations

import itertools

from pyengine.engine.images.content import Lease
from pyengine.engine.images.progress import Line, Meter, Progress
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Emit, Images
from pyengine.engine.images.transfers import Say, Transfers, together
from pyengine.engine.timings import IMAGE_ACTIONS, timed
from pyengine.errors import InvalidParameter, NotFound
from pyengine.oci import platforms
from pyengine.oci.image import Descriptor, Platform
from pyengine.oci.reference import Reference
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository

#: How many repositories are asked to lend a blob before it is uploaded.
MOUNT_ATTEMPTS = 4


class Pusher:
    """Pushes of any number of clients, who share what they have in common."""

    def __init__(self, images: Images, registries: Registries, emit: Emit) -> None:
        self.images = images
        self.registries = registries
        self.uploads: Transfers[None] = Transfers(registries.uploads)
        self._emit = emit

    @timed(IMAGE_ACTIONS, "push")
    async def push(
        self,
        name: Reference,
        progress: Progress,
        credentials: Credentials | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Push ``name``, or all tags that a name without tag has here.

        ``platform``: what the image must be for. Errors in Docker's words: ``NotFound`` for what is
        not here, ``Unauthorized``, ``Forbidden``, ``Unavailable`` of the registry.
        """
        if platform is not None:
            self._check_platform(name.with_default_tag(), platform)
        repository = self.registries.repository(name, credentials, push=True)
        progress.message(f"The push refers to repository [{name.name}]")
        here = self.images.named(name.name)
        if not here:
            raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")
        if name.digest:
            raise InvalidParameter("cannot push a digest reference")
        tagged = {one: image for one, image in here.items() if one.tag}
        if name.tag:
            if name not in tagged:
                raise NotFound(f"tag does not exist: {name.familiar}")
            tagged = {name: tagged[name]}
        if not tagged:
            raise NotFound(f"no tags to push for {name.familiar_name}")
        for one, image in tagged.items():
            await _Push(self, repository, credentials, one, progress, image).run()
        labels = tagged[max(tagged)].config.labels or {}
        self._emit("image", "push", name.familiar, {**labels, "name": name.familiar_name})

    def _check_platform(self, name: Reference, platform: Platform) -> None:
        image = self.images.get(str(name))
        if not platforms.runs(image.platform, platform):
            raise NotFound(
                f"image with reference {name.familiar} was found but its platform "
                f"({image.platform}) does not match the specified platform ({platform})"
            )


class _Push:
    """One tag, for one client."""

    def __init__(
        self,
        pusher: Pusher,
        repository: Repository,
        credentials: Credentials | None,
        name: Reference,
        progress: Progress,
        image: Image,
    ) -> None:
        self._content = pusher.images.content
        self._images = pusher.images
        self._uploads = pusher.uploads
        self._repository = repository
        #: Who fails with these fails for everybody who has the same.
        self._origin = (name.name, credentials)
        self._name = name
        self._progress = progress
        self._image = image

    async def run(self) -> None:
        async with self._content.lease(f"push {self._name}") as lease:
            await self._run(lease)

    async def _run(self, lease: Lease) -> None:
        image, tag = self._image, self._name.tag
        await lease.hold(image.blobs)
        manifest = self._images.manifest(image)
        data = self._content.read(image.manifest)
        # Layers are shown by what they unpack to, the top first, as in Docker.
        names = image.diff_ids or [layer.digest for layer in manifest.layers]
        layers = {
            layer.digest: (layer, name[7:19])
            for layer, name in reversed([*zip(manifest.layers, names, strict=True)])
        }
        for _, id in layers.values():
            self._progress.step(id, "Preparing")
        async with together() as group:
            for layer, id in layers.values():
                group.create_task(self._share(layer, id))
        await self._upload(manifest.config, "", lambda line: None)
        digest = await self._repository.put_manifest(tag, data, manifest.media_type)
        self._progress.message(f"{tag}: digest: {digest} size: {len(data)}")
        await self._images.learn_digest(image.id, self._name._replace(tag="", digest=digest))
        self._progress.aux({"Tag": tag, "Digest": digest, "Size": len(data)})

    async def _share(self, layer: Descriptor, id: str) -> None:
        async def work(say: Say) -> None:
            await self._upload(layer, id, say)

        key = f"{self._name.name} {layer.digest}"
        await self._uploads.share(key, id, self._origin, self._progress, work)

    async def _upload(self, blob: Descriptor, id: str, say: Say) -> None:
        """See to it that the repository has ``blob``, with the least that has to be sent."""
        digest = blob.digest
        if await self._repository.has_blob(digest):
            say(Line("Layer already exists", id, bar=True))
        elif lender := await self._mount(digest):
            say(Line(f"Mounted from {lender}", id, bar=True))
        else:
            if not self._content.has(digest):
                raise NotFound(
                    f"content {digest} of image {self._image.id[7:19]} is missing",
                    help="pull or load the image again",
                )
            await self._repository.upload(
                blob,
                lambda: self._content.store.open(digest),
                Meter(say, id, "Pushing", blob.size),
            )
            say(Line("Pushed", id, bar=True))
        await self._content.add_source(digest, self._name.name)

    async def _mount(self, digest: str) -> str:
        """The repository of the same registry that lent the blob, or nothing."""
        blob = self._content.get(digest)
        for source in self._lenders(blob.sources if blob else []):
            if await self._repository.mount(digest, source):
                return source
        return ""

    def _lenders(self, sources: list[str]) -> list[str]:
        """Paths, the most similar to where the image goes first: there the same people are."""
        mine = self._name.path.split("/")

        def likeness(path: str) -> int:
            pairs = zip(path.split("/"), mine, strict=False)
            return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

        paths = [
            path
            for domain, _, path in (source.partition("/") for source in reversed(sources))
            if domain == self._name.domain and path != self._name.path
        ]
        return sorted(paths, key=likeness, reverse=True)[:MOUNT_ATTEMPTS]
