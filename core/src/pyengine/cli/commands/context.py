"""``pyengine context``: named engines."""

from __future__ import annotations

import os
import sys

from pyengine.cli import contextarchive, table
from pyengine.cli.client import CommandError
from pyengine.cli.commands.inspect import show as show_objects
from pyengine.cli.contextendpoint import KEYS, Endpoint
from pyengine.cli.contexts import (
    DEFAULT,
    DEFAULT_DESCRIPTION,
    ENGINE,
    Context,
    ContextNotFound,
    Contexts,
    check_name,
)
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row, Struct
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ERROR_WIDTH = 45
_TABLE = (
    "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
)
_DESCRIPTION = Flag("description", "", "string", "Description of the context")
_DOCKER = Flag("docker", "", "stringToString", "Set the engine's endpoint", default=[])
_LONG = "The engine's endpoint is KEY=VALUE, separated by commas:\n" + "\n".join(
    f"  {key.ljust(15)}  {text}" for key, text in KEYS.items()
)


def _warn_of_host(what: str) -> None:
    """A variable that names an engine makes the context in use count for nothing."""
    for name in ("PYENGINE_HOST", "DOCKER_HOST"):
        if os.environ.get(name):
            sys.stdout.flush()
            print(
                f"Warning: {name} environment variable overrides the active context. To use "
                f"{what}, either set the global --context flag, or unset {name} environment "
                "variable.",
                file=sys.stderr,
            )


def _told(name: str, done: str) -> None:
    print(name, flush=True)
    print(f'Successfully {done} context "{name}"', file=sys.stderr)


def _check_new(contexts: Contexts, name: str) -> None:
    check_name(name)
    try:
        contexts.get(name)
    except ContextNotFound:
        return
    except CommandError as error:
        raise CommandError(f"error while getting existing contexts: {error}")
    raise CommandError(f'context "{name}" already exists')


def _merged(given: list[dict[str, str]]) -> dict[str, str]:
    return {key: value for pairs in given for key, value in pairs.items()}


