"""Health checks: what is asked of a container, and what its answers mean.

Times in configurations are ns. Source of the rules: the Dockerfile reference, HEALTHCHECK.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyengine.engine.model import (
    Container,
    ContainerConfig,
    Health,
    HealthConfig,
    HealthResult,
    HealthStatus,
)
from pyengine.errors import InvalidParameter

log = logging.getLogger(__name__)

#: Failures in a row that make a container unhealthy where its configuration says 0.
RETRIES = 3
#: So many results are kept.
RESULTS = 5

#: Annotation or label of a container that says what becomes of it when it is unhealthy.
ON_UNHEALTHY = "pyengine.on-unhealthy"
NOTHING, RESTART, STOP = "none", "restart", "stop"


def command(config: ContainerConfig) -> Sequence[str] | None:
    """The words of the probe, or None if there is none."""
    health = config.healthcheck
    if health is None or not health.test:
        return None
    kind, *words = health.test
    if kind == "CMD" and words:
        return words
    if kind == "CMD-SHELL" and words:
        return [*(config.shell or ("/bin/sh", "-c")), words[0]]
    if kind != "NONE":
        log.warning("unknown kind of health check %r (expected CMD or CMD-SHELL)", kind)
    return None


def on_unhealthy(record: Container) -> str:
    """What the container asks for. ``InvalidParameter`` for what is none of the three."""
    asked = (record.host_config.annotations or {}).get(ON_UNHEALTHY)
    if asked is None:
        asked = (record.config.labels or {}).get(ON_UNHEALTHY, NOTHING)
    if asked not in (NOTHING, RESTART, STOP):
        raise InvalidParameter(
            f"invalid value {asked!r} for {ON_UNHEALTHY}", help="none, restart or stop"
        )
    return asked


def judge(health: Health, result: HealthResult, config: HealthConfig, age: float) -> bool:
    """Enter ``result``, of a probe that began ``age`` seconds after the container did; True if this
    is news: it became healthy, or failed once too often.

    While a container has not been healthy yet, failures within its start period do not count.
    """
    health.log = [*health.log[-(RESULTS - 1) :], result]
    if result.exit_code == 0:
        news = health.status is not HealthStatus.HEALTHY
        health.failing_streak = 0
        health.status = HealthStatus.HEALTHY
        return news
    if health.status is HealthStatus.STARTING and age < config.start_period / 1e9:
        return False
    retries = config.retries or RETRIES
    health.failing_streak += 1
    if health.failing_streak >= retries:
        health.status = HealthStatus.UNHEALTHY
    # The status does not tell: it is "unhealthy" after a pause, too.
    return health.failing_streak == retries
