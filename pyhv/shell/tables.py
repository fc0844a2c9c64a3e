"""The CPU's own tables in words: GDT and IDT from guest memory, the local APIC's registers.

Intel SDM vol. 3: 3.4.5 (segment descriptors), 6.11 and 6.14 (gates), 10.4 and 10.5 (APIC).
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PRESENT, SEGMENT, LONG, BIG, PAGES = 1 << 47, 1 << 44, 1 << 53, 1 << 54, 1 << 55
#: type of a system descriptor; 16 bytes long in long mode
SYSTEM = {2: "LDT", 1: "TSS, 16-bit", 3: "TSS, 16-bit, busy", 9: "TSS", 11: "TSS, busy",
          5: "task gate", 12: "call gate", 14: "interrupt gate", 15: "trap gate"}  # fmt: skip
GATES = {5: "task", 6: "interrupt, 16-bit", 7: "trap, 16-bit", 14: "interrupt", 15: "trap"}
WIDE = (2, 9, 11, 12)
VECTORS = {0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
           10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
           19: "#XM", 20: "#VE", 21: "#CP", 28: "#HV", 29: "#VC", 30: "#SX"}  # fmt: skip


def gdt(table: bytes, long_mode: bool) -> list[str]:
    """Return a line for each descriptor that is not null; *table* as GDTR says."""
    lines, at = [], 0
    while at + 8 <= len(table):
        value, selector = int.from_bytes(table[at : at + 8], "little"), at
        at += 8
        if value == 0:
            continue
        wide = long_mode and not value & SEGMENT and value >> 40 & 15 in WIDE
        above = int.from_bytes(table[at : at + 4], "little") if wide else 0
        at += 8 * wide
        lines.append(f"{selector:#06x}  {value:016x}  {descriptor(value, above)}")
    return lines or ["no descriptor but null ones"]


def descriptor(value: int, above: int = 0) -> str:
    """Return a descriptor in words; *above*: bits 63:32 of the base of a wide one."""
    base = value >> 16 & 0xFFFFFF | value >> 56 << 24 | above << 32
    limit = value & 0xFFFF | value >> 32 & 0xF0000
    if value & PAGES:
        limit = limit << 12 | 0xFFF
    kind = value >> 40 & 15
    if not value & SEGMENT:
        what = SYSTEM.get(kind, f"system type {kind}")
    elif kind & 8:
        size = 64 if value & LONG else 32 if value & BIG else 16
        what = f"code, {size}-bit" + (", readable" if kind & 2 else "")
    else:
        what = "data, writable" if kind & 2 else "data, read-only"
    flat = f"base {base:#x} limit {limit:#x}"
    return f"{what}, {flat}, DPL {value >> 45 & 3}" + ("" if value & PRESENT else ", not present")


def idt(table: bytes, size: int) -> list[str]:
    """Return a line for each gate, equal neighbours (stubs of one distance) as they are.

    :param size: of a gate: 4 (real mode), 8 or 16 (long mode).
    """
    lines: list[str] = []
    for vector in range(min(256, len(table) // size)):
        entry = table[vector * size : (vector + 1) * size]
        text = GATE_TEXT[size](entry)
        if text is not None:
            name = VECTORS.get(vector, "")
            lines.append(f"{vector:#04x} {name:4} {text}".replace("  ", " ", not name))
    return lines or ["no gate is present"]


def _vector(entry: bytes) -> str | None:
    offset, segment = struct.unpack("<HH", entry)
    return f"{segment:04x}:{offset:04x}" if offset or segment else None


def _gate(entry: bytes) -> str | None:
    low, selector, zero, attributes, middle = struct.unpack_from("<HHBBH", entry)
    if not attributes & 0x80:
        return None
    high = int.from_bytes(entry[8:12], "little")
    offset = low | middle << 16 | high << 32
    kind = GATES.get(attributes & 15, f"type {attributes & 15}")
    stack = f", IST {zero & 7}" if len(entry) == 16 and zero & 7 else ""
    return f"{selector:#x}:{offset:#x}, {kind}, DPL {attributes >> 5 & 3}{stack}"


GATE_TEXT: dict[int, Callable[[bytes], str | None]] = {4: _vector, 8: _gate, 16: _gate}

#: the APIC's registers: offset, name
APIC_WORDS = ((0x80, "TPR"), (0xA0, "PPR"), (0xD0, "LDR"), (0xE0, "DFR"), (0xF0, "SVR"),
              (0x280, "ESR"), (0x300, "ICR"), (0x310, "ICR2"))  # fmt: skip
APIC_BITS = ((0x100, "in service"), (0x200, "requested"), (0x180, "level-triggered"))
LVT = ((0x320, "timer"), (0x330, "thermal"), (0x340, "counters"), (0x350, "LINT0"),
       (0x360, "LINT1"), (0x370, "error"))  # fmt: skip
DELIVERY = ("fixed", "lowest", "SMI", "reserved", "NMI", "INIT", "reserved", "ExtINT")
TIMER_MODES = ("one-shot", "periodic", "TSC deadline", "reserved")
DIVIDE = (2, 4, 8, 16, 32, 64, 128, 1)
ENABLED, X2APIC, SOFTWARE = 1 << 11, 1 << 10, 1 << 8


def lapic(page: bytes, base: int) -> list[str]:
    """Return KVM_GET_LAPIC's registers in words; *base* is the MSR IA32_APIC_BASE."""

    def word(offset: int) -> int:
        return int.from_bytes(page[offset : offset + 4], "little")

    if not base & ENABLED:
        return [f"off (IA32_APIC_BASE {base:#x})"]
    x2 = bool(base & X2APIC)
    on = "on" if word(0xF0) & SOFTWARE else "software-disabled"
    identity = word(0x20) if x2 else word(0x20) >> 24
    lines = [f"{'x2APIC' if x2 else 'xAPIC'}, {on}, id {identity}, version {word(0x30):#x}"]
    lines.append("  ".join(f"{name} {word(offset):#x}" for offset, name in APIC_WORDS))
    for offset, name in APIC_BITS:
        vectors = [f"{vector:#x}" for vector in range(256)
                   if word(offset + 16 * (vector >> 5)) >> (vector & 31) & 1]  # fmt: skip
        if vectors:
            lines.append(f"{name}: {' '.join(vectors)}")
    for offset, name in LVT:
        value = word(offset)
        text = f"LVT {name:8} vector {value & 0xFF:#04x}, {DELIVERY[value >> 8 & 7]}"
        if name == "timer":
            text = f"LVT {name:8} vector {value & 0xFF:#04x}, {TIMER_MODES[value >> 17 & 3]}"
        lines.append(text + (", masked" if value >> 16 & 1 else ""))
    divide = DIVIDE[word(0x3E0) & 3 | word(0x3E0) >> 1 & 4]
    lines.append(f"timer: {word(0x390)} of {word(0x380)}, divided by {divide}")
    return lines
