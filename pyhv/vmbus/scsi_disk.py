"""A disk as a SCSI logical unit: the table of its commands, and those that move or drop data.

A command is ``handler(lun, cdb, data) -> bytes moved``; it raises CheckCondition, Overrun,
BrokenRule (a page list that does not add up), or OSError from the image file.
"""

from __future__ import annotations

from struct import Struct

from . import scsi, scsi_inquiry
from .pagelist import PAGE
from .scsi import CheckCondition, Overrun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..disk import Disk
    from .pagelist import PageList

    Handler = Callable[["Lun", bytes, PageList], int]

# LBA, blocks
_rw_10 = Struct(">2xIxH").unpack_from
_rw_12 = Struct(">2xII").unpack_from
_rw_16 = Struct(">2xQI").unpack_from
_descriptor = Struct(">QI4x").iter_unpack
FUA = 0x08  # byte 1 of WRITE (10), (12), (16)
PROTECT = 0xE0  # RDPROTECT, WRPROTECT: protection information we do not keep
WS_UNMAP, WS_ANCHOR, WS_NDOB = 0x08, 0x10, 0x01
PATTERN_BYTES = 1 << 16


class Lun:
    """A logical unit on *disk*; ``attention`` is a sense that the next command ends with.

    ``to_flush`` is set by a command that may be answered only when its data is on the medium.
    ``commands`` is the table of those it has.
    """

    __slots__ = ("attention", "disk", "to_flush")
    commands: dict[int, tuple[str, Handler]]

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.to_flush = False
        self.attention: scsi.Sense | None = None

    @property
    def identity(self) -> bytes:
        """16 bytes that the guest knows it by."""
        return self.disk.identity

    def save(self) -> list[object]:
        """Return what a snapshot keeps beside the attention."""
        return []

    def load(self, state: list[object]) -> None:
        """Undo :meth:`save`."""


def _extent(lun: Lun, lba: int, blocks: int) -> tuple[int, int]:
    """Return offset and length in bytes, or raise if they are not on the disk."""
    disk = lun.disk
    if lba + blocks > disk.sectors:
        raise CheckCondition(scsi.LBA_OUT_OF_RANGE)
    return lba * disk.sector_size, blocks * disk.sector_size


def _read(lun: Lun, lba: int, blocks: int, data: PageList) -> int:
    disk = lun.disk
    if lba + blocks > disk.sectors:
        raise CheckCondition(scsi.LBA_OUT_OF_RANGE)
    length = blocks * disk.sector_size
    if length > data.length:
        raise Overrun
    if length:
        pages = data.views(length) if length <= PAGE else data.buffers(length)
        disk.readv(lba * disk.sector_size, pages)
    return length


def _write(lun: Lun, lba: int, blocks: int, data: PageList, sync: int) -> int:
    disk = lun.disk
    if disk.readonly:
        raise CheckCondition(scsi.WRITE_PROTECTED)
    if lba + blocks > disk.sectors:
        raise CheckCondition(scsi.LBA_OUT_OF_RANGE)
    length = blocks * disk.sector_size
    if length > data.length:
        raise Overrun
    if length:
        pages = data.views(length) if length <= PAGE else data.buffers(length)
        disk.writev(lba * disk.sector_size, pages)
        lun.to_flush = bool(sync or disk.writethrough) and disk.volatile
    return length


def _six(cdb: bytes) -> tuple[int, int]:
    return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256


def _no_protection(cdb: bytes) -> None:
    if cdb[1] & PROTECT:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)


def read_6(lun: Lun, cdb: bytes, data: PageList) -> int:
    """08h: 21-bit LBA; 0 blocks means 256."""
    lba, blocks = _six(cdb)
    return _read(lun, lba, blocks, data)


def read_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """28h."""
    if cdb[1] & PROTECT:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    lba, blocks = _rw_10(cdb)
    return _read(lun, lba, blocks, data)


