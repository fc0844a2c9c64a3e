"""GDT, IDT and local APIC in words: every row of the tables, against bytes made here."""

from __future__ import annotations

import struct

import pytest

from pyhv.boot.entry import Segment
from pyhv.shell import tables

FLAT64 = Segment(0x10, 0, 0xFFFFFFFF, 0xB, l=1, g=1).descriptor()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (FLAT64, "code, 64-bit, readable, base 0x0 limit 0xffffffff, DPL 0"),
        (Segment(0, 0x12345678, 0xFFFF, 9, db=1).descriptor(),
         "code, 32-bit, base 0x12345678 limit 0xffff, DPL 0"),
        (Segment(0, 0, 0xFFFF, 0xB).descriptor(), "code, 16-bit, readable, base 0x0 limit 0xffff"),
        (Segment(0, 0, 0xFFFF, 3, dpl=3).descriptor(),
         "data, writable, base 0x0 limit 0xffff, DPL 3"),
        (Segment(0, 0, 0xFFFF, 1, present=0).descriptor(),
         "data, read-only, base 0x0 limit 0xffff, DPL 0, not present"),
        (Segment(0, 0x1000, 0x67, 9, s=0).descriptor(), "TSS, base 0x1000 limit 0x67"),
        (Segment(0, 0x1000, 0x67, 11, s=0).descriptor(), "TSS, busy, base 0x1000"),
        (Segment(0, 0x1000, 0x67, 2, s=0).descriptor(), "LDT, base 0x1000"),
        (Segment(0, 0, 0, 0, s=0).descriptor(), "system type 0"),
    ],
)  # fmt: skip
def test_descriptors(value: int, words: str) -> None:
    assert tables.descriptor(value).startswith(words)


def test_gdt() -> None:
    """Null ones are left out; a TSS takes two places in long mode, one elsewhere."""
    tss = Segment(0, 0x55667788, 0x67, 9, s=0).descriptor()
    table = struct.pack("<5Q", 0, FLAT64, tss, 0x1234, 0)
    lines = tables.gdt(table, True)
    assert [line[:6] for line in lines] == ["0x0008", "0x0010"]
    assert "TSS, base 0x123455667788 limit 0x67" in lines[1]
    assert len(tables.gdt(table, False)) == 3
    assert tables.gdt(bytes(16), True) == tables.gdt(b"", True) == ["no descriptor but null ones"]


def test_idt() -> None:
    """Gates of all three sizes; what is not present is left out, a cut table ends."""

    def gate(kind: int, ist: int = 0) -> bytes:
        return struct.pack("<HHBBHII", 0x5678, 0x10, ist, kind, 0x1234, 0xFFFFFFFF, 0)

    wide = bytes(16) + gate(0x8E) + gate(0xEF, 3) + gate(0x0E) + b"cut"
    assert tables.idt(wide, 16) == [
        "0x01 #DB  0x10:0xffffffff12345678, interrupt, DPL 0",
        "0x02 NMI  0x10:0xffffffff12345678, trap, DPL 3, IST 3",
    ]
    assert tables.idt(bytes(8) + gate(0x86)[:8] + gate(0x85)[:8] + gate(0x8C)[:8], 8) == [
        "0x01 #DB  0x10:0x12345678, interrupt, 16-bit, DPL 0",
        "0x02 NMI  0x10:0x12345678, task, DPL 0",
        "0x03 #BP  0x10:0x12345678, type 12, DPL 0",
    ]
    assert tables.idt(bytes(4 * 16) + struct.pack("<HH", 0xFEA5, 0xF000), 4) == [
        "0x10 #MF  f000:fea5"
    ]
    assert tables.idt(bytes(4096), 16) == tables.idt(b"", 4) == ["no gate is present"]


def page(**words: int) -> bytes:
    """Return an APIC page with ``x20=...`` at 0x20 and so on."""
    found = bytearray(1024)
    for name, value in words.items():
        struct.pack_into("<I", found, int(name[1:], 16), value)
    return bytes(found)


def test_lapic() -> None:
    text = "\n".join(
        tables.lapic(
            page(x20=3 << 24, x30=0x50014, xf0=0x1FF, x80=0x20, x120=1 << 16, x200=1 << 31,
                 x190=2, x320=0x200EF, x350=0x10700, x360=0x400, x380=1000, x390=250, x3e0=0xB),
            0xFEE00900,
        )
    )  # fmt: skip
    for words in (
        "xAPIC, on, id 3, version 0x50014", "TPR 0x20", "in service: 0x50", "requested: 0x1f",
        "level-triggered: 0x21", "LVT timer    vector 0xef, periodic",
        "LVT LINT0    vector 0x00, ExtINT, masked", "LVT LINT1    vector 0x00, NMI",
        "timer: 250 of 1000, divided by 1",
    ):  # fmt: skip
        assert words in text, text


@pytest.mark.parametrize(
    ("base", "first"),
    [
        (0, "off (IA32_APIC_BASE 0x0)"),
        (0xFEE00C00, "x2APIC, software-disabled, id 50331648, version 0x0"),
    ],
)
def test_lapic_modes(base: int, first: str) -> None:
    assert tables.lapic(page(x20=3 << 24), base)[0] == first


@pytest.mark.parametrize(("value", "divide"), [(0, 2), (3, 16), (8, 32), (0xA, 128), (0xB, 1)])
def test_lapic_divide(value: int, divide: int) -> None:
    """Intel SDM vol. 3, figure 10-10: bits 0, 1 and 3."""
    assert tables.lapic(page(x3e0=value), 1 << 11)[-1].endswith(f"divided by {divide}")
