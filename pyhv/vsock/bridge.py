"""One connection: what comes from the guest goes into a socket of this host, and back.

Nothing is kept here but one piece of at most a ring's length: while the host's program does not
read, the guest's data stays in its ring, and while the guest does not read, the program's stays in
its socket. All on the event loop.
"""

from __future__ import annotations

import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events import EventLoop
    from ..vmbus.hvsock import HvSocket

READ_BYTES = 65536
READS_AT_ONCE = 16
BEGUN_S = 1.0


class Bridge:
    """The host's side of a connection.

    :param own: our end; its other end is a program's. Closed here.
    :param told: called once with True when the guest has accepted, with False when it is over
        and never was.
    """

    def __init__(
        self, events: EventLoop, own: socket.socket, told: Callable[[bool], object],
        gone: Callable[[Bridge], object],
    ) -> None:  # fmt: skip
        own.setblocking(False)
        self._events, self._socket = events, own
        self._told: Callable[[bool], object] | None = told
        self._gone = gone
        self._connection: HvSocket | None = None
        self._pending = bytearray()  # of the guest's, what the socket did not take
        self._paused = False  # the guest's ring is full
        self._guest_done = self._local_done = self._hup = False
        # an epoll of its own: the loop's watches for readable descriptors only
        self._poll: select.epoll | None = None

    # what the connection says

    def opened(self, connection: HvSocket) -> None:
        """The guest has accepted."""
        self._connection = connection
        self._poll = select.epoll()
        self._poll.register(self._socket.fileno(), select.EPOLLIN)
        self._events.add(self._poll.fileno(), self._ready)
        self._tell(True)

    def received(self, data: bytes) -> None:
        """Data of the guest."""
        if not self._pending:
            data = data[self._write(data) :]
        if data and self._connection is not None:
            self._pending += data
            self._connection.hold(True)
            self._watch()

    def finished(self) -> None:
        """The guest sends no more."""
        self._guest_done = True
        self._pass_end()

    def writable(self) -> None:
        """The guest has read."""
        self._paused = False
        self._pump()
        self._watch()

    def expire(self, connection: HvSocket, deadline: float) -> None:
        """Give up if the guest has not accepted yet; one that has begun has until *deadline*."""
        left = deadline - time.monotonic()
        if self._poll is not None:
            return
        if connection.begun and left > 0:
            self._events.after(min(left, BEGUN_S), lambda: self.expire(connection, deadline))
        else:
            connection.hang_up()

    def _go_on(self) -> None:
        self._pump()
        self._watch()

    def closed(self) -> None:
        """The connection is over, whoever ended it."""
        self._connection = None
        self._tell(False)
        if self._pending and not self._hup and self._poll is not None:
            self._guest_done = True
            self._watch()  # the program may still read what came
        else:
            self.close()

    def close(self) -> None:
        """Give all back, whatever waits."""
        self._pending.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.hang_up()
        if self._poll is not None:
            self._events.remove(self._poll.fileno())
            self._poll.close()
            self._poll = None
        self._socket.close()
        self._tell(False)
        self._gone(self)

    def _tell(self, accepted: bool) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(accepted)

    # what the socket says

    def _ready(self) -> None:
        for _, what in self._poll.poll(0) if self._poll is not None else ():
            if what & (select.EPOLLHUP | select.EPOLLERR):
                self._hup = True  # the program closed its end; what it sent is still here
            if what & select.EPOLLOUT:
                self._flush()
            if self._hup or what & select.EPOLLIN:
                self._pump()
        self._watch()

    def _watch(self) -> None:
        """Watch for what can be dealt with; a program that is gone would be told for ever."""
        poll, connection = self._poll, self._connection
        if poll is None:
            return
        if connection is None and (self._hup or not self._pending):
            self.close()
            return
        mask = 0
        if connection is not None and not self._local_done and not self._paused:
            mask = select.EPOLLIN
        if self._pending:
            mask |= select.EPOLLOUT
        if self._hup:
            self._events.remove(poll.fileno())
            if mask & select.EPOLLIN:
                self._events.call(self._go_on)
        else:
            poll.modify(self._socket.fileno(), mask)

    def _write(self, data: bytes | bytearray) -> int:
        """Give *data* to the program; return how much it took: all of it when it has gone."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._hup = True
            self._finish()
            return len(data)

    def _flush(self) -> None:
        del self._pending[: self._write(self._pending)]
        if not self._pending:
            if self._connection is not None:
                self._connection.hold(False)
            if self._guest_done:
                self._pass_end()

    def _pass_end(self) -> None:
        if self._pending:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the program has gone
        if self._local_done:
            self._finish()

    def _pump(self) -> None:
        """Send what the program wrote."""
        for _ in range(READS_AT_ONCE):
            connection = self._connection
            if connection is None or self._paused or self._local_done:
                break
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data, self._hup = b"", True
            if not data:
                self._local_done = True
                if not self._guest_done and not self._hup:
                    connection.shutdown()
            elif not connection.send(data):
                self._paused = True
        if self._local_done and (self._guest_done or self._hup):
            self._finish()

    def _finish(self) -> None:
        if self._connection is not None:
            self._connection.finish()
