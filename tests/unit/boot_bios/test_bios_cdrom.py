"""El Torito: what is loaded and where, what INT 13h says of the drive, and what is refused."""

from __future__ import annotations

import struct

import pytest
from biosfake import Bench, MemoryDisk, numbered_sectors
from iso import IMAGE, SECTOR, bootable

from pyhv.boot import bios_layout

CODE = b"boot".ljust(2000, b"\x90")
PACKET = 0x700


def bench_of(disc: bytes, *disks: MemoryDisk) -> Bench:
    return Bench(*disks, cdroms=[MemoryDisk(disc, SECTOR, readonly=True)])


@pytest.mark.parametrize(("segment", "gpa"), [(0, 0x7C00), (0x7C0, 0x7C00), (0x2000, 0x20000)])
def test_boots_without_a_disk(segment: int, gpa: int) -> None:
    bench = bench_of(bootable(CODE, segment=segment))
    cpu = bench.call(0x19)
    assert bench.memory.read(gpa, 2000) == CODE
    frame = struct.unpack("<3H", bench.memory.read(cpu.ss_base + cpu.esp, 6))
    assert (frame[1] << 4) + frame[0] == gpa
    assert frame[0] & 0xF == 0
    assert cpu.edx == 0xE0
    assert not bench.stops


def test_a_bootable_disk_comes_first() -> None:
    bench = bench_of(bootable(CODE), MemoryDisk(numbered_sectors(1)))
    assert bench.call(0x19).edx == 0x80


def test_after_a_disk_that_is_not_bootable() -> None:
    bench = bench_of(bootable(CODE), MemoryDisk(bytes(512)))
    assert bench.call(0x19).edx == 0xE0


@pytest.mark.parametrize(
    ("disc", "why"),
    [
        (bytes(64 * SECTOR), "no El Torito boot record"),
        (bytes(SECTOR), "its boot image lies behind its end"),
        (bootable(CODE, spoil=True), "its boot catalog is spoiled"),
        (bootable(CODE, mark=0), "its boot catalog has nothing bootable"),
        (bootable(CODE, media=2), "it emulates a diskette or disk, which pyhv does not"),
        (bootable(CODE, lba=0xFFFFFFFF), "its boot image lies behind its end"),
        (bootable(CODE, sectors=0xFFFF), "its boot image wants 33553920 bytes at 0x7c00"),
        (bootable(CODE, segment=0xFFFF), "its boot image wants 2048 bytes at 0xffff0"),
        (bootable(CODE, segment=1), "its boot image wants 2048 bytes at 0x10"),
    ],
)
def test_what_cannot_be_booted(disc: bytes, why: str) -> None:
    bench = bench_of(disc)
    assert bench.call(0x19).eip == bios_layout.HALT
    text = f"no bootable device: disk 0x80: no disk is there; CD: {why}"
    assert bench.stops == [("no-boot", text)]


def test_a_cd_that_cannot_be_read() -> None:
    bench = bench_of(bootable(CODE))
    bench.bios.cdroms[0].broken = True
    bench.call(0x19)
    assert bench.stops[0][1].endswith("CD: it cannot be read: Input/output error")


def test_the_second_cd() -> None:
    discs = [MemoryDisk(disc, SECTOR, readonly=True) for disc in (bytes(SECTOR), bootable(CODE))]
    assert Bench(cdroms=discs).call(0x19).edx == 0xE1


def test_extended_read_counts_in_2048() -> None:
    bench = bench_of(bootable(CODE))
    packet = struct.pack("<BBHHHQ", 16, 0, 1, 0, 0x1000, IMAGE)
    bench.memory.write(PACKET, packet)
    bench.call(0x13, 0x4200, edx=0xE0, esi=PACKET)
    assert not bench.carry
    assert bench.memory.read(0x10000, 2000) == CODE
    bench.call(0x13, 0x4300, edx=0xE0, esi=PACKET)
    assert bench.carry  # it is read-only


def test_drive_information() -> None:
    bench = bench_of(bootable(CODE))
    bench.call(0x13, 0x4100, ebx=0x55AA, edx=0xE0)
    assert not bench.carry
    bench.memory.write(PACKET, struct.pack("<H", 30))
    bench.call(0x13, 0x4800, edx=0xE0, esi=PACKET)
    assert not bench.carry
    assert struct.unpack("<QH", bench.memory.read(PACKET + 16, 10)) == (20, SECTOR)


@pytest.mark.parametrize("function", [0x02, 0x03, 0x08])
def test_cylinders_are_for_disks(function: int) -> None:
    bench = bench_of(bootable(CODE))
    bench.call(0x13, function << 8 | 1, ecx=1, edx=0xE0)
    assert bench.carry


@pytest.mark.parametrize("what", [0x4B00, 0x4B01])
def test_emulation_status(what: int) -> None:
    bench = bench_of(bootable(CODE, segment=0x1234))
    bench.call(0x13, what, edx=0xE0, esi=PACKET)
    assert not bench.carry
    packet = struct.unpack("<BBBBIHHHHBBB", bench.memory.read(PACKET, 19))
    assert packet == (19, 0, 0xE0, 0, IMAGE, 0, 0, 0x1234, 4, 0, 0, 0)


@pytest.mark.parametrize(("what", "drive"), [(0x4B02, 0xE0), (0x4B01, 0xE1), (0x4B01, 0x80)])
def test_emulation_status_refused(what: int, drive: int) -> None:
    bench = bench_of(bootable(CODE), MemoryDisk(numbered_sectors(1)))
    bench.call(0x13, what, edx=drive, esi=PACKET)
    assert bench.carry


def test_no_status_of_a_cd_that_boots_nothing() -> None:
    bench = bench_of(bytes(64 * SECTOR))
    bench.call(0x13, 0x4B01, edx=0xE0, esi=PACKET)
    assert bench.carry