@command(
    "[OPTIONS] CONTEXT",
    "Create a context",
    [
        _DESCRIPTION,
        _DOCKER,
        Flag("from", "", "string", "Create the context from another"),
    ],
    at_least=1,
    at_most=1,
    long=_LONG,
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    contexts, name = session.contexts, arguments[0]
    _check_new(contexts, name)
    if options["from"] and options["docker"]:
        raise CommandError("cannot use --docker flag when --from is set")
    if options["docker"]:
        endpoint = Endpoint.given(contexts, _merged(options["docker"]))
        context = Context(name, {}, {ENGINE: endpoint.meta})
        tls = {ENGINE: endpoint.tls} if endpoint.tls else {}
    else:
        source = options["from"] or session.context_name
        context, tls = contexts.get(source), contexts.tls_data(source)
        if source == DEFAULT:
            context.metadata["Description"] = DEFAULT_DESCRIPTION
        context.name = name
    if options["description"]:
        context.metadata["Description"] = options["description"]
    contexts.write(context, tls)
    _told(name, "created")


@command(
    "[OPTIONS] CONTEXT",
    "Update a context",
    [_DESCRIPTION, _DOCKER],
    at_least=1,
    at_most=1,
    long=_LONG,
)
def update(session: Session, options: Options, arguments: list[str]) -> None:
    contexts, name = session.contexts, arguments[0]
    check_name(name)
    context = contexts.get(name)
    if options["description"]:
        context.metadata["Description"] = options["description"]
    if options["docker"]:
        endpoint = Endpoint.given(contexts, _merged(options["docker"]))
        context.endpoints[ENGINE] = endpoint.meta
        contexts.write(context, {ENGINE: endpoint.tls} if endpoint.tls else {}, [ENGINE])
    else:
        contexts.write(context, {}, [])
    _told(name, "updated")


@command("[OPTIONS] CONTEXT [FILE|-]", "Export a context to a tar archive", at_least=1, at_most=2)
def export(session: Session, _: Options, arguments: list[str]) -> None:
    name = arguments[0]
    path = arguments[1] if len(arguments) > 1 else f"{name}.dockercontext"
    if name != DEFAULT:
        check_name(name)
    if path == "-":
        if sys.stdout.isatty():
            raise CommandError("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.buffer.write(_packed(session.contexts, name))
        sys.stdout.buffer.flush()
        return
    data = _packed(session.contexts, name)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except OSError as error:
        raise CommandError(f"open {path}: {str(error.strerror).lower()}")
    print(f'Written file "{path}"', file=sys.stderr)


def _packed(contexts: Contexts, name: str) -> bytes:
    return contextarchive.pack(contexts.get(name), contexts.tls_data(name))


@command("CONTEXT FILE|-", "Import a context from a tar or zip file", at_least=2, at_most=2)
def import_context(session: Session, _: Options, arguments: list[str]) -> None:
    name, path = arguments
    _check_new(session.contexts, name)
    if path == "-":
        data = sys.stdin.buffer.read(contextarchive.LIMIT + 1)
    else:
        try:
            with open(path, "rb") as file:
                data = file.read(contextarchive.LIMIT + 1)
        except OSError as error:
            raise CommandError(f"open {path}: {str(error.strerror).lower()}")
    context, tls = contextarchive.unpack(data)
    context.name = name
    session.contexts.write(context, tls)
    _told(name, "imported")


class ContextRow(Row):
    """A context as ``ls --format`` sees it."""

    HEADERS = {
        "Name": "NAME",
        "Description": "DESCRIPTION",
        "DockerEndpoint": "DOCKER ENDPOINT",
        "Error": "ERROR",
    }
    METHODS = ("Current",)
    type_name = "*formatter.clientContextContext"

    def __init__(self, context: Context, current: bool, error: str = "") -> None:
        self._c, self._current, self._error = context, current, error

    def Current(self) -> bool:
        return self._current

    def Name(self) -> str:
        return self._c.name

    def Description(self) -> str:
        return DEFAULT_DESCRIPTION if self._c.name == DEFAULT else self._c.description

    def DockerEndpoint(self) -> str:
        return self._c.host

    def Error(self) -> str:
        return table.ellipsis(self._error.replace("\n", " "), _ERROR_WIDTH)

    def fields(self) -> dict[str, Any]:
        return {"Current": self._current, **super().fields()}


@command(
    "[OPTIONS]",
    "List contexts",
    [
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("quiet", "q", "bool", "Only show context names"),
    ],
    at_most=0,
)
def ls(session: Session, options: Options, _: list[str]) -> None:
    current = session.context_name
    found = [*session.contexts.stored(), session.contexts.get(DEFAULT)]
    rows = [ContextRow(context, context.name == current, context.problem) for context in found]
    if current not in (context.name for context in found):
        try:
            session.contexts.get(current)
        except CommandError as error:
            rows.append(ContextRow(Context(current, {}, {}), True, str(error)))
    rows.sort(key=lambda row: table.natural(row.Name()))
    format = table.choose_format(options["format"], _TABLE, options["quiet"], "{{.Name}}")
    table.show(format, rows, ContextRow.HEADERS)
    _warn_of_host("a context")


class ContextDetails(Row):
    """A context as ``inspect`` shows it: to a template its stored form is a field, in JSON not."""

    HEADERS = {name: name for name in ("Name", "Metadata", "Endpoints", "TLSMaterial", "Storage")}
    type_name = "context.contextWithTLSListing"

    def __init__(self, contexts: Contexts, name: str) -> None:
        self._c = contexts.get(name)
        self._tls = contexts.tls_paths(name)
        self._folders = contexts.folders(name)

    def Name(self) -> str:
        return self._c.name

    def Metadata(self) -> Struct:
        others = {key: value for key, value in self._c.metadata.items() if key != "Description"}
        inner = _struct(
            "command.DockerContext", Description=self._c.description, AdditionalFields=others
        )
        fields = {"Name": self.Name(), "Metadata": inner, "Endpoints": self.Endpoints()}
        outer, document = _struct("store.Metadata", **fields), self._c.document()
        inner.encoded, outer.encoded = document["Metadata"], document
        return outer

    def Endpoints(self) -> dict[str, Any]:
        endpoints = dict(self._c.endpoints)
        if ENGINE in endpoints:
            endpoints[ENGINE] = _struct(
                "context.EndpointMetaBase",
                Host=self._c.host,
                SkipTLSVerify=self._c.skips_verification,
            )
        return endpoints

    def TLSMaterial(self) -> dict[str, list[str]]:
        return {endpoint: sorted(files) for endpoint, files in self._tls.items()}

    def Storage(self) -> Struct:
        meta, tls = self._folders
        return _struct("store.StorageInfo", MetadataPath=meta, TLSPath=tls)

    def fields(self) -> dict[str, Any]:
        return {
            **self._c.document(),
            "TLSMaterial": self.TLSMaterial(),
            "Storage": self.Storage(),
        }


def _struct(type_name: str, **fields: Any) -> Struct:
    struct = Struct(fields)
    struct.type_name = type_name
    return struct


@command(
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    "Display detailed information on one or more contexts",
    [Flag("format", "f", "string", table.INSPECT_FORMAT_HELP)],
)
def inspect(session: Session, options: Options, names: list[str]) -> None:
    contexts = session.contexts
    names = names or [session.context_name]
    show_objects(lambda name: ContextDetails(contexts, name), names, options["format"])


@command(
    "CONTEXT [CONTEXT...]",
    "Remove one or more contexts",
    [Flag("force", "f", "bool", "Force the removal of a context in use")],
    at_least=1,
)
def rm(session: Session, options: Options, names: list[str]) -> None:
    current, errors = session.context_name, []
    for name in names:
        try:
            _remove(session, name, name == current, options["force"])
        except CommandError as error:
            errors.append(str(error))
        else:
            print(name, flush=True)
    if errors:
        raise CommandError("\n".join(errors))


def _remove(session: Session, name: str, current: bool, force: bool) -> None:
    if name == DEFAULT:
        raise CommandError('context "default" cannot be removed')
    if current:
        if not force:
            raise CommandError(f'context "{name}" is in use, set -f flag to force remove')
        _select(session, "")
    if not force and not os.path.exists(session.contexts.folders(name)[0]):
        raise CommandError(f'context "{name}" does not exist')
    session.contexts.remove(name)


def _select(session: Session, name: str) -> None:
    """Make a context the current one in config.json; empty for the default."""

    def change(config: dict[str, Any]) -> bool:
        before = config.pop("currentContext", "")
        if name:
            config["currentContext"] = name
        return bool(before != name)

    session.config_file.update("the current context", change)


@command("", "Print the name of the current context", at_most=0)
def show(session: Session, _: Options, __: list[str]) -> None:
    print(session.context_name)


@command("CONTEXT", "Set the current context", at_least=1, at_most=1)
def use(session: Session, _: Options, arguments: list[str]) -> None:
    name = arguments[0]
    if name != DEFAULT:
        check_name(name)
        session.contexts.get(name)
    _select(session, "" if name == DEFAULT else name)
    print(name, flush=True)
    print(f'Current context is now "{name}"', file=sys.stderr)
    if name != DEFAULT:
        _warn_of_host(f'"{name}"')
