"""What the files of cases share: how a case is added, and commands that many of them run."""

from __future__ import annotations

from typing import Any

from tests.compare.steps import Case, Step, api

CASES: list[Case] = []


def case(name: str, *steps: Step) -> None:
    CASES.append(Case(name, steps))


def bad(*bodies: Any) -> list[Step]:
    return [
        api("POST", f"/containers/create?name=cmp-{number}", body)
        for number, body in enumerate(bodies)
    ]


def hosted(settings: dict[str, Any]) -> dict[str, Any]:
    return {"Image": "compare", "HostConfig": settings}


def endpoint(network: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"Image": "compare", "NetworkingConfig": {"EndpointsConfig": {network: settings}}}


LISTED = ((r"\b[A-Z][a-z]{2} +\d+ +[\d:]+", "<time>"),)
TICKS = ((r"(tick\r?\n)+", "tick\n"),)
PIDS = ((r"\b\d+\b", "<n>"),)
SLEEP = "sleep 1000"
#: Ends at once when it is told to, so that `stop` has not to wait.
MEEK = "sh -c 'trap \"exit 7\" TERM; echo ready; while :; do sleep 0.05; done'"

ECHO = "sh -c 'echo ready; exec cat'"
TICK = "sh -c 'while :; do echo tick; sleep 0.1; done'"
