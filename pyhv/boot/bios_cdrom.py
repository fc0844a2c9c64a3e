"""Booting from a CD (El Torito without emulation), and what INT 13h says of the drive.

Source: El Torito Bootable CD-ROM Format Specification 1.0; ECMA-119 (the volume descriptors).
"""

from __future__ import annotations

import struct

from . import bios_layout as at
from .bios_cpu import ds_offset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..disk import Disk
    from .bios import Bios
    from .bios_cpu import Cpu

FIRST_DRIVE = 0xE0
SECTOR = 2048
BOOT_RECORD = 17  # the sector of its volume descriptor
BOOT_RECORD_HEAD = b"\0CD001\1EL TORITO SPECIFICATION".ljust(39, b"\0")
CATALOG_AT = 0x47
# of the catalog: validation entry, then the initial entry
HEADER_ID, KEY, BOOTABLE, NO_EMULATION = 1, b"\x55\xaa", 0x88, 0
_entry = struct.Struct("<BBHBxHI").unpack_from  # bootable, media, segment, system, sectors, LBA
DEFAULT_SEGMENT = 0x7C0
VIRTUAL_SECTOR = 512  # what the entry counts in
MOST_BYTES = 0x9F000 - at.BOOT_SECTOR  # below the EBDA
SPECIFICATION_BYTES = 0x13


class NotBootable(Exception):
    """Why a CD cannot be booted; never leaves the BIOS."""


def _read(disk: Disk, offset: int, length: int) -> bytes:
    if offset + length > disk.sectors * disk.sector_size:
        raise NotBootable("its boot image lies behind its end")
    data = bytearray(length)
    try:
        disk.readv(offset, [memoryview(data)])
    except OSError as error:
        raise NotBootable(f"it cannot be read: {error.strerror}") from error
    return bytes(data)


def initial_entry(disk: Disk) -> tuple[int, int, int]:
    """Return the load segment, the bytes, and the LBA of the boot image.

    :raises NotBootable: there is none, or one that emulates a diskette or hard disk.
    """
    record = _read(disk, BOOT_RECORD * SECTOR, SECTOR)
    if not record.startswith(BOOT_RECORD_HEAD):
        raise NotBootable("no El Torito boot record")
    where = int.from_bytes(record[CATALOG_AT : CATALOG_AT + 4], "little")
    catalog = _read(disk, where * SECTOR, 64)
    words = struct.unpack("<16H", catalog[:32])
    if catalog[0] != HEADER_ID or catalog[30:32] != KEY or sum(words) & 0xFFFF:
        raise NotBootable("its boot catalog is spoiled")
    bootable, media, segment, _, sectors, lba = _entry(catalog, 32)
    if bootable != BOOTABLE:
        raise NotBootable("its boot catalog has nothing bootable")
    if media & 0x0F != NO_EMULATION:
        raise NotBootable("it emulates a diskette or disk, which pyhv does not")
    return segment or DEFAULT_SEGMENT, max(sectors, 1) * VIRTUAL_SECTOR, lba


def load(bios: Bios) -> tuple[int, int]:
    """Load the boot image of the first CD that has one; return its GPA and the drive number.

    :raises NotBootable: none has.
    """
    problem = NotBootable("no CD is there")
    for number, disk in enumerate(bios.cdroms):
        try:
            segment, length, lba = initial_entry(disk)
            gpa = segment << 4
            if not gpa >= at.STACK or gpa + length > at.BOOT_SECTOR + MOST_BYTES:
                raise NotBootable(f"its boot image wants {length} bytes at {gpa:#x}")
            bios.memory.write(gpa, _read(disk, lba * SECTOR, length))
            return gpa, FIRST_DRIVE + number
        except NotBootable as error:
            problem = error
    raise problem


def cd_drive(bios: Bios, cpu: Cpu) -> Disk | None:
    """Return the CD that DL names."""
    number = (cpu.edx & 0xFF) - FIRST_DRIVE
    return bios.cdroms[number] if 0 <= number < len(bios.cdroms) else None


def emulation_status(bios: Bios, cpu: Cpu) -> bool:
    """AH=4Bh: the specification packet at DS:SI says that nothing is emulated; True if it can.

    AL=00h ends an emulation, which there is none of, AL=01h only asks.
    """
    disk = cd_drive(bios, cpu)
    if disk is None or cpu.eax & 0xFF > 1:
        return False
    try:
        segment, length, lba = initial_entry(disk)
    except NotBootable:
        return False
    packet = struct.pack(
        "<BBBBIHHHHBBB", SPECIFICATION_BYTES, NO_EMULATION, cpu.edx & 0xFF, 0, lba, 0, 0, segment,
        length // VIRTUAL_SECTOR, 0, 0, 0,
    )  # fmt: skip
    bios.memory.write(ds_offset(cpu, cpu.esi), packet)
    return True
