"""INT 13h: the disks for boot loaders, by cylinder, head and sector, and by Enhanced Disk Drive.

Drives are 0x80, 0x81, ... in the order of the machine's disks; there is no diskette. CDs, which
are 0xE0, ..., answer to the extensions only.
Sectors have the disk's own size. Source: Phoenix EDD 3.0; Ralf Brown's interrupt list.
"""

from __future__ import annotations

import struct

from ..errors import BadGpa
from . import bios_cdrom
from . import bios_layout as at
from .bios_cpu import ah, ds_offset, es_offset, set_ah, set_bx, set_cx, set_dx

TYPE_CHECKING = False
if TYPE_CHECKING:

    from ..disk import Disk
    from .bios import Bios
    from .bios_cpu import Cpu

VECTOR = 0x13
FIRST_DRIVE = 0x80

# status codes
OK, BAD_COMMAND, WRITE_PROTECTED, NOT_FOUND = 0x00, 0x01, 0x03, 0x04
DATA_BOUNDARY, CONTROLLER = 0x09, 0x20

SECTORS_PER_TRACK, MAX_CYLINDERS = 63, 1024
HEADS = (16, 32, 64, 128, 255)  # the least with which 1024 cylinders reach the disk's end
MAX_SECTORS_CHS, MAX_SECTORS_PACKET = 128, 127

EDD_VERSION = 0x30
EDD_ACCESS, EDD_INFO = 1 << 0, 1 << 2  # CX of AH=41h: 42h-44h, 47h, 48h; 48h tells all
PACKET_BYTES, LONG_PACKET_BYTES = 16, 24
INFO_BYTES, INFO_BYTES_EDD2 = 26, 30
INFO_WRITE_VERIFY = 1 << 3
NO_ADDRESS = 0xFFFFFFFF  # no configuration table: VMBus has no ports to tell


def geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders (1..1024), heads and sectors per track, LBA-assisted as BIOSes do it."""
    for heads in HEADS:
        cylinders = sectors // (heads * SECTORS_PER_TRACK)
        if cylinders <= MAX_CYLINDERS:
            break
    return max(1, min(cylinders, MAX_CYLINDERS)), heads, SECTORS_PER_TRACK


def drive(bios: Bios, cpu: Cpu) -> Disk | None:
    """Return the disk that DL names."""
    number = (cpu.edx & 0xFF) - FIRST_DRIVE
    return bios.disks[number] if 0 <= number < len(bios.disks) else None


def any_drive(bios: Bios, cpu: Cpu) -> Disk | None:
    """Return the disk or CD that DL names."""
    return drive(bios, cpu) or bios_cdrom.cd_drive(bios, cpu)


def _done(bios: Bios, cpu: Cpu, status: int) -> bool:
    """Report *status* in AH, in the BIOS data area and as carry."""
    set_ah(cpu, status)
    bios.memory.write(at.BDA_DISK_STATUS, bytes((status,)))
    return status != OK


def transfer(bios: Bios, disk: Disk, lba: int, count: int, gpa: int, write: bool) -> int:
    """Move *count* sectors between disk and guest memory; return a status code."""
    if lba + count > disk.sectors:
        return NOT_FOUND
    if write and disk.readonly:
        return WRITE_PROTECTED
    size = disk.sector_size
    try:
        with bios.memory.view(gpa, count * size) as view:
            if write:
                disk.writev(lba * size, [view], disk.writethrough)
            else:
                disk.readv(lba * size, [view])
    except BadGpa:
        return DATA_BOUNDARY
    except OSError:
        return CONTROLLER
    return OK


# by cylinder, head, sector


def _chs(cpu: Cpu, disk: Disk) -> int | None:
    """Return the LBA that CH, CL and DH name, or None."""
    cylinders, heads, per_track = geometry(disk.sectors)
    cx, head = cpu.ecx, cpu.edx >> 8 & 0xFF
    cylinder, sector = cx >> 8 & 0xFF | (cx & 0xC0) << 2, cx & 0x3F
    # the last cylinder is often only partly there: the disk's end is checked, not the geometry's
    if not sector or sector > per_track or head >= heads or cylinder > cylinders:
        return None
    return (cylinder * heads + head) * per_track + sector - 1


def _chs_access(bios: Bios, cpu: Cpu) -> bool:
    """AH=02h read, 03h write, 04h verify, 0Ch seek: AL sectors, buffer ES:BX. AL = sectors done."""
    disk, function = drive(bios, cpu), ah(cpu)
    count = cpu.eax & 0xFF if function != 0x0C else 0
    if disk is None or count > MAX_SECTORS_CHS or not count and function != 0x0C:
        return _done(bios, cpu, BAD_COMMAND)
    lba = _chs(cpu, disk)
    if lba is None or lba + count > disk.sectors:
        status = NOT_FOUND
    elif function in (0x02, 0x03):
        gpa = es_offset(cpu, cpu.ebx)
        status = transfer(bios, disk, lba, count, gpa, function == 0x03)
    else:
        status = OK
    if status != OK:
        cpu.eax &= ~0xFF
    return _done(bios, cpu, status)


def _parameters(bios: Bios, cpu: Cpu) -> bool:
    """AH=08h: the geometry's highest cylinder, head and sector, and the number of drives."""
    disk = drive(bios, cpu)
    if disk is None:
        if cpu.edx & 0xFF < FIRST_DRIVE:
            set_dx(cpu, 0)  # no diskettes
        return _done(bios, cpu, BAD_COMMAND)
    cylinders, heads, per_track = geometry(disk.sectors)
    last = cylinders - 1
    set_cx(cpu, (last & 0xFF) << 8 | last >> 8 << 6 | per_track)
    set_dx(cpu, heads - 1 << 8 | len(bios.disks) & 0xFF)
    cpu.eax &= ~0xFF
    return _done(bios, cpu, OK)


