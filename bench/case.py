"""What a case is, and the registry that `@case` fills.

A case is a generator function: it prepares (untimed), yields a function that takes one sample, and
cleans up. Samples are milliseconds unless the case says otherwise.

    @case("exec", at_most=0.8, spaced=True)
    def exec_true(engine):
        \"\"\"docker exec of a command in a running container\"\"\"
        with engine.containers(1) as [name]:
            yield lambda: engine.time("exec", name, "true")
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.engines import Engine

Sample = Callable[[], float]
Body = Callable[[Engine], Iterator[Sample]]


@dataclass(frozen=True)
class Case:
    """One thing measured on every engine.

    `at_most`: the ratio to the baseline that pyengine promises; None where none is promised.
    `limit`: a promise in the case's own unit (ms, MB) instead of, or beside, a ratio.
    `rounds`: samples per engine; `spaced`: also measured with a second of quiet before each sample,
    as a person types commands. `engines`: measured on those only (empty: on all).
    """

    name: str
    about: str
    prepare: Callable[[Engine], AbstractContextManager[Sample]]
    at_most: float | None
    limit: float | None
    unit: str
    rounds: int
    spaced: bool
    not_on: frozenset[str]


_registry: dict[str, Case] = {}


def case(
    name: str,
    *,
    at_most: float | None = None,
    limit: float | None = None,
    unit: str = "ms",
    rounds: int = 20,
    spaced: bool = False,
    not_on: tuple[str, ...] = (),
) -> Callable[[Body], Body]:
    """Register a case under `name`; its docstring is what the table's legend says about it."""

    def register(body: Body) -> Body:
        if name in _registry:
            raise ValueError(f"two cases are named {name}")
        about = (body.__doc__ or name).strip().splitlines()[0]
        _registry[name] = Case(
            name,
            about,
            contextmanager(body),
            at_most,
            limit,
            unit,
            rounds,
            spaced,
            frozenset(not_on),
        )
        return body

    return register


def all_cases() -> list[Case]:
    """Every case of every module in bench.cases, in the order of file and function."""
    import bench.cases

    for module in sorted(pkgutil.iter_modules(bench.cases.__path__), key=lambda m: m.name):
        importlib.import_module(f"bench.cases.{module.name}")
    return list(_registry.values())
