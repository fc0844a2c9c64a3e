"""The CPU state in which a loader leaves the boot vCPU, and the tables in guest memory it needs.

Low memory, as the loaders use it (the rest below e820.EBDA is free)::

    0x0500  GDT                  0x9000  page tables, six pages
    0x6000  PVH start info       0x20000 command line, up to 64 KiB
    0x7000  boot_params / multiboot information
    0xe0000 ACPI tables (acpi.py), 0xf0000 the BIOS

Segment values follow what KVM_SET_SREGS wants: hidden parts as the CPU would have
loaded them. TR and LDTR are left as KVM has them after reset, which VMX accepts.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory
from ..record import Record

GDT = 0x500
PVH_INFO = 0x6000
BOOT_PARAMS = 0x7000
PAGE_TABLES = 0x9000
PAGE_TABLES_END = 0xF000
COMMAND_LINE = 0x20000
COMMAND_LINE_END = 0x30000

CR0_PE, CR0_ET, CR0_PG = 1, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
CODE, DATA = 0xB, 0x3  # segment types: execute/read and read/write, both accessed
RFLAGS = 2  # reserved bit 1; interrupts off

_PRESENT_WRITE, _LARGE = 3, 1 << 7


class Segment(Record):
    """A segment register with its hidden part; the names are those of ``struct kvm_segment``."""

    selector: int
    base: int
    limit: int
    type: int
    present: int = 1
    dpl: int = 0
    db: int = 0  # 32-bit
    s: int = 1  # code or data
    l: int = 0  # noqa: E741  # 64-bit code
    g: int = 0  # the limit was in pages

    def descriptor(self) -> int:
        """Return the 8 bytes of the GDT entry that would load this."""
        limit = self.limit >> 12 if self.g else self.limit
        access = self.type | self.s << 4 | self.dpl << 5 | self.present << 7
        flags = self.l << 1 | self.db << 2 | self.g << 3
        return (
            limit & 0xFFFF
            | (self.base & 0xFFFFFF) << 16
            | access << 40
            | (limit >> 16) << 48
            | flags << 52
            | (self.base >> 24) << 56
        )


class EntryState(Record):
    """What the machine puts into the boot vCPU before it runs."""

    mode: str  # 'real', 'protected' (32-bit flat, no paging) or 'long' (identity map)
    rip: int
    rsp: int
    segments: dict[str, Segment]  # cs, ds, es, fs, gs, ss
    registers: dict[str, int]  # the other general registers by name; those not here are 0
    gdt: tuple[int, int] = (0, 0)  # base, limit
    idt: tuple[int, int] = (0, 0)
    cr0: int = CR0_ET
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    rflags: int = RFLAGS


def _all_data(code: Segment, data: Segment) -> dict[str, Segment]:
    return {"cs": code, **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data)}


def _write_gdt(memory: GuestMemory, code: Segment, data: Segment) -> tuple[int, int]:
    """Write null, null, code (0x10), data (0x18), as Linux' boot protocols have it."""
    table = struct.pack("<4Q", 0, 0, code.descriptor(), data.descriptor())
    memory.write(GDT, table)
    return GDT, len(table) - 1


def real(cs: int, ip: int, sp: int, registers: dict[str, int]) -> EntryState:
    """Return the state of real mode at *cs*:*ip*, data segments and SS 0."""
    code = Segment(cs, cs << 4, 0xFFFF, CODE)
    data = Segment(0, 0, 0xFFFF, DATA)
    return EntryState("real", ip, sp, _all_data(code, data), registers, idt=(0, 0x3FF))


def protected(
    memory: GuestMemory | None, rip: int, registers: dict[str, int], rsp: int = 0
) -> EntryState:
    """Return the state of flat 32-bit protected mode at *rip*.

    :param memory: where to write the GDT; None leaves GDTR empty, which multiboot allows and
        which touches no page of a kernel that is loaded low.
    """
    code = Segment(0x10, 0, 0xFFFFFFFF, CODE, db=1, g=1)
    data = Segment(0x18, 0, 0xFFFFFFFF, DATA, db=1, g=1)
    gdt = _write_gdt(memory, code, data) if memory else (0, 0)
    segments = _all_data(code, data)
    return EntryState("protected", rip, rsp, segments, registers, gdt, cr0=CR0_PE | CR0_ET)


def long(memory: GuestMemory, rip: int, registers: dict[str, int], rsp: int = 0) -> EntryState:
    """Return the state of 64-bit mode at *rip*, the first 4 GiB mapped to themselves.

    Writes the GDT, and six pages of page tables with 2 MiB pages: 1 GiB pages are not on every CPU.
    """
    code = Segment(0x10, 0, 0xFFFFFFFF, CODE, l=1, g=1)
    data = Segment(0x18, 0, 0xFFFFFFFF, DATA, db=1, g=1)
    gdt = _write_gdt(memory, code, data)
    root, level3, level2 = (PAGE_TABLES + i * 4096 for i in range(3))
    memory.zero(PAGE_TABLES, PAGE_TABLES_END - PAGE_TABLES)
    memory.write_u64(root, level3 | _PRESENT_WRITE)
    memory.write(
        level3, struct.pack("<4Q", *(level2 + i * 4096 | _PRESENT_WRITE for i in range(4)))
    )
    memory.write(
        level2, struct.pack("<2048Q", *(i << 21 | _LARGE | _PRESENT_WRITE for i in range(2048)))
    )
    return EntryState(
        "long",
        rip,
        rsp,
        _all_data(code, data),
        registers,
        gdt,
        cr0=CR0_PE | CR0_ET | CR0_PG,
        cr3=root,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
    )
