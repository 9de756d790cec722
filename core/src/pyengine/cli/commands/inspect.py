"""``pyengine inspect`` and the groups' own inspect commands."""

from __future__ import annotations

import json
import sys

from pyengine.cli import formatting, platforms, table
from pyengine.cli.client import ApiError, Client, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row, escape
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Look = Callable[[str], Any]

_FORMAT = Flag("format", "f", "string", table.INSPECT_FORMAT_HELP)
_SIZE = Flag("size", "s", "bool", "Display total file sizes")
_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
    "plugin": "/plugins/{}/json",
}
_SWARM = ("config", "node", "secret", "service", "task")
_TYPES = sorted([*_PATHS, *_SWARM])


def _look(client: Client, kind: str, size: bool = False) -> Look:
    def look(name: str) -> Any:
        query = {"size": size} if kind == "container" else None
        return client.get(_PATHS[kind].format(quote(name)), query)

    return look


def _dump(found: list[Any], compact: bool) -> str:
    rows = any(isinstance(one, Row) for one in found)
    plain = [one.fields() for one in found] if rows else found
    if compact:
        text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False) + "\n"
    else:
        text = json.dumps(plain, indent=4, ensure_ascii=False) + "\n"
    return escape(text) if rows else text


def show(look: Look, names: list[str], format: str) -> None:
    """Print the objects as JSON or through a template; what is missing is told at the end."""
    template = formatting.parse_or_64(format) if format not in ("", "json") else None
    found: list[Any] = []
    lines: list[str] = []
    errors: list[str] = []
    for name in names:
        try:
            value = look(name)
            if template is None:
                found.append(value)
            else:
                lines.append(formatting.execute_inspect(template, value) + "\n")
        except CommandError as error:
            errors.append(str(error))
    if template is None:
        sys.stdout.write(_dump(found, format == "json"))
    else:
        sys.stdout.write("".join(lines) or "\n")
    if errors:
        sys.stdout.flush()
        raise CommandError("\n".join(errors))


def _skippable(error: CommandError) -> bool:
    text = str(error)
    return (
        (isinstance(error, ApiError) and error.status == 404)
        or "not supported" in text
        or "invalid reference format" in text
    )


@command(
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Return low-level information on objects of the engine",
    [
        _FORMAT,
        Flag("size", "s", "bool", "Display total file sizes if the type is container"),
        Flag("type", "", "string", "Only inspect objects of the given type"),
    ],
    at_least=1,
)
def inspect(session: Session, options: Options, names: list[str]) -> None:
    kind, size = options["type"], options["size"]
    allowed = '", "'.join(_TYPES)
    if "type" in options.changed and not kind:
        raise CommandError(f'type is empty: must be one of "{allowed}"')
    if kind and kind not in _TYPES:
        raise CommandError(f'unknown type: "{kind}": must be one of "{allowed}"')
    client = session.client
    if kind in _SWARM:
        show(lambda name: client.get(f"/{kind}s/{quote(name)}"), names, options["format"])
        return

    def look(name: str) -> Any:
        for candidate in [kind] if kind else list(_PATHS):
            try:
                value = _look(client, candidate, size)(name)
            except CommandError as error:
                if kind or not _skippable(error):
                    raise
                continue
            if size and candidate != "container":
                print("WARNING: --size ignored for", candidate, file=sys.stderr)
            return value
        raise CommandError(f"Error: No such object: {name}")

    show(look, names, options["format"])


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    [_FORMAT, _SIZE],
    at_least=1,
)
def container_inspect(session: Session, options: Options, names: list[str]) -> None:
    show(_look(session.client, "container", options["size"]), names, options["format"])


@command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    [_FORMAT, Flag("platform", "", "string", "Inspect a specific platform of the image")],
    at_least=1,
)
def image_inspect(session: Session, options: Options, names: list[str]) -> None:
    client, query = session.client, {"platform": platforms.parse(options["platform"])}
    path = _PATHS["image"]
    show(lambda name: client.get(path.format(quote(name)), query), names, options["format"])


@command(
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    [_FORMAT, Flag("verbose", "v", "bool", "Verbose output for diagnostics")],
    at_least=1,
)
def network_inspect(session: Session, options: Options, names: list[str]) -> None:
    client, query = session.client, {"verbose": options["verbose"]}
    show(lambda name: client.get(f"/networks/{quote(name)}", query), names, options["format"])


@command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    [_FORMAT],
    at_least=1,
)
def volume_inspect(session: Session, options: Options, names: list[str]) -> None:
    show(_look(session.client, "volume"), names, options["format"])
