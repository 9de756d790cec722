"""The C library's heap: what is free in it goes back to the system (malloc_trim(3), mallopt(3)).

Only glibc keeps it; another C library has neither function, and no need of them.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8

_libc = ctypes.CDLL(None)
_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None)


def trim() -> None:
    """Give free pages back, wherever in the heap they are."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def limit_arenas(count: int) -> None:
    """Let all threads allocate from ``count`` heaps: each further one keeps what its busiest
    moment took. Call it before the first thread starts."""
    if _mallopt is not None:
        _mallopt(_M_ARENA_MAX, count)
