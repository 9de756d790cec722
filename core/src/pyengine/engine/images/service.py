"""The images service: what there is, by name and by id; install, tag, remove.

An image's id is the sha256 of its configuration's bytes. Its manifest, configuration and layers lie
in the content store as they came (``content.py``), and unpacked in a storage driver
(``layers.py``). Images of one storage driver know nothing of another's, as in
Docker; but all of them keep their content.

Reads answer from memory. Content and layers come first, under a lease; the image's record is last,
so whatever a crash interrupts is either an image or nobody's. How images come and go is in
``pull.py``, ``push.py``, ``imports.py``, ``load.py``, ``save.py`` and ``commit.py``.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pyengine import timestamps
from pyengine.engine.images.content import Content, Lease
from pyengine.engine.images.filters import Filters, select
from pyengine.engine.images.layers import Layers, LayerSource
from pyengine.engine.images.records import Image
from pyengine.engine.images.removal import Removal, Users
from pyengine.engine.model import ContainerConfig
from pyengine.engine.prune import PruneFilters, Turn
from pyengine.engine.timings import IMAGE_ACTIONS, timed
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.hooks.manager import Hooks
from pyengine.oci import reference
from pyengine.oci.image import (
    OCI_CONFIG,
    ImageConfig,
    Manifest,
    chain_ids,
    decode,
    digest,
    parse_manifest,
)
from pyengine.oci.reference import Reference
from pyengine.state.database import Change, Database, Delete, Put

PREFIX = "images."

Emit = Callable[[str, str, str, Mapping[str, str]], None]


class Images:
    """``layers``: those of the engine's storage driver; ``layers_of``: those of any driver, by its
    name."""

    def __init__(
        self,
        database: Database,
        content: Content,
        layers: Layers,
        layers_of: Callable[[str], Layers],
        emit: Emit,
        hooks: Hooks,
        users: Users,
    ) -> None:
        self.content = content
        self.layers = layers
        self._layers_of = layers_of
        self._database = database
        self._emit = emit
        self._hooks = hooks
        self._users = users
        self._table = PREFIX + layers.driver.name
        self._images = database.load(self._table, Image)
        self._hidden = [
            image
            for table in database.tables(PREFIX)
            if table != self._table
            for image in database.load(table, Image).values()
        ]
        self._names = {name: id for id, image in self._images.items() for name in image.references}
        self._uses: Counter[str] = Counter()
        self._lock = asyncio.Lock()
        self._pruning = Turn()
        content.owners = self._owners

    def chains(self) -> set[str]:
        """Chain ids of the layers of all images, also of those of other storage drivers."""
        images = (*self._images.values(), *self._hidden)
        return {chain_id for image in images for chain_id in image.chain}

    def _owners(self) -> Iterator[tuple[str, builtins.list[str]]]:
        for image in (*self._images.values(), *self._hidden):
            yield f"image {image.shown}", _needed(image, self.content)

    # -- reading -----------------------------------------------------------------------------

    def get(self, ref: str) -> Image:
        """By name (tag ``latest`` if none), digest, id, or an unambiguous beginning of the id.

        ``NotFound`` in Docker's words; ``InvalidParameter`` for what is no reference at all.
        """
        whole = reference.digest_of(ref)
        if whole:
            image = self._images.get(whole)
            if image is None:
                raise NotFound(f"No such image: {whole}")
            return image
        named = reference.parse(ref).with_default_tag()
        # A digest says it all; the tag beside it is decoration.
        name = str(named._replace(tag="") if named.digest else named)
        if name in self._names:
            return self._images[self._names[name]]
        prefix = ref.removeprefix("sha256:")
        found = [id for id in self._images if id.startswith(prefix, 7)]
        if len(found) != 1:
            raise NotFound(f"No such image: {named.familiar}")
        return self._images[found[0]]

    def runnable(self, ref: str) -> Image:
        """As :meth:`get`; ``InvalidParameter`` for an artifact, which is kept but is no image."""
        image = self.get(ref)
        if image.artifact:
            raise InvalidParameter(f"cannot run {image.shown}: it is no image", image.artifact)
        return image

    def list(
        self, filters: Mapping[str, Sequence[str]] | None = None, all: bool = False
    ) -> Sequence[Image]:
        """Newest first. With a ``reference`` filter the records have only the names that match."""
        return select(self._images, filters or {}, all, self.get)

    def named(self, name: str) -> dict[Reference, Image]:
        """Images by their references in the repository ``name`` (``docker.io/library/alpine``)."""
        return {
            parsed: self._images[id]
            for parsed, id in ((reference.parse(one), id) for one, id in self._names.items())
            if parsed.name == name
        }

    def raw_config(self, ref: str) -> bytes:
        """The configuration's own bytes."""
        return self.content.read(self.get(ref).id)

    async def layer(self, id: str, driver: str) -> str | None:
        """The layer in storage driver ``driver`` on top of which a container of image ``id``, which
        is :meth:`using`, is prepared; or None. A driver that does not have the image's layers yet
        unpacks them from the content store."""
        image = self._images[id]
        if not image.chain:
            return None
        layers = self.layers if driver == self.layers.driver.name else self._layers_of(driver)
        if not layers.has(image.chain[-1]):
            async with self.content.lease(f"unpacking {id} into {driver}") as lease:
                await layers.ensure(self._sources(image), lease)
        return layers.storage_id(image.chain[-1])

    def _sources(self, image: Image) -> Sequence[LayerSource]:
        manifest = self.manifest(image)
        sources = []
        for descriptor, diff_id in zip(manifest.layers, image.diff_ids, strict=True):
            if not self.content.has(descriptor.digest):
                raise NotFound(
                    f"layer {descriptor.digest} of image {image.shown} is missing",
                    help="pull or load the image again",
                )
            blob: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            blob.set_result(descriptor.digest)
            sources.append(LayerSource(diff_id, blob))
        return sources

    def manifest(self, image: Image) -> Manifest:
        """Of an image that is here. ``Unsupported`` for one that came before blobs were kept."""
        if not image.manifest:
            raise Unsupported(
                f"the layers of image {image.shown} are not in the content store",
                help="pull or load the image again",
            )
        return self._parsed(image.manifest)

    def _parsed(self, digest: str) -> Manifest:
        blob = self.content.get(digest)
        manifest = parse_manifest(self.content.read(digest), blob.media_type if blob else "")
        if not isinstance(manifest, Manifest):
            raise InvalidParameter(f"{digest} is an index, no manifest")
        return manifest

    @contextmanager
    def using(self, id: str) -> Iterator[None]:
        """Image ``id`` cannot be removed within the block: for a container that is being made, and
        is not among the users yet."""
        self._uses[id] += 1
        try:
            yield
        finally:
            self._uses[id] -= 1

    def metadata(self, ref: str) -> dict[str, Any]:
        """``GraphDriver`` of inspect."""
        chain = self.get(ref).chain
        driver = self.layers.driver
        layer = self.layers.storage_id(chain[-1]) if chain else None
        return {"Name": driver.name, "Data": driver.metadata(layer) if layer else None}

    def history(self, ref: str) -> Sequence[dict[str, Any]]:
        """Rows of ``docker history``, newest first."""
        image = self.get(ref)
        chain = iter(image.chain)
        rows: builtins.list[dict[str, Any]] = []
        for entry in image.history:
            size = 0
            if not entry.empty_layer:
                chain_id = next(chain, None)
                if chain_id is None:
                    raise EngineError("too many non-empty layers in History section")
                size = self.layers.size([chain_id])
            rows.insert(
                0,
                {
                    "Id": "<missing>",
                    "Created": timestamps.parse(entry.created or "") // 10**9,
                    "CreatedBy": entry.created_by,
                    "Tags": None,
                    "Size": size,
                    "Comment": entry.comment,
                },
            )
        ancestor: Image | None = image
        for row in rows:
            if ancestor is None:
                break
            row["Id"], row["Tags"] = ancestor.id, ancestor.repo_tags or None
            ancestor = self._images.get(ancestor.parent)
        return rows

    def descendants(self, ref: str) -> Collection[str]:
        """Ids of the image and of all that were built upon it here; none if it does not exist."""
        try:
            found = {self.get(ref).id}
        except EngineError:
            return set()
        seen = 0
        while len(found) > seen:
            seen = len(found)
            found |= {image.id for image in self._images.values() if image.parent in found}
        return found

    def layers_size(self) -> int:
        """Bytes of all layers of images, each once (``LayersSize`` of ``system df``)."""
        return sum(layer.size for layer in self.layers.all())

    def shared_sizes(self) -> Mapping[str, int]:
        """For each image, by its id, the bytes of its layers that other images have, too."""
        used = Counter(chain_id for image in self._images.values() for chain_id in image.chain)
        return {
            id: self.layers.size(chain_id for chain_id in image.chain if used[chain_id] > 1)
            for id, image in self._images.items()
        }

    # -- installing --------------------------------------------------------------------------

    async def install(
        self,
        raw_config: bytes,
        names: Sequence[Reference],
        *,
        manifest: str,
        lease: Lease,
        digests: Sequence[Reference] = (),
        admitted: bool = False,
    ) -> Image:
        """Record an image whose manifest and layers are here, held by ``lease``.

        ``names`` are its from now on, and nobody else's; ``digests`` are references with a digest
        under which a registry knows it. Plugins may refuse it, unless :meth:`admit` was called.
        """
        config = decode(raw_config, ImageConfig, "image configuration")
        id = digest(raw_config)
        chain = chain_ids(config.diff_ids)
        parsed = self._parsed(manifest)
        image = Image(
            id=id,
            config=config.config or ContainerConfig(),
            created=config.created or timestamps.NEVER,
            size=self.layers.size(chain),
            diff_ids=config.diff_ids,
            chain=chain,
            history=config.history or [],
            author=config.author,
            comment=config.comment or (config.history[-1].comment if config.history else ""),
            architecture=config.architecture,
            variant=config.variant,
            os=config.os,
            os_version=config.os_version,
            docker_version=config.docker_version,
            manifest=manifest,
            blobs=_named(manifest, parsed),
        )
        if not admitted:
            self.admit(id, names)
        await lease.hold([id])
        if not self.content.has(id):
            await self.content.add(raw_config, parsed.config.media_type or OCI_CONFIG, lease)
        return await self._install(image, names, digests)

    async def install_artifact(
        self, names: Sequence[Reference], *, manifest: str, digests: Sequence[Reference] = ()
    ) -> Image:
        """Record something else than an image (a chart, an SBOM): it can be kept, tagged and pushed
        like one, but not run. Its manifest and all that this names are here."""
        parsed = self._parsed(manifest)
        image = Image(
            id=manifest,
            config=ContainerConfig(),
            created=timestamps.NEVER,
            size=sum(layer.size for layer in parsed.layers),
            diff_ids=[],
            chain=[],
            manifest=manifest,
            blobs=_named(manifest, parsed),
            artifact=parsed.artifact,
        )
        self.admit(image.id, names)
        return await self._install(image, names, digests)

    def admit(self, id: str, names: Sequence[Reference]) -> None:
        """Ask the plugins whether an image may come here; what they raise says no."""
        for shown in [name.familiar for name in names] or [id]:
            self._hooks.security_admit_image(shown, id)

    async def _install(
        self, image: Image, names: Sequence[Reference], digests: Sequence[Reference]
    ) -> Image:
        async with self._lock:
            old = self._images.get(image.id)
            if old is not None:
                image.parent, image.last_tagged = old.parent, old.last_tagged
                image.references = old.references
            references = [*image.references, *map(str, names), *map(str, digests)]
            await self._save(image, references)
        if old is not None:
            # It came with another manifest, and perhaps other blobs for the same layers.
            await self.content.release(set(old.blobs) - set(image.blobs))
        return self._images[image.id]

    async def set_parent(self, id: str, parent: str) -> None:
        """Image ``id`` was built upon ``parent``; ``InvalidParameter`` if its history says no."""
        child, above = self._images[id].history, self._images[parent].history
        if (child or above) and child[:-1] != above:
            raise InvalidParameter(f"image {parent} is not a valid parent for {id}")
        async with self._lock:
            image = msgspec.structs.replace(self._images[id], parent=parent)
            await self._save(image, image.references)

    async def learn_digest(self, id: str, name: Reference) -> None:
        """A registry has image ``id`` under the digest in ``name``. Nothing if it is gone."""
        async with self._lock:
            if id in self._images:
                image = msgspec.structs.replace(self._images[id])
                await self._save(image, [*image.references, str(name)])

    # -- names -------------------------------------------------------------------------------

    async def tag(self, ref: str, name: Reference) -> None:
        """Give image ``ref`` another name, which another image may lose by it."""
        if name.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = reference.new_name(name)
        async with self._lock:
            image = msgspec.structs.replace(self.get(ref))
            await self._save(image, [*image.references, str(name)])
        self.tell("tag", image, name.familiar)

    async def _save(self, image: Image, names: Sequence[str]) -> None:
        """Store ``image`` with ``names``, taking those from whoever has them. Under the lock."""
        new = sorted(set(names))
        gained = set(new) - set(image.references)
        if any("@" not in name for name in gained):
            image.last_tagged = timestamps.now()
        image.references = new
        records = {image.id: image}
        for name in new:
            owner = self._names.get(name, image.id)
            if owner != image.id:
                loser = records.get(owner) or msgspec.structs.replace(self._images[owner])
                loser.references = [other for other in loser.references if other != name]
                records[owner] = loser
        puts: builtins.list[Change] = [
            Put(self._table, id, record) for id, record in records.items()
        ]
        await self._database.commit(*puts)
        self._images |= records
        self._names = {name: id for id, one in self._images.items() for name in one.references}

    # -- removing ----------------------------------------------------------------------------

    @timed(IMAGE_ACTIONS, "delete")
    async def remove(
        self, ref: str, force: bool = False, prune: bool = True
    ) -> Sequence[dict[str, str]]:
        """Docker's ``rmi``: take the name away, and the image too if nothing else needs it.

        Rows of ``Untagged`` and ``Deleted``. ``Conflict`` in Docker's words. ``prune`` also removes
        parents that nothing uses any more.
        """
        async with self._lock:
            removal = Removal(self._images, self._users)
            removal.plan(self.get(ref), ref, force, prune)
            for id in removal.deleted:
                if self._uses[id]:
                    raise Conflict(
                        f"conflict: unable to delete {id[7:19]} (cannot be forced) - "
                        "a container is being created from it"
                    )
            changes: builtins.list[Change] = []
            kept: dict[str, Image] = {}
            for id, names in removal.untagged.items():
                if id not in removal.deleted:
                    left = [name for name in self._images[id].references if name not in names]
                    kept[id] = msgspec.structs.replace(self._images[id], references=left)
                    changes.append(Put(self._table, id, kept[id]))
            changes += [Delete(self._table, id) for id in removal.deleted]
            await self._database.commit(*changes)
            gone = [self._images[id] for id in removal.deleted]
            images = {id: kept.get(id, one) for id, one in self._images.items()}
            self._images = {id: one for id, one in images.items() if id not in removal.deleted}
            self._names = {n: id for id, one in self._images.items() for n in one.references}
        for action, id, labels in removal.events:
            self._emit("image", action, id, {**labels, "name": id})
        layers: dict[str, Sequence[str]] = {}
        for number, one in enumerate(gone):
            later = {chain_id for other in gone[number + 1 :] for chain_id in other.chain}
            layers[one.id] = await self.layers.drop([c for c in one.chain if c not in later])
        await self.content.release(
            {blob for one in gone for blob in _needed(one, self.content)},
            {chain_id for one in gone for chain_id in one.chain},
        )
        rows: builtins.list[dict[str, str]] = []
        for row in removal.rows:
            rows.append(row)
            rows += [{"Deleted": chain_id} for chain_id in layers.get(row.get("Deleted", ""), ())]
        return rows

    async def prune(self, filters: Filters) -> tuple[Sequence[dict[str, str]], int]:
        """Remove images without a tag; with ``dangling=false`` all that no container uses. Rows as
        of :meth:`remove`, and the bytes of the layers that went."""
        wanted = PruneFilters(filters, "dangling")
        dangling = wanted.flag("dangling", True)
        sizes = {layer.chain_id: layer.size for layer in self.layers.all()}
        rows: builtins.list[dict[str, str]] = []
        with self._pruning.taken():
            parents = {image.parent for image in self._images.values()}
            for image in self.list(all=True):
                if image.id in parents and (dangling or not image.references):
                    continue
                if dangling and image.repo_tags:
                    continue
                if not wanted.match(image.created, image.config.labels):
                    continue
                for ref in image.references or [image.id]:
                    # One that a container uses stays.
                    with contextlib.suppress(Conflict, NotFound):
                        rows += await self.remove(ref)
        freed = sum(sizes.get(row.get("Deleted", ""), 0) for row in rows)
        self._emit("image", "prune", "", {"reclaimed": str(freed)})
        return rows, freed

    # -- telling -----------------------------------------------------------------------------

    def tell(self, action: str, image: Image, name: str) -> None:
        """An event about ``image``."""
        self._emit("image", action, image.id, {**(image.config.labels or {}), "name": name})


def _named(manifest: str, parsed: Manifest) -> list[str]:
    return [manifest, parsed.config.digest, *(layer.digest for layer in parsed.layers)]


def _needed(image: Image, content: Content) -> list[str]:
    """All that ``image`` keeps: what its manifest names, and indexes under whose digest it is
    known."""
    named = [name.rpartition("@")[2] for name in image.references if "@" in name]
    indexes = [digest for digest in named if content.has(digest) and digest not in image.blobs]
    return [*(image.blobs or [image.id]), *indexes]
