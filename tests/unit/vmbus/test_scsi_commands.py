"""Every SCSI command by its row: what it moves, what the image holds then, and its sense."""

from __future__ import annotations

import errno
import os
import struct

import pytest
import stor_sim
from bus_helpers import SECTORS, sector
from stor_sim import StorGuest, cdb_6, cdb_10, cdb_12, cdb_16

from pyhv.vmbus import scsi
from pyhv.vmbus.scsi_disk import COMMANDS, WRITING
from pyhv.vmbus.scsi_inquiry import MAX_UNMAP_BLOCKS, MAX_WRITE_SAME_BLOCKS
from pyhv.vmbus.storvsc import Scsi

OK = 0x01
OUT_OF_RANGE, INVALID_FIELD, WRITE_PROTECTED = (5, 0x21, 0), (5, 0x24, 0), (7, 0x27, 0)


BUILD = {0: cdb_6, 1: cdb_10, 2: cdb_10, 4: cdb_16, 5: cdb_12}
READS = [scsi.READ_6, scsi.READ_10, scsi.READ_12, scsi.READ_16]
WRITES = [scsi.WRITE_6, scsi.WRITE_10, scsi.WRITE_12, scsi.WRITE_16]
VERIFIES = [scsi.VERIFY_10, scsi.VERIFY_16]
SYNCS = [scsi.SYNCHRONIZE_CACHE_10, scsi.SYNCHRONIZE_CACHE_16]
SAMES = [scsi.WRITE_SAME_10, scsi.WRITE_SAME_16]


def build(opcode: int, lba: int, blocks: int, **options) -> bytes:
    return BUILD[opcode >> 5](opcode, lba, blocks, **options)


def name(opcode: int) -> str:
    return COMMANDS[opcode][0]


class BrokenDisk:
    """A disk whose every access fails with ``code``."""

    sectors, sector_size, readonly, identity = SECTORS, 512, False, bytes(16)

    def __init__(self, code: int) -> None:
        self.code = code

    def _fail(self, *arguments) -> None:
        raise OSError(self.code, os.strerror(self.code))

    readv = writev = discard = write_zeroes = _fail
    volatile, writethrough = True, False

    def flush_soon(self, told) -> None:
        told(OSError(self.code, os.strerror(self.code)))


def test_every_command_of_the_table_is_tested_here() -> None:
    others = {
        scsi.TEST_UNIT_READY, scsi.REQUEST_SENSE, scsi.INQUIRY, scsi.MODE_SENSE_6,
        scsi.MODE_SENSE_10, scsi.START_STOP_UNIT, scsi.ALLOW_MEDIUM_REMOVAL,
        scsi.READ_CAPACITY_10, scsi.SERVICE_ACTION_IN_16, scsi.UNMAP,
    }  # fmt: skip
    assert set(COMMANDS) == others.union(READS, WRITES, VERIFIES, SYNCS, SAMES)
    assert {*WRITES, *SYNCS, *SAMES, scsi.UNMAP} == WRITING


@pytest.mark.parametrize("opcode", READS, ids=name)
def test_read(stor: StorGuest, opcode: int) -> None:
    for lba, blocks in ((0, 1), (5, 3), (SECTORS - 1, 1), (100, 200), (SECTORS - 255, 255)):
        result = stor.run(build(opcode, lba, blocks), blocks * 512)
        assert (result.srb, result.moved) == (OK, blocks * 512)
        assert result.data == b"".join(map(sector, range(lba, lba + blocks)))


@pytest.mark.parametrize("opcode", WRITES, ids=name)
def test_write(stor: StorGuest, image, opcode: int) -> None:
    for lba, blocks in ((0, 1), (7, 3), (SECTORS - 1, 1), (100, 200)):
        data = os.urandom(blocks * 512)
        result = stor.run(build(opcode, lba, blocks), data=data)
        assert (result.srb, result.moved) == (OK, blocks * 512)
        assert image.read_bytes()[lba * 512 :][: len(data)] == data


@pytest.mark.parametrize("opcode", [scsi.READ_6, scsi.WRITE_6], ids=name)
def test_six_bytes_0_blocks_are_256(stor: StorGuest, opcode: int) -> None:
    result = stor.run(cdb_6(opcode, 10, 0), 256 * 512, direction=int(opcode == scsi.READ_6))
    assert (result.srb, result.moved) == (OK, 256 * 512)


@pytest.mark.parametrize("opcode", READS[1:] + WRITES[1:], ids=name)
def test_0_blocks_are_nothing(stor: StorGuest, opcode: int) -> None:
    result = stor.run(build(opcode, 10, 0))
    assert (result.srb, result.moved) == (OK, 0)


BEYOND = [(SECTORS, 1), (SECTORS - 1, 2), (0x1FFFFF, 255)]
FAR = [(0xFFFFFFFF, 0xFFFF), (0xFFFFFFFF, 1)]
VERY_FAR = [((1 << 64) - 1, 0xFFFFFFFF), ((1 << 64) - 1, 1), (1 << 63, 1 << 31)]


