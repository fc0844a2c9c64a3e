"""INT 13h moves the right sectors, and answers every impossible request with a status."""

from __future__ import annotations

import struct

import pytest
from biosfake import Bench, HugeDisk, MemoryDisk, numbered_sectors

from pyhv.boot import bios_disk, bios_layout

SECTORS = 3000
PACKET = 0x700


@pytest.fixture
def disk() -> MemoryDisk:
    """Numbered sectors: 16 heads, 63 sectors, 2 whole cylinders and a part."""
    return MemoryDisk(numbered_sectors(SECTORS))


@pytest.fixture
def bench(disk: MemoryDisk) -> Bench:
    """One disk, 0x80."""
    return Bench(disk)


def packet(
    bench: Bench,
    count: int,
    lba: int,
    segment: int = 0x1000,
    offset: int = 0,
    size: int = 16,
    flat: int = 0,
) -> None:
    """Write a disk address packet at 0:PACKET."""
    data = struct.pack("<BBHHHQQ", size, 0, count, offset, segment, lba, flat)
    bench.memory.write(PACKET, data)


def number(bench: Bench, gpa: int) -> int:
    """Return the sector number found at *gpa*."""
    return struct.unpack("<I", bench.memory.read(gpa, 4))[0]


def test_chs_and_lba_read_the_same_sectors(bench: Bench) -> None:
    """Every CHS of the geometry is its LBA."""
    for cylinder, head, sector in ((0, 0, 1), (0, 1, 1), (1, 15, 63), (2, 15, 37)):
        lba = (cylinder * 16 + head) * 63 + sector - 1
        registers = {"ecx": cylinder << 8 | sector, "edx": head << 8 | 0x80}
        cpu = bench.call(0x13, 0x0201, ebx=0x600, **registers)
        assert (bench.carry, cpu.eax) == (False, 1)
        assert number(bench, 0x600) == lba


def test_chs_of_a_high_cylinder() -> None:
    """Bits 7:6 of CL are bits 9:8 of the cylinder."""
    disk = HugeDisk(1024 * 16 * 63)
    bench = Bench(disk)
    cpu = bench.call(0x13, 0x0401, ecx=0xFF << 8 | 0xC0 | 63, edx=15 << 8 | 0x80)
    assert (bench.carry, cpu.eax) == (False, 1)
    bench.call(0x13, 0x0402, ecx=0xFF << 8 | 0xC0 | 63, edx=15 << 8 | 0x80)
    assert bench.carry


def test_extended_read_of_many_sectors(bench: Bench) -> None:
    """127 sectors to 1000:0004."""
    packet(bench, 127, 5, offset=4)
    bench.call(0x13, 0x4200, edx=0x80, esi=PACKET)
    assert not bench.carry
    assert [number(bench, 0x10004 + i * 512) for i in (0, 126)] == [5, 131]


def test_flat_buffer_of_a_long_packet(bench: Bench) -> None:
    """FFFF:FFFF with 24 bytes: a 64-bit address, beyond 1 MiB."""
    packet(bench, 1, 9, 0xFFFF, 0xFFFF, size=24, flat=0x1000000)
    bench.call(0x13, 0x4200, edx=0x80, esi=PACKET)
    assert (bench.carry, number(bench, 0x1000000)) == (False, 9)


@pytest.mark.parametrize("way", ["chs", "packet"])
def test_write(bench: Bench, disk: MemoryDisk, way: str) -> None:
    """What the guest writes is on the disk."""
    bench.memory.write(0x10000, b"changed!")
    if way == "chs":
        bench.call(0x13, 0x0301, ecx=8, edx=0x80, es_sel=0x1000, es_base=0x10000)
    else:
        packet(bench, 1, 7)
        bench.call(0x13, 0x4300, edx=0x80, esi=PACKET)
    assert not bench.carry
    assert disk.data[7 * 512 : 7 * 512 + 8] == b"changed!"


