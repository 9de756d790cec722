"""``pyengine attach``."""

from __future__ import annotations

import sys

from pyengine.cli import streams
from pyengine.cli.client import Client, CommandError, quote
from pyengine.cli.commands.run import wait_result
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _running(client: Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/containers/{quote(name)}/json")
    state = found["State"]
    if not state["Running"]:
        raise CommandError("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise CommandError("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise CommandError("You cannot attach to a restarting container, wait until it is running")
    return found


@command(
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    [
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("no-stdin", "", "bool", "Do not attach STDIN"),
        Flag("sig-proxy", "", "bool", "Proxy all received signals to the process", default=True),
    ],
    at_least=1,
    at_most=1,
)
def attach(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    keys = session.detach_keys(options["detach-keys"])
    detach = streams.detach_sequence(keys)
    found = _running(client, arguments[0])
    path, tty = f"/containers/{found['Id']}", bool(found["Config"].get("Tty"))
    streams.check_terminal(not options["no-stdin"], tty)
    stdin = not options["no-stdin"] and bool(found["Config"].get("OpenStdin"))
    waiting = client.open("POST", f"{path}/wait")
    if options["sig-proxy"] and not tty:
        streams.proxy_signals(client, found["Id"])
    response = client.hijack(
        f"{path}/attach",
        {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys},
    )
    # The container may have ended since; an attach to nothing would never end.
    _running(client, found["Id"])
    if tty and sys.stdout.isatty():
        rows, columns = streams.terminal_size()
        # A full-screen program repaints only when the size changes, so change it twice.
        client.post(f"{path}/resize", {"h": rows + 1, "w": columns + 1})
        streams.follow_size(client, f"{path}/resize")
    streams.Attachment(response, tty=tty, stdin=stdin, detach=detach).copy()
    return wait_result(waiting)
