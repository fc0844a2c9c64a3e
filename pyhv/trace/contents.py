"""The bytes behind a trace of the bus: packets whole, and the guest's memory that goes with them.

``before`` is what a device may read when it serves a packet, ``[offset in RAM, bytes, hexadecimal
without the zeros at its end]`` each; ``after`` is the CRC-32 of what it may have written.
"""

from __future__ import annotations

from zlib import crc32

from ..errors import BadGpa
from ..vmbus import netvsc_protocol as n
from ..vmbus import protocol as p
from ..vmbus.rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..board import Board
    from ..memory import GuestMemory
    from ..vmbus.channel import Channel

    Fields = dict[str, object]

PAGE = 4096
MOST = 1 << 20  # bytes of memory with one packet
SRB_DIRECTION, TO_DEVICE, FROM_DEVICE = 22, 0, 1


def of_message(payload: bytes) -> Fields:
    """Return what is added to a channel message's fields."""
    return {"data": payload.hex()}


def of_guest(
    channel: Channel, kind: int, batch: bytes, start: int, body: int, end: int
) -> Callable[[], Fields]:
    """Look at a packet of the guest that is about to be served; the result is called after that."""
    memory = channel.server.memory
    pieces = _ranges(memory, batch, start, body) if kind == p.VM_PKT_DATA_USING_GPA_DIRECT else []
    direction = None
    if channel.device.class_guid == p.GUID_SCSI and end - body > SRB_DIRECTION:
        direction = batch[body + SRB_DIRECTION]
    fields: Fields = {"data": batch[start - p.PACKET_HEADER.size : end].hex()}
    reads = pieces if direction != FROM_DEVICE else []
    reads = reads + _section(channel, batch, body, end)
    if reads:
        fields["before"] = [
            [at, size, bytes(memory.bytes[at : at + size]).rstrip(b"\0").hex()]
            for at, size in reads
        ]

    def after() -> Fields:
        if pieces and direction != TO_DEVICE:
            fields["after"] = _sum(memory, pieces)
        return fields

    return after


def of_host(channel: Channel, data: bytes) -> Fields:
    """Return what is added to a packet that the host sends; *data* has its header."""
    fields: Fields = {"data": data.hex()}
    receive: Any = getattr(channel.device, "_receive", None)
    if int.from_bytes(data[:2], "little") == p.VM_PKT_DATA_USING_XFER_PAGES and receive:
        head = n.XFER_HEADER.unpack_from(data)
        total = 0
        try:
            for number in range(head[-1]):
                size, at = n.XFER_RANGE.unpack_from(
                    data, n.XFER_HEADER.size + number * n.XFER_RANGE.size
                )
                total = crc32(receive.buffer.read(at, size), total)
        except BrokenRule:  # the guest has torn the buffer down
            return fields
        fields["after"] = total
    return fields


def of_board(board: Board) -> Fields:
    """Return what :mod:`pyhv.replay` must know of a machine."""
    luns = board.machine.luns
    return {
        "max_version": board.vmbus.max_version if board.vmbus is not None else 0,
        "disks": [
            {"lun": lun, "bytes": disk.size_bytes, "sector": disk.sector_size,
             "readonly": disk.readonly, "cache": disk.cache, "volatile": disk.volatile,
             "identity": disk.identity.hex()}
            for lun, disk in luns.items() if disk is not None
        ],
        "nics": [
            {"mac": mac.hex(), "link": backend.link, "coalesces": backend.coalesces}
            for backend, mac in board.machine.nics
        ],
    }  # fmt: skip


def _ranges(memory: GuestMemory, batch: bytes, at: int, end: int) -> list[tuple[int, int]]:
    """Return (offset in RAM, bytes) of a page list, as far as it adds up."""
    found: list[tuple[int, int]] = []
    left = MOST
    try:
        _, count = p.GPA_DIRECT_HEADER.unpack_from(batch, at)
        at += p.GPA_DIRECT_HEADER.size
        while count and at + p.GPA_RANGE.size <= end and left > 0:
            length, offset = p.GPA_RANGE.unpack_from(batch, at)
            at += p.GPA_RANGE.size
            while length and at + 8 <= end and left > 0:
                page = int.from_bytes(batch[at : at + 8], "little")
                size = min(PAGE - offset % PAGE, length, left)
                found.append((memory.offset(page * PAGE + offset % PAGE, size), size))
                at, length, left, offset = at + 8, length - size, left - size, 0
            count -= 1
    except (BadGpa, OverflowError):
        pass
    return found


def _section(channel: Channel, batch: bytes, body: int, end: int) -> list[tuple[int, int]]:
    """Return the pieces of the send buffer that an NVSP packet's frames lie in."""
    device: Any = channel.device
    buffer = getattr(device, "_send", None)
    if device.class_guid != p.GUID_NET or buffer is None or end - body < n.RNDIS_PKT.size:
        return []
    message, _, section, size = n.RNDIS_PKT.unpack_from(batch, body)[:4]
    at = section * n.SEND_SECTION_SIZE
    if message != n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT or at + n.SEND_SECTION_SIZE > buffer.size:
        return []
    found, at, left = [], at + buffer._offset, min(size, n.SEND_SECTION_SIZE)
    while left and at // PAGE < len(buffer._pages):  # torn down: there are none
        count = min(PAGE - at % PAGE, left)
        found.append((buffer._pages[at // PAGE] + at % PAGE, count))
        at, left = at + count, left - count
    return found


def _sum(memory: GuestMemory, pieces: list[tuple[int, int]]) -> int:
    total = 0
    for at, size in pieces:
        total = crc32(memory.bytes[at : at + size], total)
    return total
