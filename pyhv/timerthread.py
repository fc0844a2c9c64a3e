"""Threads that sleep in a timerfd each and call what is due: in_user's synthetic timers.

One timerfd and thread per timer that is used: the kernel keeps the order, to set one takes no lock,
and a blocking read is the cheapest way to be woken. Not time.sleep and not Event.wait: both add the
kernel's 50 us timer slack (measured); and not the event loop, whose disk I/O makes a tick late.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TFD_TIMER_ABSTIME, TFD_CLOEXEC = 1, 0o2000000
SYS_TIMERFD_SETTIME = 286
CODE, RET = 64, 0xC3
SECOND_NS = 1_000_000_000

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


class Timers:
    """The timers of one machine, each with its thread; :meth:`close` ends them."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._timers: list[tuple[Timer, threading.Thread, threading.Event]] = []
        self._gate: threading.Event | None = None  # not None: stand there
        self._ended = False

    def timer(self, function: Callable[[], None]) -> Callable[[int], None]:
        """Make a timer that calls *function* on its thread; return its :meth:`Timer.set`.

        *function* may be called too early, and when the timer was set again or disarmed just
        before it expired; it must look at the clock, and set the timer again.

        :raises OSError: no descriptor is left. RuntimeError: no thread.
        """
        with self._lock:
            if self._ended:
                return _nothing
            timer, standing = Timer(), threading.Event()
            thread = threading.Thread(
                target=self._run, args=(timer.fd, function, standing), name="timer", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                timer.close()
                raise
            self._timers.append((timer, thread, standing))
            return timer.set

    def _run(self, fd: int, function: Callable[[], None], standing: threading.Event) -> None:
        read = os.read
        # Looked at on both sides of the read: the function may have set the timer after who holds
        # or ends it did.
        while not self._ended:
            if self._gate is not None:
                self._stand(standing)
            read(fd, 8)
            if self._gate is not None:
                self._stand(standing)
            if self._ended:
                return
            try:
                function()
            except Exception as error:
                self._failed(error)

    def _stand(self, standing: threading.Event) -> None:
        gate = self._gate
        if gate is not None:
            standing.set()
            gate.wait()

    def hold(self) -> None:
        """Call nobody from now on, until :meth:`release`, which has everybody look at the clock."""
        with self._lock:
            if self._gate is None:
                self._gate = threading.Event()
                for timer, _, standing in self._timers:
                    standing.clear()
                    timer.set(1)
                for _, _, standing in self._timers:
                    standing.wait()

    def release(self) -> None:
        """Undo :meth:`hold`."""
        with self._lock:
            gate, self._gate = self._gate, None
            if gate is not None:
                gate.set()

    def close(self) -> None:
        """End the threads and close the descriptors; not from one of them. Idempotent."""
        with self._lock:
            self._ended = True
            gate, self._gate = self._gate, None
            if gate is not None:
                gate.set()
            for timer, _, _ in self._timers:
                timer.set(1)
            for timer, thread, _ in self._timers:
                thread.join()
                timer.close()
            self._timers.clear()


def _nothing(*arguments: object) -> None:
    pass
