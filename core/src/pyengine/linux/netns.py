"""Acting inside another network namespace, from one thread of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyengine.linux import syscalls


@contextmanager
def inside(netns: int) -> Iterator[None]:
    """The calling thread is in the namespace behind descriptor ``netns`` within the block.

    Network namespaces belong to threads (setns(2)), so other threads notice nothing; sockets opened
    inside stay in that namespace for good.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(netns, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(home)
