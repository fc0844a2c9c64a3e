"""Entry states: segments, GDT and page tables checked by walking them as the CPU would."""

from __future__ import annotations

import struct

import pytest

from pyhv.boot import e820, entry
from pyhv.memory import HIGH, GuestMemory


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 << 20)


def walk(memory: GuestMemory, cr3: int, address: int) -> int | None:
    """Translate as 4-level paging does, with 2 MiB pages at the end; None is a page fault."""
    table = cr3
    for shift in (39, 30, 21):
        item = memory.read_u64(table + (address >> shift & 511) * 8)
        if item & 3 != 3:
            return None
        table = item & 0x000FFFFFFFFFF000
    assert item & 0x80
    return table & ~0x1FFFFF | address & 0x1FFFFF


@pytest.mark.parametrize("address", [0, 0x100000, 0x1234567, 0x3FFFFFFF, 0x40000000, 0xFFFFFFFF])
def test_long_mode_maps_four_gib_to_themselves(memory: GuestMemory, address: int) -> None:
    memory.write(entry.PAGE_TABLES, b"\xff" * (entry.PAGE_TABLES_END - entry.PAGE_TABLES))
    state = entry.long(memory, 0x100200, {})
    assert walk(memory, state.cr3, address) == address
    assert walk(memory, state.cr3, HIGH) is None
    assert walk(memory, state.cr3, 1 << 39) is None


def test_long_mode_registers(memory: GuestMemory) -> None:
    state = entry.long(memory, 0x100200, {"rsi": 7}, rsp=0x8000)
    assert (state.mode, state.rip, state.rsp, state.registers) == (
        "long",
        0x100200,
        0x8000,
        {"rsi": 7},
    )
    assert (state.cr0, state.cr4, state.efer) == (0x80000011, 0x20, 0x500)
    assert state.rflags & 0x200 == 0
    assert state.segments["cs"].l == 1
    assert state.segments["cs"].db == 0


@pytest.mark.parametrize(
    ("selector", "descriptor"),
    [(0x10, 0x00AF9B000000FFFF), (0x18, 0x00CF93000000FFFF)],
)
def test_long_mode_gdt(memory: GuestMemory, selector: int, descriptor: int) -> None:
    base, limit = entry.long(memory, 0, {}).gdt
    assert limit == 31
    assert memory.read_u64(base + selector) == descriptor


@pytest.mark.parametrize(
    ("selector", "descriptor"),
    [(0x10, 0x00CF9B000000FFFF), (0x18, 0x00CF93000000FFFF)],
)
def test_protected_mode_gdt(memory: GuestMemory, selector: int, descriptor: int) -> None:
    state = entry.protected(memory, 0x100000, {})
    assert memory.read_u64(state.gdt[0] + selector) == descriptor
    assert (state.cr0, state.cr3, state.efer) == (0x11, 0, 0)


def test_descriptor_packs_base_and_small_limit() -> None:
    assert entry.Segment(8, 0x12345678, 0x67, 0xB, s=0).descriptor() == 0x12008B3456780067


def test_protected_mode_without_gdt_touches_no_memory() -> None:
    assert entry.protected(None, 0x8018, {}).gdt == (0, 0)


def test_segments_are_all_there() -> None:
    names = {"cs", "ds", "es", "fs", "gs", "ss"}
    for state in (entry.real(0, 0x7C00, 0x7C00, {}), entry.protected(None, 0, {})):
        assert set(state.segments) == names
        assert state.segments["ss"].type == entry.DATA


def test_real_mode_state() -> None:
    state = entry.real(0xF000, 0xFFF0, 0x7C00, {"rdx": 0x80})
    assert (state.segments["cs"].base, state.rip, state.cr0 & 1) == (0xF0000, 0xFFF0, 0)
    assert state.idt == (0, 0x3FF)


@pytest.mark.parametrize("size", [1 << 20, 2 << 20, 3 << 30, (3 << 30) + 4096, 5 << 30])
def test_e820_tells_all_ram_but_the_old_holes(size: int) -> None:
    memory = GuestMemory(size)
    entries = e820.build(memory)
    ram = sum(e.size for e in entries if e.kind == e820.RAM)
    assert ram == size - (e820.EXTENDED - e820.EBDA)
    end = 0
    for one in entries:
        assert one.base >= end
        end = one.base + one.size
        assert memory.offset(one.base, one.size) >= 0  # every range is in the mapping
        assert struct.unpack("<QQI", one.pack()) == one
    memory.close()
