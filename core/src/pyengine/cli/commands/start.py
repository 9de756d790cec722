"""``pyengine start``."""

from __future__ import annotations

import sys

from pyengine.cli import streams
from pyengine.cli.client import Client, CommandError, quote
from pyengine.cli.commands.run import wait_result
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    [
        Flag("attach", "a", "bool", "Attach STDOUT/STDERR and forward signals"),
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("interactive", "i", "bool", "Attach container's STDIN"),
    ],
    at_least=1,
)
def start(session: Session, options: Options, containers: list[str]) -> int:
    client = session.client
    if options["attach"] or options["interactive"]:
        if len(containers) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        keys = session.detach_keys(options["detach-keys"])
        return _attached(client, containers[0], options["interactive"], keys)
    failed = []
    for container in containers:
        try:
            client.post(f"/containers/{quote(container)}/start")
        except CommandError as error:
            print(error, file=sys.stderr)
            failed.append(container)
        else:
            print(container)
    if failed:
        raise CommandError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(client: Client, name: str, interactive: bool, keys: str) -> int:
    detach = streams.detach_sequence(keys)
    found = client.get(f"/containers/{quote(name)}/json")
    path, tty = f"/containers/{found['Id']}", bool(found["Config"].get("Tty"))
    stdin = interactive and bool(found["Config"].get("OpenStdin"))
    if not tty:
        streams.proxy_signals(client, found["Id"])
    response = client.hijack(
        f"{path}/attach",
        {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys},
    )
    attachment = streams.Attachment(response, tty=tty, stdin=stdin, detach=detach)
    removed = bool(found["HostConfig"].get("AutoRemove"))
    condition = "removed" if removed else "next-exit"
    waiting = client.open("POST", f"{path}/wait", {"condition": condition})
    try:
        client.post(f"{path}/start")
    except CommandError:
        attachment.close()
        if removed:
            waiting.read()
        raise
    if tty and sys.stdout.isatty():
        streams.follow_size(client, f"{path}/resize")
    try:
        attachment.copy()
    except streams.Detached:
        return 0
    return wait_result(waiting)