def _type(bios: Bios, cpu: Cpu) -> bool:
    """AH=15h: AH=3 and CX:DX sectors for a disk, AH=0 for no such drive."""
    disk = drive(bios, cpu)
    if disk is None:
        set_ah(cpu, 0)
        return False
    sectors = min(disk.sectors, 0xFFFFFFFF)
    set_cx(cpu, sectors >> 16)
    set_dx(cpu, sectors & 0xFFFF)
    set_ah(cpu, 3)
    return False


# Enhanced Disk Drive


def _check_extensions(bios: Bios, cpu: Cpu) -> bool:
    """AH=41h, BX=55AAh: the EDD version and what of it is there."""
    if any_drive(bios, cpu) is None or cpu.ebx & 0xFFFF != 0x55AA:
        return _done(bios, cpu, BAD_COMMAND)
    set_bx(cpu, 0xAA55)
    set_cx(cpu, EDD_ACCESS | EDD_INFO)
    set_ah(cpu, EDD_VERSION)
    return False


def _packet_access(bios: Bios, cpu: Cpu) -> bool:
    """AH=42h read, 43h write, 44h verify, 47h seek: disk address packet at DS:SI."""
    disk, function = any_drive(bios, cpu), ah(cpu)
    if disk is None:
        return _done(bios, cpu, BAD_COMMAND)
    packet = ds_offset(cpu, cpu.esi)
    memory = bios.memory
    size, _, count, offset, segment, lba = struct.unpack(
        "<BBHHHQ", memory.read(packet, PACKET_BYTES)
    )
    gpa = (segment << 4) + offset
    if segment == offset == 0xFFFF and size >= LONG_PACKET_BYTES:
        gpa = int.from_bytes(memory.read(packet + PACKET_BYTES, 8), "little")
    if function == 0x47:
        count = 0
    if size < PACKET_BYTES or count > MAX_SECTORS_PACKET:
        status = BAD_COMMAND
    elif function in (0x42, 0x43) and count:
        status = transfer(bios, disk, lba, count, gpa, function == 0x43)
    else:
        status = OK if lba + count <= disk.sectors else NOT_FOUND
    if status != OK:
        memory.write(packet + 2, b"\0\0")  # sectors done
    return _done(bios, cpu, status)


