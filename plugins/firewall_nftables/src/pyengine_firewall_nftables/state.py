"""What the driver was told, and who owns each element of the maps."""

from __future__ import annotations

from collections import Counter

import msgspec

from pyengine.contracts.firewall import Change, FirewallEndpoint, FirewallNetwork
from pyengine.errors import Conflict
from pyengine_firewall_nftables import ruleset
from pyengine_firewall_nftables.ruleset import Element, Flavour


class Plan(msgspec.Struct):
    """The way from one state to the next: commands for the kernel, then what to remember."""

    commands: list[str]
    removed: list[str]
    networks: dict[str, FirewallNetwork]
    elements: dict[str, list[Element]]


class State:
    """Networks by id, elements by owner (network or endpoint) and owners by element."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self.networks: dict[str, FirewallNetwork] = {}
        self._elements: dict[str, list[Element]] = {}
        self._owners: dict[tuple[str, str], str] = {}

    def plan(self, table: str, change: Change) -> Plan:
        """What ``change`` needs; costs what changes. Raises ``Conflict`` for a port, bridge or
        subnet that somebody else has, ``InvalidParameter`` for what makes no sense."""
        networks = {network.id: network for network in change.networks}
        elements = {
            network.id: list(ruleset.network_elements(network)) for network in change.networks
        }
        for endpoint in change.endpoints:
            elements[endpoint.id] = self._of_endpoint(endpoint)
        gone = [*change.remove_networks, *change.remove_endpoints, *elements]
        old = [owner for owner in dict.fromkeys(gone) if owner in self._elements]
        self._refuse_taken(elements, set(old))
        stale = [self.networks[owner] for owner in old if owner in self.networks]
        return Plan(
            commands=[
                *ruleset.delete_elements(table, (e for o in old for e in self._elements[o])),
                *(c for net in stale for c in ruleset.delete_chains(table, self._chains(net))),
                *self._additions(table, networks, elements),
            ],
            removed=old,
            networks=networks,
            elements=elements,
        )

    def commit(self, plan: Plan) -> None:
        for owner in plan.removed:
            self.networks.pop(owner, None)
            for name, key, _ in self._elements.pop(owner):
                del self._owners[name, key]
        self.networks.update(plan.networks)
        for owner, elements in plan.elements.items():
            self._elements[owner] = elements
            for name, key, _ in elements:
                self._owners[name, key] = owner

    def commands(self, table: str) -> list[str]:
        """Commands that make the whole table anew."""
        return [
            *ruleset.skeleton(table, self._flavour),
            *self._additions(table, self.networks, self._elements),
        ]

    def census(self) -> Counter[str]:
        """How many rules each chain, and elements each set or map, should have."""
        chains = ruleset.base_chains(self._flavour)
        for network in self.networks.values():
            chains.update(self._chains(network))
        found = Counter({name: len(rules) for name, rules in chains.items() if rules})
        found.update(name for name, _ in self._owners)
        return found

    def _refuse_taken(self, elements: dict[str, list[Element]], leaving: set[str]) -> None:
        new: dict[tuple[str, str], str] = {}
        for owner, wanted in elements.items():
            for name, key, _ in wanted:
                holder = new.get((name, key))
                if holder is None:
                    holder = self._owners.get((name, key))
                    if holder is None or holder in leaving:
                        new[name, key] = owner
                        continue
                raise Conflict(
                    f"{key} is in use already",
                    f"wanted by {owner[:12]}, held by {holder[:12]} in map {name}",
                )

    def _chains(self, network: FirewallNetwork) -> ruleset.Chains:
        return ruleset.network_chains(network, self._flavour)

    def _of_endpoint(self, endpoint: FirewallEndpoint) -> list[Element]:
        # The same port twice (once for each of two equal bindings) is one element.
        return list(dict.fromkeys(ruleset.endpoint_elements(endpoint, self._flavour)))

    def _additions(
        self,
        table: str,
        networks: dict[str, FirewallNetwork],
        elements: dict[str, list[Element]],
    ) -> list[str]:
        chains = [self._chains(network) for network in networks.values()]
        return [
            *(command for each in chains for command in ruleset.add_chains(table, each)),
            *ruleset.add_elements(table, (e for owned in elements.values() for e in owned)),
        ]
