"""Which networks a list shows."""

from __future__ import annotations

import pytest

from pyengine.engine.networks.filters import select
from pyengine.engine.networks.records import Network
from pyengine.errors import InvalidParameter


def network(name: str, driver: str = "bridge", **fields: object) -> Network:
    return Network(id=name[0] * 64, name=name, driver=driver, created="", **fields)  # type: ignore[arg-type]


ALL = [
    network("bridge", predefined=True),
    network("none", "none", predefined=True),
    network("front", labels={"tier": "1"}),
    network("idle", "macvlan"),
]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": ["o"]}, ["none", "front"]),
        ({"id": ["fff"]}, ["front"]),
        ({"driver": ["null", "macvlan"]}, ["none", "idle"]),
        ({"type": ["builtin"]}, ["bridge", "none"]),
        ({"type": ["custom"], "label": ["tier=1"]}, ["front"]),
        ({"scope": ["swarm"]}, []),
        ({"dangling": ["true"]}, ["idle"]),
        ({"dangling": ["0"]}, ["front"]),
        ({"name": []}, ["bridge", "none", "front", "idle"]),
    ],
)
def test_passes(filters: dict[str, list[str]], expected: list[str]) -> None:
    found = select(ALL, filters, lambda id: ["c"] if id[0] == "f" else [])
    assert [network.name for network in found] == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"nonsense": ["x"]}, "invalid filter 'nonsense'"),
        ({"type": ["x"]}, "invalid filter: 'type'='x'"),
        ({"dangling": ["true", "0"]}, 'got more than one value for filter key "dangling"'),
        (
            {"dangling": ["x"]},
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
        ),
    ],
)
def test_what_is_no_filter(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        select(ALL, filters, lambda _: [])
    assert caught.value.message() == message
