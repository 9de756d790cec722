"""The firewall kit: a plain driver passes, drivers broken on purpose do not."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Sequence

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from pyengine.contracts.base import DriverContext, Probe, Reconciled
from pyengine.contracts.firewall import (
    Change,
    FirewallDriver,
    FirewallEndpoint,
    FirewallNetwork,
)
from pyengine.errors import Conflict
from pyengine.linux.netns import inside
from pyengine.testing import netlab
from pyengine.testing.firewall import FirewallDriverSuite


def run(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


class PlainFirewall(FirewallDriver):
    """Writes the whole table anew for every change, with the nft program."""

    name = "plain"
    iptables = ("iptables", "ip6tables", "iptables-legacy")

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.networks: dict[str, FirewallNetwork] = {}
        self.endpoints: dict[str, FirewallEndpoint] = {}
        self.seen = ""

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def apply(self, change: Change) -> None:
        networks, endpoints = dict(self.networks), dict(self.endpoints)
        for gone in change.remove_networks:
            networks.pop(gone, None)
        for gone in change.remove_endpoints:
            endpoints.pop(gone, None)
        networks.update({each.id: each for each in change.networks})
        endpoints.update({each.id: each for each in change.endpoints})
        self.refuse_double_ports(endpoints)
        self.networks, self.endpoints = networks, endpoints
        self.write()
        self.forget_flows()
        if change.networks or change.remove_networks:
            self.open_foreign()

    def forget_flows(self) -> None:
        # Without the program conntrack(8): a module's worth of netlink, done by pyroute2.
        with NFCTSocket() as kernel:
            kernel.flush()

    def refuse_double_ports(self, endpoints: dict[str, FirewallEndpoint]) -> None:
        keys = [
            (port.protocol, port.host_ip, port.host_port)
            for each in endpoints.values()
            for port in each.ports
        ]
        if len(keys) != len(set(keys)):
            raise Conflict("a port is published twice")

    def write(self) -> None:
        table = f"inet {self.context.prefix}"
        run("nft", "-f", "-", given="\n".join(self.text(table)))
        self.seen = self.listing()

    def redirect(self, netns: int, address: str, port: int, to: int) -> None:
        with inside(netns):
            run("nft", "-f", "-", given="\n".join(self.redirection(address, port, to)))

    def redirection(self, address: str, port: int, to: int) -> list[str]:
        chains = ("there", "output", -300), ("back", "postrouting", 300)
        lines = ["table ip plain_redirect {"]
        for chain, hook, priority in chains:
            lines.append(f"chain {chain} {{ type filter hook {hook} priority {priority}; }}")
        lines.append("}")
        lines += [f"flush chain ip plain_redirect {chain}" for chain, _, _ in chains]
        for protocol in ("tcp", "udp"):
            lines += [
                f"add rule ip plain_redirect there ip daddr {address} {protocol} dport {port} "
                f"{protocol} dport set {to}",
                f"add rule ip plain_redirect back ip saddr {address} {protocol} sport {to} "
                f"{protocol} sport set {port}",
            ]
        return lines

    def listing(self) -> str:
        try:
            return run("nft", "-s", "list", "table", "inet", self.context.prefix)
        except RuntimeError:
            return ""

    def text(self, table: str) -> list[str]:
        translate = [line for each in self.endpoints.values() for line in self.translations(each)]
        nets = list(self.networks.values())
        return [
            f"add table {table}",
            f"delete table {table}",
            f"table {table} {{",
            "chain raw { type filter hook prerouting priority raw; policy accept;",
            *self.guards(),
            "}",
            "chain pre { type nat hook prerouting priority dstnat; policy accept;",
            *self.translatable(),
            *translate,
            "}",
            "chain out { type nat hook output priority -100; policy accept;",
            "ip6 daddr ::1 return",
            *translate,
            "}",
            "chain forwarding { type filter hook forward priority filter; policy accept;",
            *(line for each in nets for line in self.fence(each)),
            "ct state established,related accept",
            "ct status dnat accept",
            *(line for each in nets for line in self.inner(each)),
            "}",
            "chain post { type nat hook postrouting priority srcnat; policy accept;",
            *(line for each in nets for line in self.disguise(each)),
            "}",
            "}",
        ]

    def guards(self) -> list[str]:
        return [
            f'iifname "{each.bridge}" ip daddr 127.0.0.0/8 drop' for each in self.networks.values()
        ]

    def translatable(self) -> list[str]:
        return ["ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return"]

    def translations(self, endpoint: FirewallEndpoint) -> list[str]:
        by_version = {ipaddress.ip_address(a).version: a for a in endpoint.addresses}
        lines = []
        for port in endpoint.ports:
            host = ipaddress.ip_address(port.host_ip or "0.0.0.0")
            family, target = ("ip6" if host.version == 6 else "ip"), by_version[host.version]
            at = "fib daddr type local" if host.is_unspecified else f"{family} daddr {host}"
            kind = "ipv6" if host.version == 6 else "ipv4"
            for step in range(port.count):
                to = f"[{target}]" if host.version == 6 else target
                lines.append(
                    f"meta nfproto {kind} {at} {port.protocol} dport {port.host_port + step} "
                    f"dnat {family} to {to}:{port.container_port + step}"
                )
        return lines

    def fence(self, network: FirewallNetwork) -> list[str]:
        name = network.bridge
        if not network.internal:
            return []
        return [
            f'iifname "{name}" oifname != "{name}" drop',
            f'oifname "{name}" iifname != "{name}" drop',
        ]

    def inner(self, network: FirewallNetwork) -> list[str]:
        name = network.bridge
        within = [f'iifname "{name}" oifname "{name}" accept'] if network.icc else []
        return [*within, f'oifname "{name}" drop']

    def disguise(self, network: FirewallNetwork) -> list[str]:
        name = network.bridge
        lines = [f'oifname "{name}" ip saddr 127.0.0.0/8 masquerade']
        for subnet in network.subnets:
            family = "ip6" if ":" in subnet else "ip"
            lines.append(f'{family} saddr {subnet} oifname "{name}" ct status dnat masquerade')
            if network.masquerade and not network.internal:
                lines.append(f'{family} saddr {subnet} oifname != "{name}" masquerade')
        return lines

    def open_foreign(self) -> None:
        self.close_foreign()
        for program in self.iptables:
            chain = self.foreign_place(program)
            for network in self.networks.values() if chain else ():
                for flag in ("-i", "-o"):
                    tag = ("-m", "comment", "--comment", self.context.prefix)
                    run(program, "-I", chain, flag, network.bridge, *tag, "-j", "ACCEPT")

    def foreign_place(self, program: str) -> str:
        if program == "iptables-legacy":
            with open("/proc/thread-self/net/ip_tables_names") as names:
                if "filter" not in names.read():
                    return ""
        elif '"FORWARD"' not in run("nft", "-j", "list", "chains"):
            return ""
        try:
            rules = run(program, "-S").splitlines()
        except RuntimeError:
            return ""
        if "-P FORWARD DROP" not in rules:
            return ""
        return "DOCKER-USER" if "-N DOCKER-USER" in rules else "FORWARD"

    def close_foreign(self) -> None:
        for program in self.iptables:
            chain = self.foreign_place(program)
            for line in run(program, "-S", chain).splitlines() if chain else ():
                if f"--comment {self.context.prefix} " in line.replace('"', ""):
                    run(program, "-D", *line.replace('"', "").split()[1:])

    def reconcile(
        self, networks: Sequence[FirewallNetwork], endpoints: Sequence[FirewallEndpoint]
    ) -> Reconciled:
        before = self.listing()
        self.networks = {each.id: each for each in networks}
        self.endpoints = {each.id: each for each in endpoints}
        self.write()
        self.open_foreign()
        return Reconciled(restored=[] if before == self.seen else ["the table"])

    def intact(self) -> bool:
        return self.listing() == self.seen

    def warnings(self) -> list[str]:
        found = []
        for entry in json.loads(run("nft", "-j", "list", "chains"))["nftables"]:
            chain = entry.get("chain", {})
            drops = chain.get("hook") == "forward" and chain.get("policy") == "drop"
            if drops and chain["name"] != "FORWARD":
                found.append(f"table {chain['table']}, chain {chain['name']}: policy drop")
        return found

    def remove_all(self) -> None:
        table = f"inet {self.context.prefix}"
        run("nft", "-f", "-", given=f"add table {table}\ndelete table {table}\n")
        self.close_foreign()
        self.networks, self.endpoints, self.seen = {}, {}, ""


class NoHairpin(PlainFirewall):
    def disguise(self, network: FirewallNetwork) -> list[str]:
        return [line for line in super().disguise(network) if "ct status" not in line]


class NoLoopback(PlainFirewall):
    def disguise(self, network: FirewallNetwork) -> list[str]:
        return [line for line in super().disguise(network) if "127.0.0.0" not in line]


class TrustsTheWire(PlainFirewall):
    """Translates packets for 127.0.0.1 wherever they come from."""

    def guards(self) -> list[str]:
        return []

    def translatable(self) -> list[str]:
        return []


class LetsEverybodyIn(PlainFirewall):
    def inner(self, network: FirewallNetwork) -> list[str]:
        return []


class IgnoresIcc(PlainFirewall):
    def inner(self, network: FirewallNetwork) -> list[str]:
        name = network.bridge
        return [f'iifname "{name}" oifname "{name}" accept', f'oifname "{name}" drop']


class IgnoresInternal(PlainFirewall):
    def fence(self, network: FirewallNetwork) -> list[str]:
        return []


class ForgetsForeignDrop(PlainFirewall):
    def open_foreign(self) -> None:
        """Trusts that an accept of ours is enough."""


class LeavesForeignRules(PlainFirewall):
    def remove_all(self) -> None:
        table = f"inet {self.context.prefix}"
        run("nft", "-f", "-", given=f"add table {table}\ndelete table {table}\n")


class FlushesEverything(PlainFirewall):
    def remove_all(self) -> None:
        run("nft", "flush", "ruleset")


class NeverLooks(PlainFirewall):
    def intact(self) -> bool:
        return True


class KeepsOldFlows(PlainFirewall):
    def forget_flows(self) -> None:
        """Rules are only asked for new flows."""


class LastOneWins(PlainFirewall):
    def refuse_double_ports(self, endpoints: dict[str, FirewallEndpoint]) -> None:
        """Lets two containers have one port."""


class RedirectsTheHost(PlainFirewall):
    """Does in its own namespace what was asked for in a container's."""

    def redirect(self, netns: int, address: str, port: int, to: int) -> None:
        run("nft", "-f", "-", given="\n".join(self.redirection(address, port, to)))


