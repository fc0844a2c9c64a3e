"""Page walks on tables made by hand, one for each paging mode of the SDM, and what can end them."""

from __future__ import annotations

import struct

import pytest

from pyhv.memory import GuestMemory
from pyhv.pagewalk import mode, read_virtual, walk, write_virtual

PG, PSE, PAE, LA57, LMA = 1 << 31, 1 << 4, 1 << 5, 1 << 12, 1 << 10
P, W, U, LARGE, NX = 1, 2, 4, 1 << 7, 1 << 63
ROOT = 0x10000


@pytest.fixture
def memory():
    made = GuestMemory(4 << 20)
    yield made
    made.close()


def registers(cr4: int, efer: int = 0, cr0: int = PG) -> dict[str, int]:
    return {"cr0": cr0, "cr3": ROOT | 0x18, "cr4": cr4, "efer": efer}


def put(memory: GuestMemory, at: int, value: int, size: int = 8) -> None:
    memory.write(at, struct.pack("<Q", value)[:size])


LONG = registers(PAE, LMA)


def map4(memory: GuestMemory, gva: int, leaf: int, rights: int = P | W | U) -> None:
    """Map *gva* through tables at ROOT, +0x1000, +0x2000, +0x3000."""
    put(memory, ROOT + (gva >> 39 & 511) * 8, ROOT + 0x1000 | rights)
    put(memory, ROOT + 0x1000 + (gva >> 30 & 511) * 8, ROOT + 0x2000 | rights)
    put(memory, ROOT + 0x2000 + (gva >> 21 & 511) * 8, ROOT + 0x3000 | rights)
    put(memory, ROOT + 0x3000 + (gva >> 12 & 511) * 8, leaf)


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "key"),
    [(0, PAE, LMA, "none"), (PG, PSE, 0, "32"), (PG, PAE, 0, "pae"), (PG, PAE, LMA, "4"),
     (PG, PAE | LA57, LMA, "5"), (PG, LA57 | PAE, 0, "pae")],
)  # fmt: skip
def test_mode(cr0: int, cr4: int, efer: int, key: str) -> None:
    assert mode(cr0, cr4, efer) == key


def test_without_paging(memory: GuestMemory) -> None:
    assert walk(memory, registers(0, cr0=0), 0xFFFF0).gpa == 0xFFFF0


@pytest.mark.parametrize("gva", [0x1234567ABC, 0xFFFF_FFFF_8000_0123])
def test_four_levels(memory: GuestMemory, gva: int) -> None:
    map4(memory, gva, 0x5000 | P | W)
    found = walk(memory, LONG, gva)
    assert found.gpa == 0x5000 | gva & 0xFFF
    assert [entry.name for entry in found.entries] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert (found.size, found.writable, found.user, found.executable) == (4096, True, False, True)


@pytest.mark.parametrize(("level", "size"), [(1, 1 << 30), (2, 1 << 21)])
def test_large_pages(memory: GuestMemory, level: int, size: int) -> None:
    gva = 0x40000000 * 3 + 0x12345
    map4(memory, gva, 0)
    shift = 39 - 9 * level
    put(memory, ROOT + 0x1000 * level + (gva >> shift & 511) * 8, size | LARGE | P | NX | 1 << 12)
    found = walk(memory, LONG, gva)
    assert found.gpa == size | gva & size - 1
    assert (found.size, found.writable, found.executable) == (size, False, False)


def test_five_levels(memory: GuestMemory) -> None:
    gva = 0x12_3456_789A_BCDE
    put(memory, ROOT + (gva >> 48 & 511) * 8, 0x20000 | P)
    put(memory, 0x20000 + (gva >> 39 & 511) * 8, 0x21000 | P)
    put(memory, 0x21000 + (gva >> 30 & 511) * 8, 0x80000000 | LARGE | P)
    found = walk(memory, registers(PAE | LA57, LMA), gva)
    assert found.gpa == 0x80000000 | gva & (1 << 30) - 1
    assert found.entries[0].name == "PML5E"


def test_pae(memory: GuestMemory) -> None:
    """Four PDPTEs at a multiple of 32, without rights; then as in long mode."""
    found_registers = registers(PAE) | {"cr3": 0x10020}
    gva = 0xC0201234
    put(memory, 0x10020 + 3 * 8, 0x20000 | P)
    put(memory, 0x20000 + 1 * 8, 0x21000 | P | W | U)
    put(memory, 0x21000 + 1 * 8, 0x33000 | P | W | U)
    found = walk(memory, found_registers, gva)
    assert (found.gpa, found.writable, found.user) == (0x33234, True, True)


def test_32_bit(memory: GuestMemory) -> None:
    """4 KiB, 4 MiB and PSE-36 pages; without CR4.PSE bit 7 means nothing."""
    put(memory, ROOT + 1 * 4, 0x20000 | P | W, 4)
    put(memory, 0x20000 + 2 * 4, 0x7000 | P | W, 4)
    assert walk(memory, registers(0), 0x402345).gpa == 0x7345
    put(memory, ROOT + 3 * 4, 0x00C00000 | 1 << 13 | LARGE | P, 4)
    assert walk(memory, registers(PSE), 0xC12345).gpa == 0x1_00C12345
    put(memory, ROOT + 4 * 4, 0x20000 | LARGE | P, 4)
    assert walk(memory, registers(0), 0x1002345).gpa == 0x7345
    assert walk(memory, registers(0), 0x1_00402345).gpa == 0x7345  # 32 bits count


ENDS = {
    "canonical": (0x8000_0000_0000, {}, "is not canonical"),
    "absent": (0x1000, {ROOT: 0}, "the PML4E at 0x10000 is not present"),
    "middle": (0x1000, {ROOT + 0x1000: 0}, "the PDPTE at 0x11000 is not present"),
    "leaf": (0x1000, {ROOT + 0x3008: 0}, "the PTE at 0x13008 is not present"),
    "outside": (0x1000, {ROOT + 0x1000: 1 << 40 | P}, "the PDE at 0x10000000000 is outside RAM"),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(memory: GuestMemory, name: str) -> None:
    """Guest tables are hostile: whatever they hold, a walk ends and says why."""
    gva, changes, why = ENDS[name]
    map4(memory, 0x1000, 0x5000 | P)
    for at, value in changes.items():
        put(memory, at, value)
    found = walk(memory, LONG, gva)
    assert found.gpa is None
    assert why in found.why


def test_read_and_write_over_pages(memory: GuestMemory) -> None:
    """Two pages that are no neighbours; what is not mapped ends a read and refuses a write."""
    map4(memory, 0x1000, 0x9000 | P)
    map4(memory, 0x2000, 0x5000 | P)
    assert write_virtual(memory, LONG, 0x1FFE, b"abcd")
    assert memory.read(0x9FFE, 2) == b"ab"
    assert memory.read(0x5000, 2) == b"cd"
    assert read_virtual(memory, LONG, 0x1FFE, 4) == b"abcd"
    assert read_virtual(memory, LONG, 0x2FFE, 4) == b"\0\0"
    assert not write_virtual(memory, LONG, 0x2FFE, b"xxxx")
    assert memory.read(0x5FFE, 2) == b"\0\0"
    map4(memory, 0x4000, 1 << 40 | P)
    assert read_virtual(memory, LONG, 0x4000, 4) == b""
    assert not write_virtual(memory, LONG, 0x4000, b"x")
