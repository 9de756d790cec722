"""Taking samples in turns: A B A B, so that whatever the machine does meanwhile hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench.case import Case, Sample
from bench.engines import Engine


@dataclass(frozen=True)
class Effort:
    """How many samples: `factor` scales each case's own number, `spaced` is a number per engine."""

    factor: float = 1.0
    spaced: int = 10
    pause: float = 1.0

    def rounds(self, case: Case) -> int:
        return max(1, round(case.rounds * self.factor))


@dataclass(frozen=True)
class Result:
    """Samples of one case, by engine; `mode` is "in turns" or "spaced"."""

    case: Case
    mode: str
    samples: dict[str, list[float]]

    def p(self, engine: str, percent: float) -> float:
        return percentile(self.samples[engine], percent)

    def noise(self, engine: str) -> float:
        """Median distance from the median, as a fraction of it."""
        middle = median(self.samples[engine])
        return median(abs(s - middle) for s in self.samples[engine]) / middle if middle else 0.0

    def ratio(self, engine: str, baseline: str) -> float | None:
        if engine == baseline or baseline not in self.samples:
            return None
        below = median(self.samples[baseline])
        return median(self.samples[engine]) / below if below else None


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear between the neighbours, as numpy does by default."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def measure(
    case: Case, engines: Sequence[Engine], effort: Effort, say: Callable[[str], None]
) -> list[Result]:
    """Samples of a case on every engine that takes part; one result for each mode."""
    partners = [engine for engine in engines if engine.name not in case.not_on]
    results: list[Result] = []
    with ExitStack() as stack:
        takers: list[tuple[str, Sample]] = []
        for engine in partners:
            takers.append((engine.name, stack.enter_context(case.prepare(engine))))
        for _, take in takers:  # the first one pays for cold caches
            take()
        results.append(_turns(case, "in turns", takers, effort.rounds(case), 0.0))
        say(f"{case.name}: {effort.rounds(case)} rounds in turns")
        if case.spaced and effort.spaced:
            results.append(_turns(case, "spaced", takers, effort.spaced, effort.pause))
            say(f"{case.name}: {effort.spaced} rounds spaced")
    return results


def _turns(
    case: Case, mode: str, takers: Sequence[tuple[str, Sample]], rounds: int, pause: float
) -> Result:
    samples: dict[str, list[float]] = {name: [] for name, _ in takers}
    for _ in range(rounds):
        for name, take in takers:
            if pause:
                time.sleep(pause)
            samples[name].append(take())
    return Result(case, mode, samples)
