"""`python -m tests.vm SELECTION...`: the named tests (pytest's words) in a guest of their own.

python -m tests.vm plugins/net_ipvlan
python -m tests.vm --shell 'pyengine drivers'
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.vm import image, payload
from tests.vm.machine import GuestError, Machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--shell", action="append", default=[], help="a shell command, before any")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each (900)")
    given, selection = parser.parse_known_args()
    try:
        return _run(given.shell, selection, given.timeout)
    except (image.BuildFailed, GuestError) as error:
        print(f"tests.vm: {error}", file=sys.stderr)
        return 1


def _run(commands: list[str], selection: list[str], timeout: float) -> int:
    built = image.build()
    with tempfile.TemporaryDirectory(prefix="pyengine-vm-") as work:
        disk = payload.build(built, Path(work))
        with Machine(built, disk) as guest:
            results = [guest.run(command, timeout=timeout) for command in commands]
            if selection:
                results.append(guest.pytest(*selection, timeout=timeout))
    for result in results:
        print(result.output, end="")
    return max((result.status for result in results), default=0)


if __name__ == "__main__":
    sys.exit(main())
