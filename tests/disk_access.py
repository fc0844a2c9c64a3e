"""A disk read and written in pieces, as the device does it."""

from __future__ import annotations

from pyhv.disk import Disk


def read(disk: Disk, offset: int, *lengths: int) -> bytes:
    """Return what *disk* has from *offset* on, read into buffers of *lengths*."""
    views = [memoryview(bytearray(length)) for length in lengths]
    disk.readv(offset, views)
    return b"".join(bytes(view) for view in views)


def views(data: bytes, step: int = 1000) -> list[memoryview]:
    """Return *data* in pieces."""
    return [memoryview(data)[at : at + step] for at in range(0, len(data), step)]
