"""Commit: an image from what a container has changed. Nothing of the image runs during it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from secrets import token_hex
from typing import BinaryIO

import msgspec

from pyengine import timestamps
from pyengine.contracts.base import Kind
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.lifecycle import Lifecycle, attributes
from pyengine.engine.containers.merging import merge_image
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.events import Events
from pyengine.engine.images.content import Lease
from pyengine.engine.images.making import NewLayer, make_layer, make_manifest
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Images
from pyengine.engine.model import Container, ContainerConfig, Status
from pyengine.engine.timings import CONTAINER_ACTIONS, timed
from pyengine.errors import Conflict
from pyengine.faults import failpoint
from pyengine.oci.changes import apply_changes
from pyengine.oci.image import History, ImageConfig, RootFS, decode
from pyengine.oci.reference import Reference, new_name

#: sha256 of a tar without entries, which makes a line in the history but no layer.
EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


class Commits:
    """Makes images from containers."""

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        bundles: Bundles,
        images: Images,
        calls: Callable[[Kind, str], DriverCalls],
        events: Events,
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._bundles = bundles
        self._images = images
        self._calls = calls
        self._events = events

    @timed(CONTAINER_ACTIONS, "commit")
    async def commit(
        self,
        ref: str,
        name: Reference | None = None,
        *,
        comment: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        config: ContainerConfig | None = None,
        pause: bool = True,
    ) -> Image:
        """Make the image. ``config`` goes before the container's own, field by field; ``changes``
        are instructions of a Dockerfile. ``pause``: a running container stands still meanwhile.

        ``NotFound`` for an unknown container, ``Conflict`` for one that is being removed,
        ``InvalidParameter`` for bad ``changes``.
        """
        live = self._registry.live(ref)
        record = live.record
        if live.removed or record.state.status in (Status.DEAD, Status.REMOVING):
            raise Conflict(f"You cannot commit container {live.id} which is being removed")
        given = config
        config = apply_changes(given or record.config, changes)
        if given is not None:
            merge_image(config, record.config)
        if name is not None:
            name = new_name(name)
        parent = self._images.get(record.image)
        content = self._images.content
        with self._images.using(parent.id):
            async with content.lease(f"commit {token_hex(8)}") as lease:
                made = await self._layer(live, parent, pause, lease)
                empty = made.layer.diff_id == EMPTY_LAYER
                raw = _configuration(
                    decode(content.read(parent.id), ImageConfig, "image configuration"),
                    record,
                    config,
                    "" if empty else made.layer.diff_id,
                    comment,
                    author,
                )
                below = [layer.digest for layer in self._images.manifest(parent).layers]
                blobs = below if empty else [*below, made.blob.digest]
                manifest = await make_manifest(content, raw, blobs, lease)
                names = [name] if name else []
                image = await self._images.install(raw, names, manifest=manifest, lease=lease)
                await self._images.set_parent(image.id, parent.id)
        if name is not None:
            self._images.tell("tag", image, name.familiar)
        told = {"comment": comment, "imageID": image.id, "imageRef": name.familiar if name else ""}
        self._events.emit("container", "commit", record.id, attributes(record) | told)
        return image

    async def _layer(self, live: Live, parent: Image, pause: bool, lease: Lease) -> NewLayer:
        record, images = live.record, self._images
        storage = self._bundles.storage(record)
        await lease.hold_layers(parent.chain)
        # A driver that does not answer says so here. What follows takes as long as it takes.
        await self._calls(Kind.STORAGE, storage.name)(storage.exists, record.layer)

        def write(out: BinaryIO) -> None:
            failpoint("commit.diff")
            storage.diff(record.layer, out)

        # Under its lock the container neither goes away nor begins or ends.
        async with live.lock, self._lifecycle.still(live) if pause else nullcontext():
            if live.settling is not None:
                await asyncio.shield(live.settling)
            top = parent.chain[-1] if parent.chain else ""
            return await make_layer(images.content, images.layers, write, top, lease)


def _configuration(
    parent: ImageConfig,
    record: Container,
    config: ContainerConfig,
    diff_id: str,
    comment: str,
    author: str,
) -> bytes:
    created = timestamps.now()
    step = History(
        created=created,
        created_by=" ".join(record.config.cmd or []),
        author=author,
        comment=comment,
        empty_layer=not diff_id,
    )
    return msgspec.json.encode(
        ImageConfig(
            architecture=parent.architecture,
            variant=parent.variant,
            os=parent.os or "linux",
            os_version=parent.os_version,
            os_features=parent.os_features,
            created=created,
            author=author,
            config=config,
            container=record.id,
            container_config=record.config,
            rootfs=RootFS(diff_ids=[*parent.diff_ids, *([diff_id] if diff_id else [])]),
            history=[*(parent.history or []), step],
        )
    )
