"""``run --trace``: what starting a container did, and how long each step took."""

from __future__ import annotations

import json
import sys

from pyengine.cli.table import align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyengine.cli.client import Client

_BAR = 24


def timeline(steps: list[dict[str, Any]]) -> str:
    """Steps in order of their start, each with a bar at its place on the whole timeline."""
    steps = sorted(steps, key=lambda step: step["start_us"])
    if not steps:
        return "no steps were recorded\n"
    begin = steps[0]["start_us"]
    end = max(step["start_us"] + step["duration_us"] for step in steps)
    scale = _BAR / max(end - begin, 1)
    lines = ["START\tDURATION\tPROCESS\tSTEP\tTIMELINE"]
    for step in steps:
        start, duration = step["start_us"] - begin, step["duration_us"]
        left = min(int(start * scale), _BAR - 1)
        length = max(1, min(round(duration * scale), _BAR - left))
        bar = " " * left + "#" * length
        lines.append(
            f"{start / 1000:8.3f} ms\t{duration / 1000:8.3f} ms\t{step['process']}\t"
            f"{step['name']}\t|{bar.ljust(_BAR)}|"
        )
    lines.append(f"{'':8}\t{(end - begin) / 1000:8.3f} ms\t\ttotal\t")
    return align("\n".join(line.rstrip(" ") for line in lines) + "\n", minimum=0, padding=2)


def show(client: Client, container: str, style: str) -> None:
    """Print the container's start on standard error, where it disturbs no output."""
    answer = client.get(f"/pyengine/containers/{container}/trace")
    if style == "json":
        sys.stderr.write(json.dumps(answer, separators=(",", ":")) + "\n")
    else:
        sys.stderr.write(timeline(answer["steps"]))
    sys.stderr.flush()
