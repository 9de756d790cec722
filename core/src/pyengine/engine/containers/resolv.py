"""The three files that give a container its name and its view of names: hosts, hostname,
resolv.conf. Written into the container's directory before each start and bind-mounted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyengine.engine.containers.links import DEFAULT_NETWORK
from pyengine.engine.model import PREDEFINED, Container, EndpointSettings
from pyengine.errors import InvalidParameter

if TYPE_CHECKING:
    from pyengine.engine.containers.bundle import Files, Settings

HOST_RESOLV = Path("/etc/resolv.conf")
#: What systemd-resolved really asks; /etc/resolv.conf then names only its stub on loopback.
SYSTEMD_RESOLV = Path("/run/systemd/resolve/resolv.conf")
STUB = "127.0.0.53"
#: Docker's answer to a host without any usable name server.
FALLBACK = ("8.8.8.8", "8.8.4.4")

#: Where the engine's own name server listens in containers on networks that users made.
EMBEDDED = "127.0.0.11"

#: A hosts file of so many characters is not looked through.
MOST_HOSTS = 1 << 20

LOCALHOST = "127.0.0.1\tlocalhost\n"
LOCALHOST_V6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


class Upstream(NamedTuple):
    """A name server, and whether it is reached from the host's network or the container's."""

    address: str
    from_host: bool = False


def embedded(container: Container) -> bool:
    """Whether the container sees the engine's own name server: it is on a network that a user
    made."""
    return any(name not in PREDEFINED for name in container.networks)


def write_network_files(
    container: Container, files: Files, settings: Settings, hosts: Mapping[str, str]
) -> None:
    """Write all three. ``hosts``: addresses by name, of links. Mode 0644: any user reads them."""
    config, host = container.config, container.host_config
    _write(files.hostname, config.hostname + "\n")
    if host.network_mode == "host" and not host.extra_hosts:
        text = _read(Path("/etc/hosts")) or LOCALHOST
    else:
        text = LOCALHOST + (LOCALHOST_V6 if has_ipv6(container) else "")
        text += _hosts(container, hosts, settings.host_gateways)
    _write(files.hosts, text)
    write_resolv(container, files, settings)


def write_resolv(container: Container, files: Files, settings: Settings) -> None:
    """Write resolv.conf alone, as when a container that runs joins its first own network."""
    _write(files.resolv, _resolv(container, settings, embedded(container)))


def amend_hosts(
    container: Container,
    files: Files,
    *,
    come: EndpointSettings | None = None,
    gone: EndpointSettings | None = None,
) -> None:
    """The hosts file of a container that runs, as it joins a network or leaves one: whatever else
    has been written into it stays."""
    dropped = _own_lines(container, gone) if gone else []
    lines = _lines(files.hosts)
    if lines is None:
        return
    kept = [line for line in lines if line not in dropped]
    if kept and not kept[-1].endswith("\n"):
        kept.append("\n")
    _write(files.hosts, "".join(kept + (_own_lines(container, come) if come else [])))


def readdress(hosts: Path, alias: str, address: str) -> None:
    """Change, in place, the address on the line of a link's ``alias``; the rest may be the user's
    by now."""
    lines = _lines(hosts) or []
    changed = list(lines)
    for number, line in enumerate(lines):
        _, tab, names = line.partition("\t")
        if tab and names.split()[:1] == [alias]:
            changed[number] = f"{address}\t{names}"
    if changed != lines:
        _write(hosts, "".join(changed))


def _lines(hosts: Path) -> list[str] | None:
    """Of a hosts file; None if the container has filled it with something else."""
    with open(hosts, errors="surrogateescape") as file:
        text = file.read(MOST_HOSTS)
    return None if len(text) == MOST_HOSTS else text.splitlines(keepends=True)


def has_ipv6(container: Container) -> bool:
    """False if it has IPv6 switched off in its network namespace."""
    sysctls = container.host_config.sysctls or {}
    return sysctls.get("net.ipv6.conf.all.disable_ipv6", "").strip() != "1"


def gateway_addresses(container: Container) -> Sequence[str]:
    """What ``host-gateway`` in ``--add-host`` means for this container."""
    for name, endpoint in container.networks.items():
        if endpoint.gateway:
            both = [endpoint.gateway, endpoint.ipv6_gateway if name == DEFAULT_NETWORK else ""]
            return [address for address in both if address]
    return ["127.0.0.1"]


def _hosts(container: Container, hosts: Mapping[str, str], host_gateways: Sequence[str]) -> str:
    lines = [f"{address}\t{name}\n" for name, address in hosts.items()]
    for item in container.host_config.extra_hosts or []:
        name, _, address = item.partition(":")
        addresses = [address]
        if address == "host-gateway":
            addresses = list(host_gateways or gateway_addresses(container))
        lines += [f"{one.strip('[]')}\t{name}\n" for one in addresses]
    for endpoint in container.networks.values():
        lines += _own_lines(container, endpoint)
    return "".join(lines)


def _own_lines(container: Container, endpoint: EndpointSettings) -> list[str]:
    """The container's own names, at the addresses that it has on a network."""
    names = ".".join(filter(None, (container.config.hostname, container.config.domainname)))
    if "." in names:
        names = f"{names} {names.partition('.')[0]}"
    addresses = (endpoint.ip_address, endpoint.global_ipv6_address)
    return [f"{address}\t{names}\n" for address in addresses if address]


