"""``pyengine logs``."""

from __future__ import annotations

import sys

from pyengine.cli import streams, units
from pyengine.cli.client import CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session


@command(
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    [
        Flag("details", "", "bool", "Show extra details provided to logs"),
        Flag("follow", "f", "bool", "Follow log output"),
        Flag(
            "since",
            "",
            "string",
            'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative '
            '(e.g. "42m" for 42 minutes)',
        ),
        Flag(
            "tail", "n", "string", "Number of lines to show from the end of the logs", default="all"
        ),
        Flag("timestamps", "t", "bool", "Show timestamps"),
        Flag(
            "until",
            "",
            "string",
            'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative '
            '(e.g. "42m" for 42 minutes)',
        ),
    ],
    at_least=1,
    at_most=1,
)
def logs(session: Session, options: Options, arguments: list[str]) -> None:
    client = session.client
    found = client.get(f"/containers/{quote(arguments[0])}/json")
    query: dict[str, object] = {
        "stdout": True,
        "stderr": True,
        "follow": options["follow"],
        "timestamps": options["timestamps"],
        "details": options["details"],
        "tail": options["tail"],
    }
    for name in ("since", "until"):
        try:
            query[name] = units.api_timestamp(options[name])
        except ValueError as error:
            raise CommandError(f'invalid value for "{name}": {error}')
    response = client.open("GET", f"/containers/{found['Id']}/logs", query)
    sys.stdout.flush()
    frames = streams.Demultiplexer()
    for piece in response:
        if found["Config"].get("Tty"):
            streams.write_all(1, piece)
        else:
            frames.feed(piece)
