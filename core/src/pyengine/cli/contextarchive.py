"""A context as one file: ``meta.json`` and ``tls/ENDPOINT/FILE`` in a tar, or (to read) a zip."""

from __future__ import annotations

import io
import posixpath

from pyengine.cli.client import CommandError
from pyengine.cli.contexts import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyengine.cli.contexts import TlsData

#: The most that an archive, and all that is in it, may have: bytes.
LIMIT = 10 << 20
_META = "meta.json"
_TOO_LONG = "read exceeds the defined limit"


def pack(context: Context, tls: TlsData) -> bytes:
    """The archive of a context."""
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, mode: int, data: bytes | None = None) -> None:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if data is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

        add(_META, 0o644, context.encode())
        add("tls", 0o700)
        for endpoint, files in tls.items():
            add(f"tls/{endpoint}", 0o700)
            for name, data in files.items():
                add(f"tls/{endpoint}/{name}", 0o600, data)
    return out.getvalue()


def unpack(data: bytes) -> tuple[Context, TlsData]:
    """What an archive holds; CommandError for one that is none, or holds anything else."""
    context: Context | None = None
    tls: TlsData = {}
    if len(data) > LIMIT:
        raise CommandError(_TOO_LONG)
    for name, content in _zipped(data) if data.startswith(b"PK\x03\x04") else _tarred(data):
        if name == _META:
            context = Context.parse(content, _META)
            continue
        _check_path(name)
        endpoint, _, file = name.removeprefix("tls/").partition("/")
        if not file or "/" in file:
            raise CommandError("archive format is invalid")
        tls.setdefault(endpoint, {})[file] = content
    if context is None:
        raise CommandError("invalid context: no metadata found")
    return context, tls


def _check_path(name: str) -> None:
    if not name.startswith("tls/"):
        raise CommandError(f"{name}: unexpected context file")
    if posixpath.normpath(name) != name:
        raise CommandError(f"{name}: unexpected path format")
    if "\\" in name:
        raise CommandError(f"{name}: unexpected '\\' in path")


def _tarred(data: bytes) -> Iterator[tuple[str, bytes]]:
    import tarfile

    if not data.strip(b"\0"):
        return
    # Docker's clients leave out what comes after the last file's last byte.
    padded = data + bytes(-len(data) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
    try:
        with tarfile.open(fileobj=io.BytesIO(padded), mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None:
                    continue
                if entry.size > LIMIT:
                    raise CommandError(_TOO_LONG)  # a sparse file: longer than the archive
                if entry.offset_data + entry.size > len(data) and not entry.issparse():
                    raise CommandError("unexpected EOF")
                yield entry.name, file.read()
    except tarfile.TarError:
        short = len(data) < tarfile.BLOCKSIZE
        raise CommandError("unexpected EOF" if short else "archive/tar: invalid tar header")


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    import zipfile

    left = LIMIT
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                with archive.open(entry) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise CommandError(_TOO_LONG)
                yield entry.filename, content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CommandError(f"zip: not a valid zip file: {error}")
