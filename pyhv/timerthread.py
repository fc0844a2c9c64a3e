"""A thread that waits for timerfds and calls what is due: in_user's synthetic timers.

One timerfd per timer, so the kernel keeps the order, and to set one takes no lock. Not time.sleep
and not Event.wait: both add the kernel's 50 us timer slack (measured); and not the event loop,
whose disk I/O would make a tick late.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TFD_TIMER_ABSTIME, TFD_CLOEXEC = 1, 0o2000000
SYS_TIMERFD_SETTIME = 286
CODE, RET = 64, 0xC3
SECOND_NS = 1_000_000_000
AT_ONCE = 16  # events of one epoll_wait

_libc = ctypes.CDLL(None, use_errno=True)
# PYFUNCTYPE keeps the GIL: the call takes less than giving it up does
_Settime = ctypes.PYFUNCTYPE(None)


class Timer:
    """One timerfd on CLOCK_MONOTONIC. ``set(due_ns)`` arms it again, or disarms it.

    Python has timerfd_settime from 3.13 on only, and ctypes spends 4,000 instructions on its four
    arguments (measured), so the call is a few bytes of code that have them in.
    """

    __slots__ = ("_code", "_second_ns", "_settime", "_value", "fd")

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        page = self._code = mmap.mmap(
            -1,
            mmap.PAGESIZE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        # struct itimerspec at 0: interval s, ns; value s, ns
        code = (
            b"\xb8" + SYS_TIMERFD_SETTIME.to_bytes(4, "little"),  # mov eax, number
            b"\xbf" + self.fd.to_bytes(4, "little"),  # mov edi, fd
            b"\xbe" + TFD_TIMER_ABSTIME.to_bytes(4, "little"),  # mov esi, flags
            b"\x48\xba" + address.to_bytes(8, "little"),  # mov rdx, itimerspec
            b"\x4d\x31\xd2\x0f\x05\xc3",  # xor r10, r10; syscall; ret
        )
        page[CODE : CODE + sum(map(len, code))] = b"".join(code)
        self._value = memoryview(page).cast("Q")
        self._second_ns = 0  # what the value has in its seconds
        self._settime = _Settime(address + CODE)

    def set(self, due_ns: int) -> None:
        """Expire once, at *due_ns* or, if that has passed, at once; 0 disarms. Any thread."""
        ns = due_ns - self._second_ns
        if 0 <= ns < SECOND_NS:
            self._value[3] = ns
        else:
            seconds, ns = divmod(due_ns, SECOND_NS)
            self._value[2], self._value[3], self._second_ns = seconds, ns, due_ns - ns
        self._settime()

    def close(self) -> None:
        """Close the descriptor; to set it does nothing any more."""
        self._code[CODE] = RET
        os.close(self.fd)
        self.fd = -1


class TimerThread:
    """Timers by number of their descriptor; the thread starts with the first of them."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._timers: list[Timer] = []  # the first one is there to wake the thread
        self._functions: dict[int, Callable[[], None]] = {}
        self._gate: threading.Event | None = None  # not None: stand there
        self._standing = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def timer(self, function: Callable[[], None]) -> Callable[[int], None]:
        """Make a timer that calls *function* on the thread; return its :meth:`Timer.set`.

        A timer that is set again just before it expires may call all the same.

        :raises OSError: no descriptor is left. RuntimeError: no thread.
        """
        with self._lock:
            if self._ended:
                return _nothing
            if self._epoll is None:
                self._epoll = select.epoll()
            if not self._timers:
                self._add(_nothing)
            made = self._add(function)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="timers", daemon=True)
                thread.start()
                self._thread = thread
            return made.set

    def _add(self, function: Callable[[], None]) -> Timer:
        timer = Timer()
        self._timers.append(timer)
        self._functions[timer.fd] = function
        # Edge-triggered: no read is needed, setting it again takes its count away.
        self._epoll.register(timer.fd, select.EPOLLIN | select.EPOLLET)
        return timer

    def _run(self) -> None:
        poll, functions = self._epoll.poll, self._functions
        while not self._ended:
            events = poll(-1, AT_ONCE)
            gate = self._gate
            if gate is not None:
                self._standing.set()
                gate.wait()
            for fd, _ in events:
                try:
                    functions[fd]()
                except Exception as error:
                    self._failed(error)

    def hold(self) -> None:
        """Call nobody from now on, until :meth:`release`; what is due then is called then."""
        with self._lock:
            if self._gate is None:
                self._gate = threading.Event()
                self._standing.clear()
                if self._thread is not None:
                    self._timers[0].set(1)
                    self._standing.wait()

    def release(self) -> None:
        """Undo :meth:`hold`."""
        with self._lock:
            if self._gate is not None:
                self._gate.set()
                self._gate = None

    def close(self) -> None:
        """End the thread and close the descriptors; not from the timer thread."""
        with self._lock:
            self._ended = True
            if self._gate is not None:
                self._gate.set()
            if self._thread is not None:
                self._timers[0].set(1)
                self._thread.join()
                self._thread = None
            for timer in self._timers:
                timer.close()
            self._timers.clear()
            self._functions.clear()
            if self._epoll is not None:
                self._epoll.close()
                self._epoll = None


def _nothing(*arguments: object) -> None:
    pass
