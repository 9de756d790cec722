"""Distributions that were never installed: a folder with modules and ``*.dist-info`` in it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path


def distribution(
    where: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
    version: str = "1.0",
) -> Path:
    """Write it below ``where``, which goes on ``sys.path`` or into ``PYTHONPATH``.

    ``entry_points``: target by name, by group. ``modules``: source by module name.
    """
    where.mkdir(parents=True, exist_ok=True)
    info = where / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, targets in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {target}" for key, target in targets.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, source in modules.items():
        (where / f"{module}.py").write_text(textwrap.dedent(source))
    return where
