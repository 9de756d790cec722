"""``docker top``: the host's ``ps``, reduced to one container's processes."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence

from pyengine.errors import EngineError, InvalidParameter

DEFAULT = "-ef"
#: Titles that would break the table apart, as ``ps -o`` can make them: ``pid=``, ``-o pid=PID``.
_RENAMES = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)")


async def top(pids: Sequence[int], ps_args: str) -> tuple[list[str], list[list[str]]]:
    """(titles, rows) of ``ps`` with ``ps_args`` for these host pids.

    ``InvalidParameter`` if the arguments rename the PID column; ``EngineError`` if ps fails.
    """
    for match in _RENAMES.finditer(ps_args):
        if match.group(1) != "pid":
            raise InvalidParameter(f'specifying "{match.group(0).strip()}" is not allowed')
    try:
        arguments = shlex.split(ps_args or DEFAULT)
    except ValueError as error:
        raise InvalidParameter(f"bad arguments for ps: {ps_args}", str(error)) from None
    code, output, errors = await _run("ps", *arguments)
    if code != 0:
        first, *_ = errors.strip().splitlines() or [f"exit {code}"]
        raise EngineError("ps", first)
    return parse(output, set(pids))


def parse(output: str, pids: set[int]) -> tuple[list[str], list[list[str]]]:
    """Titles and the rows of ``pids``; the last column keeps its spaces."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise EngineError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append([field.rstrip() for field in fields])
    return titles, rows


async def _run(*command: str) -> tuple[int, str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise EngineError("ps is not installed on the host", help="install procps") from None
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