class RedirectsEveryAddress(PlainFirewall):
    def redirection(self, address: str, port: int, to: int) -> list[str]:
        return [line.replace(f"ip daddr {address}", "ip daddr 0.0.0.0/0") for line in
                super().redirection(address, port, to)]  # fmt: skip


class KeepsTheOldRedirection(PlainFirewall):
    """The first one goes on; here it leads to where nobody listens."""

    def redirection(self, address: str, port: int, to: int) -> list[str]:
        return [
            line for line in super().redirection(address, port, 1 if to == 5300 else to)
            if "flush" not in line
        ]  # fmt: skip


class RemembersClients(PlainFirewall):
    """Translates, which the kernel remembers for each client."""

    def redirection(self, address: str, port: int, to: int) -> list[str]:
        return [
            "table ip plain_redirect {",
            "chain output { type nat hook output priority -100; }",
            "}",
            "flush chain ip plain_redirect output",
            f"add rule ip plain_redirect output ip daddr {address} udp dport {port} "
            f"dnat to {address}:{to}",
        ]


class KeepsStrangers(PlainFirewall):
    """Adds what it is told to what the table of the engine before it had."""

    def reconcile(
        self, networks: Sequence[FirewallNetwork], endpoints: Sequence[FirewallEndpoint]
    ) -> Reconciled:
        if self.listing():
            self.seen = self.listing()
            return Reconciled()
        return super().reconcile(networks, endpoints)


