"""Import: an image of one layer from the tar of a root filesystem."""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Sequence
from secrets import token_hex
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec

from pyengine import timestamps
from pyengine.archive.compression import CHUNK, decompress, sniff
from pyengine.engine.images.making import make_layer, make_manifest
from pyengine.engine.images.progress import Meter, Progress
from pyengine.engine.images.records import Image
from pyengine.engine.images.service import Images
from pyengine.engine.model import ContainerConfig
from pyengine.engine.streams import reader
from pyengine.engine.threads import on_thread
from pyengine.errors import InvalidParameter, NotFound, Unavailable
from pyengine.oci.changes import apply_changes
from pyengine.oci.image import History, ImageConfig, Platform, RootFS, host_platform
from pyengine.oci.reference import Reference, new_name
from pyengine.registry.failures import unreachable

#: Seconds that an address may be silent.
_PATIENCE = 60.0


async def import_image(
    images: Images,
    stream: BinaryIO,
    name: Reference | None = None,
    changes: Sequence[str] = (),
    message: str = "",
    platform: Platform | None = None,
) -> Image:
    """Make the image. ``stream`` (plain or compressed) is read on a thread, as fast as it comes.

    ``changes``: instructions of a Dockerfile for the configuration. ``InvalidParameter`` for a
    stream that is no layer, for bad ``changes`` and for a ``platform`` that is not Linux.
    """
    platform = platform or host_platform()
    if platform.os != "linux":
        raise InvalidParameter(f"operating system is not supported: {platform.os}")
    config = apply_changes(ContainerConfig(), changes)
    if name is not None:
        name = new_name(name)
    source = await on_thread("import", _Source, stream)
    async with images.content.lease(f"import {token_hex(8)}") as lease:
        made = await make_layer(
            images.content, images.layers, source.copy, "", lease, compressed=source.compression
        )
        created = timestamps.now()
        image_config = ImageConfig(
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            created=created,
            comment=message,
            config=config,
            rootfs=RootFS(diff_ids=[made.layer.diff_id]),
            history=[History(created=created, comment=message)],
        )
        raw = msgspec.json.encode(image_config)
        manifest = await make_manifest(images.content, raw, [made.blob.digest], lease)
        names = [name] if name else []
        image = await images.install(raw, names, manifest=manifest, lease=lease)
    if name is not None:
        images.tell("tag", image, name.familiar)
    images.tell("import", image, image.id)
    return image


async def import_address(
    images: Images,
    address: str,
    progress: Progress,
    name: Reference | None = None,
    changes: Sequence[str] = (),
    message: str = "",
    platform: Platform | None = None,
) -> Image:
    """As :meth:`import_image`, of what lies at an http or https address; without scheme it is http.
    Raises ``Unavailable`` if nobody answers there, and what fits to the answer if it is an error.
    """
    address = address if "://" in address else f"http://{address}"
    if urlsplit(address).scheme not in ("http", "https"):
        raise InvalidParameter(
            f'Get "{address}": unsupported protocol scheme "{urlsplit(address).scheme}"',
            help="import takes http and https addresses, or - and a stream",
        )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
    # A compressed archive is to come as it is, not unpacked on the way.
    async with aiohttp.ClientSession(
        timeout=timeout,
        trust_env=True,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as session:
        try:
            response = await session.get(address, ssl=ssl.create_default_context())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            failure = unreachable("GET", address, error, tls=address.startswith("https:"))
            raise Unavailable(failure.text, help=failure.help) from error
        async with response:
            if response.status >= 400:
                text = f"failed to GET {address} with status {response.status} {response.reason}"
                raise NotFound(text) if response.status == 404 else Unavailable(text)
            progress.message(f"Downloading from {address}")
            size = response.content_length or 0
            meter = Meter(progress.put, "", "Importing", size)
            stream = reader(_counted(response.content.iter_any(), meter))
            return await import_image(images, stream, name, changes, message, platform)


async def _counted(chunks: AsyncIterator[bytes], meter: Meter) -> AsyncIterator[bytes]:
    count = 0
    async for chunk in chunks:
        count += len(chunk)
        meter(count)
        yield chunk


class _Source(io.RawIOBase):
    """A stream whose beginning has been looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._start = b""
        while len(self._start) < 6 and (piece := stream.read(6 - len(self._start))):
            self._start += piece
        name = sniff(self._start)
        #: What a registry takes as it is, is kept as it is.
        self.compression = name if name in ("gzip", "zstd") else ""

    def read(self, size: int = -1, /) -> bytes:
        start, self._start = self._start, b""
        return start or self._stream.read(size)

    def copy(self, out: BinaryIO) -> None:
        whole = cast(BinaryIO, self)
        plain = whole if self.compression else decompress(whole)
        while piece := plain.read(CHUNK):
            out.write(piece)
