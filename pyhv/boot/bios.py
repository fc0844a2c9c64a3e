"""The trapping BIOS: firmware/bios.S brings an interrupt here as an OUT, a table row serves it.

An interrupt that the guest issues runs an entry of the trap table: OUT, IRET. So at a
trap the stack holds IP, CS, FLAGS; a service changes registers, memory, and carry or
zero in the stacked FLAGS. The rooms are bios_video (INT 10h), bios_disk (13h),
bios_keyboard (16h) and bios_system (the rest). Source for the calls: Ralf Brown's
interrupt list; which of them loaders use: docs/architecture.md.
"""

from __future__ import annotations

import os
import struct
import time
from _collections import deque

from ..errors import BadGpa, HostError
from . import bios_disk, bios_keyboard, bios_system, bios_video, entry
from . import bios_layout as at
from .bios_cpu import CARRY, set_ah

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from ..disk import Disk
    from ..memory import GuestMemory
    from .bios_cpu import Cpu
    from .e820 import Entry

    class Output(Protocol):
        """The console: takes what the guest prints."""

        def write(self, data: bytes) -> object: ...

    class Rtc(Protocol):
        """The CMOS device (devices/cmos.py)."""

        def pio_in(self, offset: int, size: int) -> int: ...
        def pio_out(self, offset: int, size: int, value: int) -> None: ...


#: (vector, AH), or (vector, None) where AH does not choose -> (name, function(bios, cpu)).
#: The function returns CF for the guest, or None to leave the flags alone.
SERVICES = {
    **bios_video.SERVICES,
    **bios_disk.SERVICES,
    **bios_keyboard.SERVICES,
    **bios_system.SERVICES,
}

#: Vectors that the CPU uses. Without a handler the instruction would fault for ever.
EXCEPTIONS = {
    0x00: "#DE, divide error",
    0x06: "#UD, undefined opcode",
    0x07: "#NM, no FPU",
    0x0C: "#SS, stack fault",
    0x0D: "#GP, general protection",
}
FIRST_SERVICE = 0x10  # below are exceptions and IRQs: they come at any time, so change no register

UNSUPPORTED = 0x86  # in AH
DATA_BOUNDARY = 0x09  # INT 13h's own word for a buffer it cannot use
RECENT, UNKNOWN_KEPT = 64, 256


