"""The least of an ISO image that a BIOS boots: El Torito's records, and no file system."""

from __future__ import annotations

import struct

SECTOR = 2048
CATALOG, IMAGE = 18, 19


def bootable(
    code: bytes, *, media: int = 0, segment: int = 0, mark: int = 0x88,
    sectors: int | None = None, lba: int = IMAGE, spoil: bool = False,
) -> bytes:  # fmt: skip
    """Return an image whose boot image is *code*; the rest are fields of its initial entry."""
    record = b"\0CD001\1EL TORITO SPECIFICATION".ljust(0x47, b"\0") + struct.pack("<I", CATALOG)
    header = bytearray(b"\1" + bytes(29) + b"\x55\xaa")
    header[28:30] = struct.pack("<H", -sum(struct.unpack("<16H", header)) & 0xFFFF)
    header[4] ^= spoil
    count = (len(code) + 511) // 512 if sectors is None else sectors
    entry = struct.pack("<BBHBxHI", mark, media, segment, 0, count, lba)
    disc = bytes(17 * SECTOR) + record.ljust(SECTOR, b"\0")
    disc += (bytes(header) + entry).ljust(SECTOR, b"\0") + code
    return disc + bytes(-len(disc) % SECTOR)
