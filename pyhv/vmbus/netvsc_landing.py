"""Frames that the backend puts into receive sections by itself, a large one into several: RSC.

A coalesced TCP packet is RNDIS messages of one transfer-page packet, each with an id that has flags
for the first and the last; the sums and all else is in the first. Linux makes one buffer of them
that is larger than its MTU (linux drivers/net/hyperv/rndis_filter.c, rndis_filter_receive_data).
"""

from __future__ import annotations

from array import array
from struct import Struct

from ..net.frames import ETH_MAX
from . import netvsc_protocol as n
from . import protocol as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .netvsc_receive import ReceiveBuffer

SECTION = 4096  # a page: a message must fit into a section, and is a piece of a frame
ROOM = 76  # in a section before the data: RNDIS header 44, sums 16, id 16
MOST_RANGES = 512  # in one packet; linux NVSP_RSC_MAX is 562

_plain = Struct("<IIII12xII8x 32x").pack
_sums = Struct("<IIII12xII8x IIII 16x").pack
_part = Struct("<IIII12xII8x IIIBBH 16x").pack
_first = Struct("<IIII12xII8x IIII IIIBBH").pack
_ID = (16, n.PPI_INTERNAL | n.RNDIS_PKTINFO_ID, 12, n.RNDIS_PKTINFO_ID_V1)
MIDDLE = n.RNDIS_PKTINFO_SUBALLOC
FIRST, LAST = MIDDLE | n.RNDIS_PKTINFO_1ST_FRAG, MIDDLE | n.RNDIS_PKTINFO_LAST_FRAG
_message = Struct("<IIII24x").pack(
    n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT, n.RNDIS_CHANNEL_DATA, n.NETVSC_INVALID_INDEX, 0
)
_one = Struct("<HHHHQ HBxI II").pack
WANTED = p.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED
DATA_AT, PPI_AT = ROOM - n.OFFSETS_FROM, n.RNDIS_PACKET_SIZE - n.OFFSETS_FROM


def _piece(flags: int, length: int) -> bytes:
    return _part(n.RNDIS_MSG_PACKET, ROOM + length, DATA_AT, length, PPI_AT, 16, *_ID, flags, 0)


class Landing:
    """Where frames land in *receive*, and those that have, until :meth:`send`.

    ``need``: sections for the largest frame.
    """

    def __init__(self, receive: ReceiveBuffer) -> None:
        self.receive = receive
        self.data = receive.size - ROOM
        self.need = -(-ETH_MAX // self.data)
        self._views: dict[int, tuple[memoryview, list[memoryview]]] = {}  # headers, data
        self._given: list[int] = []  # the sections of the pieces
        self._landed: dict[Channel, tuple[list[int], list[int]]] = {}  # sections, ranges
        self._middle = _piece(MIDDLE, self.data)

    def pieces(self, large: bool) -> list[memoryview]:
        """Return the memory for one frame; empty: too few sections are free.

        :param large: for any frame; else only for one that a section holds, as the first pieces.
        :raises BrokenRule: the buffer's GPADL is torn down.
        """
        receive, views = self.receive, self._views
        receive.buffer.check()
        free = receive.free
        if len(free) < self.need:
            return []
        if not large:
            section = free[-1]
            self._given = [section]
            if section not in views:
                views[section] = self._cut(section)
            return views[section][1]
        self._given = given = free[: -self.need - 1 : -1]
        found: list[memoryview] = []
        for section in given:
            if section not in views:
                views[section] = self._cut(section)
            found += views[section][1]
        return found

    def _cut(self, section: int) -> tuple[memoryview, list[memoryview]]:
        (first, *more) = self.receive.buffer.views(section * self.receive.size, self.receive.size)
        return first[:ROOM], [first[ROOM:], *more]  # a section begins where a page does

    def landed(self, channel: Channel, size: int, sums: int) -> None:
        """A frame of *size* bytes is in the pieces; *sums* is what to say of its checksums."""
        data, given, views, receive = self.data, self._given, self._views, self.receive
        if size <= data:
            section = given[0]
            if sums:
                views[section][0][:] = _sums(
                    n.RNDIS_MSG_PACKET, ROOM + size, DATA_AT, size, PPI_AT, 16,
                    16, n.PPI_TCPIP_CHKSUM, 12, sums,
                )  # fmt: skip
            else:
                views[section][0][:] = _plain(
                    n.RNDIS_MSG_PACKET, ROOM + size, DATA_AT, size, 0, 0
                )  # fmt: skip
            given, ranges = [section], [ROOM + size, section * receive.size]
        else:
            count, last = divmod(size, data)
            if last:
                count += 1
            else:
                last = data
            given, whole = given[:count], ROOM + data
            views[given[0]][0][:] = _first(
                n.RNDIS_MSG_PACKET, whole, DATA_AT, data, PPI_AT, 32,
                16, n.PPI_TCPIP_CHKSUM, 12, sums, *_ID, FIRST, 0,
            )  # fmt: skip
            middle, full = self._middle, receive.size
            for section in given[1:-1]:
                views[section][0][:] = middle
            views[given[-1]][0][:] = _piece(LAST, last)
            ranges = [number for section in given for number in (whole, section * full)]
            ranges[-2] = ROOM + last
        del receive.free[-len(given) :]
        landed = self._landed.get(channel)
        if landed is not None and len(landed[0]) + len(given) > MOST_RANGES:
            self.send(channel)
            landed = None
        if landed is None:
            self._landed[channel] = given, ranges
        else:
            landed[0].extend(given)
            landed[1].extend(ranges)

    def send(self, channel: Channel) -> bool:
        """Pass on what landed for *channel*; False: it is lost."""
        sections, ranges = self._landed.pop(channel)
        receive, count = self.receive, len(sections)
        transaction = receive.lend(tuple(sections))
        if count == 1:
            packet = _one(
                p.VM_PKT_DATA_USING_XFER_PAGES, 4, 9, WANTED, transaction,
                receive.identity, 0, 1, *ranges,
            ) + _message  # fmt: skip
        else:
            packet = b"".join((
                n.XFER_HEADER.pack(
                    p.VM_PKT_DATA_USING_XFER_PAGES, 3 + count, 8 + count, WANTED, transaction,
                    receive.identity, 0, count,
                ),
                array("I", ranges), _message,
            ))  # fmt: skip
        return receive.send(channel, packet, transaction)

    def send_all(self) -> None:
        """Pass on all that landed."""
        for channel in list(self._landed):
            if channel in self._landed:  # the guest may break a rule, and all its channels close
                self.send(channel)

    def forget(self, channel: Channel) -> None:
        """*channel* is closed: what landed for it is lost."""
        sections, _ = self._landed.pop(channel, ((), ()))
        self.receive.free.extend(sections)
