"""Guest RAM is one anonymous mapping; every access from the host goes through here and is checked.

RAM starts at gpa 0. What does not fit below HOLE (3 GiB) continues at 4 GiB,
as on a PC: the hole between holds the APICs and VMBus MMIO.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import NamedTuple

from .errors import BadGpa, ConfigError, HostError

PAGE_SIZE = 4096
HOLE = 3 << 30
HIGH = 4 << 30
MAP_NORESERVE = 0x4000  # mmap has the name from Python 3.13 on


class Region(NamedTuple):
    """A run of RAM: guest address, length, and its place in the mapping (bytes)."""

    gpa: int
    size: int
    offset: int


_LOCK_OR8 = bytes.fromhex("f0400837c3")  # lock or byte [rdi], sil; ret


@functools.cache
def _lock_or8() -> Callable[[int, int], None]:
    """Return ``void or8(uint8_t *, uint8_t)`` in machine code: Python has no atomic store of a bit."""
    page = mmap.mmap(
        -1,
        PAGE_SIZE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )
    page[: len(_LOCK_OR8)] = _LOCK_OR8
    pin = ctypes.c_char.from_buffer(page)
    # PYFUNCTYPE keeps the GIL: the code runs for nanoseconds, giving it up would cost more
    function = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint8)(ctypes.addressof(pin))
    function.pin = pin  # type: ignore[attr-defined]  # the page lives as long as the function
    return function  # type: ignore[return-value]


class GuestMemory:
    """The RAM of one machine.

    :param size_bytes: a multiple of 4 KiB, at least 1 MiB.
    :raises ConfigError: a size that cannot be. HostError: the host refuses the mapping.

    ``bytes``, ``u32`` and ``u64`` are memoryviews of the whole mapping. An item
    store through ``u32``/``u64`` is one aligned store; their index is
    ``offset(gpa, n) // 4`` (or 8).
    """

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 1 << 20 or size_bytes % PAGE_SIZE:
            raise ConfigError(f"memory {size_bytes:#x} bytes: at least 1 MiB, in steps of 4 KiB")
        self.size = size_bytes
        low = min(size_bytes, HOLE)
        self.regions = [Region(0, low, 0)]
        if size_bytes > low:
            self.regions.append(Region(HIGH, size_bytes - low, low))
        try:
            self.mapping = mmap.mmap(
                -1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            )
        except (OSError, OverflowError, ValueError) as error:
            raise HostError(f"{size_bytes >> 20} MiB of guest RAM: {error}") from error
        self._pin = ctypes.c_char.from_buffer(self.mapping)
        self.address = ctypes.addressof(self._pin)  # host virtual address of the mapping
        self.bytes = memoryview(self.mapping)
        self.u32 = self.bytes.cast("I")
        self.u64 = self.bytes.cast("Q")
        self._or8 = _lock_or8()
        self._low = low

    def offset(self, gpa: int, length: int) -> int:
        """Return where *gpa* lies in the mapping; BadGpa unless all *length* bytes are RAM."""
        end = gpa + length
        if 0 <= gpa and end <= self._low:
            return gpa
        if len(self.regions) > 1 and gpa >= HIGH and end <= HIGH + self.regions[1].size:
            return gpa - HIGH + self._low
        raise BadGpa(gpa, length)

    def view(self, gpa: int, length: int) -> memoryview:
        """Return a writable window; the guest may change it at any time."""
        at = self.offset(gpa, length)
        return self.bytes[at : at + length]

    def read(self, gpa: int, length: int) -> bytes:
        """Return a private copy, for guest data that is checked and then used."""
        at = self.offset(gpa, length)
        return bytes(self.bytes[at : at + length])

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Copy *data* to *gpa*."""
        at = self.offset(gpa, len(data))
        self.bytes[at : at + len(data)] = data

    def read_u32(self, gpa: int) -> int:
        """One aligned 32-bit load; *gpa* is a multiple of 4."""
        return self.u32[self.offset(gpa, 4) >> 2]

    def write_u32(self, gpa: int, value: int) -> None:
        """One aligned 32-bit store; *gpa* is a multiple of 4."""
        self.u32[self.offset(gpa, 4) >> 2] = value

    def read_u64(self, gpa: int) -> int:
        """One aligned 64-bit load; *gpa* is a multiple of 8."""
        return self.u64[self.offset(gpa, 8) >> 3]

    def write_u64(self, gpa: int, value: int) -> None:
        """One aligned 64-bit store; *gpa* is a multiple of 8."""
        self.u64[self.offset(gpa, 8) >> 3] = value

    def atomic_or(self, gpa: int, mask: int) -> None:
        """Set the bits of *mask* (0..255) in the byte at *gpa*, atomically against the guest.

        A Python ``|=`` on shared memory loses updates; this is the only place that
        changes a byte which the guest changes too.
        """
        self._or8(self.address + self.offset(gpa, 1), mask)

    def zero(self, gpa: int, length: int) -> None:
        """Fill with zeros."""
        at = self.offset(gpa, length)
        ctypes.memset(self.address + at, 0, length)

    def close(self) -> None:
        """Give the mapping back; a view still held elsewhere keeps it, without an error."""
        for view in (self.u32, self.u64, self.bytes):
            view.release()
        del self._pin
        try:
            self.mapping.close()
        except BufferError:
            pass  # a device's prepared iovec; the mapping goes with the last of them
