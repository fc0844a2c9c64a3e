"""What the SCSI disk tells of itself: INQUIRY, every VPD and mode page, capacities."""

from __future__ import annotations

import os
import struct

import pytest
import stor_sim
from bus_helpers import SECTORS
from stor_sim import StorGuest, cdb_10, cdb_16

from pyhv.disk import Disk
from pyhv.vmbus import scsi
from pyhv.vmbus.scsi_disk import COMMANDS
from pyhv.vmbus.scsi_inquiry import MAX_UNMAP_BLOCKS, MAX_WRITE_SAME_BLOCKS, MODE_PAGES, VPD
from pyhv.vmbus.storvsc import Scsi

OK, INVALID_FIELD = 0x01, (5, 0x24, 0)


def name(opcode: int) -> str:
    return COMMANDS[opcode][0]


def test_inquiry(stor: StorGuest) -> None:
    data = stor.run(bytes((0x12, 0, 0, 0, 255, 0)), 255).data
    assert len(data) == 36
    assert data[0] == 0  # a disk, connected
    assert data[8:36] == b"Msft    Virtual Disk    1.0 "
    assert data[4] == 31


@pytest.mark.parametrize("allocation", [0, 1, 5, 36, 255])
def test_inquiry_is_cut_to_the_allocation(stor: StorGuest, allocation: int) -> None:
    assert stor.run(bytes((0x12, 0, 0, 0, allocation, 0)), 255).moved == min(allocation, 36)
    assert stor.run(bytes((0x12, 0, 0, 0, 255, 0)), allocation).moved == min(allocation, 36)


def vpd(driver: StorGuest, page: int) -> bytes:
    result = driver.run(bytes((0x12, 1, page, 0, 255, 0)), 255)
    assert result.srb == OK
    assert result.data[:2] == bytes((0, page))
    assert int.from_bytes(result.data[2:4], "big") == len(result.data) - 4
    return result.data


@pytest.mark.parametrize("page", sorted(VPD))
def test_vpd_pages_listed_are_there(stor: StorGuest, page: int) -> None:
    assert page in vpd(stor, 0)[4:]
    vpd(stor, page)


@pytest.mark.parametrize("cdb", ["12 01 01 00 ff 00", "12 01 c0 00 ff 00", "12 00 80 00 ff 00"])
def test_vpd_pages_that_are_not(stor: StorGuest, cdb: str) -> None:
    assert stor.run(bytes.fromhex(cdb), 255).sense == INVALID_FIELD


def test_vpd_83_names_the_disk(stor: StorGuest, disk, tmp_path, make_guest) -> None:
    page = vpd(stor, 0x83)
    assert page[4:8] == bytes((1, 3, 0, 8))  # binary, NAA, of the logical unit
    assert page[8] >> 4 == 3  # locally assigned
    assert page[9:16] == disk.identity[1:8]
    assert page[16:20] == bytes((2, 1, 0, len(page) - 20))
    assert page[20:28] == b"Msft    "
    assert vpd(stor, 0x80)[4:] == page[44:]
    assert len(vpd(stor, 0x80)[4:]) == 20


def test_vpd_b0(stor: StorGuest) -> None:
    page = vpd(stor, 0xB0)
    assert len(page) == 64
    assert page[4] == 1  # WSNZ
    most, optimal = struct.unpack_from(">II", page, 8)
    assert most == optimal == 1024
    assert struct.unpack_from(">IIII", page, 20) == (MAX_UNMAP_BLOCKS, 256, 8, 0x80000000)
    assert struct.unpack_from(">Q", page, 36) == (MAX_WRITE_SAME_BLOCKS,)


def test_vpd_b1_b2(stor: StorGuest) -> None:
    assert vpd(stor, 0xB1)[4:6] == bytes((0, 1))
    assert len(vpd(stor, 0xB1)) == 64
    assert vpd(stor, 0xB2)[5:7] == bytes((0xE4, 2))


def test_readonly_disk_has_nothing_to_unmap(readonly: StorGuest) -> None:
    assert vpd(readonly, 0xB0)[20:28] == bytes(8)
    assert vpd(readonly, 0xB2)[5:7] == bytes(2)


