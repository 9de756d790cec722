"""``pyengine exec``."""

from __future__ import annotations

import sys

from pyengine.cli import streams
from pyengine.cli.client import CommandError, NoEngine, quote
from pyengine.cli.containerconfig import read_files
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.runflags import environment
from pyengine.cli.session import Session


@command(
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    [
        Flag("detach", "d", "bool", "Detached mode: run command in the background"),
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("env", "e", "list", "Set environment variables", check=environment),
        Flag("env-file", "", "list", "Read in a file of environment variables"),
        Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
        Flag("privileged", "", "bool", "Give extended privileges to the command"),
        Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
        Flag("user", "u", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
        Flag("workdir", "w", "string", "Working directory inside the container"),
    ],
    at_least=2,
    interspersed=False,
)
def exec_command(session: Session, options: Options, arguments: list[str]) -> int:
    try:
        variables = read_files(options["env-file"], from_environment=True)
    except ValueError as error:
        raise CommandError(str(error))
    client = session.client
    container = f"/containers/{quote(arguments[0])}"
    keys = session.detach_keys(options["detach-keys"])
    detach = streams.detach_sequence(keys)
    attached, tty = not options["detach"], options["tty"]
    stdin = attached and options["interactive"]
    if stdin and tty and not sys.stdin.isatty():
        # An unknown container is the better error, so it is looked for first.
        client.get(f"{container}/json")
        streams.check_terminal(stdin, tty)
    body = {
        "User": options["user"],
        "Privileged": options["privileged"],
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "DetachKeys": keys,
        "Env": variables + options["env"] or None,
        "WorkingDir": options["workdir"],
        "Cmd": arguments[1:],
    }
    size = None
    if tty:
        rows, columns = streams.terminal_size()
        size = [rows, columns] if rows and columns else None
        body["ConsoleSize"] = size
    made = client.post(f"{container}/exec", body=body)["Id"]
    start = {"Detach": not attached, "Tty": tty, "ConsoleSize": size}
    if not attached:
        client.post(f"/exec/{made}/start", body=start)
        return 0
    response = client.hijack(f"/exec/{made}/start", body=start)
    attachment = streams.Attachment(response, tty=tty, stdin=stdin, detach=detach)
    if tty and sys.stdin.isatty():
        streams.follow_size(client, f"/exec/{made}/resize")
    attachment.copy()
    try:
        return int(client.get(f"/exec/{made}/json")["ExitCode"] or 0)
    except NoEngine:
        return 255
