"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from bench.measure import Result


def table(results: Sequence[Result], baseline: str) -> str:
    """One line per case and mode: p50 and p95 of each engine, its ratio, and whether that holds."""
    engines = list(dict.fromkeys(name for result in results for name in result.samples))
    head = ["case", "mode", "unit"]
    for engine in engines:
        head += [engine, "p95", "noise"]
        if engine != baseline:
            head += ["ratio"]
    head += ["promised", "holds"]
    rows = [head, *(_row(result, engines, baseline) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    abouts = dict.fromkeys((result.case.name, result.case.about) for result in results)
    legend = [f"  {name}: {about}" for name, about in abouts]
    return "\n".join([*lines, "", *legend])


def document(
    results: Sequence[Result], baseline: str, versions: dict[str, str], failed: dict[str, str]
) -> dict[str, Any]:
    """Everything, samples included, with what is needed to compare two such files."""
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "baseline": baseline,
        "failed": failed,
        "results": [
            {
                "case": result.case.name,
                "about": result.case.about,
                "mode": result.mode,
                "unit": result.case.unit,
                "ratio_at_most": result.case.at_most,
                "limit": result.case.limit,
                "engines": {
                    name: {
                        "p50": round(result.p(name, 50), 3),
                        "p95": round(result.p(name, 95), 3),
                        "noise": round(result.noise(name), 4),
                        "ratio": _rounded(result.ratio(name, baseline)),
                        "samples": [round(s, 3) for s in samples],
                    }
                    for name, samples in result.samples.items()
                },
            }
            for result in results
        ],
    }


def _row(result: Result, engines: Sequence[str], baseline: str) -> list[str]:
    row = [result.case.name, result.mode, result.case.unit]
    for engine in engines:
        measured = engine in result.samples
        row += [_number(result.p(engine, 50)) if measured else "-"]
        row += [_number(result.p(engine, 95)) if measured else "-"]
        row += [f"±{result.noise(engine):.0%}" if measured else "-"]
        if engine != baseline:
            ratio = result.ratio(engine, baseline) if measured else None
            row += ["-" if ratio is None else f"{ratio:.2f}"]
    return [*row, *_promise(result, baseline)]


def _promise(result: Result, baseline: str) -> tuple[str, str]:
    """What is promised of pyengine, and whether it was so."""
    case, engine = result.case, "pyengine"
    if engine not in result.samples:
        return "", ""
    promises, kept = [], True
    ratio = result.ratio(engine, baseline)
    if case.at_most is not None and ratio is not None:
        promises.append(f"x{case.at_most:g}")
        kept &= ratio <= case.at_most
    if case.limit is not None:
        promises.append(f"{case.limit:g} {case.unit}")
        kept &= median(result.samples[engine]) <= case.limit
    return " ".join(promises), ("yes" if kept else "NO") if promises else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
