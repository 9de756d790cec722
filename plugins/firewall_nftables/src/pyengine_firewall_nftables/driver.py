"""The firewall driver: keeps the desired state, sends the kernel the difference."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence

from pyengine.contracts.base import DriverContext, Probe, Reconciled, reject_unknown_options
from pyengine.contracts.firewall import (
    Change,
    FirewallDriver,
    FirewallEndpoint,
    FirewallNetwork,
)
from pyengine.errors import DriverError, InvalidParameter
from pyengine.linux.netns import inside
from pyengine_firewall_nftables import foreign, ruleset
from pyengine_firewall_nftables.conntrack import Conntrack
from pyengine_firewall_nftables.nft import SONAME, Nft, NftError
from pyengine_firewall_nftables.ruleset import Flavour
from pyengine_firewall_nftables.state import State

_RESPECT, _DIRECT, _MARK, _IPV6 = (
    "respect-host-firewall", "allow-direct-routing", "bridge-accept-fwmark", "ip6tables",
)  # fmt: skip
_NUMBER = r"(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})"


class NftablesFirewall(FirewallDriver):
    """Options: ``respect-host-firewall`` (``false``): add no rule to foreign chains;
    ``allow-direct-routing``, ``bridge-accept-fwmark`` and ``ip6tables``: as in daemon.json."""

    name = "nftables"
    priority = 100
    keys = {_DIRECT: _DIRECT, _MARK: _MARK, _IPV6: _IPV6}

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        known = frozenset({_RESPECT, _DIRECT, _MARK, _IPV6})
        reject_unknown_options(self.kind, self.name, context.options, known)
        self._respect = _boolean(context, _RESPECT, "false")
        mark = context.options.get(_MARK, "")
        if mark and not re.fullmatch(f"{_NUMBER}(/{_NUMBER})?", mark):
            raise _invalid(_MARK, mark, "a number or number/mask, as in 0x1/0x3")
        self._flavour = Flavour(
            ipv6=_boolean(context, _IPV6, "true"),
            direct=_boolean(context, _DIRECT, "false"),
            mark=mark,
        )
        self._table = context.prefix
        self._tag = f"pyengine:{context.engine_id}"
        self._lock = threading.Lock()
        self._nft: Nft | None = None
        self._conntrack: Conntrack | None = None
        self._state = State(self._flavour)
        # The kernel's generation at which our table was last known to be as it should.
        self._seen: int | None = None

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        try:
            nft = Nft()
        except OSError as error:
            return Probe(
                available=False,
                reason=f"{SONAME} cannot be loaded: {error}",
                help="install nftables (Debian: apt install libnftables1)",
            )
        try:
            nft.run("\n".join(ruleset.skeleton(f"{context.prefix}_probe", Flavour())), dry=True)
        except NftError as error:
            return Probe(
                available=False,
                reason=f"this kernel refuses our rules: {str(error).splitlines()[0]}",
                help="needs CAP_NET_ADMIN and Linux 5.6 with nft_nat, nft_masq and nft_fib",
            )
        finally:
            nft.close()
        return Probe(available=True)

    def close(self) -> None:
        with self._lock:
            if self._nft is not None:
                self._nft.close()
                self._nft = None
            if self._conntrack is not None:
                self._conntrack.close()
                self._conntrack = None

    def apply(self, change: Change) -> None:
        with self._lock:
            plan = self._state.plan(self._table, change)
            before = self._library().generation()
            try:
                self._run(plan.commands)
            except NftError as error:
                if not error.missing:
                    raise DriverError(
                        "the firewall driver 'nftables' was refused", str(error).splitlines()[0]
                    ) from error
                # Somebody took our table away.
                self._rebuild(self._state)
                before = self._library().generation()
                self._send(plan.commands)
            now = self._library().generation()
            # If ours was the only transaction since we looked, we need not look again.
            alone = before == self._seen and now == before + bool(plan.commands)
            self._seen = now if alone else None
            self._state.commit(plan)
            self._forget_flows(change)
            if change.networks or change.remove_networks:
                self._open_foreign()

    def redirect(self, netns: int, address: str, port: int, to: int) -> None:
        try:
            with inside(netns):
                nft = Nft()
            try:
                nft.run(ruleset.redirection(self._table, address, port, to))
            finally:
                nft.close()
        except (NftError, OSError) as error:
            raise DriverError(
                "the firewall driver 'nftables' was refused in a container's namespace",
                str(error).splitlines()[0],
            ) from error

    def reconcile(
        self, networks: Sequence[FirewallNetwork], endpoints: Sequence[FirewallEndpoint]
    ) -> Reconciled:
        done = Reconciled()
        with self._lock:
            state = State(self._flavour)
            change = Change(networks=list(networks), endpoints=list(endpoints))
            state.commit(state.plan(self._table, change))
            there = self._census()
            self._rebuild(state)
            self._state = state
            if not there:
                done.restored.append(f"nftables table inet {self._table}")
            elif there != state.census():
                done.restored.append(f"rules of nftables table inet {self._table}")
            self._open_foreign()
        return done

    def intact(self) -> bool:
        with self._lock:
            now = self._library().generation()
            if now != self._seen:
                if self._census() != self._state.census():
                    return False
                self._seen = now
            return True

    def warnings(self) -> list[str]:
        with self._lock:
            bridges = {network.bridge for network in self._state.networks.values()}
            example = min(bridges, default="BRIDGE")
            sentences = []
            for blocker in foreign.blockers(self._library(), self._table):
                accepting = bool(blocker.place) and not self._respect
                if accepting and foreign.has_rules(self._library(), blocker, bridges, self._tag):
                    continue
                sentences.append(f"{blocker.sentence(accepting)} ({blocker.advice(example)})")
            return sentences

    def remove_all(self) -> None:
        with self._lock:
            self._send([f"add table inet {self._table}", f"delete table inet {self._table}"])
            try:
                foreign.remove_rules(self._library(), self._tag)
            except NftError as error:
                raise DriverError(
                    "cannot remove our rules from a foreign chain", str(error)
                ) from error
            self._state = State(self._flavour)
            self._seen = None

    def _rebuild(self, state: State) -> None:
        before = self._library().generation()
        self._send(state.commands(self._table))
        after = self._library().generation()
        self._seen = after if after == before + 1 else None

    def _census(self) -> Counter[str]:
        """How many rules each chain and elements each set has in the kernel; empty: no table."""
        found: Counter[str] = Counter()
        try:
            listing = self._library().query(f"list table inet {self._table}")
        except NftError:
            return found
        for entry in listing:
            if "rule" in entry:
                found[entry["rule"]["chain"]] += 1
            for content in (entry.get("map"), entry.get("set")):
                if content and content.get("elem"):
                    found[content["name"]] += len(content["elem"])
        return found

    def _forget_flows(self, change: Change) -> None:
        ports: dict[int, set[int]] = {}
        for endpoint in change.endpoints:
            for port in endpoint.ports:
                if port.protocol == "udp":
                    span = range(port.host_port, port.host_port + port.count)
                    ports.setdefault(6 if ":" in port.host_ip else 4, set()).update(span)
        if ports:
            if self._conntrack is None:
                self._conntrack = Conntrack()
            self._conntrack.forget_udp_soon(ports)

    def _open_foreign(self) -> None:
        """See to foreign drop policies; what fails here is said by ``warnings``."""
        bridges = {network.bridge for network in self._state.networks.values()}
        if self._respect:
            return
        try:
            nft = self._library()
            foreign.insert_rules(nft, foreign.blockers(nft, self._table), bridges, self._tag)
        except NftError:
            pass

    def _run(self, commands: Sequence[str]) -> None:
        if commands:
            self._library().run("\n".join(commands))

    def _send(self, commands: Sequence[str]) -> None:
        try:
            self._run(commands)
        except NftError as error:
            raise DriverError(
                "the firewall driver 'nftables' was refused", str(error).splitlines()[0]
            ) from error

    def _library(self) -> Nft:
        if self._nft is None:
            try:
                self._nft = Nft()
            except OSError as error:
                raise DriverError(
                    "the firewall driver 'nftables' lacks its library",
                    str(error),
                    "install nftables (Debian: apt install libnftables1)",
                ) from error
        return self._nft


def _boolean(context: DriverContext, option: str, default: str) -> bool:
    value = context.options.get(option, default)
    if value not in ("true", "false"):
        raise _invalid(option, value, "true or false")
    return value == "true"


def _invalid(option: str, value: str, help: str) -> InvalidParameter:
    return InvalidParameter(
        f"invalid value {value!r} for option {option} of firewall driver 'nftables'", help=help
    )
