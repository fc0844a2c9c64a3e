"""What a SCSI disk tells of itself: INQUIRY and its VPD pages, MODE SENSE, READ CAPACITY."""

from __future__ import annotations

from struct import Struct

from . import scsi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .pagelist import PageList
    from .scsi_disk import Lun

# "Msft" makes Linux use SPC-3 commands and, with storvsc 6.2, WRITE SAME
VENDOR, PRODUCT, REVISION = b"Msft    ", b"Virtual Disk    ", b"1.0 "
SPC_4, RESPONSE_FORMAT, CMDQUE = 0x06, 0x02, 0x02
#: peripheral qualifier 3, device type 0x1f: this LUN can have no device. Linux's storvsc takes
#: any INQUIRY as good, and an answer of zeros as a disk: it would find 120 of them.
ABSENT = bytes((0x7F, 0, SPC_4, RESPONSE_FORMAT, 31)) + bytes(31)

MAX_TRANSFER_BYTES = 512 << 10
MAX_UNMAP_BLOCKS = 1 << 22
MAX_UNMAP_DESCRIPTORS = 256
MAX_WRITE_SAME_BLOCKS = 1 << 16
PHYSICAL_SECTOR = 4096  # what writes are best aligned to: the host's page and block

# 4:1 WSNZ, 6:2 granularity, 8:4 most, 12:4 optimal, 16:4 prefetch, 20:4 UNMAP, 24:4 its
# descriptors, 28:4 its granularity, 32:4 alignment, 36:8 WRITE SAME
_limits = Struct(">BBHIIIIIIIQ20x")


def standard(lun: Lun) -> bytes:
    """INQUIRY without EVPD."""
    head = bytes((0, 0, SPC_4, RESPONSE_FORMAT, 31, 0, 0, CMDQUE))
    return head + VENDOR + PRODUCT + REVISION


def supported_pages(lun: Lun) -> bytes:
    """VPD 00h."""
    return bytes(VPD)


def serial_number(lun: Lun) -> bytes:
    """VPD 80h."""
    return lun.identity.hex()[:20].encode()


def identification(lun: Lun) -> bytes:
    """VPD 83h: a locally assigned NAA name (8 bytes, from the disk's identity), and T10's."""
    identity = lun.identity
    naa = bytes((0x30 | identity[0] & 0x0F,)) + identity[1:8]
    text = VENDOR + PRODUCT + serial_number(lun)
    return bytes((0x01, 0x03, 0, len(naa))) + naa + bytes((0x02, 0x01, 0, len(text))) + text


