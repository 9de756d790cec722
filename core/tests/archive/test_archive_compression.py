"""Compressed streams: whole, cut off at any place, and as the layers that workers unpack."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pyengine.archive import TarReader, decompress
from pyengine.archive.compression import DiffIdMismatch, LayerStream
from pyengine.errors import InvalidParameter
from pyengine.testing.storage import file, tar

DATA = os.urandom(300_000) + bytes(200_000)
SKIPPED = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_of_unknown_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSIONS = [gzip.compress, zstd, zstd_of_unknown_size, bz2.compress, lzma.compress]


def plain(data: bytes) -> bytes:
    stream = decompress(io.BytesIO(data))
    found = []
    while piece := stream.read(70_000):
        assert len(piece) <= 70_000
        found.append(piece)
    return b"".join(found)


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_one_frame_and_several(compress: Callable[[bytes], bytes]) -> None:
    assert plain(compress(DATA)) == DATA
    assert plain(compress(DATA) + compress(b"more")) == DATA + b"more"
    assert plain(compress(b"")) == b""


def test_frames_that_hold_nothing() -> None:
    assert plain(zstd(DATA) + SKIPPED) == DATA
    assert plain(zstd(DATA) + SKIPPED + zstd(DATA)) == DATA * 2
    assert plain(gzip.compress(DATA) + bytes(1000)) == DATA


@pytest.mark.parametrize("compress", COMPRESSIONS)
@pytest.mark.parametrize("lost", [1, 4, 9, 1000, 250_000])
def test_a_cut_is_noticed(compress: Callable[[bytes], bytes], lost: int) -> None:
    whole = compress(DATA)
    for data in (whole[:-lost], whole + whole[:-lost], whole[:10]):
        with pytest.raises(InvalidParameter, match="damaged"):
            plain(data)


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_cut_between_frames_is_noticed_by_who_knows_the_contents(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """To decompress alone, the stream is whole."""
    layer = tar(file("a", b"x" * 5000), file("b"))
    half = compress(layer[:3072])
    assert plain(half + compress(layer[3072:])) == layer
    with pytest.raises(InvalidParameter, match="unexpected end"):
        list(TarReader(decompress(io.BytesIO(half))))
    # and where an entry happens to end there, by the digest
    half = compress(layer[: 1024 + 512 + 5120])
    assert [entry.name for entry in TarReader(decompress(io.BytesIO(half)))] == [b"a"]
    blob = tmp_path / "half"
    blob.write_bytes(half)
    with blob.open("rb") as source, pytest.raises(DiffIdMismatch):
        list(TarReader(LayerStream(source.fileno(), digest(layer))))  # type: ignore[arg-type]


def test_garbage_after_the_end() -> None:
    for compress in (gzip.compress, zstd):
        with pytest.raises(InvalidParameter, match="damaged"):
            plain(compress(DATA) + b"garbage")


def test_a_bomb_is_defused_piece_by_piece() -> None:
    bomb = zstd(bytes(1 << 29))
    assert len(bomb) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = decompress(io.BytesIO(bomb))
    size = 0
    while piece := stream.read(1 << 20):
        size += len(piece)
    assert size == 1 << 29
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


# -- the stream of a layer ------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def read(stream: LayerStream, size: int = -1) -> bytes:
    found = []
    while piece := stream.read(size):
        found.append(piece)
    return b"".join(found)


def test_a_layer_in_a_file(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(DATA))
    with blob.open("rb") as source:
        source.seek(100)
        for size in (-1, 1000):
            seen: list[int] = []
            stream = LayerStream(source.fileno(), digest(DATA), seen.append)
            assert read(stream, size) == DATA
            assert (stream.size, stream.digest) == (len(DATA), digest(DATA))
            assert seen == sorted(seen)
            assert seen[-1] == blob.stat().st_size
            assert stream.read(10) == b""
        assert source.tell() == 100


def test_a_layer_from_a_pipe() -> None:
    source, out = os.pipe()

    def feed() -> None:
        with open(out, "wb") as pipe:
            pipe.write(zstd(DATA))

    threading.Thread(target=feed).start()
    assert read(LayerStream(source)) == DATA
    os.close(source)


def test_a_wrong_layer_never_ends_well(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(DATA)
    with blob.open("rb") as source:
        stream = LayerStream(source.fileno(), digest(b"other"))
        found = []

        def read_all() -> None:
            while piece := stream.read(1 << 20):
                found.append(piece)

        with pytest.raises(DiffIdMismatch) as caught:
            read_all()
    assert b"".join(found) == DATA
    assert (caught.value.expected, caught.value.got) == (digest(b"other"), digest(DATA))


def test_what_goes_wrong_behind_the_stream_is_raised_by_it(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(DATA)[:-1])
    with blob.open("rb") as source, pytest.raises(InvalidParameter, match="gzip"):
        read(LayerStream(source.fileno()))
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="directory"):
        read(LayerStream(directory))
    os.close(directory)


def test_a_stream_that_nobody_reads_is_closed(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(bytes(50_000_000)))
    before = threading.active_count()
    with blob.open("rb") as source:
        stream = LayerStream(source.fileno())
        stream.read(10)
        stream.close()
        assert threading.active_count() == before
