"""Mounting what may never answer, in a process of its own that can be killed.

mount(2) of a network filesystem waits for the server, and of a device for its reads; a thread of
the daemon that waits there could not be ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from pyengine.errors import EngineError, Unavailable
from pyengine_volume_local.options import mount, mount_spec

#: Seconds; the daemon gives up on the whole driver after 30.
DEADLINE = 20.0
_COMMAND = (sys.executable, "-I", "-m", __name__)
#: Filesystems that are made of memory, or that are there already.
_AT_ONCE = frozenset({"tmpfs", "ramfs", "none", "bind", "overlay", "proc", "sysfs", "mqueue"})


def may_hang(options: Mapping[str, str]) -> bool:
    """Whether mounting a volume with ``options`` asks somebody outside of the kernel."""
    words = options.get("o", "").split(",")
    return options["type"] not in _AT_ONCE and not {"bind", "rbind"} & set(words)


def mount_apart(
    options: Mapping[str, str],
    target: str,
    deadline: float = DEADLINE,
    command: Sequence[str] = _COMMAND,
) -> None:
    """As ``mount(mount_spec(options), target)``. ``Unavailable`` if that takes more than
    ``deadline`` seconds: the process is killed, and nothing is mounted."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    # By its standard input: there may be a password, and arguments can be read by everybody.
    request = json.dumps({"options": dict(options), "target": target}).encode()
    try:
        answer, _ = process.communicate(request, deadline)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Unavailable(
            f"failed to mount local volume: mount {options['device']}:{target}: "
            f"no answer within {deadline:g} s",
            help="see that the server runs and lets this host in",
        ) from None
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    if process.returncode:
        raise EngineError(answer.decode() or f"failed to mount local volume: {options['device']}")


def main() -> int:
    request = json.load(sys.stdin)
    try:
        mount(mount_spec(request["options"]), request["target"])
    except EngineError as error:
        sys.stdout.write(error.message())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
