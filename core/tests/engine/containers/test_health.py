"""The rules of health checks: which command is run, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.containers.health import RESULTS, command, judge, on_unhealthy
from pyengine.engine.containers.merging import merge_image
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    Health,
    HealthConfig,
    HealthResult,
    HealthStatus,
    HostConfig,
)
from pyengine.errors import InvalidParameter

S = 10**9


def config(*test: str, **fields: Any) -> ContainerConfig:
    shell = fields.pop("shell", None)
    return ContainerConfig(healthcheck=HealthConfig(test=[*test], **fields), shell=shell)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ContainerConfig(), None),
        (config(), None),
        (config("NONE"), None),
        (config("CMD", "a", "b c"), ["a", "b c"]),
        (config("CMD"), None),
        (config("CMD-SHELL", "a || b"), ["/bin/sh", "-c", "a || b"]),
        (config("CMD-SHELL", "a", shell=["/bin/ash", "-ec"]), ["/bin/ash", "-ec", "a"]),
        (config("WHAT", "a"), None),
    ],
)
def test_command(given: ContainerConfig, words: list[str] | None) -> None:
    assert command(given) == words


def entered(health: Health, codes: list[int], rules: HealthConfig, age: float = 100) -> Health:
    for code in codes:
        judge(health, HealthResult(start="", end="", exit_code=code), rules, age)
    return health


def test_what_is_news() -> None:
    def told(health: Health, *codes: int) -> list[bool]:
        results = [HealthResult(start="", end="", exit_code=code) for code in codes]
        return [judge(health, result, HealthConfig(retries=2), 100) for result in results]

    assert told(Health(), 0, 0, 1, 1, 1, 0) == [True, False, False, True, False, True]
    paused = Health(status=HealthStatus.UNHEALTHY)
    assert told(paused, 1, 1, 1) == [False, True, False]


def test_failures_count_from_the_configured_number_on() -> None:
    rules = HealthConfig(retries=2)
    assert entered(Health(), [1], rules).status is HealthStatus.STARTING
    health = entered(Health(), [0, 1], rules)
    assert (health.status, health.failing_streak) == (HealthStatus.HEALTHY, 1)
    assert entered(health, [-1], rules).status is HealthStatus.UNHEALTHY
    health = entered(health, [0], rules)
    assert (health.status, health.failing_streak) == (HealthStatus.HEALTHY, 0)


def test_three_failures_where_nothing_is_configured() -> None:
    assert entered(Health(), [1, 1], HealthConfig()).status is HealthStatus.STARTING
    assert entered(Health(), [1, 1, 1], HealthConfig()).status is HealthStatus.UNHEALTHY


def test_failures_within_the_start_period_do_not_count() -> None:
    rules = HealthConfig(retries=1, start_period=10 * S)
    health = entered(Health(), [1, 1, 1], rules, age=9)
    assert (health.status, health.failing_streak) == (HealthStatus.STARTING, 0)
    assert entered(health, [1], rules, age=11).status is HealthStatus.UNHEALTHY
    # One that has been healthy has started.
    assert entered(Health(), [0, 1], rules, age=5).status is HealthStatus.UNHEALTHY


def test_the_latest_results_are_kept() -> None:
    health = entered(Health(), [*range(1, 9)], HealthConfig())
    assert [result.exit_code for result in health.log] == [4, 5, 6, 7, 8]
    assert len(health.log) == RESULTS


def test_what_the_request_leaves_open_is_the_images() -> None:
    image = config("CMD", "probe", interval=5 * S, retries=7)
    asked = ContainerConfig(healthcheck=HealthConfig(interval=9 * S))
    merge_image(asked, image)
    assert asked.healthcheck == HealthConfig(test=["CMD", "probe"], interval=9 * S, retries=7)
    none = config("NONE")
    merge_image(none, image)
    assert command(none) is None


def container(labels: dict[str, str] | None, annotations: dict[str, str] | None) -> Container:
    return Container(
        id="c", name="c", created="", path="", args=[], config=ContainerConfig(labels=labels),
        host_config=HostConfig(annotations=annotations),
    )  # fmt: skip


def test_on_unhealthy() -> None:
    key = "pyengine.on-unhealthy"
    assert on_unhealthy(container(None, None)) == "none"
    assert on_unhealthy(container({key: "stop"}, None)) == "stop"
    assert on_unhealthy(container({key: "stop"}, {key: "restart"})) == "restart"
    with pytest.raises(InvalidParameter, match="invalid value 'reboot'"):
        on_unhealthy(container(None, {key: "reboot"}))