def read_12(lun: Lun, cdb: bytes, data: PageList) -> int:
    """A8h."""
    _no_protection(cdb)
    lba, blocks = _rw_12(cdb)
    return _read(lun, lba, blocks, data)


def read_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """88h."""
    _no_protection(cdb)
    lba, blocks = _rw_16(cdb)
    return _read(lun, lba, blocks, data)


def write_6(lun: Lun, cdb: bytes, data: PageList) -> int:
    """0Ah: 21-bit LBA; 0 blocks means 256."""
    lba, blocks = _six(cdb)
    return _write(lun, lba, blocks, data, 0)


def write_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """2Ah."""
    if cdb[1] & PROTECT:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    lba, blocks = _rw_10(cdb)
    return _write(lun, lba, blocks, data, cdb[1] & FUA)


def write_12(lun: Lun, cdb: bytes, data: PageList) -> int:
    """AAh."""
    _no_protection(cdb)
    lba, blocks = _rw_12(cdb)
    return _write(lun, lba, blocks, data, cdb[1] & FUA)


def write_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """8Ah."""
    _no_protection(cdb)
    lba, blocks = _rw_16(cdb)
    return _write(lun, lba, blocks, data, cdb[1] & FUA)


def verify_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """2Fh without BYTCHK: the blocks are there."""
    return _verify(lun, cdb, *_rw_10(cdb))


def verify_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """8Fh without BYTCHK."""
    return _verify(lun, cdb, *_rw_16(cdb))


def _verify(lun: Lun, cdb: bytes, lba: int, blocks: int) -> int:
    if cdb[1] & 0x06:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    _extent(lun, lba, blocks)
    return 0


def synchronize_cache_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """35h: the whole cache, whatever range is named."""
    return _synchronize(lun, *_rw_10(cdb))


def synchronize_cache_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """91h."""
    return _synchronize(lun, *_rw_16(cdb))


def _synchronize(lun: Lun, lba: int, blocks: int) -> int:
    _extent(lun, lba, blocks)
    lun.to_flush = lun.disk.volatile
    return 0


def unmap(lun: Lun, cdb: bytes, data: PageList) -> int:
    """42h: 0:2 and 2:2 lengths, 8: descriptors of 8:LBA, 4:blocks, 4:reserved."""
    if lun.disk.readonly:
        raise CheckCondition(scsi.WRITE_PROTECTED)
    length = int.from_bytes(cdb[7:9], "big")
    if cdb[1] & 1:  # ANCHOR
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    if not length:
        return 0
    if length < 8:
        raise CheckCondition(scsi.PARAMETER_LIST_LENGTH)
    if length > data.length:
        raise Overrun
    parameters = data.read(length)
    size = min(int.from_bytes(parameters[2:4], "big") & ~15, length - 8 & ~15)
    extents = list(_descriptor(parameters[8 : 8 + size]))
    if len(extents) > scsi_inquiry.MAX_UNMAP_DESCRIPTORS or (
        sum(blocks for _, blocks in extents) > scsi_inquiry.MAX_UNMAP_BLOCKS
    ):
        raise CheckCondition(scsi.INVALID_FIELD_IN_PARAMETERS)
    for offset, count in [_extent(lun, lba, blocks) for lba, blocks in extents]:
        if count:
            lun.disk.discard(offset, count)
    lun.to_flush = lun.disk.writethrough and lun.disk.volatile
    return length


def write_same_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """41h."""
    lba, blocks = _rw_10(cdb)
    return _write_same(lun, cdb, lba, blocks, data, False)


def write_same_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """93h; NDOB: zeros, and no data."""
    lba, blocks = _rw_16(cdb)
    return _write_same(lun, cdb, lba, blocks, data, bool(cdb[1] & WS_NDOB))


