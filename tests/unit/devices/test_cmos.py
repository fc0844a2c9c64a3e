"""The clock chip: time in all four formats, setting it, memory sizes, interrupts, no spinning."""

from __future__ import annotations

import calendar
from collections.abc import Callable

import pytest

from pyhv.devices import cmos as c
from pyhv.memory import GuestMemory

NOON = calendar.timegm((2026, 11, 26, 12, 34, 56))  # a Thursday


class World:
    def __init__(self, size: int = 64 << 20, vp_count: int = 2) -> None:
        self.now = NOON + 0.5
        self.line: list[bool] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        memory = GuestMemory(size)
        self.chip = c.Cmos(
            memory, vp_count, self.line.append, lambda s, f: self.timers.append((s, f)), self.clock
        )
        memory.close()

    def clock(self) -> float:
        return self.now

    def get(self, index: int) -> int:
        self.chip.pio_out(0, 1, index)
        return self.chip.pio_in(1, 1)

    def put(self, index: int, value: int) -> None:
        self.chip.pio_out(0, 1, index)
        self.chip.pio_out(1, 1, value)

    def clock_bytes(self) -> list[int]:
        return [self.get(index) for index in c.CLOCK_BYTES]

    def fire(self) -> None:
        delay, function = self.timers.pop(0)
        self.now += delay
        function()


@pytest.fixture
def world() -> World:
    return World()


FORMATS = [
    (c.B_24H, 12, [0x56, 0x34, 0x12, 5, 0x26, 0x11, 0x26, 0x20]),
    (c.B_24H | c.B_BINARY, 12, [56, 34, 12, 5, 26, 11, 26, 20]),
    (0, 12, [0x56, 0x34, 0x92, 5, 0x26, 0x11, 0x26, 0x20]),
    (c.B_BINARY, 12, [56, 34, 0x8C, 5, 26, 11, 26, 20]),
    (0, 0, [0x56, 0x34, 0x12, 5, 0x26, 0x11, 0x26, 0x20]),
    (0, 13, [0x56, 0x34, 0x81, 5, 0x26, 0x11, 0x26, 0x20]),
    (0, 11, [0x56, 0x34, 0x11, 5, 0x26, 0x11, 0x26, 0x20]),
    (c.B_BINARY, 23, [56, 34, 0x8B, 5, 26, 11, 26, 20]),
]


@pytest.mark.parametrize(("mode", "hour", "expected"), FORMATS)
def test_time_reads_in_every_format(
    world: World, mode: int, hour: int, expected: list[int]
) -> None:
    world.now += (hour - 12) * 3600
    world.put(c.REG_B, mode)
    assert world.clock_bytes() == expected


@pytest.mark.parametrize(("mode", "hour", "values"), FORMATS)
def test_time_is_set_in_every_format(world: World, mode: int, hour: int, values: list[int]) -> None:
    """As Linux does: SET, the bytes, SET off; then the clock runs on from there."""
    world.now = calendar.timegm((1999, 1, 2, 3, 4, 5)) + 0.25
    world.put(c.REG_B, mode | c.B_SET)
    for index, value in zip(c.CLOCK_BYTES, values, strict=True):
        world.put(index, value)
    world.now += 5  # stands still meanwhile
    assert world.clock_bytes() == values
    world.put(c.REG_B, mode)
    assert world.clock_bytes() == values
    world.now += 1
    assert world.get(c.SECONDS) == (0x57 if not mode & c.B_BINARY else 57)


def test_a_lone_register_write_moves_the_clock(world: World) -> None:
    world.put(c.MINUTES, 0x40)
    assert world.clock_bytes()[:3] == [0x56, 0x40, 0x12]


@pytest.mark.parametrize("index", c.CLOCK_BYTES)
@pytest.mark.parametrize("value", [0, 0x0A, 0x99, 0xFF])
@pytest.mark.parametrize("mode", [0, c.B_24H, c.B_BINARY, c.B_24H | c.B_BINARY])
def test_nonsense_dates_are_harmless(world: World, index: int, value: int, mode: int) -> None:
    world.put(c.REG_B, mode)
    for _ in range(3):
        world.put(index, value)
        assert all(0 <= byte < 256 for byte in world.clock_bytes())


