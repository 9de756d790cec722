"""``pyengine run`` and ``pyengine create``."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from pyengine.cli import containerconfig, platforms, reference, streams
from pyengine.cli.apisocket import ApiSocket
from pyengine.cli.client import ApiError, Client, CommandError, NoEngine, quote
from pyengine.cli.flags import Options, command
from pyengine.cli.runflags import CREATE_FLAGS, RUN_FLAGS
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyengine.cli.http import Response


class RunError(CommandError):
    """A failed ``run`` or ``create``, with the hint at its help."""

    def __init__(self, message: str, word: str, code: int = 125) -> None:
        hint = f"Run 'pyengine {word} --help' for more information"
        super().__init__(f"pyengine: {message}\n\n{hint}", code)


def _exit_code(message: str) -> int:
    """126 and 127 as a shell has them, when the container's command is to blame."""
    missing = ("executable file not found", "no such file or directory")
    if any(words in message.lower() for words in missing):
        return 127
    if "permission denied" in message or "is a directory" in message:
        return 126
    return 125


def _pull_choice(options: Options, word: str) -> None:
    if options["pull"] not in ("always", "missing", "never", ""):
        raise RunError(
            f"invalid pull option: '{options['pull']}': must be one of "
            '"always", "missing" or "never"',
            word,
        )


def _body(options: Options, arguments: list[str], word: str) -> dict[str, Any]:
    try:
        reference.check(arguments[0])
        body = containerconfig.build(options, arguments[0], arguments[1:])
    except ValueError as error:
        raise RunError(str(error), word)
    if options["on-unhealthy"]:
        annotations = {"pyengine.on-unhealthy": options["on-unhealthy"]}
        host = body["HostConfig"]
        host["Annotations"] = {**(host.get("Annotations") or {}), **annotations}
    return body


_WINDOWS = ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops")


def _refuse_foreign(client: Client, options: Options) -> None:
    """Flags for an engine on Windows, which another would overlook."""
    for flag in _WINDOWS:
        if flag in options.changed and client.os_type != "windows":
            raise CommandError(
                f'"--{flag}" is only supported on a Docker daemon running on windows, but the '
                f"Docker daemon is running on {client.os_type}"
            )


@contextlib.contextmanager
def _id_file(path: str) -> Iterator[Callable[[str], None]]:
    """The file of ``--cidfile``, taken before the container exists and gone if none came."""
    if not path:
        yield lambda _: None
        return
    if os.path.exists(path):
        raise CommandError(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        )
    written = False

    def write(identity: str) -> None:
        nonlocal written
        with open(path, "w", encoding="ascii") as file:
            file.write(identity)
        written = True

    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except OSError as error:
        words = str(error.strerror).lower()
        raise CommandError(f"failed to create the container ID file: open {path}: {words}")
    try:
        yield write
    finally:
        if not written:
            os.unlink(path)


def _pull(session: Session, options: Options, image: str) -> None:
    from pyengine.cli.progress import show_pull

    show_pull(session, image, platforms.wanted(options), quiet=options["quiet"], out=sys.stderr)


def create_container(session: Session, options: Options, body: dict[str, Any]) -> str:
    """Create, pulling the image first if it is missing and may be pulled. Returns the id."""
    client, image = session.client, body["Image"]
    socket = ApiSocket(session, body) if options["use-api-socket"] else None
    query = {"name": options["name"], "platform": platforms.wanted(options)}
    rows, columns = streams.terminal_size()
    body["HostConfig"]["ConsoleSize"] = [rows, columns]
    with _id_file(options["cidfile"]) as write_id:
        if options["pull"] == "always":
            _pull(session, options, image)
        try:
            created = client.post("/containers/create", query, body)
        except ApiError as error:
            is_id = re.fullmatch(r"[0-9a-f]{64}", image)
            if error.status != 404 or options["pull"] not in ("missing", "") or is_id:
                raise
            if not options["quiet"]:
                print(
                    f"Unable to find image '{reference.familiar(image)}' locally", file=sys.stderr
                )
            _pull(session, options, image)
            created = client.post("/containers/create", query, body)
        if socket is not None:
            socket.bring_credentials(client, created["Id"])
        for warning in created.get("Warnings") or []:
            print("WARNING:", warning, file=sys.stderr)
        write_id(created["Id"])
    return str(created["Id"])


def wait_result(response: Response) -> int:
    """The exit status that a wait request answers in the end; 125 if it tells of an error."""
    import json

    try:
        answer = json.loads(response.read())
    except ValueError:
        print("error waiting for container: unexpected EOF", file=sys.stderr)
        return 125
    error = answer.get("Error") or {}
    if error.get("Message"):
        print(f"Error waiting for container: {error['Message']}", file=sys.stderr)
        return 125
    return int(answer["StatusCode"])


@command(
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    CREATE_FLAGS,
    at_least=1,
    interspersed=False,
    creates=True,
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    _pull_choice(options, "create")
    body = _body(options, arguments, "create")
    _refuse_foreign(session.client, options)
    print(create_container(session, options, body))


@command(
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    RUN_FLAGS,
    at_least=1,
    interspersed=False,
    creates=True,
)
def run(session: Session, options: Options, arguments: list[str]) -> int:
    _pull_choice(options, "run")
    body = _body(options, arguments, "run")
    try:
        client = session.client
    except NoEngine as error:
        raise RunError(str(error), "run")
    _refuse_foreign(client, options)
    if options["detach"]:
        if options["attach"]:
            raise CommandError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    else:
        streams.check_terminal(body["AttachStdin"], body["Tty"])
    keys = session.detach_keys(options["detach-keys"])
    detach = streams.detach_sequence(keys)
    try:
        container = create_container(session, options, body)
    except CommandError as error:
        raise RunError(str(error), "run", _exit_code(str(error)))
    attached = any(body[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr"))
    if not attached:
        _start(client, container)
        print(container)
        _trace(client, options, container)
        return 0
    return _run_attached(client, options, body, container, keys, detach)


def _start(client: Client, container: str) -> None:
    try:
        client.post(f"/containers/{container}/start")
    except CommandError as error:
        raise RunError(str(error), "run", _exit_code(str(error)))


def _run_attached(
    client: Client, options: Options, body: dict[str, Any], container: str, keys: str, detach: bytes
) -> int:
    path = f"/containers/{container}"
    if options["sig-proxy"]:
        streams.proxy_signals(client, container)
    response = client.hijack(
        f"{path}/attach",
        {
            "stream": True,
            "stdin": body["AttachStdin"],
            "stdout": body["AttachStdout"],
            "stderr": body["AttachStderr"],
            "detachKeys": keys,
        },
    )
    attachment = streams.Attachment(
        response,
        tty=body["Tty"],
        stdin=body["AttachStdin"],
        stdout=body["AttachStdout"],
        stderr=body["AttachStderr"],
        detach=detach,
    )
    # Asked for before the start, so that no exit is missed however short the run.
    condition = "removed" if options["rm"] else "next-exit"
    waiting = client.open("POST", f"{path}/wait", {"condition": condition})
    try:
        _start(client, container)
    except RunError:
        attachment.close()
        if options["rm"]:
            waiting.read()
        raise
    _trace(client, options, container)
    if body["Tty"] and sys.stdout.isatty():
        streams.follow_size(client, f"{path}/resize")
    try:
        attachment.copy()
    except streams.Detached:
        return 0
    return wait_result(waiting)


def _trace(client: Client, options: Options, container: str) -> None:
    if options["trace"]:
        from pyengine.cli.trace import show

        show(client, quote(container), options["trace"])
