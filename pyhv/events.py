"""The one event-loop thread: VMBus, disk I/O, the console's input and every timer that may be late.

Nothing here is on a vCPU's exit path: a vCPU thread only writes an eventfd or
appends to ``_calls``.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from _collections import deque
from _heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class EventLoop:
    """epoll over callbacks. Made by its owner's thread; :meth:`run` is the loop thread's life.

    ``failed`` is called with an exception that a callback let out; the loop goes on.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._callbacks: dict[int, Callable[[], None]] = {self._wake: self._woken}
        self._epoll.register(self._wake, select.EPOLLIN)
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()  # next() is one step, also between threads
        self._failed = failed
        self._ended = False
        self.thread: threading.Thread | None = None

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* on the loop thread whenever *fd* is readable (level)."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Stop watching *fd*; the caller closes it."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* soon on the loop thread; any thread may call."""
        self._calls.append(function)
        self._rouse()

    def _rouse(self) -> None:
        wake = self._wake
        if wake >= 0:  # closed: the machine is gone, and so is what the call was for
            os.eventfd_write(wake, 1)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run *function* once on the loop thread, not before *seconds* from now."""
        heappush(self._timers, (time.monotonic() + seconds, next(self._sequence), function))
        if threading.current_thread() is not self.thread:
            self._rouse()

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        calls = self._calls
        for _ in range(len(calls)):
            self._guard(calls.popleft())

    def _guard(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:  # the loop must go on; its owner stops the machine
            self._failed(error)

    def run(self) -> None:
        """Serve until :meth:`end`."""
        self.thread = threading.current_thread()
        poll, callbacks, timers = self._epoll.poll, self._callbacks, self._timers
        while not self._ended:
            timeout = max(0.0, timers[0][0] - time.monotonic()) if timers else None
            for fd, _ in poll(timeout):
                callback = callbacks.get(fd)  # an earlier callback may have removed it
                if callback is not None:
                    self._guard(callback)
            while timers and timers[0][0] <= time.monotonic():
                self._guard(heappop(timers)[2])

    def end(self) -> None:
        """Let :meth:`run` return after the current callbacks; on the loop thread."""
        self._ended = True

    def close(self) -> None:
        """Close the descriptors; the loop thread must have ended."""
        self._timers.clear()
        self._calls.clear()
        self._callbacks.clear()
        del self._failed
        self._epoll.close()
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
