"""The images service: what there is, by name and by id; import, load, tag, remove.

An image's id is the sha256 of its configuration's bytes, which the content store keeps. Its layers
are the storage driver's, found by chain id and shared between images; who uses a layer is derived
from the images' records, plus *pins* of layers that are being brought in. Layers and images of one
storage driver know nothing of another's, as in Docker.

Reads answer from memory. A layer is applied, then recorded, then the image is recorded: what a
crash leaves without an image is not :meth:`Images.known_layers`, and goes with ``reconcile``.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import msgspec

from pyengine import timestamps
from pyengine.archive import HashingReader, decompress
from pyengine.contracts.storage import LayerRecord, StorageDriver, Usage
from pyengine.engine.image_archive import ArchivedImage, ImageArchive
from pyengine.engine.image_filters import select
from pyengine.engine.image_records import Image, Layer
from pyengine.engine.image_removal import Removal, Users
from pyengine.engine.model import ContainerConfig
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.faults import failpoint
from pyengine.oci import reference
from pyengine.oci.changes import apply_changes
from pyengine.oci.image import (
    History,
    ImageConfig,
    Platform,
    RootFS,
    chain_ids,
    decode,
    digest,
    host_platform,
)
from pyengine.oci.reference import Reference
from pyengine.state.content import ContentStore
from pyengine.state.database import Change, Database, Delete, Put

if TYPE_CHECKING:
    from pyengine.engine.calls import DriverCalls
    from pyengine.hooks.manager import Hooks

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds for one layer whose bytes lie on disk.
APPLY_DEADLINE = 1800.0

Emit = Callable[[str, str, str, Mapping[str, str]], None]


class Images:
    """``place`` is a directory for temporary files on the data root's filesystem."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        storage: StorageDriver,
        calls: DriverCalls,
        emit: Emit,
        hooks: Hooks,
        users: Users,
        place: Path,
    ) -> None:
        self._database = database
        self._content = content
        self._storage = storage
        self._calls = calls
        self._emit = emit
        self._hooks = hooks
        self._users = users
        self._place = place
        self._image_table = f"images.{storage.name}"
        self._layer_table = f"layers.{storage.name}"
        self._images = database.load(self._image_table, Image)
        self._layers = database.load(self._layer_table, Layer)
        self._names = {name: id for id, image in self._images.items() for name in image.references}
        self._pins: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._layer_locks: dict[str, asyncio.Lock] = {}
        self._lock = asyncio.Lock()
        # Slow clients may hold many of these for long; nobody else shall wait for them.
        self._background: set[asyncio.Future[None]] = set()
        self._threads = ThreadPoolExecutor(32, "images")

    async def start(self) -> None:
        """Drop what a crash left behind; call it before the storage driver's ``reconcile``."""
        used = self._layer_users()
        stray = [chain_id for chain_id in self._layers if not used[chain_id]]
        if stray:
            await self._database.commit(*(Delete(self._layer_table, id) for id in stray))
            for chain_id in stray:
                del self._layers[chain_id]
        shutil.rmtree(self._place, ignore_errors=True)

    def known_layers(self) -> dict[str, LayerRecord]:
        """The storage driver's layers that belong to images, for ``reconcile``."""
        return {
            layer.storage_id: LayerRecord(
                id=layer.storage_id, parent=self._storage_id(layer.parent), writable=False
            )
            for layer in self._layers.values()
        }

    def known_content(self) -> set[str]:
        """Digests of the blobs that images need, for the content store's sweep."""
        return set(self._images)

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

    def list(
        self, filters: Mapping[str, Sequence[str]] | None = None, all: bool = False
    ) -> Sequence[Image]:
        """Newest first. With a ``reference`` filter the records have only the names that match."""
        return select(self._images, filters or {}, all, self.get)

    def raw_config(self, ref: str) -> bytes:
        """The configuration's own bytes."""
        return self._content.read(self.get(ref).id)

    def layer(self, id: str, driver: str) -> str | None:
        """The storage layer on top of which a container of image ``id`` is prepared, or None."""
        image = self._images[id]
        if not image.chain:
            return None
        if driver != self._storage.name:
            raise Unsupported(
                f"image {id[7:19]} is not in storage driver {driver!r}",
                f"it is in {self._storage.name!r}",
                f"start the engine with --storage-driver {driver} and load the image there",
            )
        return self._storage_id(image.chain[-1])

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
        layer = self.layer(self.get(ref).id, self._storage.name)
        return {
            "Name": self._storage.name,
            "Data": self._storage.metadata(layer) if layer else None,
        }

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
                size = self._layers[chain_id].size
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

    def layers_size(self) -> int:
        """Bytes of all layers of images, each once (``LayersSize`` of ``system df``)."""
        return sum(layer.size for layer in self._layers.values())

    def shared_size(self, id: str) -> int:
        """Bytes of the image's layers that other images have, too."""
        used = self._layer_users()
        chain = self._images[id].chain
        return sum(self._layers[chain_id].size for chain_id in chain if used[chain_id] > 1)

    # -- bringing in -------------------------------------------------------------------------

    async def import_tar(
        self,
        stream: BinaryIO,
        name: Reference | None = None,
        changes: Sequence[str] = (),
        message: str = "",
        platform: Platform | None = None,
    ) -> str:
        """An image of one layer from a root filesystem's tar (plain or compressed); its id.

        ``stream`` is read on a thread, as fast as it comes.
        """
        platform = platform or host_platform()
        if platform.os != "linux":
            raise InvalidParameter(f"operating system is not supported: {platform.os}")
        config = apply_changes(ContainerConfig(), changes)
        if name is not None:
            name = name.with_default_tag()
        # The layer's name is known when its last byte was read; until then any will do.
        storage_id = secrets.token_hex(32)
        diff_id, usage = await self._import_layer(storage_id, stream)
        created = timestamps.now()
        image_config = ImageConfig(
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            created=created,
            comment=message,
            config=config,
            rootfs=RootFS(diff_ids=[diff_id]),
            history=[History(created=created, comment=message)],
        )
        async with self._holding([diff_id]):
            async with self._layer_lock(diff_id):
                if diff_id in self._layers:
                    await self._calls(self._storage.remove, storage_id)
                else:
                    await self._record_layer(diff_id, diff_id, "", storage_id, usage)
            image = await self._install(
                msgspec.json.encode(image_config), image_config, [name] if name else []
            )
        if name is not None:
            self._tell("tag", image, name.familiar)
        self._tell("import", image, image.id)
        return image.id

    async def _import_layer(self, storage_id: str, stream: BinaryIO) -> tuple[str, Usage]:
        # A wedged driver says so here. Below there is no deadline: the pace is the client's.
        await self._calls(self._storage.exists, storage_id)

        def apply() -> tuple[str, Usage]:
            failpoint("storage.apply")
            plain = HashingReader(decompress(stream))
            usage = self._storage.apply(storage_id, None, cast(BinaryIO, plain))
            plain.drain()
            return plain.digest, usage

        task = asyncio.ensure_future(self._on_thread(apply))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The thread goes on until its stream breaks; what it makes is nobody's.
            task.add_done_callback(lambda _: self._forget_layer(storage_id))
            raise

    def _forget_layer(self, storage_id: str) -> None:
        remove = self._calls(self._storage.remove, storage_id)
        self._background.add(task := asyncio.ensure_future(remove))
        task.add_done_callback(self._background.discard)

    async def load(self, stream: BinaryIO, platform: Platform | None = None) -> Sequence[str]:
        """Every image of a ``docker save`` archive or OCI layout; Docker's messages about them.

        ``stream`` may be compressed, and is read on a thread, as fast as it comes.
        """
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=self._place))
        try:
            archive = await self._on_thread(ImageArchive, stream, place)
            found = await self._on_thread(lambda: [*archive.images(platform)])
            messages: builtins.list[str] = []
            ids: builtins.list[str] = []
            tagged = False
            parents: dict[str, str] = {}
            for archived in found:
                image = await self._load_one(archived, messages)
                ids.append(f"Loaded image ID: {image.id}")
                parents[image.id] = archived.parent
                tagged = bool(archived.references)
            for id, parent in parents.items():
                if parent in parents and parent != id:
                    await self._set_parent(id, parent)
            return messages if tagged else messages + ids
        finally:
            await self._on_thread(shutil.rmtree, place, True)

    async def _load_one(self, archived: ArchivedImage, messages: builtins.list[str]) -> Image:
        config = decode(archived.config, ImageConfig, "image configuration")
        system = config.os or "linux"
        if system != "linux":
            raise InvalidParameter(f"cannot load {system} image on linux")
        diff_ids = config.diff_ids
        if len(archived.layers) != len(diff_ids):
            raise InvalidParameter(
                "invalid manifest, layers length mismatch: "
                f"expected {len(archived.layers)}, got {len(diff_ids)}"
            )
        chain = chain_ids(diff_ids)
        async with self._holding(chain):
            parent = ""
            for number, (chain_id, diff_id) in enumerate(zip(chain, diff_ids, strict=True)):
                path = archived.layers[number]
                await self._ensure_layer(chain_id, parent, diff_id, path, number)
                parent = chain_id
            for name in archived.references:
                old = self._names.get(str(name))
                if old is not None and old != digest(archived.config):
                    messages.append(
                        f"The image {name.familiar} already exists, renaming the old one "
                        f"with ID {old} to empty string"
                    )
            image = await self._install(archived.config, config, archived.references)
            messages += [f"Loaded image: {name.familiar}" for name in archived.references]
        self._tell("load", image, image.id)
        return image

    async def _ensure_layer(
        self, chain_id: str, parent: str, diff_id: str, path: Path, number: int
    ) -> None:
        async with self._layer_lock(chain_id):
            if chain_id in self._layers:
                return
            storage_id = chain_id.removeprefix("sha256:")

            def apply() -> Usage:
                with path.open("rb") as file:
                    plain = _Verified(decompress(file), diff_id, number)
                    return self._storage.apply(
                        storage_id, self._storage_id(parent), cast(BinaryIO, plain)
                    )

            usage = await self._calls.within(APPLY_DEADLINE, apply)
            await self._record_layer(chain_id, diff_id, parent, storage_id, usage)

    async def _record_layer(
        self, chain_id: str, diff_id: str, parent: str, storage_id: str, usage: Usage
    ) -> None:
        layer = Layer(
            chain_id=chain_id,
            diff_id=diff_id,
            parent=parent,
            storage_id=storage_id,
            size=usage.bytes,
        )
        # The record will be durable; so must be what it speaks of.
        await self._calls.within(APPLY_DEADLINE, self._storage.sync)
        await self._database.commit(Put(self._layer_table, chain_id, layer))
        self._layers[chain_id] = layer
        self._hooks.storage_layer_applied(storage_id, diff_id, usage.bytes)

    async def _install(self, raw: bytes, config: ImageConfig, names: Sequence[Reference]) -> Image:
        """Record an image whose layers are there, and give it ``names``."""
        id = digest(raw)
        for shown in [name.familiar for name in names] or [id]:
            self._hooks.security_admit_image(shown, id)
        await self._on_thread(self._content.write, raw)
        chain = chain_ids(config.diff_ids)
        async with self._lock:
            old = self._images.get(id)
            image = msgspec.structs.replace(old) if old else Image(
                id=id,
                config=config.config or ContainerConfig(),
                created=config.created or timestamps.NEVER,
                size=sum(self._layers[chain_id].size for chain_id in chain),
                diff_ids=config.diff_ids,
                chain=chain,
                history=config.history or [],
                author=config.author,
                comment=config.comment,
                architecture=config.architecture,
                variant=config.variant,
                os=config.os,
                os_version=config.os_version,
                docker_version=config.docker_version,
            )  # fmt: skip
            await self._save(image, [*(old.references if old else []), *map(str, names)])
        return self._images[id]

    async def _set_parent(self, id: str, parent: str) -> None:
        child, above = self._images[id].history, self._images[parent].history
        if (child or above) and child[:-1] != above:
            raise InvalidParameter(f"image {parent} is not a valid parent for {id}")
        async with self._lock:
            image = msgspec.structs.replace(self._images[id], parent=parent)
            await self._save(image, image.references)

    # -- names -------------------------------------------------------------------------------

    async def tag(self, ref: str, name: Reference) -> None:
        """Give image ``ref`` another name, which another image may lose by it."""
        if name.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        name = name.with_default_tag()
        async with self._lock:
            image = msgspec.structs.replace(self.get(ref))
            await self._save(image, [*image.references, str(name)])
        self._tell("tag", image, name.familiar)

    async def _save(self, image: Image, names: Sequence[str]) -> None:
        """Store ``image`` with ``names``, taking those from whoever has them. Under the lock."""
        new = sorted(set(names))
        if set(new) - set(image.references):
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
            Put(self._image_table, id, record) for id, record in records.items()
        ]
        await self._database.commit(*puts)
        self._images |= records
        self._names = {name: id for id, one in self._images.items() for name in one.references}

    # -- removing ----------------------------------------------------------------------------

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
                    changes.append(Put(self._image_table, id, kept[id]))
            changes += [Delete(self._image_table, id) for id in removal.deleted]
            await self._database.commit(*changes)
            gone = [self._images[id] for id in removal.deleted]
            images = {id: kept.get(id, one) for id, one in self._images.items()}
            self._images = {id: one for id, one in images.items() if id not in removal.deleted}
            self._names = {n: id for id, one in self._images.items() for n in one.references}
        for action, id, labels in removal.events:
            self._emit("image", action, id, {**labels, "name": id})
        layers: dict[str, Sequence[str]] = {}
        for number, one in enumerate(gone):
            await self._on_thread(self._content.remove, one.id)
            later = {chain_id for other in gone[number + 1 :] for chain_id in other.chain}
            layers[one.id] = await self._drop_unused([c for c in one.chain if c not in later])
        rows: builtins.list[dict[str, str]] = []
        for row in removal.rows:
            rows.append(row)
            rows += [{"Deleted": chain_id} for chain_id in layers.get(row.get("Deleted", ""), ())]
        return rows

    # -- layers ------------------------------------------------------------------------------

    def _storage_id(self, chain_id: str) -> str | None:
        return self._layers[chain_id].storage_id if chain_id else None

    def _layer_users(self) -> Counter[str]:
        return Counter(chain_id for image in self._images.values() for chain_id in image.chain)

    def _layer_lock(self, chain_id: str) -> asyncio.Lock:
        return self._layer_locks.setdefault(chain_id, asyncio.Lock())

    @asynccontextmanager
    async def _holding(self, chain: Sequence[str]) -> AsyncIterator[None]:
        """Layers of ``chain`` are not removed within the block; unused ones are at its end."""
        self._pins.update(chain)
        try:
            yield
        finally:
            self._pins.subtract(chain)
            await self._drop_unused(chain)

    async def _drop_unused(self, chain: Sequence[str]) -> Sequence[str]:
        """Remove the layers of ``chain`` that nobody uses, top first; their chain ids."""
        dropped = []
        for chain_id in reversed(chain):
            async with self._layer_lock(chain_id):
                layer = self._layers.get(chain_id)
                if layer is None or self._pins[chain_id] or self._layer_users()[chain_id]:
                    continue
                await self._database.commit(Delete(self._layer_table, chain_id))
                del self._layers[chain_id]
                try:
                    await self._calls(self._storage.remove, layer.storage_id)
                except (EngineError, OSError) as error:
                    # The record is gone, so the next start's reconcile takes the layer away.
                    log.warning("layer %s could not be removed: %s", layer.storage_id, error)
                dropped.append(chain_id)
        return dropped

    async def _on_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    # -- telling -----------------------------------------------------------------------------

    def _tell(self, action: str, image: Image, name: str) -> None:
        self._emit("image", action, image.id, {**(image.config.labels or {}), "name": name})


class _Verified(HashingReader):
    """Fails at its end unless it had the digest that the image's configuration promised: so the
    storage driver never sees a complete stream of a wrong layer."""

    def __init__(self, source: BinaryIO, diff_id: str, number: int) -> None:
        super().__init__(source)
        self._diff_id = diff_id
        self._number = number

    def read(self, size: int = -1, /) -> bytes:
        piece = super().read(size)
        if not piece and self.digest != self._diff_id:
            raise InvalidParameter(
                f'invalid diffID for layer {self._number}: expected "{self._diff_id}", '
                f'got "{self.digest}"'
            )
        return piece
