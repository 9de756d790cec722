"""Content-addressed blobs: ``content/blobs/sha256/<hex>``.

A blob is written to ``content/ingest/``, verified, synced and renamed, so a name in ``blobs`` is a
promise about its bytes. An ingest that knows its digest beforehand is a file of that name, and what
an interruption left of it is where the next one goes on. All methods block: use a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from pyengine.errors import InvalidParameter, NotFound
from pyengine.faults import failpoint

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class Partial(NamedTuple):
    """An ingest that nobody writes now. ``expected``: the digest it is to become, or empty."""

    name: str
    expected: str
    size: int


class ContentStore:
    """``root`` is the engine's ``content`` directory, which no other process uses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._lock = threading.Lock()
        self._open: set[str] = set()

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. ``InvalidParameter`` unless it is a sha256 digest."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidParameter(f"invalid digest {digest!r}", help="sha256:<64 hex digits>")
        return self._blobs / digest[7:]

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """The whole blob; ``NotFound``."""
        with self.open(digest) as file:
            return file.read()

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

    def blobs(self) -> dict[str, int]:
        """Bytes of every blob by digest."""
        try:
            with os.scandir(self._blobs) as entries:
                return {
                    f"sha256:{entry.name}": entry.stat().st_size
                    for entry in entries
                    if _HEX.fullmatch(entry.name)
                }
        except FileNotFoundError:
            return {}

    def intact(self, digest: str) -> bool:
        """Read the blob again: does it still have its digest? ``NotFound``."""
        try:
            with self.path(digest).open("rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest[7:]
        except FileNotFoundError:
            raise NotFound(f"no such content: {digest}") from None

    def capacity(self) -> int:
        """Bytes of the whole disk, used ones too."""
        return shutil.disk_usage(self._root.parent).total

    def remove(self, *digests: str) -> None:
        for digest in digests:
            failpoint("content.remove")
            self.path(digest).unlink(missing_ok=True)

    # -- ingests -----------------------------------------------------------------------------

    def ingest(self, expected: str = "") -> Ingest:
        """A blob to be written piece by piece.

        Without ``expected`` it vanishes unless it is committed. With ``expected`` it stays, and the
        next ingest of that digest goes on behind the bytes that are there; while one writes, others
        of the same digest are apart from it and do not stay.
        """
        self._make_directories()
        name = expected and f"sha256-{self.path(expected).name}"
        with self._lock:
            if not name or name in self._open:
                name, expected = secrets.token_hex(8), ""
            self._open.add(name)
        try:
            return Ingest(self, self._ingest / name, keep=bool(expected))
        except BaseException:
            self._closed(name)
            raise

    def partial(self) -> list[Partial]:
        """What interrupted writers left."""
        found = []
        with self._lock:
            open_now = set(self._open)
        try:
            with os.scandir(self._ingest) as entries:
                for entry in entries:
                    if entry.name not in open_now:
                        kind, _, hex = entry.name.partition("-")
                        expected = f"sha256:{hex}" if kind == "sha256" else ""
                        found.append(Partial(entry.name, expected, entry.stat().st_size))
        except FileNotFoundError:
            pass
        return found

    def drop(self, partial: Partial) -> bool:
        """Delete what is left of an ingest; False if somebody has taken it up meanwhile."""
        with self._lock:
            if partial.name in self._open:
                return False
            failpoint("content.drop")
            (self._ingest / partial.name).unlink(missing_ok=True)
            return True

    def demote(self, digest: str) -> None:
        """Make a blob an interrupted ingest, which the next one finds complete and verifies."""
        self._make_directories()
        failpoint("content.demote")
        os.rename(self.path(digest), self._ingest / f"sha256-{digest[7:]}")

    def _make_directories(self) -> None:
        for path in (self._ingest, self._blobs):
            if not path.exists():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                for above in (path.parent, self._root):
                    _sync_directory(above)

    def _closed(self, name: str) -> None:
        with self._lock:
            self._open.discard(name)


class Ingest:
    """One blob on its way in; a context manager. ``size``: bytes written so far, ``found`` of them
    by an earlier ingest of the same digest."""

    def __init__(self, store: ContentStore, path: Path, keep: bool) -> None:
        self._store = store
        self._path = path
        self._keep = keep
        self._hash = hashlib.sha256()
        self.size = 0
        failpoint("content.ingest")
        self._file = path.open("r+b" if keep and path.exists() else "x+b", buffering=0)
        try:
            while piece := self._file.read(_CHUNK):
                self._hash.update(piece)
                self.size += len(piece)
        except BaseException:
            self._file.close()
            raise
        self.found = self.size

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write no more. What may be taken up again stays, anything else vanishes."""
        if self._file.closed:
            return
        self._file.close()
        if not self._keep:
            self._path.unlink(missing_ok=True)
        self._store._closed(self._path.name)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            written = self._file.write(view)
            self._hash.update(view[:written])
            self.size += written
            view = view[written:]

    def reset(self) -> None:
        """Begin again: nothing was written."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = self.found = 0

    def discard(self) -> None:
        """Give it up for good."""
        self._keep = False
        self.close()

    def commit(self, expected: str = "", size: int = -1) -> str:
        """Verify, make durable, and give it its name; the digest.

        ``InvalidParameter`` if what was written is not ``expected`` or not ``size`` bytes long.
        What is too short can be continued; what is wrong is given up.
        """
        digest = self.digest
        if size not in (-1, self.size):
            if self.size > size:
                self.discard()
            raise InvalidParameter(f"content is {self.size} bytes long", f"expected {size}")
        if expected not in ("", digest):
            self.discard()
            raise InvalidParameter(f"content has digest {digest}", f"expected {expected}")
        final = self._store.path(digest)
        if final.exists():
            self.discard()
            return digest
        failpoint("content.sync")
        os.fsync(self._file.fileno())
        failpoint("content.publish")
        os.rename(self._path, final)
        failpoint("content.published")
        _sync_directory(final.parent)
        self.discard()
        return digest


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
