"""Frames and replies to the guest: through sections of its receive buffer, which it gives back.

The guest owns the memory and the host the sections: a section is lent with a packet and free again
when that packet is completed. When none is free the backend is not read on.
"""

from __future__ import annotations

from struct import Struct

from ..net.frames import plain_protocol
from ..saving import fields, put
from . import netvsc_protocol as n
from . import protocol as p
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .sharedbuffer import SharedBuffer

SECTION = 2048  # a standard frame with its headers; half a page, so that none crosses a page
PAGE = 4096
HEADERS = 128  # more than RNDIS puts before a frame
MOST_SECTIONS = 16384
SAVED = ("identity", "size", "count", "free", "_next")
MOST_REPLIES = 64  # control replies that wait for a section
FRAMES_PER_PACKET = 32  # 312 bytes; iPXE takes packets of up to 512

_one = Struct("<HHHHQ HBxI II IIII24x").pack  # a transfer-page packet with one range
_many_head = n.XFER_HEADER.pack
_range = n.XFER_RANGE.pack
_message = Struct("<IIII24x").pack
_plain = Struct("<IIII12xII8x").pack
_with_sums = Struct("<IIII12xII8x IIII").pack
PLAIN_HEADER, SUMS_HEADER, SUMS_PPI = 44, 60, 16
WANTED = p.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED
#: IP protocol -> what we say of its sum
SUMS = {
    6: n.RX_IP_SUCCEEDED | n.RX_TCP_SUCCEEDED,
    17: n.RX_IP_SUCCEEDED | n.RX_UDP_SUCCEEDED,
}


def section_size(mtu: int, least: int = SECTION) -> int:
    """Return the bytes of a section for frames of *mtu* (without the Ethernet header)."""
    need = mtu + 14 + 8 + HEADERS
    return least if need <= least else (need + PAGE - 1) // PAGE * PAGE


class ReceiveBuffer:
    """One established receive buffer.

    ``count`` sections of ``size`` bytes; ``free`` of them are ours to fill.
    """

    def __init__(self, buffer: SharedBuffer, identity: int, size: int) -> None:
        self.buffer, self.identity, self.size = buffer, identity, size
        self.count = min(buffer.size // size, MOST_SECTIONS)
        self.free = list(range(self.count - 1, -1, -1))
        self._lent: dict[int, tuple[int, ...]] = {}
        self._next = 1
        self._replies: list[tuple[Channel, bytes]] = []

    def save(self) -> dict[str, Any]:
        """Return which sections are lent, and the replies that wait for one."""
        lent = [[number, list(sections)] for number, sections in self._lent.items()]
        replies = [[channel.sub_index, message] for channel, message in self._replies]
        return {**fields(self, SAVED), "gpadl": self.buffer.gpadl, "lent": lent,
                "replies": replies}  # fmt: skip

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`."""
        put(self, SAVED, state)
        self._lent = {number: tuple(sections) for number, sections in state["lent"]}
        self._replies = [(channels[queue], message) for queue, message in state["replies"]]

    def completed(self, transaction: int) -> None:
        """Take the sections of *transaction* back.

        :raises BrokenRule: nothing was lent under that number.
        """
        sections = self._lent.pop(transaction, None)
        if sections is None:
            raise BrokenRule("device-state", f"completion of {transaction:#x}, which is not out")
        self.free.extend(sections)
        if self._replies:
            waiting, self._replies = self._replies, []
            for channel, message in waiting:
                self.control(channel, message)

    def lend(self, sections: tuple[int, ...]) -> int:
        """Return the transaction under which *sections* are the guest's."""
        transaction = self._next
        self._next = transaction % 0xFFFFFFFF + 1
        self._lent[transaction] = sections
        return transaction

    def send(self, channel: Channel, packet: bytes, transaction: int) -> bool:
        """Send *packet*; False: it is lost, and the sections of *transaction* are free again."""
        if channel.send(packet):
            return True
        self.free.extend(self._lent.pop(transaction))  # the ring is full for good, or closed
        return False

    def control(self, channel: Channel, message: bytes) -> None:
        """Send an RNDIS control message; it waits if no section is free.

        :raises BrokenRule: more wait than an honest guest asks for.
        """
        if not self.free:
            if len(self._replies) >= MOST_REPLIES:
                raise BrokenRule("device-state", "RNDIS requests without room for the replies")
            self._replies.append((channel, message))
            return
        message = message[: self.size]
        section = self.free.pop()
        self.buffer.write(section * self.size, message)
        transaction = self.lend((section,))
        self.send(channel, self._packet(
            transaction, ((section, len(message)),), n.RNDIS_CHANNEL_CONTROL), transaction)

    def data(self, channel: Channel, frames: list[bytes], checked: bool) -> int:
        """Send *frames*, as many as there are sections; return how many went.

        :param checked: their sums are right; the guest need not look.
        """
        size, free, write, done = self.size, self.free, self.buffer.write, 0
        at, count = 0, len(frames)
        while at < count and free:
            ranges: list[tuple[int, int]] = []
            for frame in frames[at : at + FRAMES_PER_PACKET]:
                if not free:
                    break
                at += 1
                sums = sums_of(frame) if checked else 0
                length = len(frame)
                if sums:
                    total = length + SUMS_HEADER
                    head = _with_sums(
                        n.RNDIS_MSG_PACKET, total, SUMS_HEADER - 8, length,
                        PLAIN_HEADER - 8, SUMS_PPI, SUMS_PPI, n.PPI_TCPIP_CHKSUM, 12, sums,
                    )  # fmt: skip
                else:
                    total = length + PLAIN_HEADER
                    head = _plain(n.RNDIS_MSG_PACKET, total, PLAIN_HEADER - 8, length, 0, 0)
                if total > size:
                    continue  # larger than the MTU that the guest agreed to
                section = free.pop()
                write(section * size, head + frame)
                ranges.append((section, total))
            if not ranges:
                continue
            transaction = self.lend(tuple([section for section, _ in ranges]))
            packet = self._packet(transaction, tuple(ranges), n.RNDIS_CHANNEL_DATA)
            if self.send(channel, packet, transaction):
                done += len(ranges)
        return done

    def _packet(
        self, transaction: int, ranges: tuple[tuple[int, int], ...], channel_type: int
    ) -> bytes:
        size, count = self.size, len(ranges)
        if count == 1:
            ((section, length),) = ranges
            return _one(
                p.VM_PKT_DATA_USING_XFER_PAGES, 4, 9, WANTED, transaction, self.identity, 0, 1,
                length, section * size,
                n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT, channel_type, n.NETVSC_INVALID_INDEX, 0,
            )  # fmt: skip
        head = 3 + count
        return b"".join([
            _many_head(
                p.VM_PKT_DATA_USING_XFER_PAGES, head, head + 5, WANTED, transaction,
                self.identity, 0, count,
            ),
            *[_range(length, section * size) for section, length in ranges],
            _message(n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT, channel_type, n.NETVSC_INVALID_INDEX, 0),
        ])  # fmt: skip


def sums_of(frame: bytes) -> int:
    """Return what to say of *frame*'s sums; 0: nothing (no TCP or UDP, a fragment, a VLAN tag)."""
    return SUMS.get(plain_protocol(frame), 0)
