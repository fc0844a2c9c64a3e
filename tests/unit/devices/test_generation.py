"""The VM generation id: where the guest finds it, and the event that says it is another one."""

from __future__ import annotations

import struct

from pyhv.boot import acpi, aml
from pyhv.devices.pm import GPE_ENABLE, GPE_GENERATION, GPE_STATUS, Pm
from pyhv.memory import GuestMemory

POWER_BUTTON, PM1_ENABLE = 1 << 8, 2


def block() -> tuple[Pm, list[bool]]:
    line: list[bool] = []
    return Pm(lambda: None, line.append), line


def test_the_event_interrupts_only_where_it_is_enabled() -> None:
    pm, line = block()
    pm.raise_event(GPE_GENERATION)
    assert pm.pio_in(GPE_STATUS, 1) == GPE_GENERATION
    assert not line
    pm.pio_out(GPE_ENABLE, 1, 0xFF)
    assert pm.pio_in(GPE_ENABLE, 1) == GPE_GENERATION
    assert line == [True]
    pm.pio_out(GPE_STATUS, 1, 0)
    assert line == [True]
    pm.pio_out(GPE_STATUS, 1, GPE_GENERATION)
    assert line == [True, False]
    assert pm.pio_in(GPE_STATUS, 2) == GPE_GENERATION << 8


def test_both_events_share_the_line() -> None:
    pm, line = block()
    pm.pio_out(PM1_ENABLE, 2, POWER_BUTTON)
    pm.pio_out(GPE_ENABLE, 1, GPE_GENERATION)
    pm.press_power_button()
    pm.raise_event(GPE_GENERATION)
    pm.pio_out(0, 2, POWER_BUTTON)
    assert line == [True]
    pm.pio_out(GPE_STATUS, 1, GPE_GENERATION)
    assert line == [True, False]


def test_a_restored_block_drives_its_line() -> None:
    pm, _ = block()
    pm.pio_out(GPE_ENABLE, 1, GPE_GENERATION)
    pm.raise_event(GPE_GENERATION)
    new, line = block()
    new.load(pm.save())
    assert line == [True]
    assert new.pio_in(GPE_STATUS, 2) == GPE_GENERATION | GPE_GENERATION << 8


def test_where_it_is() -> None:
    """The DSDT's device has the address, on 8 bytes, behind the RSDP and before the tables."""
    memory = GuestMemory(1 << 20)
    generation = bytes(range(16))
    tables = acpi.tables(memory, 2)
    acpi.build(memory, 2, generation=generation)
    at = acpi.GENERATION_GPA
    assert at % 8 == 0
    assert memory.read(at, 16) == generation
    assert all(gpa + len(data) <= at or gpa >= at + 16 for gpa, data in tables.items())
    (dsdt,) = [data for data in tables.values() if data[:4] == b"DSDT"]
    assert aml.package(aml.integer(at), aml.integer(0)) in dsdt
    assert aml.notify("\\_SB.VGEN", 0x80) == b"\x86\\._SB_VGEN\x0a\x80"
    (fadt,) = [data for data in tables.values() if data[:4] == b"FACP"]
    assert struct.unpack_from("<I", fadt, 80) == (acpi.PM_BASE + GPE_STATUS,)  # GPE0_BLK
    assert fadt[92] == 2  # its length
    assert struct.unpack_from("<BBBBQ", fadt, 220) == (1, 16, 0, 0, acpi.GPE0)  # X_GPE0_BLK
    memory.close()


def test_not_where_the_tables_are_gone() -> None:
    """A guest may have made something else of the memory."""
    memory = GuestMemory(1 << 20)
    assert not acpi.regenerate(memory, b"x" * 16)
    acpi.build(memory, 1)
    assert acpi.regenerate(memory, b"x" * 16)
    assert memory.read(acpi.GENERATION_GPA, 16) == b"x" * 16
    memory.close()