def _write_same(
    lun: Lun, cdb: bytes, lba: int, blocks: int, data: PageList, no_data: bool
) -> int:
    if lun.disk.readonly:
        raise CheckCondition(scsi.WRITE_PROTECTED)
    if cdb[1] & (PROTECT | WS_ANCHOR) or not 0 < blocks <= scsi_inquiry.MAX_WRITE_SAME_BLOCKS:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    disk = lun.disk
    offset, length = _extent(lun, lba, blocks)
    block = bytes(disk.sector_size)
    if not no_data:
        if data.length < len(block):
            raise Overrun
        block = data.read(len(block))
    if not block.strip(b"\0"):
        disk.write_zeroes(offset, length, bool(cdb[1] & WS_UNMAP))
    else:
        pattern = memoryview(block * min(blocks, max(1, PATTERN_BYTES // len(block))))
        for at in range(0, length, len(pattern)):
            disk.writev(offset + at, [pattern[: length - at]])
    lun.to_flush = disk.writethrough and disk.volatile
    return 0 if no_data else len(block)


def nothing_to_do(lun: Lun, cdb: bytes, data: PageList) -> int:
    """00h, 1Bh, 1Eh: the medium is in, spins, and cannot be taken out."""
    return 0


def request_sense(lun: Lun, cdb: bytes, data: PageList) -> int:
    """03h: every command brought its sense along."""
    return data.write(scsi.sense_data((scsi.NO_SENSE, 0, 0)), cdb[4])


#: operation code -> name, handler
COMMANDS: dict[int, tuple[str, Handler]] = {
    scsi.TEST_UNIT_READY: ("TEST UNIT READY", nothing_to_do),
    scsi.REQUEST_SENSE: ("REQUEST SENSE", request_sense),
    scsi.READ_6: ("READ (6)", read_6),
    scsi.WRITE_6: ("WRITE (6)", write_6),
    scsi.INQUIRY: ("INQUIRY", scsi_inquiry.inquiry),
    scsi.MODE_SENSE_6: ("MODE SENSE (6)", scsi_inquiry.mode_sense_6),
    scsi.START_STOP_UNIT: ("START STOP UNIT", nothing_to_do),
    scsi.ALLOW_MEDIUM_REMOVAL: ("PREVENT ALLOW MEDIUM REMOVAL", nothing_to_do),
    scsi.READ_CAPACITY_10: ("READ CAPACITY (10)", scsi_inquiry.read_capacity_10),
    scsi.READ_10: ("READ (10)", read_10),
    scsi.WRITE_10: ("WRITE (10)", write_10),
    scsi.VERIFY_10: ("VERIFY (10)", verify_10),
    scsi.SYNCHRONIZE_CACHE_10: ("SYNCHRONIZE CACHE (10)", synchronize_cache_10),
    scsi.WRITE_SAME_10: ("WRITE SAME (10)", write_same_10),
    scsi.UNMAP: ("UNMAP", unmap),
    scsi.MODE_SENSE_10: ("MODE SENSE (10)", scsi_inquiry.mode_sense_10),
    scsi.READ_16: ("READ (16)", read_16),
    scsi.WRITE_16: ("WRITE (16)", write_16),
    scsi.VERIFY_16: ("VERIFY (16)", verify_16),
    scsi.SYNCHRONIZE_CACHE_16: ("SYNCHRONIZE CACHE (16)", synchronize_cache_16),
    scsi.WRITE_SAME_16: ("WRITE SAME (16)", write_same_16),
    scsi.SERVICE_ACTION_IN_16: ("READ CAPACITY (16)", scsi_inquiry.read_capacity_16),
    scsi.READ_12: ("READ (12)", read_12),
    scsi.WRITE_12: ("WRITE (12)", write_12),
}
Lun.commands = COMMANDS
WRITING = frozenset(
    (scsi.WRITE_6, scsi.WRITE_10, scsi.WRITE_12, scsi.WRITE_16, scsi.SYNCHRONIZE_CACHE_10,
     scsi.SYNCHRONIZE_CACHE_16, scsi.UNMAP, scsi.WRITE_SAME_10, scsi.WRITE_SAME_16)
)  # fmt: skip
