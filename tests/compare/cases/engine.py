"""The engine itself."""

from __future__ import annotations

from tests.compare.cases.common import case
from tests.compare.steps import api, docker

case(
    "engine",
    api("GET", "/version"),
    api("GET", "/info"),
    docker("version --format '{{.Client.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}'"),
    docker("info --format '{{.Driver}} {{.LoggingDriver}} {{.CgroupDriver}} {{.ServerVersion}}'"),
    api("GET", "/_ping"),
    api("GET", "/nonsense"),
    docker("system df"),
    docker("stats --no-stream --format '{{.Name}}'"),
    docker("pull 127.0.0.1:1/missing"),
    docker("node ls"),
    docker("plugin ls"),
    docker("context ls -q"),
)  # fmt: skip