def firmware_file(name: str) -> str:
    """Return the path of firmware/*name*, installed (inside the package) or from a checkout.

    :raises HostError: the installation lacks it.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (package, os.path.dirname(package)):
        path = os.path.join(folder, "firmware", name)
        if os.path.exists(path):
            return path
    raise HostError(f"firmware {name}: not beside {package}; install pyhv again")


def bios_image(path: str | None = None) -> bytes:
    """Return the 64 KiB of the BIOS.

    :raises HostError: the file cannot be read or has another size.
    """
    path = path or firmware_file("bios.bin")
    try:
        with open(path, "rb") as stream:
            image = stream.read(at.BIOS_SIZE + 1)
    except OSError as error:
        raise HostError(f"firmware {path}: {error.strerror}") from error
    if len(image) != at.BIOS_SIZE:
        raise HostError(
            f"firmware {path}: not {at.BIOS_SIZE} bytes; build it with firmware/build.py"
        )
    return image


class Bios:
    """The services, for one life of a machine.

    :param disks: as drives 0x80, 0x81, ... *cdroms*: as 0xE0, ...
    :param console: where INT 10h prints, a byte stream in UTF-8.
    :param e820: the memory map; ACPI tables are somebody else's.
    :param stop: ``stop(kind, text)`` ends the machine: "no-boot", or "stuck" for an exception that
        nobody handles.
    :param serial_used: True once the guest drives COM1 itself. What INT 10h prints would then come
        twice, and a key would arrive twice, so both end.
    :param cmos: the clock for INT 1Ah; host UTC without it.

    All runs on the boot vCPU's thread, :meth:`key_input` on any. A service never waits: it sends
    the guest to a place in the BIOS from where it asks again.
    """

    PORT = at.TRAP_PORT

    def __init__(
        self,
        memory: GuestMemory,
        disks: Sequence[Disk],
        console: Output,
        e820: Sequence[Entry],
        stop: Callable[[str, str], object],
        serial_used: Callable[[], bool] = lambda: False,
        cmos: Rtc | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        cdroms: Sequence[Disk] = (),
    ) -> None:
        self.memory, self.disks, self.e820 = memory, list(disks), list(e820)
        self.cdroms = list(cdroms)
        self.stop, self.serial_used, self.cmos, self.clock_ns = stop, serial_used, cmos, clock_ns
        self.screen = bios_video.Screen(memory, console, serial_used)
        self.keyboard = bios_keyboard.Keyboard()
        self.wait_until_ns = 0
        self.counts: dict[tuple[int, int | None], int] = {}
        self.unknown: dict[tuple[int, int], int] = {}  # at most UNKNOWN_KEPT
        self.stray = 0  # OUTs to our port from elsewhere
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def install(self, image: bytes | None = None) -> entry.EntryState:
        """Write BIOS, vectors and data areas; return where the boot vCPU starts."""
        self.memory.write(at.BIOS_GPA, image if image is not None else bios_image())
        self.write_data_areas()
        return self.entry_state()

    def entry_state(self) -> entry.EntryState:
        """Return real mode behind the part of the POST that :meth:`install` has done already."""
        return entry.real(at.BIOS_SEGMENT, at.SYMBOLS["post_done"], at.STACK, {})

    def write_data_areas(self) -> None:
        """Write the interrupt vectors, the BIOS data area and the EBDA; clear the screen."""
        offsets = [at.TRAP_TABLE + at.ENTRY_BYTES * vector for vector in range(256)]
        for vector, offset in at.VECTORS.items():
            offsets[vector] = offset
        vectors = [value for offset in offsets for value in (offset, at.BIOS_SEGMENT)]
        self.memory.write(0, struct.pack("<512H", *vectors))
        bios_system.write_bda(self.memory, len(self.disks))
        self.screen.reset()
        self.keyboard.clear()
        self.wait_until_ns = 0

    def key_input(self, data: bytes) -> None:
        """Take what the user typed, as a terminal sends it; dropped while the guest has COM1."""
        if not self.serial_used():
            self.keyboard.feed(data)

    def trap(self, cpu: Cpu) -> None:
        """Serve an OUT to :attr:`PORT`. Whatever the registers say, nothing is raised."""
        eip = cpu.eip
        number = eip - at.TRAP_TABLE >> 2
        if not 0 <= number < at.TRAPS or cpu.cs_base != at.BIOS_GPA:
            self.stray += 1
            return
        if number > 0xFF:
            carry = bios_system.EXTRA[number](self, cpu)
        else:
            carry = self._serve(cpu, number)
        if carry is not None:
            self.set_flag(cpu, CARRY, carry)

    def _serve(self, cpu: Cpu, vector: int) -> bool | None:
        ax = cpu.eax & 0xFFFF
        self._recent.append((vector, ax))
        key: tuple[int, int | None] = (vector, ax >> 8)
        service = SERVICES.get(key)
        if service is None:
            key = (vector, None)
            service = SERVICES.get(key)
            if service is None:
                return self._unknown(cpu, vector, ax >> 8)
        self.counts[key] = self.counts.get(key, 0) + 1
        try:
            return service[1](self, cpu)
        except BadGpa:
            set_ah(cpu, DATA_BOUNDARY if vector == bios_disk.VECTOR else UNSUPPORTED)
            return True

    def _unknown(self, cpu: Cpu, vector: int, function: int) -> bool | None:
        key = (vector, function)
        if key in self.unknown or len(self.unknown) < UNKNOWN_KEPT:
            self.unknown[key] = self.unknown.get(key, 0) + 1
        if vector in EXCEPTIONS:
            ip, cs = self.frame(cpu)[:2]
            self.give_up(
                cpu, "stuck", f"exception {EXCEPTIONS[vector]}, in real mode at {cs:04x}:{ip:04x}: "
                "the guest has no handler for it"
            )  # fmt: skip
        if vector < FIRST_SERVICE:
            return None
        set_ah(cpu, UNSUPPORTED)
        return True

    # for services

    def frame(self, cpu: Cpu) -> tuple[int, int, int]:
        """Return the interrupted IP, CS and FLAGS; zeros when the stack is not in RAM."""
        try:
            data = self.memory.read(cpu.ss_base + (cpu.esp & 0xFFFF), 6)
        except BadGpa:
            return 0, 0, 0
        return struct.unpack("<3H", data)

    def set_flag(self, cpu: Cpu, mask: int, value: bool) -> None:
        """Set or clear a bit (CARRY, ZERO: bits 0-7) of the stacked FLAGS."""
        gpa = cpu.ss_base + (cpu.esp + 4 & 0xFFFF)
        try:
            flags = self.memory.read(gpa, 1)[0]
            self.memory.write(gpa, bytes((flags | mask if value else flags & ~mask,)))
        except BadGpa:
            pass  # a stack outside RAM: IRET reads ones there, whatever is written

    def give_up(self, cpu: Cpu, kind: str, text: str) -> None:
        """Stop the machine; the guest waits for its end in the BIOS."""
        self.stop(kind, text)
        cpu.eip = at.HALT

    # for snapshots

    def save(self) -> dict[str, Any]:
        """Return what is not in guest memory."""
        left_ns = max(0, self.wait_until_ns - self.clock_ns()) if self.wait_until_ns else 0
        return {"keys": self.keyboard.waiting(), "terminal": self.screen.terminal,
                "left_ns": left_ns}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`, without :meth:`install`: guest memory is there."""
        self.keyboard.clear()
        for key in state["keys"]:
            self.keyboard.push(key)
        self.screen.terminal = state["terminal"]
        left_ns = state["left_ns"]
        self.wait_until_ns = self.clock_ns() + left_ns if left_ns else 0

    # for reports

    def last_calls(self) -> list[str]:
        """Return the last calls in words, oldest first."""
        return [describe(vector, ax) for vector, ax in list(self._recent)]

    def unknown_calls(self) -> list[str]:
        """Return the calls that no row serves, with how often each came."""
        return [f"{describe(v, ah << 8)}: {n} times" for (v, ah), n in list(self.unknown.items())]


def describe(vector: int, ax: int) -> str:
    """Name a call in words: ``INT 13h AH=42h extended read``."""
    service = SERVICES.get((vector, ax >> 8))
    if service is not None:
        return f"INT {vector:02X}h AX={ax:04X}h {service[0]}"
    service = SERVICES.get((vector, None))
    if service is not None:
        return f"INT {vector:02X}h {service[0]}"
    return f"INT {vector:02X}h AH={ax >> 8:02X}h, not served"
