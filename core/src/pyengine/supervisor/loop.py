"""The shim's event loop: epoll(7), timers, one thread."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

from pyengine.linux import heap

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A call that is due once; ``cancel`` takes it back."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Calls a handler with the epoll events of its descriptor, in the order they became ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._untidy = False

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Begin or change watching ``fd``. Hang-up and error are always reported."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, before it is closed. Not watched at all: fine."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def tidy_later(self) -> None:
        """Something big was done: give the memory it took back to the system in a second."""
        if not self._untidy:
            self._untidy = True
            self.later(1.0, self._tidy)

    def _tidy(self) -> None:
        self._untidy = False
        heap.trim()

    def step(self) -> None:
        """Wait for the next thing to happen and handle it."""
        timeout = -1.0
        if self._timers:
            timeout = max(0.0, self._timers[0].due - time.monotonic())
        for fd, events in self._epoll.poll(timeout):
            # A handler may have closed what is further down in this list.
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        while self._timers and self._timers[0].due <= time.monotonic():
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()
