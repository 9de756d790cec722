"""Our answers at API 1.51 against the public description of the Engine API at that version.

``described.txt`` holds what it says of each answer: a line per field with the answer's name, the
field's path (``[]`` an element of a list, ``*`` any key) and its type. The fields up to 1.45 are
compared with a real dockerd (test_compare); those that came later are held against this.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness import EngineProcess

HERE = Path(__file__).parent
V = "/v1.51"
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}

Described = dict[str, str]


def described(answer: str) -> Described:
    found = {}
    for line in (HERE / "described.txt").read_text().splitlines():
        name, path, kind = line.split()
        if name == answer:
            found["" if path == "." else path] = kind
    return found


def fields(value: Any, known: Described, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, type) of everything in an answer; maps of the description get ``*`` for their keys."""
    if isinstance(value, Mapping) and value and known.get(path) != "object":
        for key, item in value.items():
            free = any(name.startswith((f"{path}.*", f"{path}:*")) for name in known)
            yield from fields(item, known, f"{path}.*" if free else f"{path}.{key}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from fields(item, known, f"{path}[]")
    elif isinstance(value, Mapping):
        yield path, "object"
    elif isinstance(value, list):
        yield path, "array"
    else:
        yield path, TYPES[type(value)]


@pytest.fixture(scope="module")
def answers(engine: EngineProcess) -> Mapping[str, Any]:
    """Every answer, of objects that use as many fields as one can."""
    docker = engine.docker
    docker("network", "create", "--ipv6", "--label", "a=b", "-o", "x=y", "--subnet", "10.91.0.0/24",
           "--ip-range", "10.91.0.0/25", "--aux-address", "one=10.91.0.9", "described")  # fmt: skip
    docker("volume", "create", "--label", "a=b", "-o", "type=tmpfs", "-o", "device=tmpfs", "dv")
    docker("tag", "busybox", "described:1")
    docker(
        *("run", "-d", "--name", "described", "--network", "described", "-p", "8099:80"),
        *("-v", "dv:/dv", "--label", "a=b", "--annotation", "c=d", "-e", "A=B", "--tmpfs", "/t"),
        *("--mount", "type=volume,dst=/m,volume-label=x=y", "--ulimit", "nofile=100:200"),
        *("--device", "/dev/null:/dev/zilch", "--health-cmd", "true", "--health-interval", "1s"),
        *("--dns", "10.91.0.1", "--add-host", "x:10.0.0.1", "--sysctl", "net.core.somaxconn=99"),
        *("--network-alias", "also", "--log-opt", "max-size=1m", "--cap-add", "SYS_TIME"),
        *("busybox", "sh", "-c", "echo >/new; exec sleep 1000"),
    )

    def ask(path: str, method: str = "GET", body: Any = None) -> Any:
        status, found = engine.api(method, V + path, body)
        assert status in (200, 201), (path, found)
        return found

    run = ask("/containers/described/exec", "POST", {"Cmd": ["true"], "AttachStdout": True})
    chosen = quote(json.dumps({"container": ["described"]}))
    return {
        "container": ask("/containers/described/json?size=1"),
        "containers": ask("/containers/json?size=1"),
        "image": ask("/images/described:1/json?manifests=1"),
        "images": ask("/images/json?manifests=1&shared-size=1"),
        "network": ask("/networks/described"),
        "volume": ask("/volumes/dv"),
        "volumes": ask("/volumes"),
        "info": ask("/info"),
        "version": ask("/version"),
        "df": ask("/system/df"),
        "exec": ask(f"/exec/{run['Id']}/json"),
        "history": ask("/images/described:1/history"),
        "top": ask("/containers/described/top"),
        "changes": ask("/containers/described/changes"),
        "stats": ask("/containers/described/stats?stream=0"),
        "create": ask(
            "/containers/create?name=described-2", "POST", {"Image": "busybox", "Cmd": ["true"]}
        ),
        "event": ask(f"/events?since=1&until={int(time.time()) + 1}&filters={chosen}"),
    }


NAMES = sorted({line.split()[0] for line in (HERE / "described.txt").read_text().splitlines()})
EXCEPTIONS = tomllib.loads((HERE / "undescribed.toml").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_as_described(answers: Mapping[str, Any], name: str) -> None:
    known = described(name)
    found = dict(fields(answers[name], known))
    differences = []
    for path, kind in found.items():
        below = any(p.startswith((f"{path}.", f"{path}[")) for p in known)
        if path not in known and not (below and kind in ("null", "object", "array")):
            differences.append((path, f"not described ({kind})"))
        elif path in known and known[path] not in (kind, "any") and kind not in ("null", "object"):
            differences.append((path, f"is {kind}, described as {known[path]}"))
    for path in known:
        parents = [path[:i] for i, c in enumerate(path) if c in ".[" and i]
        empty = any(found.get(p) in ("null", "array", "object") for p in parents)
        if path not in found and not empty:
            differences.append((path, f"missing ({known[path]})"))
    own = EXCEPTIONS.get(name, {})
    excused = {**EXCEPTIONS["all"], **own}
    used = {e for e in excused for path, _ in differences if _covers(e, path)}
    wrong = [
        f"{name}{path}: {what}"
        for path, what in differences
        if not any(_covers(e, path) for e in excused)
    ]
    assert not wrong, "\n".join(wrong)
    assert set(own) <= used, f"excused for nothing: {set(own) - used}"


def _covers(exception: str, path: str) -> bool:
    return f".{exception}." in f"{path.replace('[]', '')}."