FAILURES = {
    "no such drive": ({"edx": 0x81}, {}, bios_disk.BAD_COMMAND),
    "diskette": ({"edx": 0x00}, {}, bios_disk.BAD_COMMAND),
    "beyond the end": ({}, {"lba": SECTORS}, bios_disk.NOT_FOUND),
    "crossing the end": ({}, {"lba": SECTORS - 1, "count": 2}, bios_disk.NOT_FOUND),
    "lba of 64 bits": ({}, {"lba": 2**64 - 1}, bios_disk.NOT_FOUND),
    "too many": ({}, {"count": 128}, bios_disk.BAD_COMMAND),
    "short packet": ({}, {"size": 15}, bios_disk.BAD_COMMAND),
    "buffer outside RAM": (
        {}, {"segment": 0xFFFF, "offset": 0xFFFF, "size": 24, "flat": 2**64 - 256},
        bios_disk.DATA_BOUNDARY,
    ),
    "packet outside RAM": ({"ds_base": 0xFFFF0000}, {}, bios_disk.DATA_BOUNDARY),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_extended_read_failure(bench: Bench, name: str) -> None:
    """Carry, a status in AH and in the BIOS data area, and no sector counted as done."""
    registers, fields, status = FAILURES[name]
    packet(bench, **{"count": 1, "lba": 0} | fields)
    cpu = bench.call(0x13, 0x4200, **{"edx": 0x80, "esi": PACKET} | registers)
    assert (bench.carry, cpu.eax >> 8) == (True, status)
    if status in (bios_disk.NOT_FOUND, bios_disk.DATA_BOUNDARY) and not registers:
        assert bench.memory.read(PACKET + 2, 2) == b"\0\0"
        bench.call(0x13, 0x0100, edx=0x80)
        assert bench.memory.read(bios_layout.BDA_DISK_STATUS, 1) == b"\0"


@pytest.mark.parametrize(
    ("eax", "ecx", "edx", "status"),
    [
        (0x0200, 1, 0x80, bios_disk.BAD_COMMAND),  # no sectors
        (0x0281, 1, 0x80, bios_disk.BAD_COMMAND),  # more than 128
        (0x0201, 0, 0x80, bios_disk.NOT_FOUND),  # sectors count from 1
        (0x0201, 1, 0x1080, bios_disk.NOT_FOUND),  # head 16 of 16
        (0x0201, 0x0301, 0x80, bios_disk.NOT_FOUND),  # cylinder 3
        (0x0201, 1, 0x85, bios_disk.BAD_COMMAND),
    ],
)
def test_chs_read_failure(bench: Bench, eax: int, ecx: int, edx: int, status: int) -> None:
    """AL, the sectors done, is not left as if all were."""
    cpu = bench.call(0x13, eax, ecx=ecx, edx=edx, ebx=0x600)
    assert (bench.carry, cpu.eax >> 8) == (True, status)
    if status == bios_disk.NOT_FOUND:
        assert cpu.eax & 0xFF == 0


def test_read_only_disk_refuses_a_write_and_reads_on() -> None:
    """Status 03."""
    bench = Bench(MemoryDisk(numbered_sectors(10), readonly=True))
    packet(bench, 1, 2)
    cpu = bench.call(0x13, 0x4300, edx=0x80, esi=PACKET)
    assert (bench.carry, cpu.eax >> 8) == (True, bios_disk.WRITE_PROTECTED)
    packet(bench, 1, 2)
    bench.call(0x13, 0x4200, edx=0x80, esi=PACKET)
    assert (bench.carry, number(bench, 0x10000)) == (False, 2)


def test_host_error_is_a_controller_failure(bench: Bench, disk: MemoryDisk) -> None:
    """The host's EIO is the guest's status 20h, and the machine runs on."""
    disk.broken = True
    cpu = bench.call(0x13, 0x0201, ecx=1, edx=0x80, ebx=0x600)
    assert (bench.carry, cpu.eax >> 8) == (True, bios_disk.CONTROLLER)
    assert not bench.stops


def test_second_disk_is_drive_81() -> None:
    """Drives in the order of the disks; each with its own sectors."""
    bench = Bench(MemoryDisk(numbered_sectors(4)), MemoryDisk(b"\x77" * 1024))
    bench.call(0x13, 0x0201, ecx=1, edx=0x81, ebx=0x600)
    assert bench.memory.read(0x600, 2) == b"\x77\x77"
    assert bench.call(0x13, 0x0800, edx=0x81).edx & 0xFF == 2
    assert bench.memory.read(bios_layout.BDA_DISK_COUNT, 1) == b"\2"


def test_drive_information(bench: Bench) -> None:
    """EDD's record: sectors and their size count, the geometry is there for the curious."""
    bench.memory.write(0x720, struct.pack("<H", 30))
    bench.call(0x13, 0x4800, edx=0x80, esi=0x720)
    fields = struct.unpack("<HHIIIQHI", bench.memory.read(0x720, 30))
    assert fields == (30, 8, 2, 16, 63, SECTORS, 512, 0xFFFFFFFF)
    bench.memory.write(0x720, struct.pack("<H", 26) + b"\xcc" * 40)
    bench.call(0x13, 0x4800, edx=0x80, esi=0x720)
    assert bench.memory.read(0x720 + 26, 4) == b"\xcc" * 4
    bench.memory.write(0x720, struct.pack("<H", 25))
    bench.call(0x13, 0x4800, edx=0x80, esi=0x720)
    assert bench.carry


def test_sectors_of_4096_bytes() -> None:
    """INT 13h counts in the disk's own sectors."""
    bench = Bench(MemoryDisk(numbered_sectors(8, 4096), sector_size=4096))
    packet(bench, 2, 3)
    bench.call(0x13, 0x4200, edx=0x80, esi=PACKET)
    assert [number(bench, 0x10000 + i * 4096) for i in (0, 1)] == [3, 4]


@pytest.mark.parametrize(
    ("sectors", "expected"),
    [
        (1, (1, 16, 63)),
        (1024 * 16 * 63, (1024, 16, 63)),
        (1025 * 16 * 63, (512, 32, 63)),
        (1024 * 255 * 63, (1024, 255, 63)),
        (1 << 40, (1024, 255, 63)),
    ],
)
def test_geometry(sectors: int, expected: tuple[int, int, int]) -> None:
    """The least heads that reach the end, at most 1024 cylinders."""
    assert bios_disk.geometry(sectors) == expected


def test_size_of_a_disk_beyond_32_bits_of_sectors() -> None:
    """AH=15h has 32 bits and says the most it can."""
    bench = Bench(HugeDisk(1 << 33))
    cpu = bench.call(0x13, 0x1500, edx=0x80)
    assert (cpu.ecx, cpu.edx) == (0xFFFF, 0xFFFF)
