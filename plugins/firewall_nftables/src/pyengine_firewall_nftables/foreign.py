"""Other people's rule sets that drop what we forward, and our one rule in theirs.

Every base chain on a hook is asked, and one drop is final, whatever our table accepted. iptables'
chains are the only foreign ones with a place meant for others: ``DOCKER-USER``, or ``FORWARD``
itself. There, rules that accept what enters or leaves by our bridges are inserted, with the
engine's tag as comment. iptables on nftables shows such rules as its own (``-i BRIDGE -m comment
--comment TAG -j ACCEPT``); the legacy kind lives elsewhere in the kernel and is reached through
its program.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec

from pyengine.faults import failpoint
from pyengine_firewall_nftables.nft import Nft, NftError

_USER_CHAIN = "DOCKER-USER"
_DEADLINE = 10.0


class Blocker(msgspec.Struct, frozen=True):
    """A forward chain whose policy is drop. ``legacy``: iptables' own, not in nftables.

    ``place``: the chain where a rule of ours belongs; empty if there is none.
    """

    family: str
    table: str
    chain: str
    legacy: bool = False
    place: str = ""

    def sentence(self, accepting: bool) -> str:
        kind = (
            f"{_program(self.family)} (legacy) table"
            if self.legacy
            else f"nftables {self.family} table"
        )
        text = f"{kind} {self.table}, chain {self.chain}, has policy drop"
        if accepting:
            return f"{text}, and our rule could not be added to {self.place}"
        return (
            f"{text}: containers reach nothing outside, and published ports answer this host only"
        )

    def advice(self, bridge: str) -> str:
        if self.table == "filter" and self.family in ("ip", "ip6"):
            return (
                f"set respect-host-firewall=false for the firewall driver, or run "
                f"'{_program(self.family)} -I {self.place or self.chain} -i {bridge} -j ACCEPT' "
                f"and the same with -o"
            )
        return (
            f"run 'nft insert rule {self.family} {self.table} {self.chain} iifname {bridge} "
            f"accept' and the same with oifname"
        )


def blockers(nft: Nft, own_table: str) -> list[Blocker]:
    """Every chain of this network namespace that drops forwarded packets by policy."""
    chains = [entry["chain"] for entry in nft.query("list chains") if "chain" in entry]
    found = []
    for chain in chains:
        if chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        family, table = chain["family"], chain["table"]
        if table == own_table or family not in ("ip", "ip6", "inet"):
            continue
        place = ""
        if table == "filter" and chain["name"] == "FORWARD" and family != "inet":
            place = _place(nft, family)
        found.append(Blocker(family, table, chain["name"], place=place))
    found += _legacy_blockers()
    return found


def insert_rules(nft: Nft, found: list[Blocker], bridges: set[str], tag: str) -> None:
    """Make the tagged rules in each blocker's place those of ``bridges``."""
    for blocker in found:
        if not blocker.place:
            continue
        if blocker.legacy:
            _sync_legacy(blocker.family, blocker.place, bridges, tag)
        else:
            _sync_nft(nft, blocker.family, blocker.place, bridges, tag)


def remove_rules(nft: Nft, tag: str) -> None:
    """Take the tagged rules out of every place where they may be, whatever policies are now."""
    chains = [entry["chain"] for entry in nft.query("list chains") if "chain" in entry]
    for chain in chains:
        place = chain["family"], chain["table"], chain["name"]
        if place[0] in ("ip", "ip6") and place[1:] in (
            ("filter", "FORWARD"),
            ("filter", _USER_CHAIN),
        ):
            _sync_nft(nft, place[0], place[2], set(), tag)
    for family in ("ip", "ip6"):
        if _legacy_filter(family):
            for name in {chain for _, chain in _legacy_chains(family)}:
                if name in ("FORWARD", _USER_CHAIN):
                    _sync_legacy(family, name, set(), tag)


def has_rules(nft: Nft, blocker: Blocker, bridges: set[str], tag: str) -> bool:
    """True if the blocker lets all of ``bridges`` through by our rules."""
    try:
        if blocker.legacy:
            wanted = _wanted_legacy(blocker.place, bridges, tag)
            return wanted <= set(_present_legacy(blocker.family, blocker.place, tag))
        return _wanted(bridges) <= set(_present_nft(nft, blocker.family, blocker.place, tag))
    except NftError:
        return False