def test_update_in_progress_comes_and_goes(world: World) -> None:
    """A guest that waits for the edge sees it; one that waits for quiet goes on at once."""
    assert world.get(c.REG_A) == c.A_DEFAULT
    world.now = NOON + 1 - c.UPDATE_WARNING / 2
    assert world.get(c.REG_A) == c.A_DEFAULT | c.A_UIP
    world.now = NOON + 1
    assert world.get(c.REG_A) == c.A_DEFAULT
    world.put(c.REG_A, 0xFF)
    assert world.get(c.REG_A) == 0x7F


def test_registers_c_and_d_are_read_only(world: World) -> None:
    world.put(c.REG_D, 0)
    world.put(c.REG_C, 0xFF)
    assert (world.get(c.REG_D), world.get(c.REG_C)) == (c.D_VALID, 0)


def test_index_port_masks_nmi_and_does_not_read_back(world: World) -> None:
    world.chip.pio_out(0, 1, 0x80 | c.REG_D)
    assert world.chip.nmi_masked
    assert world.chip.pio_in(1, 1) == c.D_VALID
    assert world.chip.pio_in(0, 1) == 0xFF
    world.chip.pio_out(0, 2, 0x55_40)  # a word: index, then data
    assert (world.get(0x40), world.chip.nmi_masked) == (0x55, False)


@pytest.mark.parametrize(
    ("size", "above_1m", "above_16m", "above_4g"),
    [
        (1 << 20, 0, 0, 0),
        (8 << 20, 7 * 1024, 0, 0),
        (64 << 20, 63 * 1024, 48 * 16, 0),
        (3 << 30, 0xFFFF, 3 * 1024 * 16 - 256, 0),
        (5 << 30, 0xFFFF, 3 * 1024 * 16 - 256, 2 * 1024 * 16),
    ],
)
def test_memory_sizes(size: int, above_1m: int, above_16m: int, above_4g: int) -> None:
    world = World(size, vp_count=4)

    def word(index: int, count: int = 2) -> int:
        return int.from_bytes(bytes(world.get(index + i) for i in range(count)), "little")

    assert (word(0x15), word(0x17), word(0x30)) == (640, above_1m, above_1m)
    assert (word(0x34), word(0x5B, 3), world.get(0x5F)) == (above_16m, above_4g, 3)


def test_update_interrupt_comes_each_second_until_disabled(world: World) -> None:
    """util-linux' hwclock and Linux' rtc-cmos wait for it."""
    world.put(c.REG_B, c.B_24H | c.C_UPDATE)
    world.put(c.REG_B, c.B_24H | c.C_UPDATE)
    assert len(world.timers) == 1
    assert world.timers[0][0] == pytest.approx(0.5)
    world.fire()
    assert world.line == [True]
    assert world.get(c.REG_C) & (c.C_IRQ | c.C_UPDATE) == c.C_IRQ | c.C_UPDATE
    assert world.line == [True, False]
    assert world.get(c.REG_C) == 0
    world.put(c.REG_B, c.B_24H)
    world.fire()
    assert world.line == [True, False]
    assert world.timers == []


def test_alarm_rings_at_its_time_only(world: World) -> None:
    for index, value in ((c.SECONDS_ALARM, 0x58), (c.MINUTES_ALARM, 0x34), (c.HOURS_ALARM, 0xFF)):
        world.put(index, value)
    world.put(c.REG_B, c.B_24H | c.C_ALARM)
    world.fire()
    assert world.line == []
    world.fire()
    assert world.line == [True]
    assert world.get(c.REG_C) & c.C_ALARM


def test_periodic_interrupt_is_not_faster_than_the_floor(world: World) -> None:
    world.put(c.REG_A, 0x23)  # 8192 Hz asked
    world.put(c.REG_B, c.B_24H | c.C_PERIODIC)
    assert world.timers[0][0] == pytest.approx(c.PERIOD_FLOOR)
    world.fire()
    assert world.get(c.REG_C) == c.C_IRQ | c.C_PERIODIC


def test_reset_keeps_bytes_and_time_but_not_interrupts(world: World) -> None:
    world.put(0x40, 0x77)
    world.put(c.REG_B, c.B_24H | c.C_UPDATE)
    world.fire()
    world.chip.reset()
    assert world.line[-1] is False
    assert (world.get(0x40), world.get(c.REG_C), world.get(c.REG_B)) == (0x77, 0, c.B_24H)


def test_every_index_takes_every_kind_of_access(world: World) -> None:
    for index in range(256):
        for value in (0, 0xFF):
            world.put(index, value)
            assert 0 <= world.get(index) <= 0xFF
            assert 0 <= world.chip.pio_in(0, 2) <= 0xFFFF