@pytest.mark.parametrize("opcode", READS + WRITES + VERIFIES + SYNCS + SAMES, ids=name)
def test_beyond_the_end(stor: StorGuest, image, opcode: int) -> None:
    before = image.read_bytes()
    extents = list(BEYOND)
    if opcode >> 5:
        extents += FAR
    if opcode >> 5 == 4:
        extents += VERY_FAR
    for lba, blocks in extents:
        if opcode in SAMES and blocks > MAX_WRITE_SAME_BLOCKS:
            continue
        result = stor.run(build(opcode, lba, blocks), 512 * 256, direction=0)
        assert (result.srb, result.scsi, result.moved) == (0x84, 2, 0)
        assert result.sense == OUT_OF_RANGE
    assert image.read_bytes() == before


@pytest.mark.parametrize("opcode", [*READS[1:], *WRITES[1:], *SAMES], ids=name)
def test_protection_information_is_refused(stor: StorGuest, opcode: int) -> None:
    for bits in (0x20, 0x80, 0xE0):
        result = stor.run(build(opcode, 1, 1, flags=bits), 512)
        assert result.sense == INVALID_FIELD


@pytest.mark.parametrize("opcode", VERIFIES, ids=name)
def test_verify(stor: StorGuest, opcode: int) -> None:
    assert stor.run(build(opcode, 0, 100)).srb == OK
    assert stor.run(build(opcode, 0, 100, flags=2)).sense == INVALID_FIELD


@pytest.mark.parametrize("opcode", SYNCS, ids=name)
def test_synchronize_cache_reaches_the_disk(stor: StorGuest, monkeypatch, opcode: int) -> None:
    synced: list[int] = []
    monkeypatch.setattr("pyhv.disk.os.fdatasync", synced.append)
    assert stor.run(build(opcode, 0, 0)).srb == OK
    assert len(synced) == 1


@pytest.mark.parametrize("opcode", WRITES[1:], ids=name)
def test_fua_writes_through(stor: StorGuest, monkeypatch, opcode: int) -> None:
    order: list[str] = []
    pwritev, fdatasync = os.pwritev, os.fdatasync

    def written(*arguments):
        order.append("write")
        return pwritev(*arguments)

    def synced(fd):
        order.append("sync")
        fdatasync(fd)

    monkeypatch.setattr("pyhv.disk.os.pwritev", written)
    monkeypatch.setattr("pyhv.disk.os.fdatasync", synced)
    stor.run(build(opcode, 0, 1), data=bytes(512))
    assert order == ["write"]
    result = stor.run(build(opcode, 0, 1, flags=8), data=bytes(512))
    assert (result.srb, result.moved) == (OK, 512)
    assert order == ["write", "write", "sync"]


# UNMAP, WRITE SAME


def unmap(*extents: tuple[int, int], length: int | None = None) -> tuple[bytes, bytes]:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in extents)
    data = struct.pack(">HH4x", 6 + len(body), len(body)) + body
    size = len(data) if length is None else length
    return bytes((0x42, 0, 0, 0, 0, 0, 0)) + size.to_bytes(2, "big") + b"\0", data


def test_unmap(stor: StorGuest, image) -> None:
    cdb, data = unmap((16, 8), (100, 3), (0, 0))
    assert stor.run(cdb, data=data).srb == OK
    for n in range(200):
        zero = 16 <= n < 24 or 100 <= n < 103
        assert image.read_bytes()[n * 512 : n * 512 + 512] == (bytes(512) if zero else sector(n))
    assert image.stat().st_size == SECTORS * 512


def test_unmap_gives_blocks_back(stor: StorGuest, image) -> None:
    before = image.stat().st_blocks
    cdb, data = unmap((0, SECTORS))
    assert stor.run(cdb, data=data).srb == OK
    if image.stat().st_blocks == before:
        pytest.skip("the file system of the test folder cannot punch holes")
    assert image.stat().st_blocks < before // 4


@pytest.mark.parametrize(
    ("extents", "sense"),
    [
        ([(SECTORS, 1)], OUT_OF_RANGE),
        ([(1, 1), (SECTORS - 1, 2)], OUT_OF_RANGE),
        ([((1 << 64) - 1, 0xFFFFFFFF)], (5, 0x26, 0)),
        ([((1 << 64) - 1, 1)], OUT_OF_RANGE),
        ([(0, MAX_UNMAP_BLOCKS + 1)], (5, 0x26, 0)),
        ([(0, 1)] * 257, (5, 0x26, 0)),
    ],
)
def test_unmap_refused_as_a_whole(stor: StorGuest, image, extents, sense) -> None:
    before = image.read_bytes()
    cdb, data = unmap(*extents)
    assert stor.run(cdb, data=data).sense == sense
    assert image.read_bytes() == before


