"""The ACPI fixed hardware: registers as Linux' ACPICA checks them, power-off, button, timer."""

from __future__ import annotations

import pytest

from pyhv.boot import acpi
from pyhv.devices import pm as p


class World:
    def __init__(self) -> None:
        self.off = 0
        self.line: list[bool] = []
        self.now = 0
        self.pm = p.Pm(self.power_off, self.line.append, lambda: self.now)

    def power_off(self) -> None:
        self.off += 1


@pytest.fixture
def world() -> World:
    return World()


def test_tables_and_device_agree() -> None:
    assert acpi.S5_TYPE == p.S5_TYPE
    offsets = [port - acpi.PM_BASE for port in (acpi.PM1_EVENT, acpi.PM1_CONTROL, acpi.PM_TIMER)]
    assert offsets == [p.STATUS, p.CONTROL, p.TIMER]


@pytest.mark.parametrize("kind", range(8))
def test_only_s5_powers_off(world: World, kind: int) -> None:
    world.pm.pio_out(p.CONTROL, 2, kind << p.SLP_TYP_SHIFT)  # ACPICA writes the type first
    assert world.off == 0
    world.pm.pio_out(p.CONTROL, 2, kind << p.SLP_TYP_SHIFT | p.SLP_EN)
    assert world.off == (kind == p.S5_TYPE)
    assert world.pm.pio_in(p.CONTROL, 2) == kind << p.SLP_TYP_SHIFT | p.SCI_EN


def test_a_write_elsewhere_does_not_power_off(world: World) -> None:
    for offset in (0, 1, 2, 3, 8, 10):
        world.pm.pio_out(offset, 2 if offset % 2 == 0 else 1, 0xFFFF)
    world.pm.pio_out(p.CONTROL, 1, 0xFF)  # the low byte has no SLP_EN
    assert world.off == 0


def test_enable_reads_back_and_status_is_write_one_to_clear(world: World) -> None:
    """ACPICA enables an event, reads the enable back, and gives up when it differs."""
    world.pm.pio_out(p.ENABLE, 2, 0xFFFF)
    assert world.pm.pio_in(p.ENABLE, 2) == p.ENABLES
    world.pm.press_power_button()
    world.pm.press_power_button()
    assert world.pm.pio_in(p.STATUS, 2) == p.PWRBTN_STS
    world.pm.pio_out(p.STATUS, 2, p.GBL_STS)
    assert world.pm.pio_in(p.STATUS, 4) == p.PWRBTN_STS | p.ENABLES << 16
    world.pm.pio_out(p.STATUS, 4, p.PWRBTN_STS)  # clears, and disables all
    assert world.pm.pio_in(p.STATUS, 4) == 0


def test_byte_writes_touch_their_byte_only(world: World) -> None:
    world.pm.pio_out(p.ENABLE + 1, 1, 0x01)
    assert world.pm.pio_in(p.ENABLE, 2) == p.PWRBTN_STS
    world.pm.pio_out(p.ENABLE, 1, 0x20)
    assert world.pm.pio_in(p.ENABLE, 2) == p.PWRBTN_STS | p.GBL_STS


def test_power_button_raises_the_sci_when_enabled(world: World) -> None:
    world.pm.press_power_button()
    assert world.line == []
    world.pm.pio_out(p.ENABLE, 2, p.PWRBTN_STS)
    assert world.line == [True]
    world.pm.pio_out(p.STATUS, 2, p.PWRBTN_STS)
    assert world.line == [True, False]


def test_timer_counts_3579545_a_second_and_wraps_at_32_bits(world: World) -> None:
    world.now = 1_000_000_000
    assert world.pm.pio_in(p.TIMER, 4) == p.TIMER_HZ
    world.now = ((1 << 32) + 5) * 1_000_000_000 // p.TIMER_HZ + 1
    assert world.pm.pio_in(p.TIMER, 4) == 5
    assert world.pm.pio_in(p.TIMER, 1) == 5


def test_timer_carry_shows_in_status_until_cleared(world: World) -> None:
    world.now = (1 << 31) * 1_000_000_000 // p.TIMER_HZ + 1000
    assert world.pm.pio_in(p.STATUS, 2) == p.TMR_STS
    world.pm.pio_out(p.STATUS, 2, p.TMR_STS)
    assert world.pm.pio_in(p.STATUS, 2) == 0


def test_reset_clears_events_and_lowers_the_line(world: World) -> None:
    world.pm.pio_out(p.ENABLE, 2, p.PWRBTN_STS)
    world.pm.press_power_button()
    world.pm.reset()
    assert world.line == [True, False]
    assert world.pm.pio_in(p.STATUS, 4) == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_width_everywhere_stays_in_range(world: World, size: int) -> None:
    for offset in range(p.PORTS - size + 1):
        world.pm.pio_out(offset, size, (1 << 8 * size) - 1)
        assert 0 <= world.pm.pio_in(offset, size) < 1 << 8 * size
