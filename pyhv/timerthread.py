"""A thread that sleeps in a timerfd and fires synthetic timers of the user-space driver.

Not time.sleep and not Event.wait: both add the kernel's 50 us timer slack (measured);
and not the event loop, whose disk I/O would make a tick late.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from _heapq import heapify, heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

TFD_TIMER_ABSTIME = 1
TFD_CLOEXEC = 0o2000000
NEVER_NS = 1 << 62

_libc = ctypes.CDLL(None, use_errno=True)


class TimerThread:
    """One-shot deadlines by key; arming a key again replaces its deadline. Starts at first use."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._heap: list[tuple[int, int, Hashable]] = []
        self._armed: dict[Hashable, tuple[int, int, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._sequence = 0
        self._next_ns = NEVER_NS
        self._spec = (ctypes.c_int64 * 4)()
        self._failed = failed
        self._ended = False
        self._thread: threading.Thread | None = None

    def arm(self, key: Hashable, due_ns: int | None, function: Callable[[], None]) -> None:
        """Call *function* once at *due_ns* (CLOCK_MONOTONIC) or soon after; None disarms."""
        with self._lock:
            if due_ns is None:
                self._armed.pop(key, None)
                return
            self._sequence += 1
            self._armed[key] = (due_ns, self._sequence, function)
            if len(self._heap) > 64 + 2 * len(self._armed):  # replaced deadlines pile up: sweep
                self._heap = [(due, seq, k) for k, (due, seq, _) in self._armed.items()]
                heapify(self._heap)
            else:
                heappush(self._heap, (due_ns, self._sequence, key))
            if due_ns < self._next_ns:
                self._set(due_ns)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
                self._thread.start()

    def _set(self, due_ns: int) -> None:
        """Program the timerfd; the lock is held."""
        self._next_ns = due_ns
        due_ns = max(due_ns, 1)  # 0 would disarm it
        self._spec[2], self._spec[3] = divmod(due_ns, 1_000_000_000)
        _libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, self._spec, None)

    def _run(self) -> None:
        read, fd = os.read, self._fd
        while not self._ended:
            read(fd, 8)
            due = []
            with self._lock:
                now = time.monotonic_ns()
                heap, armed = self._heap, self._armed
                while heap:
                    due_ns, sequence, key = heap[0]
                    entry = armed.get(key)
                    if entry is None or entry[1] != sequence:
                        heappop(heap)
                    elif due_ns <= now:
                        heappop(heap)
                        del armed[key]
                        due.append(entry[2])
                    else:
                        break
                self._set(heap[0][0] if heap else NEVER_NS)
            for function in due:
                if self._ended:
                    return
                try:
                    function()
                except Exception as error:
                    self._failed(error)

    def close(self) -> None:
        """End the thread and close the descriptor; not from the timer thread."""
        with self._lock:
            self._ended = True
            self._armed.clear()
            self._set(1)
        if self._thread is not None:
            self._thread.join()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
