"""The border of a foreign root: what a process may no longer do once an image's files are its root.

Python finds its modules, and the C library its codecs, name services and message catalogues, by
path. Behind pivot_root, chroot or setns of a mount namespace those paths are an image's, and what
is loaded from there runs with all the rights of the host's root (CVE-2019-14271). So from there on
nothing is imported, loaded, compiled or looked up; there are only system calls.
"""

from __future__ import annotations

import os
import sys
from typing import Any

#: Exit status of a process that tried; nothing else ends with it.
VIOLATION = 70

_FORBIDDEN = frozenset({"import", "ctypes.dlopen", "compile", "exec", "marshal.loads"})


def _guard(event: str, _args: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN:
        os._exit(VIOLATION)


def enter_foreign_root() -> None:
    """Call right before the root changes, in a child that ends by execve or _exit.

    There is no way back: the audit hook stays, and a process that imports, opens a library or runs
    code from a file ends at once with status ``VIOLATION``, before anything was opened.
    """
    sys.addaudithook(_guard)
    for finders in (sys.path, sys.meta_path, sys.path_hooks):
        finders.clear()
    sys.path_importer_cache.clear()
