"""The memory map that a BIOS, or the loader in its place, hands to the guest."""

from __future__ import annotations

import struct

from ..memory import HIGH, GuestMemory
from ..record import Record

RAM, RESERVED = 1, 2
EBDA = 0x9FC00  # the last KiB of conventional memory belongs to the BIOS
VGA_HOLE = 0xA0000
BIOS_AREA = 0xE0000  # ACPI tables, then the BIOS
EXTENDED = 0x100000


class Entry(Record):
    """One range: guest address, bytes, RAM or RESERVED."""

    base: int
    size: int
    kind: int

    def pack(self) -> bytes:
        """Return the 20 bytes of INT 15h AX=E820h; Linux' boot_params has the same."""
        return struct.pack("<QQI", *self)


def build(memory: GuestMemory) -> list[Entry]:
    """Return the map of *memory*, ascending, without overlaps.

    RAM between VGA_HOLE and BIOS_AREA exists in the mapping and is not told to the guest, as on a
    PC; everything the map leaves out is free for devices.
    """
    entries = [
        Entry(0, EBDA, RAM),
        Entry(EBDA, VGA_HOLE - EBDA, RESERVED),
        Entry(BIOS_AREA, EXTENDED - BIOS_AREA, RESERVED),
    ]
    low = memory.regions[0].size
    if low > EXTENDED:
        entries.append(Entry(EXTENDED, low - EXTENDED, RAM))
    entries += [Entry(r.gpa, r.size, RAM) for r in memory.regions if r.gpa >= HIGH]
    return entries
