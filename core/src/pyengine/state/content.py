"""Content-addressed blobs: ``content/blobs/sha256/<hex>``.

A blob is written to ``content/ingest/``, verified, synced and renamed, so a name in ``blobs`` is a
promise about its bytes. All methods block; call them from a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pyengine.errors import InvalidParameter, NotFound
from pyengine.faults import failpoint

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ContentStore:
    """``root`` is the engine's ``content`` directory."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. ``InvalidParameter`` unless it is a sha256 digest."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidParameter(f"invalid digest {digest!r}", help="sha256:<64 hex digits>")
        return self._blobs / digest[7:]

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """The whole blob; ``NotFound``."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no such content: {digest}") from None

    def open(self, digest: str) -> BinaryIO:
        """The blob to read; ``NotFound``."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no such content: {digest}") from None

    def write(self, data: bytes) -> str:
        """Keep ``data``; its digest."""
        with self.ingest() as ingest:
            ingest.write(data)
            return ingest.commit()

    def ingest(self) -> Ingest:
        """A blob to be written piece by piece; without ``commit`` it vanishes."""
        self._ingest.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Ingest(self, self._ingest / secrets.token_hex(8))

    def remove(self, digest: str) -> None:
        failpoint("content.remove")
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> list[str]:
        """Delete blobs outside ``known`` and half-written ones; what was deleted. At start only:
        nothing may be writing."""
        removed = []
        for directory in (self._ingest, self._blobs):
            if not directory.is_dir():
                continue
            for path in directory.iterdir():
                if directory == self._ingest or "sha256:" + path.name not in known:
                    failpoint("content.remove")
                    path.unlink()
                    removed.append(path.name)
        return removed


class Ingest:
    """One blob on its way in; a context manager."""

    def __init__(self, store: ContentStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0
        failpoint("content.ingest")
        self._file = path.open("xb")

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def commit(self, expected: str = "", size: int = -1) -> str:
        """Verify, make durable, and give it its name; the digest.

        ``InvalidParameter`` if what was written is not ``expected`` or not ``size`` bytes long.
        """
        digest = "sha256:" + self._hash.hexdigest()
        if size not in (-1, self.size):
            raise InvalidParameter(f"content is {self.size} bytes long", f"expected {size}")
        if expected not in ("", digest):
            raise InvalidParameter(f"content has digest {digest}", f"expected {expected}")
        final = self._store.path(digest)
        if not final.exists():
            self._file.flush()
            failpoint("content.sync")
            os.fsync(self._file.fileno())
            failpoint("content.publish")
            os.rename(self._path, final)
            fd = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return digest
