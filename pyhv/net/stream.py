"""Frames over a Unix stream socket, each behind its length (4 bytes, big-endian).

The protocol of QEMU's ``-netdev stream`` and of passt; so the other end may be another pyhv, a
QEMU, or passt. Sizes come from the other end: the largest is known, and memory is bounded.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat

from ..errors import ConfigError, HostError
from .backend import READ_FRAMES, Backend
from .frames import ETH_HEADER, ETH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..hyperv.driver import Events

BUFFER = 256 << 10
#: unsent bytes: above HIGH the sink is asked to wait, above LIMIT frames are dropped
HIGH, LIMIT = 256 << 10, 4 << 20
RETRY_S = 1.0
AGAIN = (errno.ENOENT, errno.ECONNREFUSED)


class Stream(Backend):
    """A connected socket; :meth:`attach` gives it one, the end of it leaves the link down."""

    kind = "socket"

    def __init__(self) -> None:
        super().__init__()
        self._socket: socket.socket | None = None
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._have = 0  # bytes in the buffer
        self._backlog = bytearray()
        self._writable: select.epoll | None = None  # inside the loop's epoll while we wait
        self._paused = False

    def attach(self, connected: socket.socket) -> None:
        """Use *connected*; the cable is in."""
        connected.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connected.setsockopt(socket.SOL_SOCKET, option, HIGH)
        self._socket, self._have, self._paused = connected, 0, False
        self.events.add(connected.fileno(), self._readable)
        self.set_link(True)

    def detach(self) -> None:
        """Close the socket; the cable is out."""
        connected, self._socket = self._socket, None
        if connected is None:
            return
        self._wait_no_more()
        if not self._paused:
            self.events.remove(connected.fileno())
        connected.close()
        self._backlog.clear()
        self._have = 0
        self.set_link(False)

    def close(self) -> None:
        """Close the socket."""
        super().close()
        self.detach()

    def lost(self, why: str) -> None:
        """The other end went away or talks nonsense; a subclass may connect again."""
        self.detach()
        self.say(f"network: {self.kind}: {why}; the guest's link is down")
        if self.sink is not None:
            self.sink.writable()

    # receiving

    def _readable(self) -> None:
        try:
            count = self._socket.recv_into(self._view[self._have :])
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(str(error.strerror))
            return
        if not count:
            self.lost("the other end closed the connection")
            return
        self._have += count
        self._take()

    def _take(self) -> None:
        """Give whole frames to the sink, as many as it has room for; keep the rest."""
        sink, at = self.sink, 0
        while True:
            room = READ_FRAMES if sink is None else min(sink.room(), READ_FRAMES)
            found, at, wrong = self._cut(at, room)
            self.received += len(found)
            if sink is None:
                self.dropped += len(found)
            elif found:
                sink.receive(found)
                if self._socket is None:
                    return  # the sink's answer found the other end gone
            if wrong is not None:
                self.lost(f"a frame of {wrong} bytes; is it QEMU's -netdev stream protocol?")
                return
            if len(found) < room or not room:
                break
        if at:
            self._have -= at
            self._buffer[: self._have] = self._buffer[at : at + self._have]
        if not room:
            self._pause()

    def _cut(self, at: int, most: int) -> tuple[list[bytes], int, int | None]:
        """Return frames from *at* on in the buffer, where they end, and a size that cannot be."""
        buffer, have, found = self._buffer, self._have, []
        while len(found) < most and have - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if not ETH_HEADER <= size <= ETH_MAX:
                return found, at, size
            if have - at - 4 < size:
                break
            found.append(bytes(buffer[at + 4 : at + 4 + size]))
            at += 4 + size
        return found, at, None

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.events.remove(self._socket.fileno())

    def resume(self) -> None:
        """Read on: what is in the buffer first."""
        if self._paused and self._socket is not None:
            self._paused = False
            self.events.add(self._socket.fileno(), self._readable)
            self._take()

    # sending

    def send(self, prepared: list[bytes]) -> bool:
        """Send frames; what the socket does not take waits in a buffer of bounded size."""
        if self._socket is None or len(self._backlog) > LIMIT:
            self.dropped += len(prepared)
            return True
        self.sent += len(prepared)
        parts: list[bytes] = []
        for frame in prepared:
            parts.append(len(frame).to_bytes(4, "big"))
            parts.append(frame)
        data = b"".join(parts)
        if self._backlog:
            self._backlog += data
        else:
            done = self._push(data)
            if done < 0:
                return True
            if done < len(data):
                self._backlog += data[done:]
                self._wait()
        return len(self._backlog) < HIGH

    def _push(self, data: bytes | bytearray) -> int:
        """Return how much the socket took; -1: it is gone."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.lost(str(error.strerror))
            return -1

    def _wait(self) -> None:
        """Have :meth:`_flush` called when the socket takes more.

        The event loop watches for readable descriptors only, and an epoll is readable when one of
        its own is ready.
        """
        if self._writable is None:
            self._writable = select.epoll()
            self._writable.register(self._socket.fileno(), select.EPOLLOUT)
            self.events.add(self._writable.fileno(), self._flush)

    def _wait_no_more(self) -> None:
        if self._writable is not None:
            self.events.remove(self._writable.fileno())
            self._writable.close()
            self._writable = None

    def _flush(self) -> None:
        done = self._push(self._backlog)
        if done < 0:
            return
        del self._backlog[:done]
        if not self._backlog:
            self._wait_no_more()
        if len(self._backlog) < HIGH and self.sink is not None:
            self.sink.writable()