def upstreams(configured: Sequence[str]) -> Sequence[Upstream]:
    """Who the embedded name server asks: the configured servers, from the container's network;
    else the host's, of which those on its loopback are asked from there. Read anew each time, so
    that changes of the host count at once."""
    if configured:
        return [Upstream(server) for server in configured]
    servers, _, _ = parse(_read(HOST_RESOLV))
    return [Upstream(server, _is_loopback(server)) for server in servers] or [
        Upstream(server) for server in FALLBACK
    ]


def _resolv(container: Container, settings: Settings, embedded: bool) -> str:
    host = container.host_config
    source = _read(HOST_RESOLV)
    asked = (host.dns, host.dns_search, host.dns_options)
    if host.network_mode == "host" and not any(
        (*asked, settings.dns, settings.dns_search, settings.dns_options)
    ):
        return source
    servers, search, options = parse(source)
    if servers == [STUB]:
        servers, search, options = parse(_read(SYSTEMD_RESOLV) or source)
    if host.network_mode != "host":
        # The host's loopback is not the container's.
        servers = [server for server in servers if not _is_loopback(server)]
    servers = list(host.dns or settings.dns or servers or FALLBACK)
    search = list(host.dns_search or settings.dns_search or search)
    options = list(host.dns_options or settings.dns_options or options)
    if search == ["."]:
        search = []
    if embedded:
        servers = [EMBEDDED]
        if not any(option.startswith("ndots:") for option in options):
            options.append("ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Name servers, search domains, options of a resolv.conf (resolv.conf(5))."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        match words:
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search" | "domain", *domains]:
                search = domains
            case ["options", *found]:
                options += found
    return servers, search, options


def check_extra_hosts(items: Iterable[str]) -> None:
    """``InvalidParameter`` in Docker's words for a bad ``--add-host``."""
    for item in items:
        name, colon, address = item.partition(":")
        if not colon or not name:
            raise InvalidParameter(f"bad format for add-host: {item!r}".replace("'", '"'))
        if address != "host-gateway":
            try:
                ipaddress.ip_address(address.strip("[]"))
            except ValueError:
                raise InvalidParameter(
                    f"invalid IP address in add-host: {address!r}".replace("'", '"')
                ) from None


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    # In place: a running container has the inode mounted.
    with open(path, "w", errors="surrogateescape") as file:
        file.write(text)
    path.chmod(0o644)
