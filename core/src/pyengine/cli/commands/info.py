"""``pyengine info``."""

from __future__ import annotations

import sys

from pyengine.cli import formatting, table, units
from pyengine.cli.client import ApiError, CommandError
from pyengine.cli.commands.version import client_info
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def _yes(value: Any) -> str:
    return "true" if value else "false"


def _optional(label: str, value: Any) -> Iterator[str]:
    if value:
        yield f" {label}: {value}"


def _security(options: list[str]) -> Iterator[str]:
    if options:
        yield " Security Options:"
    for option in options:
        pairs = [pair.partition("=") for pair in option.split(",")]
        yield "  " + next((value for key, _, value in pairs if key == "name"), option)
        yield from (f"   Profile: {value}" for key, _, value in pairs if key == "profile")


def _plugins(plugins: dict[str, Any]) -> Iterator[str]:
    yield " Plugins:"
    yield "  Volume: " + " ".join(plugins.get("Volume") or [])
    yield "  Network: " + " ".join(plugins.get("Network") or [])
    if plugins.get("Authorization"):
        yield "  Authorization: " + " ".join(plugins["Authorization"])
    yield "  Log: " + " ".join(plugins.get("Log") or [])


def _registries(config: dict[str, Any]) -> Iterator[str]:
    indexes, networks = config.get("IndexConfigs") or {}, config.get("InsecureRegistryCIDRs") or []
    if indexes or networks:
        yield " Insecure Registries:"
        yield from (f"  {index['Name']}" for index in indexes.values() if not index.get("Secure"))
        yield from (f"  {network}" for network in networks)
    if config.get("Mirrors"):
        yield " Registry Mirrors:"
        yield from (f"  {mirror}" for mirror in config["Mirrors"])


def server_lines(info: dict[str, Any], username: str = "") -> Iterator[str]:
    """The engine's part of ``info``, line by line."""
    yield f" Containers: {info.get('Containers', 0)}"
    for state in ("Running", "Paused", "Stopped"):
        yield f"  {state}: {info.get(f'Containers{state}', 0)}"
    yield f" Images: {info.get('Images', 0)}"
    yield from _optional("Server Version", info.get("ServerVersion"))
    yield from _optional("Storage Driver", info.get("Driver"))
    yield from (f"  {pair[0]}: {pair[1]}" for pair in info.get("DriverStatus") or [])
    yield from _optional("Logging Driver", info.get("LoggingDriver"))
    yield from _optional("Cgroup Driver", info.get("CgroupDriver"))
    yield from _optional("Cgroup Version", info.get("CgroupVersion"))
    yield from _plugins(info.get("Plugins") or {})
    if info.get("CDISpecDirs"):
        yield " CDI spec directories:"
        yield from (f"  {folder}" for folder in info["CDISpecDirs"])
    yield f" Swarm: {(info.get('Swarm') or {}).get('LocalNodeState', 'inactive')}"
    if info.get("Runtimes"):
        yield " Runtimes: " + " ".join(info["Runtimes"])
        yield f" Default Runtime: {info.get('DefaultRuntime', '')}"
    if info.get("OSType") == "linux":
        yield f" Init Binary: {info.get('InitBinary', '')}"
        for label, key in (("containerd", "Containerd"), ("runc", "Runc"), ("init", "Init")):
            yield f" {label} version: {(info.get(f'{key}Commit') or {}).get('ID', '')}"
        yield from _security(info.get("SecurityOptions") or [])
    yield from _optional("Kernel Version", info.get("KernelVersion"))
    yield from _optional("Operating System", info.get("OperatingSystem"))
    yield from _optional("OSType", info.get("OSType"))
    yield from _optional("Architecture", info.get("Architecture"))
    yield f" CPUs: {info.get('NCPU', 0)}"
    yield f" Total Memory: {units.binary_size(info.get('MemTotal', 0))}"
    yield from _optional("Name", info.get("Name"))
    yield from _optional("ID", info.get("ID"))
    yield f" Docker Root Dir: {info.get('DockerRootDir', '')}"
    yield f" Debug Mode: {_yes(info.get('Debug'))}"
    if info.get("Debug"):
        yield f"  File Descriptors: {info.get('NFd', 0)}"
        yield f"  Goroutines: {info.get('NGoroutines', 0)}"
        yield f"  System Time: {info.get('SystemTime', '')}"
        yield f"  EventsListeners: {info.get('NEventsListener', 0)}"
    yield from _optional("HTTP Proxy", info.get("HttpProxy"))
    yield from _optional("HTTPS Proxy", info.get("HttpsProxy"))
    yield from _optional("No Proxy", info.get("NoProxy"))
    yield from _optional("Username", username)
    if info.get("Labels"):
        yield " Labels:"
        yield from (f"  {label}" for label in info["Labels"])
    yield f" Experimental: {_yes(info.get('ExperimentalBuild'))}"
    yield from _registries(info.get("RegistryConfig") or {})
    yield f" Live Restore Enabled: {_yes(info.get('LiveRestoreEnabled'))}"
    yield from _optional("Product License", info.get("ProductLicense"))
    if info.get("DefaultAddressPools"):
        yield " Default Address Pools:"
        for pool in info["DefaultAddressPools"]:
            yield f"   Base: {pool['Base']}, Size: {pool['Size']}"
    yield ""


def _pretty(client: dict[str, Any], info: dict[str, Any] | None) -> None:
    lines = [
        "Client:",
        f" Version:    {client['Version']}",
        f" Context:    {client['Context']}",
        " Debug Mode: false",
        "",
        "Server:",
        *(server_lines(info) if info is not None else ()),
    ]
    print("\n".join(lines), flush=True)
    for warning in (info or {}).get("Warnings") or []:
        print(warning, file=sys.stderr)


@command(
    "[OPTIONS]",
    "Display system-wide information",
    [Flag("format", "f", "string", table.INSPECT_FORMAT_HELP)],
    at_most=0,
)
def info(session: Session, options: Options, _: list[str]) -> None:
    template = formatting.parse_or_64(options["format"]) if options["format"] else None
    found: dict[str, Any] | None = None
    failure: CommandError | None = None
    try:
        found = session.client.get("/info")
    except CommandError as error:
        failure = error
    client = client_info(session, session.client.version if found is not None else "")
    if template is None:
        _pretty(client, found)
        if isinstance(failure, ApiError):
            print("ERROR:", failure, file=sys.stderr)
            raise CommandError("errors pretty printing info")
    else:
        errors = [str(failure)] if failure is not None else []
        whole = {
            **(found or {}),
            "ServerErrors": errors,
            "ClientInfo": {"Debug": False, **client, "Plugins": [], "Warnings": []},
        }
        try:
            sys.stdout.write(formatting.execute_typed(template, whole, "system.dockerInfo"))
        finally:
            sys.stdout.write("\n")
            sys.stdout.flush()
    if failure is not None:
        raise failure
