"""What belongs to what while a request is worked on: API call, service, driver call.

Nothing is made unless a plugin listens (hooks ``engine_span_started``, ``engine_span_ended``): a
trace begins with :func:`request`, and :func:`span` below it is nothing where there is none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar


class Span:
    """``kind``: request, service, driver or runtime. Times in ns since the epoch; ``ended`` 0: not
    yet. ``traceparent``: what the client said of the trace that it is part of (W3C Trace Context).
    ``data`` is the listening plugin's own."""

    __slots__ = ("attributes", "began", "data", "ended", "error", "kind", "name", "parent",
                 "tell", "traceparent")  # fmt: skip

    def __init__(
        self, name: str, kind: str, attributes: dict[str, str | int], parent: Span | None,
        tell: Callable[[Span], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.parent = parent
        self.tell = tell
        self.traceparent = ""
        self.error: BaseException | None = None
        self.began, self.ended = time.time_ns(), 0
        self.data: object = None


_current: ContextVar[Span | None] = ContextVar("pyengine_span", default=None)
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def span(name: str, kind: str, **attributes: str | int) -> AbstractContextManager[Span | None]:
    """A span below the one that is open here; nothing if none is, or if it has ended already (a
    task that outlives its request)."""
    parent = _current.get()
    if parent is None or parent.ended:
        return _NOTHING
    return _open(Span(name, kind, attributes, parent, parent.tell))


def past(name: str, kind: str, began: int, ended: int, **attributes: str | int) -> None:
    """A span of what another process did, told afterwards; nothing where none is open here. Times:
    monotonic, in ns."""
    parent = _current.get()
    if parent is None or parent.ended:
        return
    since = time.time_ns() - time.monotonic_ns()
    one = Span(name, kind, attributes, parent, parent.tell)
    one.began = since + began
    one.tell(one)
    one.ended = since + ended
    one.tell(one)


def request(
    tell: Callable[[Span], None], name: str, traceparent: str, **attributes: str | int
) -> AbstractContextManager[Span]:
    """The first span of a request. ``tell`` is called when it or one below it begins and ends."""
    first = Span(name, "request", attributes, None, tell)
    first.traceparent = traceparent
    return _open(first)


@contextlib.contextmanager
def _open(one: Span) -> Iterator[Span]:
    token = _current.set(one)
    one.tell(one)
    try:
        yield one
    except BaseException as error:
        one.error = error
        raise
    finally:
        one.ended = time.time_ns()
        one.tell(one)
        _current.reset(token)