def _drive_information(bios: Bios, cpu: Cpu) -> bool:
    """AH=48h: geometry, sectors and sector size into the buffer DS:SI, which tells its size."""
    disk = any_drive(bios, cpu)
    if disk is None:
        return _done(bios, cpu, BAD_COMMAND)
    buffer = ds_offset(cpu, cpu.esi)
    room = int.from_bytes(bios.memory.read(buffer, 2), "little")
    if room < INFO_BYTES:
        return _done(bios, cpu, BAD_COMMAND)
    size = INFO_BYTES_EDD2 if room >= INFO_BYTES_EDD2 else INFO_BYTES
    cylinders, heads, per_track = geometry(disk.sectors)
    # flag bit 1 (the geometry is valid) stays clear: it is made up
    record = struct.pack(
        "<HHIIIQHI", size, INFO_WRITE_VERIFY, cylinders, heads, per_track, disk.sectors,
        disk.sector_size, NO_ADDRESS,
    )  # fmt: skip
    bios.memory.write(buffer, record[:size])
    return _done(bios, cpu, OK)


# the rest


def _last_status(bios: Bios, cpu: Cpu) -> bool:
    """AH=01h: the last call's status, which is cleared."""
    status = bios.memory.read(at.BDA_DISK_STATUS, 1)[0]
    bios.memory.write(at.BDA_DISK_STATUS, b"\0")
    set_ah(cpu, status)
    return status != OK


def _nothing_to_do(bios: Bios, cpu: Cpu) -> bool:
    """Reset, recalibrate and the like: success when the drive is there. Diskettes may be reset."""
    if ah(cpu) == 0 and not cpu.edx & 0x80:
        return _done(bios, cpu, OK)
    return _done(bios, cpu, BAD_COMMAND if any_drive(bios, cpu) is None else OK)


def _emulation(bios: Bios, cpu: Cpu) -> bool:
    """AH=4Bh: what a CD's boot image emulates: nothing."""
    return _done(bios, cpu, OK if bios_cdrom.emulation_status(bios, cpu) else BAD_COMMAND)


def _refuse(bios: Bios, cpu: Cpu) -> bool:
    """Report that there is no such thing."""
    return _done(bios, cpu, BAD_COMMAND)


Function = "Callable[[Bios, Cpu], bool | None]"
SERVICES: dict[tuple[int, int | None], tuple[str, Function]] = {  # type: ignore[valid-type]
    (VECTOR, 0x00): ("disk reset", _nothing_to_do),
    (VECTOR, 0x01): ("disk status", _last_status),
    (VECTOR, 0x02): ("disk read", _chs_access),
    (VECTOR, 0x03): ("disk write", _chs_access),
    (VECTOR, 0x04): ("disk verify", _chs_access),
    (VECTOR, 0x05): ("format track, refused", _refuse),
    (VECTOR, 0x08): ("drive parameters", _parameters),
    (VECTOR, 0x09): ("set drive parameters", _nothing_to_do),
    (VECTOR, 0x0C): ("seek", _chs_access),
    (VECTOR, 0x0D): ("alternate disk reset", _nothing_to_do),
    (VECTOR, 0x10): ("drive ready", _nothing_to_do),
    (VECTOR, 0x11): ("recalibrate", _nothing_to_do),
    (VECTOR, 0x14): ("controller diagnostic", _nothing_to_do),
    (VECTOR, 0x15): ("drive type", _type),
    (VECTOR, 0x16): ("diskette change, refused", _refuse),
    (VECTOR, 0x17): ("diskette type, refused", _refuse),
    (VECTOR, 0x18): ("diskette format, refused", _refuse),
    (VECTOR, 0x41): ("EDD check", _check_extensions),
    (VECTOR, 0x42): ("extended read", _packet_access),
    (VECTOR, 0x43): ("extended write", _packet_access),
    (VECTOR, 0x44): ("extended verify", _packet_access),
    (VECTOR, 0x45): ("lock drive, refused", _refuse),
    (VECTOR, 0x46): ("eject, refused", _refuse),
    (VECTOR, 0x47): ("extended seek", _packet_access),
    (VECTOR, 0x48): ("drive information", _drive_information),
    (VECTOR, 0x49): ("extended change, refused", _refuse),
    (VECTOR, 0x4B): ("CD emulation status", _emulation),
    (VECTOR, 0x4E): ("set hardware configuration, refused", _refuse),
    (VECTOR, None): ("disk call, refused", _refuse),
}
