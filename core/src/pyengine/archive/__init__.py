"""Layers as tar streams: reading, writing and unpacking them safely, for any storage driver.

Sources: POSIX.1-2001 pax, GNU tar's manual ("Tar Internals") for long names and sparse files, the
OCI image specification's ``layer.md`` for whiteouts, and Documentation/filesystems/overlayfs.rst of
the kernel for how overlay spells them.
"""

from pyengine.archive.compression import HashingReader, decompress
from pyengine.archive.listing import Listed, list_layer
from pyengine.archive.pack import Packer, measure, pack
from pyengine.archive.reader import Entry, TarReader
from pyengine.archive.settle import Deferred, settle
from pyengine.archive.unpack import unpack
from pyengine.archive.whiteouts import Whiteouts

__all__ = [
    "Deferred",
    "Entry",
    "HashingReader",
    "Listed",
    "Packer",
    "TarReader",
    "Whiteouts",
    "decompress",
    "list_layer",
    "measure",
    "pack",
    "settle",
    "unpack",
]
