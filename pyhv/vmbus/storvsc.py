"""The synthetic SCSI controller: the storvsc protocol, and disks as LUNs of target 0 on path 0.

Layouts and guest behaviour: linux drivers/scsi/storvsc_drv.c. All 64-byte packets. A request is
served at once, and only the answer of some waits for a flush (storvsc_pending.py), so that resets
and cancels have nothing left to stop.
"""

from __future__ import annotations

from struct import Struct

from ..errors import ConfigError
from . import protocol as p
from . import scsi, scsi_inquiry
from .device import Device
from .pagelist import PageList
from .rules import BrokenRule
from .scsi_cdrom import SECTOR, Cdrom
from .scsi_disk import WRITING, Lun
from .storvsc_pending import MOST, Pending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..disk import Disk
    from .channel import Channel
    from .server import VmbusServer

# 0:4 operation, 4:4 flags, 8:4 status, 12: payload
COMPLETE_IO, EXECUTE_SRB = 1, 3
RESET_LUN, RESET_ADAPTER, RESET_BUS = 4, 5, 6
BEGIN_INITIALIZATION, END_INITIALIZATION, QUERY_PROTOCOL_VERSION = 7, 8, 9
QUERY_PROPERTIES, ENUMERATE_BUS, CREATE_SUB_CHANNELS = 10, 11, 13
PACKET_SIZE = 64
PROTOCOLS = (0x0602, 0x0600, 0x0501)  # Windows 10, 8.1, 8; what Linux asks, in its order
STATUS_OK, STATUS_NOT_SUPPORTED = 0, 0xC00000BB
SUPPORTS_MULTI_CHANNEL = 1
MAX_LUNS = 64

# SRB, from 12 on: length, srb status, scsi status, port, path and target (as one number here), lun,
# cdb length, sense length, direction, zero, transfer length, then cdb 16 or sense 20
_srb = Struct("<I8x2x2xxHBBxBxI16s").unpack_from
_properties = Struct("<4xH2xII8x").pack  # sub-channels, flags, most bytes per request
SRB_LENGTH = 52
# a whole completion packet: ring header, vstor header, SRB up to the transfer length, sense
_done = Struct("<8sQ 14s BBxHBBBBxI 20s16x").pack
_done_good = Struct("<8sQ 14s BBxHBBxBxI 36x").pack
_RING_HEADER = Struct("<HHHH").pack(p.VM_PKT_COMP, 2, 10, 0)
_VSTOR_HEADER = Struct("<IIIH").pack(COMPLETE_IO, 0, STATUS_OK, SRB_LENGTH)
SRB_SUCCESS, SRB_ERROR, SRB_INVALID_REQUEST, SRB_DATA_OVERRUN = 0x01, 0x04, 0x06, 0x12
SRB_INVALID_LUN, SRB_AUTOSENSE_VALID = 0x20, 0x80
COMPLETION_WANTED = p.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED
NO_SENSE = bytes(20)
#: these neither report nor clear a unit attention
NO_ATTENTION = (
    scsi.INQUIRY, scsi.REQUEST_SENSE, scsi.GET_CONFIGURATION, scsi.GET_EVENT_STATUS_NOTIFICATION,
)  # fmt: skip


