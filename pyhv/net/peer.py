"""Another pyhv at the end of a socket: TCP frames go to it whole, as to a tap.

QEMU's protocol has no word for that. So a pyhv whose guest takes large frames says so in a frame
that nobody else makes anything of; to one that said so a frame may have a virtio-net header
(vnet.py), which the top bit of its length tells.
"""

from __future__ import annotations

from . import frames, vnet
from .stream import HEADED, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from .backend import Sink

# destination, source (local addresses), IEEE's type for experiments; then "y" or "n"
HELLO = b"\x03pyhv\0" + b"\x02pyhv\0" + b"\x88\xb5" + b"large frames: "
YES, NO = HELLO + b"y".ljust(32, b"\0"), HELLO + b"n".ljust(32, b"\0")
HEADER = vnet.HEADER.size


class Peer(Stream):
    """``takes_large``: the other end is a pyhv whose guest has large frames."""

    coalesces = True

    def __init__(self) -> None:
        super().__init__()
        self.takes_large = self._large = False

    def attach(self, connected: socket.socket) -> None:
        """Use *connected*; a pyhv at its other end hears what our guest takes."""
        self.takes_large = False
        super().attach(connected)
        if self._large:
            super().send([YES])

    def coalesce(self, on: bool) -> None:
        """Tell the other end."""
        if on != self._large:
            self._large = on
            if self._socket is not None:
                super().send([YES if on else NO])

    # sending

    def prepare(self, frame: bytes, requested: int, mss: int) -> list:
        """Leave sums and cutting to the other end, or do them."""
        if self.takes_large and (requested or mss):
            return self.prepare_pieces(frame, [], len(frame), requested, mss)
        return frames.finished(frame, requested, mss)

    def prepare_pieces(
        self, begin: bytes, pieces: list[memoryview], size: int, requested: int, mss: int
    ) -> list:
        """The same."""
        if not self.takes_large or not (requested or mss):
            return self.prepare(b"".join((begin, *pieces)), requested, mss)
        begin = vnet.headed(begin, size, requested, mss)
        return [[begin, *pieces]] if begin else []

    def send(self, prepared: list) -> bool:
        """Send frames, but a guest's that look like ours."""
        return super().send([
            one for one in prepared if type(one) is list or not one.startswith(HELLO)
        ])  # fmt: skip

    # receiving

    def cut(self, at: int, most: int) -> tuple[list, int, int | None]:
        """Return frames as bytes, or as (header, frame); else as Stream's."""
        buffer, have, found = self._buffer, self._have, []
        while len(found) < most and have - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            headed, size = size & HEADED, size & ~HEADED
            head = HEADER if headed else 0
            if not frames.ETH_HEADER <= size - head <= frames.ETH_MAX:
                return found, at, size
            start, at_next = at + 4, at + 4 + size
            if have < at_next:
                break
            frame = bytes(buffer[start + head : at_next])
            if headed:
                found.append((bytes(buffer[start : start + head]), frame))
            elif frame.startswith(HELLO):
                self.takes_large = frame.startswith(HELLO + b"y")
            else:
                found.append(frame)
            at = at_next
        return found, at, None

    def give(self, sink: Sink, found: list) -> None:
        """Put large frames where the sink wants them, and give the others, in their order."""
        plain: list[bytes] = []
        for one in found:
            if type(one) is bytes:
                plain.append(one)
                continue
            if plain:
                sink.receive(plain)
                plain = []
            head, frame = one
            if not _landed(sink, head, frame):
                sink.landed_all()
                plain = vnet.finished(head, frame)
        sink.landed_all()
        if plain:
            sink.receive(plain)


def _landed(sink: Sink, head: bytes, frame: bytes) -> bool:
    """Put *frame* where the sink wants it; False: it wants it finished, or nobody can say."""
    if frames.plain_protocol(frame) != frames.TCP or not vnet.of_tcp(head):
        return False
    pieces = sink.landing(True)
    if not pieces:
        return False
    vnet.spread(memoryview(frame), 0, pieces)
    sink.landed(frame[:64], len(frame), bool(head[0] & vnet.CHECKED))
    return True
