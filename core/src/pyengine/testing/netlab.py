"""Small networks for tests: stations (network namespaces), cables, bridges, servers and clients.

A station has a thread of its own that lives in its namespace; what has to act "on that machine" is
done by it. Nothing here touches the namespace the tests run in, and everything is gone with the
stations. Links are made and looked at with pyroute2, so what a driver did with another library is
judged independently.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pyroute2 import IPRoute

from pyengine.linux import syscalls

T = TypeVar("T")

#: Seconds to wait for an answer that should come, on a busy machine.
PATIENCE = 3.0
#: Seconds after which an answer that should not come did not: a hundred times what it takes.
SILENCE = 0.25


class Station:
    """One machine: a network namespace with loopback up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._live, name=f"station-{name}", daemon=True)
        self._thread.start()
        self.netns = self.do(self._enter)
        self._open: list[socket.socket] = []

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        os.close(self.netns)
        self._jobs.put(None)
        self._thread.join(10)

    def do(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call ``function`` on this machine; what it raises is raised here."""
        answer: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

        def job() -> None:
            try:
                answer.put((function(*arguments, **named), None))
            except BaseException as error:
                answer.put((None, error))

        self._jobs.put(job)
        result, error = answer.get(timeout=60)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def links(self) -> dict[str, dict[str, Any]]:
        """Links by name: index, up, mac, mtu, kind, alias, addresses (CIDR)."""
        return self.do(_links)

    def default_routes(self) -> set[str]:
        """Gateways of the default routes."""
        return self.do(_default_routes)

    def sysctl(self, name: str, value: str) -> None:
        """Set ``net/ipv4/ip_forward`` and the like; nothing if the kernel lacks it."""

        def write() -> None:
            with contextlib.suppress(FileNotFoundError), open("/proc/sys/" + name, "w") as file:
                file.write(value)

        self.do(write)

    def serve(self, port: int, protocol: str = "tcp", address: str = "") -> None:
        """Answer everyone on ``port`` with this station's name and the caller's address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        server = self.do(socket.socket, family, kind)
        self._open.append(server)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        if protocol == "tcp":
            server.listen(16)
        run = self._serve_tcp if protocol == "tcp" else self._serve_udp
        threading.Thread(target=run, args=(server,), daemon=True).start()

    def ask(
        self, address: str, port: int, protocol: str = "tcp", patience: float | None = None
    ) -> tuple[str, str] | None:
        """(name of who answered, address it saw us from), or None if nobody answered within
        ``patience`` (``PATIENCE``) seconds."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with self.do(socket.socket, family, kind) as client:
            client.settimeout(PATIENCE if patience is None else patience)
            try:
                client.connect((address, port))
                if protocol == "udp":
                    client.send(b"?")
                answer = client.recv(200).decode()
            except OSError:
                return None
        name, _, seen = answer.partition(" ")
        return (name, seen) if name else None

    def hears(self, address: str, port: int, protocol: str = "tcp") -> str:
        """Name of who answers at an address, empty for nobody."""
        answer = self.ask(address, port, protocol)
        return answer[0] if answer else ""

    def deaf(self, address: str, port: int, protocol: str = "tcp") -> bool:
        """True if nobody answers at an address."""
        return self.ask(address, port, protocol, SILENCE) is None

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _enter(self) -> int:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        # An address that is still being checked for duplicates makes the first packets fail.
        with (
            contextlib.suppress(FileNotFoundError),
            open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as file,
        ):
            file.write("0")
        with IPRoute() as route:
            route.link("set", index=1, state="up")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _serve_tcp(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, peer = server.accept()
                with caller:
                    caller.send(self._greeting(peer))

    def _greeting(self, peer: tuple[Any, ...]) -> bytes:
        return f"{self.name} {peer[0].removeprefix('::ffff:')}".encode()

    def _serve_udp(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, peer = server.recvfrom(200)
                if peer is None:
                    return
                server.sendto(self._greeting(peer), peer)


@contextlib.contextmanager
def stations(*names: str) -> Iterator[list[Station]]:
    """Stations for the length of the block."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            made.append(Station(name))
            stack.callback(made[-1].close)
        yield made


def bridge(station: Station, name: str, *addresses: str) -> None:
    """A bridge with addresses (CIDR), up."""

    def make() -> None:
        with IPRoute() as route:
            route.link("add", ifname=name, kind="bridge")
            _dress(route, name, addresses)

    station.do(make)


def cable(
    one: Station,
    name: str,
    other: Station,
    other_name: str,
    addresses: tuple[str, ...] = (),
    other_addresses: tuple[str, ...] = (),
    *,
    master: str = "",
    gateways: tuple[str, ...] = (),
) -> None:
    """A veth pair between two stations, both ends up.

    ``master``: the bridge of ``one`` to plug it into, in hairpin mode: with br_netfilter a bridge
    sends what was translated back where it came from by itself. ``gateways``: default routes of
    ``other``."""

    def here() -> None:
        with IPRoute() as route:
            peer = {"ifname": other_name, "net_ns_fd": other.netns}
            route.link("add", ifname=name, kind="veth", peer=peer)
            _dress(route, name, addresses)
            if master:
                index = route.link_lookup(ifname=name)[0]
                route.link("set", index=index, master=route.link_lookup(ifname=master)[0])
                route.brport("set", index=index, mode=1)

    def there() -> None:
        with IPRoute() as route:
            _dress(route, other_name, other_addresses)
            for gateway in gateways:
                route.route("add", gateway=gateway, dst="::/0" if ":" in gateway else "default")

    one.do(here)
    other.do(there)


def _dress(route: Any, name: str, addresses: tuple[str, ...]) -> None:
    index = route.link_lookup(ifname=name)[0]
    for cidr in addresses:
        address, _, length = cidr.partition("/")
        flags = {"flags": 0x02} if ":" in address else {}
        route.addr("add", index=index, address=address, prefixlen=int(length), **flags)
    route.link("set", index=index, state="up")


def _links() -> dict[str, dict[str, Any]]:
    with IPRoute() as route:
        found = {}
        for link in route.get_links():
            info = link.get_attr("IFLA_LINKINFO")
            found[link.get_attr("IFLA_IFNAME")] = {
                "index": link["index"],
                "up": link["state"] == "up",
                "mac": link.get_attr("IFLA_ADDRESS"),
                "mtu": link.get_attr("IFLA_MTU"),
                "kind": info.get_attr("IFLA_INFO_KIND") if info else "",
                "alias": link.get_attr("IFLA_IFALIAS") or "",
                "addresses": [
                    f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}"
                    for a in route.get_addr(index=link["index"])
                    if a["index"] == link["index"]
                ],
            }
        return found


def _default_routes() -> set[str]:
    with IPRoute() as route:
        return {
            entry.get_attr("RTA_GATEWAY")
            for family in (socket.AF_INET, socket.AF_INET6)
            for entry in route.get_routes(family=family, table=254)
            if entry["dst_len"] == 0 and entry.get_attr("RTA_GATEWAY")
        }