def test_unmap_lists_of_odd_lengths(stor: StorGuest) -> None:
    cdb, data = unmap((1, 1), length=0)
    assert stor.run(cdb).srb == OK
    for length in (1, 7):
        cdb, data = unmap((1, 1), length=length)
        assert stor.run(cdb, data=data).sense == (5, 0x1A, 0)
    cdb, data = unmap((1, 1), length=8)  # a header and nothing
    assert stor.run(cdb, data=data).srb == OK
    cdb, data = unmap((1, 1), length=4096)
    assert stor.run(cdb, data=data).srb == 0x12  # more than the buffer
    cdb, data = unmap((1, 1))
    assert stor.run(b"\x42\x01" + cdb[2:], data=data).sense == INVALID_FIELD


@pytest.mark.parametrize("opcode", SAMES, ids=name)
@pytest.mark.parametrize("flags", [0, 8], ids=["plain", "unmap"])
def test_write_same(stor: StorGuest, image, opcode: int, flags: int) -> None:
    result = stor.run(build(opcode, 10, 300, flags=flags), data=b"\x5a" * 512)
    assert (result.srb, result.moved) == (OK, 512)
    assert image.read_bytes()[10 * 512 : 311 * 512] == b"\x5a" * 300 * 512 + sector(310)
    assert stor.run(build(opcode, 20, 280, flags=flags), data=bytes(512)).srb == OK
    held = image.read_bytes()
    assert held[20 * 512 : 301 * 512] == bytes(280 * 512) + b"\x5a" * 512


def test_write_same_without_data(stor: StorGuest, image) -> None:
    result = stor.run(cdb_16(scsi.WRITE_SAME_16, 10, 5, flags=1))
    assert (result.srb, result.moved) == (OK, 0)
    assert image.read_bytes()[9 * 512 : 16 * 512] == sector(9) + bytes(5 * 512) + sector(15)


@pytest.mark.parametrize(
    ("opcode", "blocks", "flags"),
    [(0x41, 0, 0), (0x93, 0, 0), (0x93, MAX_WRITE_SAME_BLOCKS + 1, 0), (0x93, 0xFFFFFFFF, 0),
     (0x41, 1, 0x10), (0x93, 1, 0x18)],
)  # fmt: skip
def test_write_same_refused(stor: StorGuest, opcode: int, blocks: int, flags: int) -> None:
    assert stor.run(build(opcode, 0, blocks, flags=flags), data=bytes(512)).sense == INVALID_FIELD


@pytest.mark.parametrize("opcode", SAMES, ids=name)
def test_write_same_needs_a_block(stor: StorGuest, opcode: int) -> None:
    assert stor.run(build(opcode, 0, 1), data=bytes(511)).srb == 0x12


# what goes wrong


@pytest.mark.parametrize("opcode", WRITES + SAMES + [scsi.UNMAP], ids=name)
def test_write_protected(readonly: StorGuest, image, opcode: int) -> None:
    before = image.read_bytes()
    cdb = unmap((0, 1))[0] if opcode == scsi.UNMAP else build(opcode, 0, 1)
    result = readonly.run(cdb, data=bytes(512))
    assert (result.srb, result.scsi, result.sense) == (0x84, 2, WRITE_PROTECTED)
    assert image.read_bytes() == before


def test_readonly_reads_and_synchronizes(readonly: StorGuest) -> None:
    assert readonly.run(cdb_10(0x28, 3, 1), 512).data == sector(3)
    assert readonly.run(cdb_10(scsi.SYNCHRONIZE_CACHE_10, 0, 0)).srb == OK


ERRORS = [
    (errno.EIO, (3, 0x11, 0), (3, 0x0C, 0)),
    (errno.ENOSPC, (4, 0x44, 0), (7, 0x27, 7)),
    (errno.EDQUOT, (4, 0x44, 0), (7, 0x27, 7)),
    (errno.EFBIG, (4, 0x44, 0), (7, 0x27, 7)),
    (errno.EBADF, (4, 0x44, 0), (4, 0x44, 0)),
]


@pytest.mark.parametrize(("code", "reading", "writing"), ERRORS, ids=lambda v: str(v))
@pytest.mark.parametrize("opcode", READS + WRITES + SYNCS + SAMES + [scsi.UNMAP], ids=name)
def test_errors_of_the_host_are_never_success(make_guest, opcode, code, reading, writing) -> None:
    driver = stor_sim.start(make_guest(Scsi([BrokenDisk(code)])))
    cdb = unmap((0, 1))[0] if opcode == scsi.UNMAP else build(opcode, 0, 1)
    data = unmap((0, 1))[1].ljust(512, b"\0")
    result = driver.run(cdb, data=data)
    assert (result.srb, result.scsi, result.moved) == (0x84, 2, 0)
    assert result.sense == (reading if opcode in READS else writing)
