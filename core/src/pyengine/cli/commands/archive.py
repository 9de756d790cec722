"""``pyengine cp``, ``export`` and ``commit``."""

from __future__ import annotations

import json
import os
import sys

from pyengine.cli import units
from pyengine.cli.client import ApiError, Client, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.output import write_stream
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

    from pyengine.cli.http import Response


@command(
    "[OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    [Flag("output", "o", "string", "Write to a file, instead of STDOUT")],
    at_least=1,
    at_most=1,
)
def export(session: Session, options: Options, arguments: list[str]) -> None:
    write_stream(
        lambda: session.client.open("GET", f"/containers/{quote(arguments[0])}/export"),
        options["output"],
        "failed to export container",
        "cowardly refusing to save to a terminal. Use the -o flag or redirect",
    )


@command(
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    [
        Flag("author", "a", "string", "Author of the image"),
        Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
        Flag("message", "m", "string", "Commit message"),
        Flag("pause", "p", "bool", "Pause container during commit", default=True),
    ],
    at_least=1,
    at_most=2,
)
def commit(session: Session, options: Options, arguments: list[str]) -> None:
    repository, tag = "", ""
    if len(arguments) == 2:
        repository, colon, tag = arguments[1].rpartition(":")
        if not colon or "/" in tag:
            repository, tag = arguments[1], ""
    query = {
        "container": arguments[0],
        "repo": repository,
        "tag": tag,
        "comment": options["message"],
        "author": options["author"],
        "changes": options["change"],
        "pause": None if options["pause"] else "0",
    }
    print(session.client.post("/commit", query)["Id"])


def _split(text: str) -> tuple[str, str]:
    """(container, path); the container is empty for a path of this host."""
    container, colon, path = text.partition(":")
    if os.path.isabs(text) or not colon or text.startswith("."):
        return "", text
    return container, path


class _Pipe:
    """The file that tarfile reads: the pieces of an answer."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""
        self.total = 0

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        self.total += len(data)
        return data


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
    if not source_container and not target_container:
        raise CommandError("must specify at least one container source")
    client = session.client
    if source_container:
        copied = _from_container(client, source_container, source, target, options["follow-link"])
        done = f"to {os.path.abspath(target)}" if target != "-" else ""
    else:
        copied = _to_container(client, source, target_container, target, options)
        done = f"to {arguments[1]}"
    if not options["quiet"] and done and sys.stderr.isatty():
        print(f"Successfully copied {units.human_size(copied, 3)} {done}", file=sys.stderr)


def _stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    import base64

    try:
        response = client.open("HEAD", f"/containers/{quote(container)}/archive", {"path": path})
    except ApiError as error:
        if error.status != 404:
            raise
        return None
    encoded = response.headers.get("x-docker-container-path-stat", "")
    stat: dict[str, Any] = json.loads(base64.b64decode(encoded))
    return stat


_GO_MODE_DIR = 1 << 31


def _from_container(client: Client, container: str, source: str, target: str, follow: bool) -> int:
    import tarfile

    if follow:
        stat = _stat(client, container, source)
        if stat and stat.get("linkTarget"):
            source = os.path.join(os.path.dirname(source), stat["linkTarget"])
    response = client.open("GET", f"/containers/{quote(container)}/archive", {"path": source})
    if target == "-":
        for piece in response:
            sys.stdout.buffer.write(piece)
        return 0
    contents_only = source.endswith("/.") or source == "."
    pipe = _Pipe(iter(response))
    with tarfile.open(fileobj=pipe, mode="r|") as archive:  # type: ignore[call-overload]
        _extract(archive, source, target, contents_only)
    while pipe.read(65536):
        pass
    return pipe.total


def _extract(archive: tarfile.TarFile, source: str, target: str, contents_only: bool) -> None:
    into = os.path.isdir(target)
    if not into and target.endswith("/"):
        raise CommandError("no such directory")
    if not into and not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise CommandError(
            f'invalid output path: directory "{os.path.dirname(target)}" does not exist'
        )
    for member in archive:
        _, _, rest = member.name.partition("/")
        if into and not contents_only:
            name, folder = member.name, target
        elif rest or (into and contents_only):
            name, folder = rest or ".", target
        else:
            name, folder = (
                os.path.basename(os.path.abspath(target)),
                os.path.dirname(os.path.abspath(target)),
            )
        member.name = name
        _extract_inside(archive, member, folder)


def _extract_inside(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: str) -> None:
    """Unpack one member. The archive comes from a container: it may not reach outside."""
    import tarfile

    root = os.path.realpath(folder)
    place = os.path.realpath(os.path.join(root, member.name.lstrip("/")))
    if os.path.commonpath([root, place]) != root:
        raise CommandError(f"the archive has a path outside of the destination: {member.name}")
    # Debian 12's Python has no filters yet.
    safe: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
    try:
        archive.extract(member, root, **safe)
    except (OSError, tarfile.TarError) as error:
        raise CommandError(f"cannot write {place}: {error}")


def _to_container(
    client: Client, source: str, container: str, target: str, options: Options
) -> int:
    import tarfile
    import tempfile

    path = f"/containers/{quote(container)}/archive"
    query = {"noOverwriteDirNonDir": "true", "copyUIDGID": "true" if options["archive"] else None}
    if source == "-":
        with client.open(
            "PUT",
            path,
            {**query, "path": target},
            stream=iter(lambda: sys.stdin.buffer.read(65536), b""),
        ).connection.stream:
            return 0
    if not os.path.lexists(source):
        raise CommandError(f"lstat {os.path.abspath(source)}: no such file or directory")
    real = os.path.realpath(source) if options["follow-link"] else source
    stat = _stat(client, container, target)
    if stat is not None and stat.get("linkTarget"):
        target = os.path.join(os.path.dirname(target), stat["linkTarget"])
        stat = _stat(client, container, target)
    is_folder = bool(stat and stat["mode"] & _GO_MODE_DIR)
    contents_only = source.endswith("/.") or source == "."
    if is_folder and not (contents_only and os.path.isdir(real)):
        folder, name = target, os.path.basename(os.path.abspath(source))
    elif is_folder:
        folder, name = target, "."
    else:
        if target.endswith("/") and stat is None and not os.path.isdir(real):
            raise CommandError("no such directory")
        folder, name = os.path.split(target.rstrip("/"))
    with tempfile.TemporaryFile() as buffer:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(real, arcname=name, filter=None if options["archive"] else _as_root)
        size = buffer.tell()
        buffer.seek(0)
        response: Response = client.open(
            "PUT",
            path,
            {**query, "path": folder or "/"},
            headers={"Content-Type": "application/x-tar"},
            stream=iter(lambda: buffer.read(65536), b""),
        )
        response.read()
    return size


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
