"""What the guest's serial port is connected to: a tail of its output, its input, and a way out.

Written by vCPU threads and the event loop, so :meth:`Console.write` never waits.
"""

from __future__ import annotations

import threading
import time

from .errors import PyhvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from .outlet import Outlet

    Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]

TAIL_BYTES = 256 * 1024
SHOWN_LINES = 10
SEND_RETRY_S = 0.02
GATHER_S = 0.002  # a guest that prints byte by byte does not wake its reader for each


class ExpectError(PyhvError):
    """:meth:`Console.expect` cannot succeed any more; the text ends with the last lines."""


class ExpectTimeout(ExpectError, TimeoutError):
    """The pattern did not come in time."""


class Console:
    """The guest's console.

    :param fd: a descriptor that gets all output (it stays yours), or None.
    :param tail_bytes: how much output is kept for :meth:`text` and :meth:`expect`.

    ::

        vm.console.expect("login: ", timeout=60)
        vm.console.send("root\\n")
    """

    def __init__(self, fd: int | None = None, tail_bytes: int = TAIL_BYTES) -> None:
        # the lock by itself, too: to enter a Condition is two calls more, and write() is busy
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._tail, self._tail_bytes = bytearray(), tail_bytes
        self._start = 0  # how many bytes of the stream came before _tail[0]
        self._position = 0  # where in the stream the next expect() begins
        self._receive: Callable[[bytes], int] | None = None
        self._ended = False
        self._outlet: Outlet | None = None
        #: called by :meth:`finish`, on the machine's thread
        self.when_finished: Callable[[], object] | None = None
        if fd is not None:
            from .outlet import Outlet

            self._outlet = Outlet(fd)

    # the machine's side

    def write(self, data: bytes) -> None:
        """Take output of the guest; any thread, never waits."""
        with self._lock:
            tail = self._tail
            tail += data
            if len(tail) > 2 * self._tail_bytes:  # now and then, not per byte
                self._start += len(tail) - self._tail_bytes
                del tail[: -self._tail_bytes]
            if self._waiters:
                self._changed.notify_all()
        if self._outlet is not None:
            self._outlet.write(data)

    def connect(self, receive: Callable[[bytes], int]) -> None:
        """Send input to *receive*, which says how many bytes it took; a new machine begins."""
        with self._changed:
            self._receive, self._ended = receive, False

    def finish(self) -> None:
        """The machine stopped: no more output will come, input goes nowhere."""
        with self._changed:
            self._ended, self._receive = True, None
            self._changed.notify_all()
        if self.when_finished is not None:
            self.when_finished()

    def forget(self) -> None:
        """Let expect() begin behind all that was written: the guest went back to a snapshot."""
        with self._changed:
            self._position = self._start + len(self._tail)

    # the user's side

    def mark(self) -> tuple[int, bool]:
        """Return what changes when there is something new: bytes written until now, ended."""
        with self._lock:
            return self._start + len(self._tail), self._ended

    def data(self) -> bytes:
        """Return the last output, at most ``tail_bytes``, as the guest sent it."""
        with self._changed:
            return bytes(self._tail[-self._tail_bytes :])

    def text(self) -> str:
        """Return :meth:`data` as text; what is no UTF-8 becomes U+FFFD."""
        return self.data().decode(errors="replace")

    @property
    def position(self) -> int:
        """How many bytes the guest has printed so far."""
        with self._lock:
            return self._start + len(self._tail)

    def since(self, position: int) -> tuple[bytes, int]:
        """Return what was printed after *position*, as far as it is kept, and the new position."""
        with self._lock:
            data = bytes(self._tail[max(0, position - self._start) :])
            return data, self._start + len(self._tail)

    def last_lines(self, count: int = SHOWN_LINES) -> list[str]:
        """Return the last lines that are not empty, as a report shows them."""
        lines = [line.rstrip() for line in self.text().splitlines()]
        return [line for line in lines if line][-count:]

    def shown_tail(self) -> str:
        """Return :meth:`last_lines` as the errors of other waits end with them."""
        return "".join(f"\n  | {line}" for line in self.last_lines()) or " nothing"

    @property
    def dropped(self) -> int:
        """How many bytes did not get out to ``fd``: it was blocked for long, or closed."""
        return self._outlet.dropped if self._outlet is not None else 0

    def expect(self, pattern: Pattern, timeout: float = 30.0, fail: Pattern | None = None) -> str:
        """Wait until the guest prints *pattern*; return all from the last match to this one's end.

        :param pattern: text to be found as it is, or a compiled regular expression.
        :param timeout: seconds.
        :param fail: give up at once when this is printed instead.
        :raises ExpectTimeout: it did not come in time (a TimeoutError, too).
        :raises ExpectError: *fail* came, or the machine stopped without printing *pattern*.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                begin = max(0, self._position - self._start)
                end = _find(self._tail, pattern, begin)
                bad = -1 if fail is None else _find(self._tail, fail, begin)
                if end >= 0 and not 0 <= bad < end:
                    self._position = self._start + end
                    return bytes(self._tail[begin:end]).decode(errors="replace")
                if bad >= 0:
                    raise ExpectError(self._without(pattern, f"{_shown(fail)} came"))
                if self._ended:
                    raise ExpectError(self._without(pattern, "the machine stopped"))
                self._waiters += 1
                try:
                    if not self._changed.wait(deadline - time.monotonic()):
                        raise ExpectTimeout(self._without(pattern, f"not within {timeout:g} s"))
                finally:
                    self._waiters -= 1
            time.sleep(GATHER_S)

    def _without(self, pattern: Pattern, what: str) -> str:
        lines = bytes(self._tail[-4096:]).decode(errors="replace").splitlines()[-SHOWN_LINES:]
        shown = "".join(f"\n  | {line}" for line in lines) or " nothing"
        return f"expect {_shown(pattern)}: {what}; the console's last lines:{shown}"

    def offer(self, data: bytes) -> int:
        """Give input to the guest; return how many bytes it took. Any thread, never waits."""
        receive = self._receive
        return receive(data) if receive is not None else 0

    def send(self, data: str | bytes, timeout: float = 10.0) -> None:
        """Type *data* on the guest's console.

        :raises ExpectTimeout: the guest does not read; 64 KiB wait for it at most.
        :raises ExpectError: the machine has stopped.
        """
        left = data.encode() if isinstance(data, str) else bytes(data)
        deadline = time.monotonic() + timeout
        while left:
            taken = self.offer(left)
            left = left[taken:]
            if left and self._ended:
                raise ExpectError(f"send: the machine stopped; {len(left)} bytes were not read")
            if left and time.monotonic() > deadline:
                raise ExpectTimeout(f"send: the guest did not read {len(left)} bytes")
            if left:
                time.sleep(SEND_RETRY_S)

    def close(self, patience: float = 1.0) -> None:
        """Write out what waits for ``fd``; give up when nothing moves for *patience* seconds."""
        if self._outlet is not None:
            self._outlet.close(patience)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _find(tail: bytearray, pattern: Pattern, begin: int) -> int:
    """Return where the first match from *begin* on ends; -1 if there is none."""
    if isinstance(pattern, (str, bytes)):
        wanted = pattern.encode() if isinstance(pattern, str) else pattern
        at = tail.find(wanted, begin)
        return -1 if at < 0 else at + len(wanted)
    if isinstance(pattern.pattern, bytes):
        match = pattern.search(tail, begin)
        return match.end() if match else -1
    text = tail[begin:].decode(errors="surrogateescape")
    found = pattern.search(text)
    return begin + len(text[: found.end()].encode(errors="surrogateescape")) if found else -1


def _shown(pattern: Pattern | None) -> str:
    return repr(getattr(pattern, "pattern", pattern))
