"""``pyengine version``."""

from __future__ import annotations

import os
import sys

from pyengine import __version__
from pyengine.cli import table
from pyengine.cli.client import MAX_API, CommandError
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def go_arch(machine: str) -> str:
    """The name that Go and the API have for a machine."""
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)


def client_info(session: Session, api_version: str) -> dict[str, Any]:
    """This client, in the fields of Docker's."""
    return {
        "Version": __version__,
        "ApiVersion": api_version,
        "DefaultAPIVersion": MAX_API,
        "GitCommit": "",
        "GoVersion": f"python{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}",
        "Os": sys.platform,
        "Arch": go_arch(os.uname().machine),
        "BuildTime": "",
        "Context": session.context_name,
    }


def _ansi_c(moment: str) -> str:
    """An RFC 3339 build time as ``Fri May 30 12:07:14 2025``; other texts as they are."""
    import time

    from pyengine.cli.units import epoch

    try:
        return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(epoch(moment)))
    except ValueError:
        return moment


def _pretty(client: dict[str, Any], server: dict[str, Any] | None) -> str:
    downgraded = ""
    if client["ApiVersion"] != client["DefaultAPIVersion"]:
        downgraded = f" (downgraded from {client['DefaultAPIVersion']})"
    lines = [
        "Client:",
        f" Version:\t{client['Version']}",
        f" API version:\t{client['ApiVersion']}{downgraded}",
        f" Python version:\t{client['GoVersion'].removeprefix('python')}",
        f" OS/Arch:\t{client['Os']}/{client['Arch']}",
        f" Context:\t{client['Context']}",
    ]
    if server is not None:
        name = (server.get("Platform") or {}).get("Name")
        lines += ["", f"Server: {name}" if name else "Server:"]
        for component in server["Components"]:
            lines += _component(component)
    return table.align("\n".join([*lines, ""]), minimum=20, padding=1)


def _component(component: dict[str, Any]) -> list[str]:
    details = component.get("Details") or {}
    lines = [f" {component['Name']}:", f"  Version:\t{component['Version']}"]
    if component["Name"] != "Engine":
        return lines + [f"  {key}:\t{details[key]}" for key in sorted(details)]
    runtime = "Go version" if details.get("GoVersion", "").startswith("go") else "Python version"
    return [
        *lines,
        f"  API version:\t{details.get('ApiVersion', '')}"
        f" (minimum version {details.get('MinAPIVersion', '')})",
        f"  {runtime}:\t{details.get('GoVersion', '').removeprefix('python')}",
        f"  Git commit:\t{details.get('GitCommit', '')}",
        f"  Built:\t{details.get('BuildTime', '')}",
        f"  OS/Arch:\t{details.get('Os', '')}/{details.get('Arch', '')}",
        f"  Experimental:\t{details.get('Experimental', 'false')}",
    ]


def _server_info(server: dict[str, Any]) -> dict[str, Any]:
    components = server.setdefault("Components", [])
    for component in components:
        details = component.setdefault("Details", {}) or {}
        if "BuildTime" in details:
            details["BuildTime"] = _ansi_c(details["BuildTime"])
    if not any(component["Name"] == "Engine" for component in components):
        keys = ("ApiVersion", "MinAPIVersion", "Os", "Arch", "GoVersion", "GitCommit", "BuildTime")
        components.append(
            {
                "Name": "Engine",
                "Version": server.get("Version", ""),
                "Details": {key: str(server.get(key, "")) for key in keys},
            }
        )
    return server


@command(
    "[OPTIONS]",
    "Show the version information of client and engine",
    [Flag("format", "f", "string", table.INSPECT_FORMAT_HELP)],
    at_most=0,
)
def version(session: Session, options: Options, _: list[str]) -> int:
    if options["format"]:
        from pyengine.cli.formatting import parse_or_64

        template = parse_or_64(options["format"], "version")
    failure: CommandError | None = None
    server: dict[str, Any] | None = None
    api_version = os.environ.get("DOCKER_API_VERSION") or MAX_API
    try:
        engine = session.client
        api_version = engine.version
        server = _server_info(engine.get("/version"))
    except CommandError as error:
        failure = error
    client = client_info(session, api_version)
    if options["format"]:
        from pyengine.cli.formatting import execute_typed

        try:
            sys.stdout.write(execute_typed(template, {"Client": client, "Server": server}))
        finally:
            sys.stdout.write("\n")
            sys.stdout.flush()
    else:
        sys.stdout.write(_pretty(client, server))
    if failure is not None:
        sys.stdout.flush()
        raise failure
    return 0
