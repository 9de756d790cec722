"""Load: the images of an archive of ``docker save`` or an OCI layout."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from secrets import token_hex
from typing import BinaryIO

from pyengine.engine.images.archive import ArchivedImage, ImageArchive
from pyengine.engine.images.content import Lease
from pyengine.engine.images.layers import LayerSource
from pyengine.engine.images.making import make_manifest
from pyengine.engine.images.progress import Meter, Progress
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Images
from pyengine.engine.threads import on_thread
from pyengine.errors import InvalidParameter, NotFound
from pyengine.oci.image import ImageConfig, Platform, chain_ids, decode, digest, parse_manifest


async def load_images(
    images: Images,
    stream: BinaryIO,
    platform: Platform | None = None,
    progress: Progress | None = None,
) -> Sequence[str]:
    """Every image of the archive, those for ``platform`` if it says one; Docker's messages.

    ``stream`` may be compressed, and is read on a thread, as fast as it comes. All or nothing: what
    is wrong with one image is found before any of them is recorded.
    """
    async with images.content.lease(f"load {token_hex(8)}") as lease:
        loop = asyncio.get_running_loop()
        archive = await on_thread("load", ImageArchive, stream, images.content, lease, loop)
        found = archive.images(platform)
        configs = [_checked(one) for one in found]
        for one, config in zip(found, configs, strict=True):
            await _unpack(images, one, config, lease, progress)
        for one in found:
            images.admit(digest(one.config), one.references)
        messages: list[str] = []
        ids: list[str] = []
        tagged = False
        parents: dict[str, str] = {}
        for one in found:
            image = await _install(images, one, lease, messages)
            ids.append(f"Loaded image ID: {image.id}")
            parents[image.id] = one.parent
            tagged = bool(one.references)
        for id, parent in parents.items():
            if parent in parents and parent != id:
                await images.set_parent(id, parent)
    return messages if tagged else messages + ids


def _checked(archived: ArchivedImage) -> ImageConfig:
    config = decode(archived.config, ImageConfig, "image configuration")
    system = config.os or "linux"
    if system != "linux":
        raise InvalidParameter(f"cannot load {system} image on linux")
    if len(archived.layers) != len(config.diff_ids):
        raise InvalidParameter(
            "invalid manifest, layers length mismatch: "
            f"expected {len(archived.layers)}, got {len(config.diff_ids)}"
        )
    for number, (layer, diff_id) in enumerate(zip(archived.layers, config.diff_ids, strict=True)):
        if layer.diff_id not in ("", diff_id):
            raise InvalidParameter(
                f'invalid diffID for layer {number}: expected "{diff_id}", got "{layer.diff_id}"'
            )
    return config


async def _unpack(
    images: Images,
    archived: ArchivedImage,
    config: ImageConfig,
    lease: Lease,
    progress: Progress | None,
) -> None:
    loop = asyncio.get_running_loop()
    sources = []
    chain = chain_ids(config.diff_ids)
    for layer, diff_id, chain_id in zip(archived.layers, config.diff_ids, chain, strict=True):
        blob: asyncio.Future[str] = loop.create_future()
        blob.set_result(layer.digest)
        meter = ready = None
        if progress is not None and not images.layers.has(chain_id):
            stored = images.content.get(layer.digest)
            size = stored.size if stored is not None else 0
            meter = Meter(progress.put, diff_id[7:19], "Loading layer", size)
            ready = partial(meter, size)
        sources.append(LayerSource(diff_id, blob, meter, ready))
    await images.layers.ensure(sources, lease)


async def _install(
    images: Images, archived: ArchivedImage, lease: Lease, messages: list[str]
) -> Image:
    for name in archived.references:
        old = images.named(name.name).get(name)
        if old is not None and old.id != digest(archived.config):
            messages.append(
                f"The image {name.familiar} already exists, renaming the old one "
                f"with ID {old.id} to empty string"
            )
    manifest = await _manifest(images, archived, lease)
    image = await images.install(
        archived.config, archived.references, manifest=manifest, lease=lease, admitted=True
    )
    messages += [f"Loaded image: {name.familiar}" for name in archived.references]
    images.tell("load", image, image.id)
    return image


async def _manifest(images: Images, archived: ArchivedImage, lease: Lease) -> str:
    """That of the archive; else that under which the same image is here; else one made for it."""
    content = images.content
    if archived.manifest:
        media_type = parse_manifest(archived.manifest).media_type
        return (await content.add(archived.manifest, media_type, lease)).digest
    try:
        known = images.get(digest(archived.config))
    except NotFound:
        known = None
    if known is not None and known.manifest:
        await lease.hold(known.blobs)
        if all(content.has(blob) for blob in known.blobs):
            return known.manifest
    layers = [layer.digest for layer in archived.layers]
    return await make_manifest(content, archived.config, layers, lease)