def suite(driver: type[PlainFirewall]) -> FirewallDriverSuite:
    class Suite(FirewallDriverSuite):
        def factory(self, context: DriverContext) -> FirewallDriver:
            return driver(context)

    return Suite()


BROKEN: list[tuple[type[PlainFirewall], str]] = [
    (NoHairpin, "test_published_port_answers_from_everywhere"),
    (NoLoopback, "test_published_port_answers_from_everywhere"),
    (TrustsTheWire, "test_loopback_is_not_reached_from_outside"),
    (LetsEverybodyIn, "test_unpublished_is_not_reached_from_outside"),
    (LetsEverybodyIn, "test_neighbours_talk_and_bridges_do_not"),
    (IgnoresIcc, "test_without_icc_only_published_ports"),
    (IgnoresInternal, "test_internal_knows_no_elsewhere"),
    (ForgetsForeignDrop, "test_everything_answers_in_spite_of_forward_drop"),
    (LeavesForeignRules, "test_remove_all_leaves_nothing"),
    (FlushesEverything, "test_foreign_rules_are_left_alone"),
    (NeverLooks, "test_flush_is_noticed_and_reconcile_mends"),
    (KeepsOldFlows, "test_a_client_that_keeps_sending_follows_the_port"),
    (LastOneWins, "test_change_is_all_or_nothing"),
    (RedirectsTheHost, "test_a_port_inside_a_container_is_redirected"),
    (RedirectsEveryAddress, "test_a_port_inside_a_container_is_redirected"),
    (KeepsTheOldRedirection, "test_a_port_inside_a_container_is_redirected"),
    (RemembersClients, "test_a_client_that_keeps_sending_follows_the_redirection"),
    (KeepsStrangers, "test_second_instance_takes_over"),
]


@pytest.mark.parametrize("test", sorted({test for _, test in BROKEN}))
def test_a_plain_driver_passes(test: str) -> None:
    getattr(suite(PlainFirewall), test)()


@pytest.mark.parametrize(("driver", "test"), BROKEN)
def test_broken_drivers_are_found(
    driver: type[PlainFirewall], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is broken does not answer however long one waits.
    monkeypatch.setattr(netlab, "PATIENCE", 0.5)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(suite(driver), test)()
