"""Requests that no ordinary client sends: what is said to them, and that nothing comes of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.compare.cases.common import SLEEP, case, hosted
from tests.compare.steps import Step, api, docker, quiet

LISTENS = "sh -c 'trap \"exit 7\" TERM; echo ready; while :; do sleep 0.05; done'"


def filtered(path: str, *texts: str) -> list[Step]:
    method, _, path = path.partition(" ")
    return [api(method, f"{path}?filters={quote(text)}") for text in texts]


def subnet(**fields: Any) -> Step:
    return api("POST", "/networks/create", {"Name": "cmp-q", "IPAM": {"Config": [fields]}})


case(
    "odd-bodies",
    quiet(f"run -d --name cmp-a compare {SLEEP}"),
    *(
        api("POST", path, body)
        for path in (
            "/containers/cmp-a/update",
            "/containers/cmp-a/exec",
            "/exec/missing/start",
            "/networks/create",
            "/networks/bridge/connect",
            "/networks/bridge/disconnect",
            "/volumes/create",
            "/commit?container=missing",
            "/services/create",
            "/secrets/create",
        )
        for body in (
            "{", '{"Name":', "[]", "5", "{} x", "{}{}", "{'a':1}", '{"a":1,}', '{"a":NaN}', "[1 2]",
            '{"a" 1}', '{"a":1 "b"}', "nulx", "}", '{"a":"\\x"}', '{"a":"\t"}', "1.x", "[" * 10_001,
        )
    ),
    api("POST", "/containers/create?name=cmp-b", {"Image": "compare", "Cmd": [], "Env": [None]}),
    api("POST", "/containers/create?name=cmp-b", {"Image": "compare", "StopTimeout": 2**63}),
    api("POST", "/containers/create?name=cmp-b", {"Nonsense": {"Image": "compare"}}),
    api("POST", "/containers/create?name=cmp-b", hosted({"BlkioWeight": 2**16})),
    api("POST", "/containers/create?name=cmp-b", hosted({"Memory": 2**64})),
    api("POST", "/containers/create?name=cmp-b", hosted({"CapAdd": "nonsense"})),
    api("POST", "/containers/create?name=cmp-b", hosted({"CapAdd": [None]})),
    api("POST", "/containers/create?name=cmp-b", hosted({"VolumesFrom": [None]})),
    api("POST", "/containers/create?name=cmp-b", hosted({"Mounts": [None]})),
    api("POST", "/containers/create?name=cmp-b", {"Image": "compare", "MacAddress": "x"}),
    docker("ps -aq --filter name=cmp-b"),
)  # fmt: skip

case(
    "odd-paths",
    api("GET", "//info"),
    api("GET", "/containers//json"),
    api("GET", "/containers/../info"),
    api("GET", "/containers/json/"),
    api("GET", "/containers/a%0Ab/json"),
    api("GET", "/containers/json?all=%zz"),
    api("GET", "/containers/json?all=1;limit=1"),
    api("GET", "/containers/json?limit=99999999999999999999"),
    api("GET", "/containers/json?limit=%201"),
    api("POST", "/containers/missing/stop?t=99999999999999999999"),
    api("DELETE", "/containers/"),
    api("DELETE", "/images/"),
    api("PUT", "/swarm"),
    api("GET", "/swarm/init"),
    api("POST", "/tasks/x/update"),
    api("OPTIONS", "/swarm"),
    api("POST", "/images/compare/tag?repo=sha256&tag=abc"),
    api("POST", "/commit?container=missing&repo=sha256"),
)

case(
    "odd-filters",
    *(
        step
        for path in ("GET /containers/json", "GET /images/json", "GET /networks", "GET /volumes",
                     "GET /plugins", "POST /containers/prune", "POST /build/prune")
        for step in filtered(path, "x", "5", "[]", "{", '{"a":5}', '{"a":[5]}',
                             '{"nonsense":["x"]}', '{"nonsense":[]}')
    ),
    *filtered("GET /containers/json", "null", '{"name":null}', '{"id":[""]}', '{"is-task":["x"]}',
              '{"is-task":["T"]}'),
    *filtered("GET /images/json", '{"until":["x"]}', '{"until":[""]}', '{"dangling":["x"]}'),
    *filtered("GET /networks", '{"dangling":["x"]}', '{"dangling":["1","0"]}', '{"type":["x"]}'),
    *filtered("POST /containers/prune", '{"until":[""]}', '{"until":["1h","2h"]}'),
    *filtered("POST /networks/prune", '{"until":["x"]}'),
)  # fmt: skip

case(
    "odd-states",
    quiet(f"run -d --name cmp-a compare {LISTENS}"),
    api("POST", "/containers/cmp-a/stop?signal=x"),
    api("POST", "/containers/cmp-a/restart?signal=x"),
    api("POST", "/containers/cmp-a/kill?signal=0"),
    api("POST", "/containers/cmp-a/kill?signal=-1"),
    api("POST", "/containers/cmp-a/kill?signal=65"),
    api("POST", "/containers/missing/kill?signal=x"),
    api("DELETE", "/containers/missing?link=1"),
    quiet("pause cmp-a"),
    api("POST", "/containers/cmp-a/start"),
    api("DELETE", "/containers/cmp-a"),
    docker("attach cmp-a"),
    api("GET", "/containers/cmp-a/attach/ws"),
    docker("kill -s WINCH cmp-a"),
    docker("inspect -f '{{.State.Status}}' cmp-a"),
    quiet("pause cmp-a"),
    docker("stop -t 20 cmp-a"),
    docker("inspect -f '{{.State.Status}} {{.State.ExitCode}}' cmp-a"),
    api("POST", "/containers/cmp-a/unpause"),
    quiet("network create cmp-n"),
    api("POST", "/networks/cmp-n/connect", {"Container": "cmp-a"}),
    api("POST", "/networks/cmp-n/connect", {"Container": "cmp-a"}),
    api(
        "POST",
        "/networks/cmp-n/connect",
        {"Container": "cmp-a", "EndpointConfig": {"MacAddress": "x"}},
    ),
    quiet("start cmp-a"),
    api("POST", "/networks/cmp-n/connect", {"Container": "cmp-a"}),
)

case(
    "odd-subnets",
    subnet(),
    subnet(Gateway="10.96.0.1"),
    subnet(Subnet="10.96.0.0"),
    subnet(Subnet="10.96.0.5/24"),
    subnet(Subnet="10.96.0.0/33", IPRange="x"),
    subnet(Subnet="10.96.0.0/24", IPRange="10.0.0.0/8"),
    subnet(Subnet="10.96.0.0/24", IPRange="10.96.0.5/25"),
    subnet(Subnet="10.96.0.0/24", IPRange="10.98.0.0/25", Gateway="10.97.0.1"),
    subnet(Subnet="10.96.0.0/24", Gateway="10.96.0.0"),
    subnet(Subnet="10.96.0.0/24", Gateway="fd00::1"),
    subnet(Subnet="10.96.0.0/24", AuxiliaryAddresses={"a": "x"}),
    subnet(Subnet="10.96.0.0/24", AuxiliaryAddresses={"a": "10.96.0.1"}),
    docker("network ls -q --filter name=cmp-q"),
    docker("network create default"),
)

case(
    "odd-endpoints",
    quiet("network create --subnet 10.96.0.0/24 cmp-n"),
    quiet(f"run -d --name cmp-a compare {SLEEP}"),
    *(
        step
        for settings in (
            {"IPAMConfig": {"IPv4Address": "10.98.0.9"}},
            {"IPAMConfig": {"IPv4Address": "x"}},
            {"IPAMConfig": {"IPv4Address": "fd00::1"}},
            {"IPAMConfig": {"IPv6Address": "fd00::9"}},
            {"IPAMConfig": {"LinkLocalIPs": ["x"]}},
            {"MacAddress": "02:42:ac:11:00"},
        )
        for step in (
            api(
                "POST",
                "/containers/create?name=cmp-b",
                {
                    "Image": "compare",
                    "HostConfig": {"NetworkMode": "cmp-n"},
                    "NetworkingConfig": {"EndpointsConfig": {"cmp-n": settings}},
                },
            ),
            api(
                "POST",
                "/networks/cmp-n/connect",
                {"Container": "cmp-a", "EndpointConfig": settings},
            ),
        )
    ),
    api(
        "POST",
        "/networks/cmp-n/connect",
        {"Container": "cmp-a", "EndpointConfig": {"MacAddress": "02-42-AC-11-00-99"}},
    ),
    docker("inspect -f '{{(index .NetworkSettings.Networks \"cmp-n\").MacAddress}}' cmp-a"),
    docker("create --name cmp-c --link cmp-a:b:c compare"),
)
