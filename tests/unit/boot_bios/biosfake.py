"""A CPU, a disk and a console as the BIOS needs them, without KVM."""

from __future__ import annotations

import struct

from pyhv.boot import bios, bios_layout, e820
from pyhv.memory import GuestMemory

MEMORY = 32 << 20
STACK_SEGMENT, STACK_POINTER = 0x2000, 0x0FFA
FRAME = (STACK_SEGMENT << 4) + STACK_POINTER
CARRY, ZERO = 1, 0x40
GENERAL = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
SEGMENTS = ("cs", "ds", "es", "ss")


class FakeCpu:
    """Attributes only, as BiosCpu in pyhv/cpustate.py has them; values must stay in 32 bits."""

    __slots__ = (
        *GENERAL, "esp", "eip", "eflags", *(s + f for s in SEGMENTS for f in ("_sel", "_base"))
    )  # fmt: skip

    def __init__(self, **registers: int) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, 0)
        self.cs_sel, self.cs_base = 0xF000, 0xF0000
        self.ss_sel, self.ss_base = STACK_SEGMENT, STACK_SEGMENT << 4
        self.esp = STACK_POINTER
        for name, value in registers.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: int) -> None:
        assert isinstance(value, int), (name, value)
        assert 0 <= value < 1 << 32, (name, value)
        object.__setattr__(self, name, value)


class MemoryDisk:
    """Disk of pyhv/disk.py over bytes; ``broken`` makes every access an OSError."""

    def __init__(self, data: bytes, sector_size: int = 512, readonly: bool = False) -> None:
        self.data, self.sector_size, self.readonly = bytearray(data), sector_size, readonly
        self.broken, self.writethrough = False, False

    @property
    def sectors(self) -> int:
        return len(self.data) // self.sector_size

    def _each(self, offset: int, views: list):
        if self.broken:
            raise OSError(5, "Input/output error")
        for view in views:
            assert offset + len(view) <= len(self.data)
            yield offset, view
            offset += len(view)

    def readv(self, offset: int, views: list) -> None:
        for at, view in self._each(offset, views):
            view[:] = self.data[at : at + len(view)]

    def writev(self, offset: int, views: list, sync: bool = False) -> None:
        assert sync is self.writethrough
        for at, view in self._each(offset, views):
            self.data[at : at + len(view)] = view


class HugeDisk:
    """A disk of many sectors that nobody reads."""

    sector_size, readonly = 512, False

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors


class Console:
    """Keeps what was written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def numbered_sectors(count: int, size: int = 512) -> bytes:
    """Sectors that begin with their own number; the first is bootable."""
    data = bytearray(b"".join(struct.pack("<I", n).ljust(size, b"\xa5") for n in range(count)))
    data[510:512] = b"\x55\xaa"
    return bytes(data)


class Bench:
    """A BIOS with disks, and a way to call it."""

    def __init__(self, *disks: object, **options: object) -> None:
        self.memory = GuestMemory(MEMORY)
        self.console, self.stops = Console(), []
        self.now_ns = 0
        self.hidden = False
        options.setdefault("clock_ns", lambda: self.now_ns)
        self.bios = bios.Bios(
            self.memory, disks, self.console, e820.build(self.memory),
            lambda kind, text: self.stops.append((kind, text)), lambda: self.hidden, **options,
        )  # fmt: skip
        self.state = self.bios.install(bytes(bios_layout.BIOS_SIZE))

    def call(self, vector: int, eax: int = 0, flags: int = 0x202, **registers: int) -> FakeCpu:
        """INT *vector* from 1234:5678; the CPU after the service. ``cpu_flags`` has the rest."""
        self.memory.write(FRAME, struct.pack("<3H", 0x5678, 0x1234, flags))
        eip = bios_layout.TRAP_TABLE + 4 * vector + 2
        cpu = FakeCpu(eax=eax, eip=eip, **registers)
        self.bios.trap(cpu)
        return cpu

    @property
    def flags(self) -> int:
        """FLAGS on the stack after the call."""
        return struct.unpack("<H", self.memory.read(FRAME + 4, 2))[0]

    @property
    def carry(self) -> bool:
        """CF as the guest will see it."""
        return bool(self.flags & CARRY)
