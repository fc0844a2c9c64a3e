"""What a guest sends: frames out of its buffer and its pages, and when it gets them back."""

from __future__ import annotations

from struct import Struct

from ..net.frames import tagged
from . import netvsc_protocol as n
from . import protocol as p
from . import rndis
from .netvsc_sink import NetvscSink
from .pagelist import PageList
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel

MOST_HELD = 4096  # sends whose completion waits for the backend
MOST_PACKET = 1 << 17  # bytes in one NVSP packet: 8 frames, or a large one
LARGE, LARGE_HEADERS, TAG = 2048, 512, 4  # bytes: of what is not copied but for its begin
_completion = Struct("<HHHHQ II32x").pack


class NetvscSent(NetvscSink):
    """``_frames`` and ``_sends`` are of the batch that is served."""

    initialized: bool
    sent: int
    _pages: PageList
    _frames: list
    _sends: list[int]

    def _data(
        self, kind: int, batch: bytes, start: int, body: int, section: int, size: int
    ) -> bytes:
        """Return the private copy of a packet's RNDIS messages: a section, then guest pages."""
        data = self._section(section, size)
        if kind == p.VM_PKT_DATA_USING_GPA_DIRECT:
            pages = self._pages
            pages.set(batch, start, body, 0)
            total = pages.total(MOST_PACKET)
            data += pages.read(total)
        elif kind != p.VM_PKT_DATA_INBAND:
            raise BrokenRule("packet-type", f"type {kind}")
        return data

    def _section(self, section: int, size: int) -> bytes:
        """Return a private copy of the first *size* bytes of a section of the send buffer."""
        if section == n.NETVSC_INVALID_INDEX:
            return b""
        buffer = self._send
        if buffer is None or size > n.SEND_SECTION_SIZE:
            raise BrokenRule("packet-ranges", f"section {section}, {size} bytes")
        if (section + 1) * n.SEND_SECTION_SIZE > buffer.size:
            raise BrokenRule("packet-ranges", f"section {section} of {buffer.size:#x} bytes")
        return buffer.read(section * n.SEND_SECTION_SIZE, size)

    def _large(
        self, batch: bytes, start: int, body: int, channel_type: int, section: int, size: int
    ) -> bool:
        """Send a large frame with only its headers copied; False: it is not for here."""
        pages = self._pages
        pages.set(batch, start, body, 0)
        views, total = pages.whole(MOST_PACKET)
        if total < LARGE or channel_type != n.RNDIS_CHANNEL_DATA or not self.initialized:
            return False
        begin = self._section(section, size)
        total += len(begin)
        while views and len(begin) < LARGE_HEADERS:
            part = views[0][: LARGE_HEADERS - len(begin)]
            begin, views[0] = begin + bytes(part), views[0][len(part) :]
            if not views[0]:
                del views[0]
        found = rndis.only_packet(begin, total)
        if found is None:
            return False
        offset, count, requested, mss, tag = found
        behind = total - offset - count
        begin = begin[offset : offset + count]
        if tag is not None:
            begin = tagged(begin, tag)
            count += TAG
        while behind and views:
            cut = min(behind, len(views[-1]))
            behind -= cut
            views[-1] = views[-1][: len(views[-1]) - cut]
            if not views[-1]:
                del views[-1]
        self._frames += self.backend.prepare_pieces(begin, views, count, requested, mss)
        self.sent += 1
        return True

    def _transmit(self, data: bytes) -> None:
        if not self.initialized:
            raise BrokenRule("device-state", "a frame before RNDIS INITIALIZE")
        for frame, requested, mss, tag in rndis.packets(data):
            if tag is not None:
                frame = tagged(frame, tag)
            self._frames += self.backend.prepare(frame, requested, mss)
            self.sent += 1

    def batch_done(self, channel: Channel) -> None:
        """Give the batch's frames to the backend, complete its sends or hold them."""
        frames, sends = self._frames, self._sends
        go_on = True
        if frames:
            self._frames = []
            go_on = self.backend.send(frames)
        if sends:
            self._sends = []
            if go_on or len(self._held) > MOST_HELD:
                for transaction in sends:
                    self._complete(channel, transaction)
            else:
                self._held += [(channel, transaction) for transaction in sends]
        if self._receive is not None and self._receive.free:
            self.backend.resume()

    def _complete(self, channel: Channel, transaction: int) -> None:
        channel.send(_completion(
            p.VM_PKT_COMP, 2, 7, 0, transaction,
            n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT_COMPLETE, n.NVSP_STAT_SUCCESS,
        ))  # fmt: skip

    def writable(self) -> None:
        """Complete the sends that waited for the backend."""
        held, self._held = self._held, []
        for channel, transaction in held:
            self._complete(channel, transaction)