class SocketPath(Stream):
    """A Unix socket by its path: listens there or connects to it.

    :param server: True listens, False connects, None: whoever comes first listens.
    """

    def __init__(self, path: str, server: bool | None = None) -> None:
        super().__init__()
        self._path, self._server = path, server
        self._listener: socket.socket | None = None
        self._closed = False

    def open(self, events: Events) -> None:
        """Connect or listen.

        :raises HostError: the path cannot be bound. ConfigError: it is no socket, or in use.
        """
        super().open(events)
        if self._connect():
            if self._server is not True:
                return
            self.detach()
            raise ConfigError(f"network socket {self._path}: somebody listens there already")
        if self._server is False:
            events.after(RETRY_S, self._again)
            return
        self._listen()

    def _connect(self) -> bool:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(self._path)
        except OSError as error:
            client.close()
            if error.errno not in AGAIN:
                raise HostError(f"network socket {self._path}: {error.strerror or error}") from None
            return False
        self.attach(client)
        return True

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if os.path.exists(self._path):
                if not stat.S_ISSOCK(os.stat(self._path).st_mode):
                    raise ConfigError(f"network socket {self._path}: a file that is no socket")
                os.unlink(self._path)  # nobody listens: left behind
            listener.bind(self._path)
            listener.listen(1)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise HostError(f"network socket {self._path}: {error.strerror or error}") from None
        except ConfigError:
            listener.close()
            raise
        self._listener = listener
        self.events.add(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError:
            return
        if self._socket is not None:
            connected.close()  # a cable has two ends
        else:
            self.attach(connected)

    def _again(self) -> None:
        """Look whether somebody listens now."""
        if self._closed or self._socket is not None:
            return
        try:
            if self._connect():
                return
        except HostError as error:
            self.say(str(error))
            return
        self.events.after(RETRY_S, self._again)

    def lost(self, why: str) -> None:
        """Wait for the next one; who connected connects again."""
        super().lost(why)
        if self._listener is None and not self._closed:
            self.events.after(RETRY_S, self._again)

    def close(self) -> None:
        """Close, and remove the path if we made it."""
        self._closed = True
        super().close()
        listener, self._listener = self._listener, None
        if listener is not None:
            self.events.remove(listener.fileno())
            listener.close()
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
