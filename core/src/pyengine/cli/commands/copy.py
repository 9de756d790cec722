"""``pyengine cp``. Where things go, and under which name, is decided as Docker's client does it."""

from __future__ import annotations

import json
import os
import stat
import sys

from pyengine.cli import units
from pyengine.cli.client import ApiError, Client, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

_DIRECTORY = 1 << 31
_LINK = 1 << 27
#: Modes (Go's) of devices, fifos and sockets.
_IRREGULAR = 1 << 26 | 1 << 25 | 1 << 24
_CHUNK = 1 << 16


@command(
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-",
    "Copy files/folders between a container and the local filesystem",
    [
        Flag("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
        Flag("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
        Flag("quiet", "q", "bool", "Suppress progress output during copy"),
    ],
    at_least=2,
    at_most=2,
)
def cp(session: Session, options: Options, arguments: list[str]) -> None:
    (source_container, source), (target_container, target) = map(_split, arguments)
    if source_container and target_container:
        raise CommandError("copying between containers is not supported")
    client = session.client
    if source_container:
        follow = options["follow-link"]
        copied = _from_container(client, source_container, source, target, follow)
        done = f"to {os.path.abspath(target)}" if target != "-" else ""
    elif target_container:
        copied = _to_container(client, source, target_container, target, options)
        done = f"to {arguments[1]}"
    else:
        raise CommandError("must specify at least one container source")
    if not options["quiet"] and done and sys.stderr.isatty():
        print(f"Successfully copied {units.human_size(copied, 3)} {done}", file=sys.stderr)


def _split(text: str) -> tuple[str, str]:
    """(container, path); the container is empty for a path of this host."""
    container, colon, path = text.partition(":")
    if os.path.isabs(text) or not colon or text.startswith("."):
        return "", text
    return container, path


def _stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    """What is there; None if nothing is, or for an error, which the request itself will tell."""
    import base64

    try:
        response = client.open("HEAD", f"/containers/{quote(container)}/archive", {"path": path})
    except ApiError:
        return None
    return _decode(base64.b64decode(response.headers.get("x-docker-container-path-stat", "")))


def _decode(header: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(header or b"{}")
    return {"mode": 0, "linkTarget": "", **found}


def _absolute(path: str) -> str:
    """From the root of this host, with the ``/`` or ``/.`` that it ends in."""
    whole = os.path.abspath(path)
    if path == "." or path.endswith("/."):
        return whole.rstrip("/") + "/."
    return whole.rstrip("/") + "/" if path.endswith("/") else whole


def _base(path: str) -> str:
    """The name that an archive of ``path`` begins with."""
    return os.path.basename(path.rstrip("/")) or "/"


def _above(path: str) -> str:
    """The directory that the thing itself is in."""
    return os.path.dirname(path.removesuffix("/.").rstrip("/")) or "/"


# -- out of a container ----------------------------------------------------------------------------


class _Pieces:
    """A file over an answer's pieces; it counts them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.total = 0

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        self.total += len(data)
        return data


def _from_container(client: Client, container: str, source: str, target: str, follow: bool) -> int:
    import base64

    wanted = _base(source)
    if target != "-":
        target = _absolute(target)
        folder = os.path.dirname(os.path.normpath(target))
        if not os.path.isdir(folder):
            raise CommandError(f'invalid output path: directory "{folder}" does not exist')
    if follow:
        found = _stat(client, container, source)
        if found is not None and found["mode"] & _LINK:
            ending = source[len(source.rstrip("/.")) :] if source.endswith(("/", "/.")) else ""
            source = found["linkTarget"] + ending
    response = client.open("GET", f"/containers/{quote(container)}/archive", {"path": source})
    if target == "-":
        for piece in response:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    header = response.headers.get("x-docker-container-path-stat", "")
    is_directory = bool(_decode(base64.b64decode(header))["mode"] & _DIRECTORY)
    folder, name = _destination(target, is_directory, wanted)
    stream = _Pieces(iter(response))
    _unpack(stream, folder, _base(source), name)
    return stream.total


def _destination(target: str, is_directory: bool, name: str) -> tuple[str, str]:
    """(directory of this host, name in it) for what is called ``name`` in the archive."""
    target = os.path.realpath(target) + ("/" if target.endswith("/") else "")
    if os.path.isdir(target):
        return target, name
    if os.path.lexists(target):
        if is_directory:
            raise CommandError("cannot copy directory")
    elif target.endswith("/") and not is_directory:
        raise CommandError("no such directory")
    return os.path.split(target.rstrip("/"))


def _unpack(stream: _Pieces, folder: str, old: str, new: str) -> None:
    """Unpack an archive whose names begin with ``old`` into ``folder``, where they begin with
    ``new``. Everything belongs to who calls; nothing is written outside, whatever it says."""
    from typing import cast

    from pyengine.archive import Whiteouts, unpack
    from pyengine.errors import EngineError

    before, after = os.fsencode(old), os.fsencode(new)

    def rename(name: bytes) -> bytes:
        rest = name.removeprefix(before)
        return name if rest == name and before != b"/" else after + b"/" + rest.lstrip(b"/")

    try:
        unpack(
            cast("BinaryIO", stream),
            folder,
            Whiteouts.PLAIN,
            owner=(os.geteuid(), os.getegid()),
            keep_kinds=True,
            rename=None if before == after else rename,
        )
    except EngineError as error:
        raise CommandError(error.message())
    except OSError as error:
        place = os.path.join(folder, os.fsdecode(error.filename or ""))
        raise CommandError(f"cannot write {place}: {str(error.strerror).lower()}")


# -- into a container ------------------------------------------------------------------------------


def _to_container(
    client: Client, source: str, container: str, target: str, options: Options
) -> int:
    place, found = target, _stat(client, container, target)
    if found is not None and found["mode"] & _LINK:
        place = found["linkTarget"]
        found = _stat(client, container, place)
    mode = found["mode"] if found is not None else 0
    if mode & _IRREGULAR:
        raise CommandError(
            f'destination "{container}:{target}" must be a directory or a regular file'
        )
    if source == "-":
        if not mode & _DIRECTORY:
            raise CommandError(f'destination "{container}:{target}" must be a directory')
        pieces = iter(lambda: sys.stdin.buffer.read(_CHUNK), b"")
        return _upload(client, container, place, options, pieces)
    source, name = _local_source(source, options["follow-link"])
    if not mode & _DIRECTORY:
        is_directory = stat.S_ISDIR(os.lstat(source).st_mode)
        if found is not None and is_directory:
            raise CommandError("cannot copy directory")
        if found is None and place.endswith(("/", "/.")) and not is_directory:
            raise CommandError("no such directory")
        place, name = _above(place), _base(place.removesuffix("/."))
    return _upload(client, container, place, options, _pack(source, name))


def _local_source(path: str, follow: bool) -> tuple[str, str]:
    """(what is to be read, the name that it is to have)."""
    path = _absolute(path)
    try:
        if follow:
            whole = os.path.realpath(path, strict=True)
            os.lstat(whole)
            return (whole + "/." if path.endswith("/.") else whole), _base(path)
        os.lstat(path)
    except OSError as error:
        missing = error.filename if follow else path
        raise CommandError(f"lstat {missing}: {str(error.strerror).lower()}")
    return path, _base(path)


def _pack(source: str, name: str) -> Iterator[bytes]:
    """An archive of ``source``, whose names begin with ``name``, in pieces."""
    import threading

    failed: list[BaseException] = []
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with open(writing, "wb", buffering=_CHUNK) as out:
                _write_archive(source, os.fsencode(name), out)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    with open(reading, "rb", buffering=0) as pipe:
        while piece := pipe.read(_CHUNK):
            yield piece
    thread.join()
    if failed:
        if isinstance(failed[0], OSError):
            reason = str(failed[0].strerror).lower()
            raise CommandError(f"open {os.fsdecode(failed[0].filename or source)}: {reason}")
        raise failed[0]


def _write_archive(source: str, name: bytes, out: BinaryIO) -> None:
    from pyengine.archive import Packer, Whiteouts
    from pyengine.archive.pack import pack_directory

    packer = Packer(out)
    if os.path.isdir(source) and (source.endswith("/") or not os.path.islink(source)):
        directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        packer.add(directory, b".", name, os.fstat(directory))
        pack_directory(packer, directory, name + b"/", Whiteouts.PLAIN)
    else:
        folder, last = os.path.split(source)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        packer.add(directory, os.fsencode(last), name, os.lstat(source))
    os.close(directory)
    packer.close()


def _upload(
    client: Client, container: str, place: str, options: Options, pieces: Iterator[bytes]
) -> int:
    copied = 0

    def count() -> Iterator[bytes]:
        nonlocal copied
        for piece in pieces:
            copied += len(piece)
            yield piece

    query = {
        "path": place,
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if options["archive"] else None,
    }
    path = f"/containers/{quote(container)}/archive"
    headers = {"Content-Type": "application/x-tar"}
    client.open("PUT", path, query, headers=headers, stream=count()).read()
    return copied