def test_read_capacity(stor: StorGuest) -> None:
    assert stor.run(cdb_10(0x25, 0, 0), 8).data == struct.pack(">II", SECTORS - 1, 512)
    cdb = bytes((0x9E, 0x10)).ljust(13, b"\0") + bytes((32, 0, 0))
    data = stor.run(cdb, 32).data
    assert data[:12] == struct.pack(">QI", SECTORS - 1, 512)
    assert data[12:16] == bytes((0, 3, 0xC0, 0))  # 4 KiB physical; thin, zeros
    assert len(data) == 32
    assert stor.run(b"\x9e\x11" + cdb[2:], 32).sense == INVALID_FIELD


def test_large_and_4k_disks(make_guest, tmp_path) -> None:
    path = tmp_path / "sparse.img"
    path.touch()
    os.truncate(path, 3 << 40)
    disk = Disk(path, sector_size=512)
    driver = stor_sim.start(make_guest(Scsi([disk])))
    assert driver.run(cdb_10(0x25, 0, 0), 8).data[:4] == b"\xff" * 4
    last = (3 << 40) // 512 - 1
    assert driver.run(cdb_16(scsi.WRITE_16, last, 1), data=b"end!" * 128).srb == OK
    assert driver.run(cdb_16(scsi.READ_16, last, 1), 512).data == b"end!" * 128
    disk.close()
    disk = Disk(path, sector_size=4096)
    driver = stor_sim.start(make_guest(Scsi([disk])))
    assert driver.run(cdb_10(0x25, 0, 0), 8).data == struct.pack(">II", (3 << 28) - 1, 4096)
    assert driver.run(cdb_16(scsi.READ_16, (3 << 28) - 1, 1), 4096).data[-4:] == b"end!"
    cdb = bytes((0x9E, 0x10)).ljust(13, b"\0") + bytes((32, 0, 0))
    assert driver.run(cdb, 32).data[13] == 0
    disk.close()


@pytest.mark.parametrize("opcode", [0x1A, 0x5A], ids=name)
@pytest.mark.parametrize("page", [*sorted(MODE_PAGES), 0x3F])
def test_mode_sense(stor: StorGuest, readonly: StorGuest, opcode: int, page: int) -> None:
    def sense(driver: StorGuest, control: int = 0) -> bytes:
        size = bytes((0, 255)) if opcode == 0x5A else bytes((255,))
        cdb = bytes((opcode, 0, control | page, 0)) + bytes(3 if opcode == 0x5A else 0) + size
        return driver.run(cdb + b"\0", 255).data

    head = 8 if opcode == 0x5A else 4
    data = sense(stor)
    assert int.from_bytes(data[: head // 4], "big") == len(data) - head // 4
    specific = data[3 if head == 8 else 2]
    assert specific == 0x10  # DPOFUA, not write protected
    assert sense(readonly)[3 if head == 8 else 2] == 0x90
    pages = {}
    body = data[head:]
    while body:
        pages[body[0]], body = body[2 : 2 + body[1]], body[2 + body[1] :]
    assert sorted(pages) == (sorted(MODE_PAGES) if page == 0x3F else [page])
    if 8 in pages:
        assert pages[8][0] == 0x04  # WCE
    changeable = sense(stor, 0x40)
    assert len(changeable) == len(data)


@pytest.mark.parametrize("cdb", ["1a 00 01 00 ff 00", "1a 00 c8 00 ff 00", "1a 00 0a 01 ff 00"])
def test_mode_pages_that_are_not(stor: StorGuest, cdb: str) -> None:
    assert stor.run(bytes.fromhex(cdb), 255).sense == INVALID_FIELD


@pytest.mark.parametrize(
    "opcode", [scsi.TEST_UNIT_READY, scsi.START_STOP_UNIT, scsi.ALLOW_MEDIUM_REMOVAL], ids=name
)
def test_commands_with_nothing_to_do(stor: StorGuest, opcode: int) -> None:
    assert stor.run(bytes((opcode, 0, 0, 0, 1, 0))).srb == OK


def test_request_sense_has_none(stor: StorGuest) -> None:
    data = stor.run(bytes((3, 0, 0, 0, 252, 0)), 252).data
    assert data == b"\x70" + bytes(6) + b"\x0a" + bytes(10)