def _place(nft: Nft, family: str) -> str:
    """``DOCKER-USER`` where FORWARD asks it, else FORWARD."""
    for entry in nft.query(f"list chain {family} filter FORWARD"):
        for expression in entry.get("rule", {}).get("expr", []):
            if expression.get("jump", {}).get("target") == _USER_CHAIN:
                return _USER_CHAIN
    return "FORWARD"


def _present_nft(nft: Nft, family: str, chain: str, tag: str) -> dict[tuple[str, str], list[int]]:
    """Handles of the tagged rules by (``iifname`` or ``oifname``, bridge)."""
    found: dict[tuple[str, str], list[int]] = {}
    for entry in nft.query(f"list chain {family} filter {chain}"):
        rule = entry.get("rule")
        if rule and rule.get("comment") == tag:
            found.setdefault(_interface_match(rule), []).append(rule["handle"])
    return found


def _sync_nft(nft: Nft, family: str, chain: str, bridges: set[str], tag: str) -> None:
    where = f"{family} filter {chain}"
    wanted = _wanted(bridges)
    present = _present_nft(nft, family, chain, tag)
    commands = [
        f"delete rule {where} handle {handle}"
        for match, handles in present.items()
        for handle in handles[match in wanted :]
    ]
    commands += [
        f'insert rule {where} {key} "{bridge}" counter accept comment "{tag}"'
        for key, bridge in sorted(wanted - set(present))
    ]
    if commands:
        nft.run("\n".join(commands))


def _wanted(bridges: set[str]) -> set[tuple[str, str]]:
    return {(key, bridge) for bridge in bridges for key in ("iifname", "oifname")}


def _interface_match(rule: dict[str, Any]) -> tuple[str, str]:
    for expression in rule.get("expr", []):
        match = expression.get("match")
        if match and isinstance(match.get("right"), str):
            return match["left"].get("meta", {}).get("key", ""), match["right"]
    return "", ""


def _program(family: str) -> str:
    return "iptables" if family == "ip" else "ip6tables"


def _legacy_filter(family: str) -> bool:
    """True if the legacy filter table exists: asking the program would bring it to life."""
    try:
        with open(f"/proc/thread-self/net/{family}_tables_names") as names:
            return "filter" in names.read().split()
    except OSError:
        return False


def _legacy(family: str, *arguments: str) -> str:
    """Run the legacy program in the calling thread's namespace; ``NftError`` if it fails."""
    command = [f"{_program(family)}-legacy", "-w", "5", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NftError(f"{shlex.join(command)}: {error}") from error
    if done.returncode:
        raise NftError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _legacy_chains(family: str) -> Iterator[tuple[str, str]]:
    """(policy or empty, chain) of the legacy filter table."""
    for line in _legacy(family, "-S").splitlines():
        words = line.split()
        if words[0] == "-P":
            yield words[2], words[1]
        elif words[0] == "-N":
            yield "", words[1]


def _legacy_blockers() -> list[Blocker]:
    found = []
    for family in ("ip", "ip6"):
        if not _legacy_filter(family):
            continue
        try:
            listing = _legacy(family, "-S", "FORWARD")
        except NftError:
            found.append(Blocker(family, "filter", "FORWARD", legacy=True))
            continue
        if "-P FORWARD DROP" in listing.splitlines():
            asked = f"-A FORWARD -j {_USER_CHAIN}" in listing
            place = _USER_CHAIN if asked else "FORWARD"
            found.append(Blocker(family, "filter", "FORWARD", legacy=True, place=place))
    return found


def _present_legacy(family: str, chain: str, tag: str) -> list[str]:
    lines = (line.replace('"', "") for line in _legacy(family, "-S", chain).splitlines())
    return [line for line in lines if f"--comment {tag} " in line]


def _wanted_legacy(chain: str, bridges: set[str], tag: str) -> set[str]:
    return {
        f"-A {chain} {flag} {bridge} -m comment --comment {tag} -j ACCEPT"
        for bridge in bridges
        for flag in ("-i", "-o")
    }


def _sync_legacy(family: str, chain: str, bridges: set[str], tag: str) -> None:
    wanted = _wanted_legacy(chain, bridges, tag)
    missing = set(wanted)
    for line in _present_legacy(family, chain, tag):
        if line in missing:
            missing.discard(line)
        else:
            failpoint("iptables.delete")
            _legacy(family, "-D", *line.split()[1:])
    for line in sorted(missing):
        failpoint("iptables.insert")
        _legacy(family, "-I", *line.split()[1:])
