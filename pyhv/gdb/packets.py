"""gdb's remote serial protocol, the bytes: packets, checksums, acknowledgements, Ctrl-C.

GDB manual, appendix E.1. What comes in is bounded and may be anything.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PACKET_BYTES = 0x4000  # what qSupported promises; twice that is taken
INTERRUPT = b"\x03"
_ESCAPED = b"#$}*"


def escape(data: bytes) -> bytes:
    """Return binary *data* as it may stand in a packet."""
    return b"".join(
        bytes((0x7D, byte ^ 0x20)) if byte in _ESCAPED else bytes((byte,)) for byte in data
    )


def unescape(data: bytes) -> bytes:
    """Undo :func:`escape`."""
    found, escaped = bytearray(), False
    for byte in data:
        if escaped:
            found.append(byte ^ 0x20)
            escaped = False
        elif byte == 0x7D:
            escaped = True
        else:
            found.append(byte)
    return bytes(found)


def frame(body: bytes) -> bytes:
    """Return *body* as a packet."""
    return b"$%s#%02x" % (body, sum(body) & 0xFF)


class Stream:
    """One connection's bytes. ``packet(body)`` and ``interrupt()`` are called for what came.

    :param send: takes the bytes that go out.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        packet: Callable[[bytes], None],
        interrupt: Callable[[], None],
    ) -> None:
        self._send, self._packet, self._interrupt = send, packet, interrupt
        self._buffer = bytearray()
        self._last = b""
        self.acks = True

    def reply(self, body: bytes) -> None:
        """Send a packet."""
        self._last = frame(body)
        self._send(self._last)

    def feed(self, data: bytes) -> None:
        """Take bytes from gdb.

        :raises ValueError: a packet longer than any we agreed to.
        """
        self._buffer += data
        while self._buffer:
            first = self._buffer[0]
            if first == 0x24:  # $
                end = self._buffer.find(b"#")
                if end < 0 or len(self._buffer) < end + 3:
                    if len(self._buffer) > 2 * PACKET_BYTES:
                        raise ValueError("a packet without an end")
                    return
                body, sent = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
                del self._buffer[: end + 3]
                self._checked(body, sent)
                continue
            del self._buffer[0]
            if first == 0x2D and self._last:  # -: again
                self._send(self._last)
            elif first == INTERRUPT[0]:
                self._interrupt()

    def _checked(self, body: bytes, sent: bytes) -> None:
        if self.acks:
            good = sent.lower() == b"%02x" % (sum(body) & 0xFF)
            self._send(b"+" if good else b"-")
            if not good:
                return
        self._packet(body)
