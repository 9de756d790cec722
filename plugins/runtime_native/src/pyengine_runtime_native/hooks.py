"""OCI hooks: programs that get the container's state as JSON on stdin (runtime-spec config.md)."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

import msgspec

from pyengine.errors import EngineError
from pyengine.linux import syscalls


def run(hooks: list[dict[str, Any]], name: str, state: dict[str, Any]) -> None:
    """Run ``hooks`` one after the other; raises ``EngineError`` at the first that fails.

    Programs are executed by their path as it is, in the namespaces of the calling process.
    """
    if hooks:
        document = msgspec.json.encode(state)
        for hook in hooks:
            _run(hook, name, document)


def _run(hook: dict[str, Any], name: str, document: bytes) -> None:
    path = hook["path"]
    arguments = hook.get("args") or [path]
    environment = dict(e.partition("=")[::2] for e in hook.get("env") or ())
    # A pipe holds 64 KiB; a memfd any state, and the hook need not read it.
    stdin = os.memfd_create("state", os.MFD_CLOEXEC)
    try:
        os.write(stdin, document)
        os.lseek(stdin, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            path,
            arguments,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0)],
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    except OSError as error:
        raise EngineError(
            f"{name} hook {path} cannot be run", os.strerror(error.errno or 0)
        ) from None
    finally:
        os.close(stdin)
    status = _wait(pid, hook.get("timeout"))
    if status is None:
        raise EngineError(f"{name} hook {path} did not end within {hook['timeout']} s")
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        how = f"status {code}" if code >= 0 else f"signal {-code}"
        raise EngineError(f"{name} hook {path} failed with {how}")


def _wait(pid: int, timeout: int | None) -> int | None:
    if timeout:
        end = time.monotonic() + timeout
        fd = syscalls.pidfd_open(pid)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        ended = poll.poll(max(0, int((end - time.monotonic()) * 1000)))
        os.close(fd)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
    return os.waitpid(pid, 0)[1]
