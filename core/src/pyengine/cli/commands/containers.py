"""The short commands on containers: stop, kill, rm, pause, wait, rename, port, top, diff."""

from __future__ import annotations

import sys

from pyengine.cli import table
from pyengine.cli.client import ApiError, Client, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.ports import bracketed
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def for_each(
    client: Client,
    names: list[str],
    act: Callable[[Client, str], object],
    tolerate: Callable[[CommandError], bool] | None = None,
) -> None:
    """Act on each (many at a time), print those done in order, raise what went wrong.

    ``tolerate`` picks errors that are printed only.
    """
    errors: list[str] = []
    for name, error in _results(client, names, act):
        if error is None:
            print(name)
        elif tolerate is not None and tolerate(error):
            print(error, file=sys.stderr)
        else:
            errors.append(str(error))
    if errors:
        sys.stdout.flush()
        raise CommandError("\n".join(errors))


def _results(
    client: Client, names: list[str], act: Callable[[Client, str], object]
) -> list[tuple[str, CommandError | None]]:
    def attempt(engine: Client, name: str) -> tuple[str, CommandError | None]:
        try:
            act(engine, name)
        except CommandError as error:
            return name, error
        return name, None

    if len(names) == 1:
        return [attempt(client, names[0])]
    from concurrent.futures import ThreadPoolExecutor

    client.version  # noqa: B018  negotiated once, before the threads share it
    with ThreadPoolExecutor(min(len(names), 50)) as pool:
        return list(pool.map(lambda name: attempt(client.separate(), name), names))


def _path(name: str) -> str:
    return f"/containers/{quote(name)}"


def _stop_query(options: Options) -> dict[str, object]:
    query: dict[str, object] = {"signal": options["signal"]}
    for name in ("time", "timeout"):
        if name in options.changed:
            query["t"] = options[name]
    return query


_STOP_FLAGS = [
    Flag("signal", "s", "string", "Signal to send to the container"),
    Flag("time", "", "int", "Seconds to wait before killing the container", hidden=True),
    Flag("timeout", "t", "int", "Seconds to wait before killing the container"),
]


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop one or more running containers",
    _STOP_FLAGS,
    at_least=1,
)
def stop(session: Session, options: Options, names: list[str]) -> None:
    query = _stop_query(options)
    for_each(session.client, names, lambda engine, name: engine.post(_path(name) + "/stop", query))


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers", _STOP_FLAGS, at_least=1
)
def restart(session: Session, options: Options, names: list[str]) -> None:
    query = _stop_query(options)
    for_each(
        session.client, names, lambda engine, name: engine.post(_path(name) + "/restart", query)
    )


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Kill one or more running containers",
    [Flag("signal", "s", "string", "Signal to send to the container")],
    at_least=1,
)
def kill(session: Session, options: Options, names: list[str]) -> None:
    query = {"signal": options["signal"]}
    for_each(session.client, names, lambda engine, name: engine.post(_path(name) + "/kill", query))


@command(
    "CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", at_least=1
)
def pause(session: Session, _: Options, names: list[str]) -> None:
    for_each(session.client, names, lambda engine, name: engine.post(_path(name) + "/pause"))


@command(
    "CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers", at_least=1
)
def unpause(session: Session, _: Options, names: list[str]) -> None:
    for_each(session.client, names, lambda engine, name: engine.post(_path(name) + "/unpause"))


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove one or more containers",
    [
        Flag("force", "f", "bool", "Force the removal of a running container (uses SIGKILL)"),
        Flag("link", "l", "bool", "Remove the specified link"),
        Flag("volumes", "v", "bool", "Remove anonymous volumes associated with the container"),
    ],
    at_least=1,
)
def rm(session: Session, options: Options, names: list[str]) -> None:
    query = {"force": options["force"], "v": options["volumes"], "link": options["link"]}

    def remove(engine: Client, name: str) -> None:
        name = name.strip("/")
        if not name:
            raise CommandError("container name cannot be empty")
        engine.delete(_path(name), query)

    def missing(error: CommandError) -> bool:
        return bool(options["force"]) and isinstance(error, ApiError) and error.status == 404

    for_each(session.client, names, remove, missing)


@command(
    "CONTAINER [CONTAINER...]",
    "Block until one or more containers stop, then print their exit codes",
    at_least=1,
)
def wait(session: Session, _: Options, names: list[str]) -> None:
    errors = []
    for name in names:
        try:
            print(session.client.post(_path(name) + "/wait")["StatusCode"], flush=True)
        except CommandError as error:
            errors.append(str(error))
    if errors:
        raise CommandError("\n".join(errors))


@command("CONTAINER NEW_NAME", "Rename a container", at_least=2, at_most=2)
def rename(session: Session, _: Options, names: list[str]) -> None:
    old, new = (name.strip() for name in names)
    if not old or not new:
        raise CommandError("Error: Neither old nor new names may be empty")
    try:
        session.client.post(_path(old) + "/rename", {"name": new})
    except ApiError as error:
        raise CommandError(f"{error}\nError: failed to rename container named {old}")


@command(
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List port mappings or a specific mapping for the container",
    at_least=1,
    at_most=2,
)
def port(session: Session, _: Options, arguments: list[str]) -> None:
    name = arguments[0]
    found = session.client.get(_path(name) + "/json")
    ports = (found.get("NetworkSettings") or {}).get("Ports") or {}
    lines = []
    if len(arguments) == 2:
        number, _slash, protocol = arguments[1].partition("/")
        if not number.isdecimal() or int(number) > 65535:
            raise CommandError(
                f'Error: invalid port ({number}): strconv.ParseUint: parsing "{number}": '
                "invalid syntax"
            )
        bindings = ports.get(f"{number}/{protocol or 'tcp'}")
        if not bindings:
            raise CommandError(f"Error: No public port '{arguments[1]}' published for {name}")
        lines = [bracketed(binding["HostIp"], binding["HostPort"]) for binding in bindings]
    else:
        for inner, bindings in ports.items():
            lines += [
                f"{inner} -> {bracketed(binding['HostIp'], binding['HostPort'])}"
                for binding in bindings or []
            ]
    for line in sorted(lines, key=table.natural):
        print(line)


@command(
    "CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    at_least=1,
    interspersed=False,
)
def top(session: Session, _: Options, arguments: list[str]) -> None:
    answer = session.client.get(_path(arguments[0]) + "/top", {"ps_args": " ".join(arguments[1:])})
    lines = ["\t".join(row) for row in [answer["Titles"], *(answer.get("Processes") or [])]]
    sys.stdout.write(table.align("\n".join([*lines, ""]), minimum=20, padding=3))


@command(
    "CONTAINER",
    "Inspect changes to files or directories on a container's filesystem",
    at_least=1,
    at_most=1,
)
def diff(session: Session, _: Options, arguments: list[str]) -> None:
    for change in session.client.get(_path(arguments[0]) + "/changes") or []:
        print("CAD"[change["Kind"]], change["Path"])