class Scsi(Device):
    """A controller with *disks* as LUN 0, 1, ..., or by LUN; it does not close them.

    A disk of 2048-byte sectors is a medium in a DVD drive, None is a drive without one.

    :param number: distinguishes several controllers of one machine.
    :raises ValueError: more than 64 disks.
    """

    class_guid = p.GUID_SCSI
    kept = True

    def __init__(
        self, disks: list[Disk | None] | dict[int, Disk | None], number: int = 0
    ) -> None:
        if len(disks) > MAX_LUNS:
            raise ValueError(f"{len(disks)} disks: a controller has at most {MAX_LUNS} LUNs")
        self.instance_guid = f"b7f0e1d4-5c3a-4e52-9d0b-70797368{number:04x}"
        rows = disks.items() if isinstance(disks, dict) else enumerate(disks)
        self.luns: dict[int, Lun] = {lun: _lun(disk) for lun, disk in rows}
        self._pages: PageList  # from offered() on
        self._primary: Channel | None = None
        self._ready = False  # END_INITIALIZATION came
        self._pending = Pending(self._answer)

    def offered(self, server: VmbusServer) -> None:
        """Learn whose memory the page lists mean."""
        self._pages = PageList(server.memory)

    def opened(self, channel: Channel) -> None:
        """A primary begins with initialization; a sub-channel has none."""
        channel.data = object()
        if channel.primary is None:
            self._primary, self._ready = channel, False

    def closed(self, channel: Channel) -> None:
        """Begin anew with the next driver."""
        channel.data = None
        if channel.primary is None:
            self._primary, self._ready = None, False

    def save(self) -> dict[str, Any]:
        """Return how far the driver is, what waits, and which LUNs have something to say."""
        luns = [[number, lun.attention, lun.save()] for number, lun in self.luns.items()]
        return {"ready": self._ready, "luns": luns, "pending": self._pending.save()}

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`.

        :raises ConfigError: other LUNs.
        """
        self._ready, self._primary = state["ready"], channels.get(0)
        if sorted(number for number, *_ in state["luns"]) != sorted(self.luns):
            raise ConfigError("restore: disks were plugged in or out before the snapshot")
        for number, attention, rest in state["luns"]:
            self.luns[number].attention = None if attention is None else tuple(attention)
            self.luns[number].load(rest)
        for channel in channels.values():
            channel.data = object()
        self._pending.load(state["pending"], channels, self.luns)

    # disks coming and going

    def add(self, disk: Disk, number: int | None = None) -> int:
        """Plug *disk* in as LUN *number*, or the first that is free; return it. On the event loop.

        :raises ValueError: all LUNs are taken.
        """
        if number is None:
            number = next((n for n in range(MAX_LUNS) if n not in self.luns), None)
        if number is None:
            raise ValueError(f"all {MAX_LUNS} LUNs are taken")
        self.luns[number] = _lun(disk)
        self._enumerate()
        return number

    def change_medium(self, number: int, disk: Disk | None) -> None:
        """Put *disk* into the DVD drive at LUN *number*, None: take out what is in it."""
        lun = self.luns[number]
        assert isinstance(lun, Cdrom)
        lun.change(disk)

    def remove(self, number: int) -> Disk:
        """Unplug LUN *number*; return its disk, no request of which is left. On the event loop."""
        lun = self.luns.pop(number)
        self._enumerate()
        return lun.disk

    def capacity_changed(self, number: int) -> None:
        """Tell the guest that LUN *number*'s disk has another size now."""
        self.luns[number].attention = scsi.CAPACITY_DATA_HAS_CHANGED
        self._enumerate()

    def _enumerate(self) -> None:
        """Make the guest look for LUNs again; transaction 0 marks what no request asked for."""
        if self._primary is not None and self._ready:
            self._primary.send_inband(ENUMERATE_BUS.to_bytes(4, "little").ljust(PACKET_SIZE, b"\0"))

    # packets

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Serve one request. Most are reads and writes: those take the short way."""
        if end - body < PACKET_SIZE:
            raise BrokenRule("packet-short", f"{end - body} bytes of {PACKET_SIZE}")
        if kind == p.VM_PKT_DATA_USING_GPA_DIRECT:
            ranges = body
        elif kind == p.VM_PKT_DATA_INBAND:
            ranges = start
        else:
            raise BrokenRule("packet-type", f"type {kind}")
        operation, target, lun_number, cdb_length, direction, length, cdb = _srb(batch, body)
        if operation != EXECUTE_SRB:
            self._control(channel, operation, flags, transaction, batch[body:end])
            return
        srb_status, scsi_status, sense = SRB_SUCCESS, scsi.GOOD, NO_SENSE
        pages = self._pages
        pages.set(batch, start, ranges, length)
        lun = self.luns.get(lun_number) if not target else None
        command = lun.commands.get(cdb[0]) if lun is not None else None
        moved = 0
        try:
            if lun is None or command is None or lun.attention or not 6 <= cdb_length <= 16:
                srb_status, moved = self._unusual(lun, target, cdb_length, cdb, pages)
            elif not self._ready:
                srb_status = SRB_INVALID_REQUEST
            else:
                moved = command[1](lun, cdb, pages)
        except scsi.CheckCondition as error:
            srb_status, scsi_status = SRB_ERROR | SRB_AUTOSENSE_VALID, scsi.CHECK_CONDITION
            sense = scsi.sense_data(error.sense)
        except OSError as error:
            srb_status, scsi_status = SRB_ERROR | SRB_AUTOSENSE_VALID, scsi.CHECK_CONDITION
            sense = scsi.sense_data(scsi.sense_of(error, cdb[0] in WRITING))
        except scsi.Overrun:
            srb_status = SRB_DATA_OVERRUN
        except BrokenRule as error:
            channel.server.broken(error, relid=channel.relid)
            srb_status = SRB_INVALID_REQUEST
        else:
            if lun is not None and lun.to_flush:
                lun.to_flush = False
                if len(self._pending) >= MOST:
                    scsi_status, moved = scsi.TASK_SET_FULL, 0
                elif flags & COMPLETION_WANTED:
                    where = (target & 0xFF, target >> 8, lun_number, cdb_length, direction)
                    self._pending.add(lun, channel, transaction, where, moved)
                    return
        if not flags & COMPLETION_WANTED:
            return
        if sense is NO_SENSE:
            channel.send(_done_good(
                _RING_HEADER, transaction, _VSTOR_HEADER, srb_status, scsi_status, target,
                lun_number, cdb_length, direction, moved,
            ))  # fmt: skip
        else:
            channel.send(_done(
                _RING_HEADER, transaction, _VSTOR_HEADER, srb_status, scsi_status, target,
                lun_number, cdb_length, scsi.SENSE_LENGTH, direction, 0, sense,
            ))  # fmt: skip

    def _answer(
        self, channel: Channel, transaction: int, where: tuple[int, int, int, int, int],
        moved: int, sense: scsi.Sense | None,
    ) -> None:  # fmt: skip
        """Complete a request whose answer waited."""
        path, target, lun, cdb_length, direction = where
        status, scsi_status, length, data = SRB_SUCCESS, scsi.GOOD, 0, NO_SENSE
        if sense is not None:
            status, scsi_status = SRB_ERROR | SRB_AUTOSENSE_VALID, scsi.CHECK_CONDITION
            moved, length, data = 0, scsi.SENSE_LENGTH, scsi.sense_data(sense)
        channel.send(_done(
            _RING_HEADER, transaction, _VSTOR_HEADER, status, scsi_status, path | target << 8, lun,
            cdb_length, length, direction, moved, data,
        ))  # fmt: skip

    def _unusual(
        self, lun: Lun | None, elsewhere: int, cdb_length: int, cdb: bytes, pages: PageList
    ) -> tuple[int, int]:
        """Serve what is no plain command of a LUN that is there; return SRB status, bytes."""
        if not 6 <= cdb_length <= 16 or not self._ready:
            return SRB_INVALID_REQUEST, 0
        operation = cdb[0]
        if operation == scsi.REPORT_LUNS:
            # Must succeed also for a target that is not there, with an empty list: told that the
            # LUN is invalid, Linux removes the same LUN of the real target.
            return SRB_SUCCESS, self._report_luns(elsewhere, cdb, pages)
        if lun is None:
            if operation == scsi.INQUIRY:
                allocation = int.from_bytes(cdb[3:5], "big")
                return SRB_SUCCESS, pages.write(scsi_inquiry.ABSENT, allocation)
            return SRB_INVALID_LUN, 0
        if lun.attention and operation not in NO_ATTENTION:
            sense, lun.attention = lun.attention, None
            raise scsi.CheckCondition(sense)
        command = lun.commands.get(operation)
        if command is None:
            raise scsi.CheckCondition(scsi.INVALID_OPERATION_CODE)
        return SRB_SUCCESS, command[1](lun, cdb, pages)

    def _report_luns(self, elsewhere: int, cdb: bytes, pages: PageList) -> int:
        numbers = sorted(self.luns) if not elsewhere else []
        reply = (8 * len(numbers)).to_bytes(4, "big") + bytes(4)
        reply += b"".join(bytes((0, number)).ljust(8, b"\0") for number in numbers)
        return pages.write(reply, int.from_bytes(cdb[6:10], "big"))

    def _control(
        self, channel: Channel, operation: int, flags: int, transaction: int, packet: bytes
    ) -> None:
        """Serve what is no SRB."""
        payload, status = packet[12:PACKET_SIZE], STATUS_OK
        first = int.from_bytes(payload[:2], "little")
        if channel.primary is not None:
            status = STATUS_NOT_SUPPORTED
        elif operation == BEGIN_INITIALIZATION:
            self._ready = False
        elif operation == QUERY_PROTOCOL_VERSION:
            status = STATUS_OK if first in PROTOCOLS else STATUS_NOT_SUPPORTED
        elif operation == QUERY_PROPERTIES:
            most = channel.server.vp_count - 1
            payload = _properties(
                most, SUPPORTS_MULTI_CHANNEL if most else 0, scsi_inquiry.MAX_TRANSFER_BYTES
            )
        elif operation == END_INITIALIZATION:
            self._ready = True
        elif operation == CREATE_SUB_CHANNELS:
            possible = self._ready and first < channel.server.vp_count
            if not possible or not channel.server.offer_subchannels(channel, first):
                status = STATUS_NOT_SUPPORTED
        elif operation not in (RESET_LUN, RESET_ADAPTER, RESET_BUS):
            status = STATUS_NOT_SUPPORTED
        if flags & COMPLETION_WANTED:
            head = b"".join(word.to_bytes(4, "little") for word in (COMPLETE_IO, 0, status))
            channel.complete(transaction, (head + payload).ljust(PACKET_SIZE, b"\0"))


def _lun(disk: Disk | None) -> Lun:
    return Cdrom(disk) if disk is None or disk.sector_size == SECTOR else Lun(disk)