def block_limits(lun: Lun) -> bytes:
    """VPD b0h (SBC-3)."""
    size = lun.disk.sector_size
    granularity = max(1, PHYSICAL_SECTOR // size)
    unmap = lun.disk.thin
    return _limits.pack(
        1,  # WSNZ: WRITE SAME of 0 blocks does not mean "to the end"
        0, granularity, MAX_TRANSFER_BYTES // size, MAX_TRANSFER_BYTES // size, 0,
        MAX_UNMAP_BLOCKS if unmap else 0, MAX_UNMAP_DESCRIPTORS if unmap else 0,
        granularity, 0x80000000, MAX_WRITE_SAME_BLOCKS,
    )  # fmt: skip


def characteristics(lun: Lun) -> bytes:
    """VPD b1h (SBC-3): no rotation."""
    return bytes((0, 1)).ljust(60, b"\0")


def provisioning(lun: Lun) -> bytes:
    """VPD b2h (SBC-3): UNMAP, WRITE SAME (16, 10) with UNMAP; unmapped blocks read as zeros."""
    return bytes((0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0)) if lun.disk.thin else bytes(4)


VPD: dict[int, Callable[[Lun], bytes]] = {
    0x00: supported_pages,
    0x80: serial_number,
    0x83: identification,
    0xB0: block_limits,
    0xB1: characteristics,
    0xB2: provisioning,
}


def inquiry(lun: Lun, cdb: bytes, data: PageList) -> int:
    """12h."""
    return answer(lun, cdb, data, standard, VPD, 0)


def answer(
    lun: Lun, cdb: bytes, data: PageList, standard: Callable[[Lun], bytes],
    pages: dict[int, Callable[[Lun], bytes]], device_type: int,
) -> int:  # fmt: skip
    """Answer INQUIRY with *standard* data or one of the VPD *pages*."""
    evpd, page, allocation = cdb[1] & 1, cdb[2], int.from_bytes(cdb[3:5], "big")
    if not evpd:
        if page:
            raise scsi.CheckCondition(scsi.INVALID_FIELD_IN_CDB)
        return data.write(standard(lun), allocation)
    build = pages.get(page)
    if build is None:
        raise scsi.CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    body = build(lun)
    head = bytes((device_type, page)) + len(body).to_bytes(2, "big")
    return data.write(head + body, allocation)


def _caching(lun: Lun) -> bytes:
    # WCE: writes are in the page cache until SYNCHRONIZE CACHE; Linux flushes only if it is set
    return bytes((0x08, 18, 0 if lun.disk.writethrough else 0x04)) + bytes(17)


def _control(lun: Lun) -> bytes:
    return bytes((0x0A, 10)) + bytes(10)


MODE_PAGES: dict[int, Callable[[Lun], bytes]] = {0x08: _caching, 0x0A: _control}
ALL_PAGES, CHANGEABLE, SAVED = 0x3F, 1, 3


def mode_pages(lun: Lun, cdb: bytes, table: dict[int, Callable[[Lun], bytes]]) -> bytes:
    """Return those pages of *table* that MODE SENSE asks for."""
    control, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    wanted = list(table) if page == ALL_PAGES else [page]
    if control == SAVED or subpage not in (0, 0xFF) or any(p not in table for p in wanted):
        raise scsi.CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    pages = [table[one](lun) for one in wanted]
    if control == CHANGEABLE:  # nothing is
        pages = [one[:2] + bytes(len(one) - 2) for one in pages]
    return b"".join(pages)


def _specific(lun: Lun) -> int:
    return (0x80 if lun.disk.readonly else 0) | 0x10  # WP, DPOFUA


def mode_answer_6(cdb: bytes, data: PageList, pages: bytes, specific: int) -> int:
    """Answer MODE SENSE (6) without block descriptors; *specific*: the device's parameter."""
    return data.write(bytes((3 + len(pages), 0, specific, 0)) + pages, cdb[4])


def mode_answer_10(cdb: bytes, data: PageList, pages: bytes, specific: int) -> int:
    """Answer MODE SENSE (10) in the same way."""
    head = (6 + len(pages)).to_bytes(2, "big") + bytes((0, specific, 0, 0, 0, 0))
    return data.write(head + pages, int.from_bytes(cdb[7:9], "big"))


def mode_sense_6(lun: Lun, cdb: bytes, data: PageList) -> int:
    """1Ah."""
    return mode_answer_6(cdb, data, mode_pages(lun, cdb, MODE_PAGES), _specific(lun))


def mode_sense_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """5Ah."""
    return mode_answer_10(cdb, data, mode_pages(lun, cdb, MODE_PAGES), _specific(lun))


def read_capacity_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """25h; a disk past 2 TiB (of 512-byte sectors) says FFFFFFFFh, "ask READ CAPACITY (16)"."""
    last = min(lun.disk.sectors - 1, 0xFFFFFFFF)
    return data.write(last.to_bytes(4, "big") + lun.disk.sector_size.to_bytes(4, "big"), 8)


def read_capacity_16(lun: Lun, cdb: bytes, data: PageList) -> int:
    """9Eh/10h."""
    if cdb[1] & 0x1F != scsi.READ_CAPACITY_16:
        raise scsi.CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    disk = lun.disk
    exponent = (max(PHYSICAL_SECTOR // disk.sector_size, 1)).bit_length() - 1
    thin = 0xC0 if disk.thin else 0  # LBPME, LBPRZ
    reply = (disk.sectors - 1).to_bytes(8, "big") + disk.sector_size.to_bytes(4, "big")
    return data.write(
        (reply + bytes((0, exponent, thin, 0))).ljust(32, b"\0"), int.from_bytes(cdb[10:14], "big")
    )
