"""What an image made here consists of: a layer from a stream of bytes, and a manifest."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import msgspec
from isal import isal_zlib

from pyengine.archive.compression import CHUNK
from pyengine.engine.images.content import Blob, Content, Lease
from pyengine.engine.images.layers import Layers
from pyengine.engine.images.records import Layer
from pyengine.engine.threads import on_thread
from pyengine.errors import NotFound
from pyengine.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
)
from pyengine.oci.image import digest as digest_of
from pyengine.state.content import Ingest

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_DOCKER_PLAIN = "application/vnd.docker.image.rootfs.diff.tar"
#: 15 bits of window, and 16 for the header of gzip, in which there is no time.
_GZIP = 31
#: What is written in smaller pieces is gathered.
_PIECE = 1 << 18


class Gzip:
    """Compresses into ``ingest``. Pieces of one size go in, however the bytes came, so that equal
    layers make equal blobs."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
        self._rest = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            if not self._rest and len(view) >= CHUNK:
                piece: bytes | bytearray | memoryview = view[:CHUNK]
                view = view[CHUNK:]
            else:
                taken = CHUNK - len(self._rest)
                self._rest += view[:taken]
                view = view[taken:]
                if len(self._rest) < CHUNK:
                    return
                piece, self._rest = self._rest, bytearray()
            self._put(self._compressor.compress(piece))

    def finish(self) -> None:
        if self._rest:
            self._put(self._compressor.compress(self._rest))
            self._rest = bytearray()
        self._put(self._compressor.flush())

    def _put(self, data: bytes) -> None:
        if data:
            self._ingest.write(data)


class _Tee(io.RawIOBase):
    """Into the content store and to the process that unpacks."""

    def __init__(self, store: Gzip | Ingest, pipe: io.FileIO) -> None:
        self._store = store
        self._pipe = pipe
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        if len(self._held) + len(view) < _PIECE:
            self._held += view
        else:
            self.flush()
            self._put(view)
        return len(view)

    def flush(self) -> None:
        held, self._held = self._held, bytearray()
        self._put(memoryview(held))

    def close(self) -> None:
        """Nothing: it is whoever made the pipe that closes it, when all is written."""

    def _put(self, view: memoryview) -> None:
        left = view
        while left:
            left = left[self._pipe.write(left) or 0 :]
        self._store.write(view)


class NewLayer(NamedTuple):
    layer: Layer
    blob: Blob


async def make_layer(
    content: Content,
    layers: Layers,
    write: Callable[[BinaryIO], None],
    parent: str,
    lease: Lease,
    *,
    compressed: str = "",
) -> NewLayer:
    """A layer on top of chain id ``parent``, unpacked and stored while ``write`` writes its tar, on
    a thread, to the file that it is given. What is not ``compressed`` yet (``gzip`` or ``zstd``) is
    stored as gzip. Raises what ``write`` raises, and the errors of unpacking."""
    ingest = await content.ingest()
    store = ingest if compressed else Gzip(ingest)
    source, written = os.pipe2(os.O_CLOEXEC)
    sink = io.FileIO(written, "wb")
    # The default of 64 KiB would have the two processes wait for each other all the time.
    with contextlib.suppress(OSError):
        fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, CHUNK)

    def produce() -> None:
        tee = _Tee(store, sink)
        write(cast(BinaryIO, tee))
        tee.flush()
        if isinstance(store, Gzip):
            store.finish()

    unpacking = asyncio.ensure_future(layers.add(source, parent, lease))
    producing = asyncio.ensure_future(on_thread("layer", produce))
    try:
        await asyncio.wait([unpacking, producing], return_when=asyncio.FIRST_COMPLETED)
        if not producing.done():
            await unpacking  # which has failed: its stream has not ended
        # Only now: a stream that broke off must not look like one that ended.
        await producing
        sink.close()
        layer = await unpacking
        media_type = f"{OCI_LAYER}+zstd" if compressed == "zstd" else DOCKER_LAYER
        blob = await content.commit(ingest, "", -1, media_type, lease, layer.diff_id)
        return NewLayer(layer, blob)
    finally:
        unpacking.cancel()
        await asyncio.wait([unpacking])
        # Whoever still writes fails now; whoever waits for a client ends with it.
        os.close(source)
        loop = asyncio.get_running_loop()

        def put_away(producing: asyncio.Task[None]) -> None:
            if not producing.cancelled():
                producing.exception()
            sink.close()
            loop.run_in_executor(None, ingest.close)

        producing.add_done_callback(put_away)


async def make_manifest(
    content: Content, config: bytes, layers: Sequence[str], lease: Lease
) -> str:
    """A manifest for an image of ``config`` and the blobs ``layers``, which are here; its digest.

    Docker's, unless a layer has a compression that those do not know.
    """
    blobs = []
    for digest in layers:
        blob = content.get(digest)
        if blob is None:
            raise NotFound(f"no such content: {digest}")
        blobs.append(blob)
    oci = any(blob.media_type.endswith("zstd") for blob in blobs)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG if oci else DOCKER_CONFIG,
            "size": len(config),
            "digest": digest_of(config),
        },
        "layers": [
            {
                "mediaType": _layer_type(blob.media_type, oci),
                "size": blob.size,
                "digest": blob.digest,
            }
            for blob in blobs
        ],
    }
    media_type = str(manifest["mediaType"])
    return (await content.add(msgspec.json.encode(manifest), media_type, lease)).digest


def _layer_type(media_type: str, oci: bool) -> str:
    for compression in ("gzip", "zstd"):
        if media_type.endswith(compression):
            return f"{OCI_LAYER}+{compression}" if oci else DOCKER_LAYER
    return OCI_LAYER if oci else _DOCKER_PLAIN
