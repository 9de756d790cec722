"""``pyengine export`` and ``commit``."""

from __future__ import annotations

from pyengine.cli.client import quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.output import write_stream
from pyengine.cli.session import Session


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
