"""Frames over a Unix stream socket, each behind its length (4 bytes, big-endian).

The protocol of QEMU's ``-netdev stream`` and of passt; so the other end may be another pyhv, a
QEMU, or passt. Sizes come from the other end: the largest is known, and memory is bounded.
"""

from __future__ import annotations

import select
import socket

from .backend import READ_FRAMES, Backend
from .frames import ETH_HEADER, ETH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backend import Sink

BUFFER = 256 << 10
#: unsent bytes: above HIGH the sink is asked to wait, above LIMIT frames are dropped
HIGH, LIMIT = 256 << 10, 4 << 20
HEADED = 1 << 31  # in the length: a virtio-net header is before the frame (peer.py)


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
            found, at, wrong = self.cut(at, room)
            self.received += len(found)
            if sink is None:
                self.dropped += len(found)
            elif found:
                self.give(sink, found)
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

    def give(self, sink: Sink, found: list) -> None:
        """Give what :meth:`cut` found to *sink*."""
        sink.receive(found)

    def cut(self, at: int, most: int) -> tuple[list, int, int | None]:
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

    def send(self, prepared: list) -> bool:
        """Send frames; what the socket does not take waits in a buffer of bounded size."""
        if self._socket is None or len(self._backlog) > LIMIT:
            self.dropped += len(prepared)
            return True
        self.sent += len(prepared)
        parts: list[bytes] = []
        for frame in prepared:
            if type(frame) is bytes:
                parts.append(len(frame).to_bytes(4, "big"))
                parts.append(frame)
            else:
                parts.append((HEADED | sum(map(len, frame))).to_bytes(4, "big"))
                parts += frame
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
