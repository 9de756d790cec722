"""How long things take: histograms by name, cheap enough for every call."""

from __future__ import annotations

import functools
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from pyengine.engine.tracing import span

P = ParamSpec("P")
T = TypeVar("T")

#: Upper bounds in seconds, as Prometheus' clients have them; what is above the last is beyond all.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """``counts``: one more than :data:`BOUNDS`, each what lies between two of them."""

    __slots__ = ("counts", "failures", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.failures = 0

    def add(self, seconds: float, failed: bool = False) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.failures += failed

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many took that or less), ending with ``+Inf``: all."""
        total, found = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Timings(dict[str, Histogram]):
    """A histogram for each name. Filled by the daemon's event loop alone."""

    def __init__(self, subject: str = "") -> None:
        super().__init__()
        self.subject = subject

    def __missing__(self, name: str) -> Histogram:
        self[name] = Histogram()
        return self[name]


#: What the daemon's clients had done, by dockerd's names of actions.
CONTAINER_ACTIONS = Timings("container")
NETWORK_ACTIONS = Timings("network")
IMAGE_ACTIONS = Timings("image")
#: How long health checks take to get going; those that failed are what was not healthy.
HEALTH_CHECKS = Histogram()


def timed(
    timings: Timings, name: str
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Enter how long a coroutine function takes when it succeeds, as dockerd counts; a span of a
    trace as well."""

    def decorate(
        function: Callable[P, Coroutine[Any, Any, T]],
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(function)
        async def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.monotonic()
            with span(f"{timings.subject} {name}", "service"):
                result = await function(*args, **kwargs)
            timings[name].add(time.monotonic() - began)
            return result

        return measured

    return decorate
