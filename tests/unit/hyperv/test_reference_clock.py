"""Reference time and the TSC page: KVM's scale bit for bit, the sequence protocol, changes."""

from __future__ import annotations

import csv
import pathlib

import pytest
from fake_world import FakeWorld, make

from pyhv.hyperv.clock import ReferenceClock, time_scale, tsc_scale

FILE = pathlib.Path(__file__).parents[2] / "baseline" / "hyperv_tsc_scale.csv"
ROWS = list(csv.DictReader(ln for ln in FILE.read_text().splitlines() if ln[0] != "#"))
PAGE = 0x25000
TIME_REF_COUNT, REFERENCE_TSC, EMULATION_CONTROL = 0x40000020, 0x40000021, 0x40000107


@pytest.fixture
def ready() -> tuple[ReferenceClock, FakeWorld]:
    world = FakeWorld()
    world.khz, world.tsc_base = 2_596_129, 123_456_789
    return ReferenceClock(world), world


def page(world: FakeWorld) -> tuple[int, int, int, int]:
    """Return sequence, reserved, scale, signed offset."""
    raw = world.memory.read(PAGE, 24)
    sequence, reserved, scale = (
        int.from_bytes(raw[at : at + n], "little") for at, n in ((0, 4), (4, 4), (8, 8))
    )
    return sequence, reserved, scale, int.from_bytes(raw[16:24], "little", signed=True)


def guest_time(world: FakeWorld) -> int:
    """Compute the time as a guest does, from the page and the TSC."""
    _, _, scale, offset = page(world)
    return (world.clock_pair()[0] * scale >> 64) + offset


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["khz"])
def test_scale(row: dict[str, str]) -> None:
    khz = int(row["khz"])
    assert tsc_scale(khz) == int(row["scale"], 16)
    if row["mul"]:
        assert time_scale(10**9, khz * 1000) == (int(row["shift"]), int(row["mul"], 16))


@pytest.mark.parametrize("khz", [0, -1, 1, 100, 9_000])
def test_rates_without_a_scale(khz: int) -> None:
    """Below 10 MHz a tick of 100 ns is less than one TSC count."""
    assert tsc_scale(khz) is None


@pytest.mark.parametrize("khz", [11_000, 4_000_000_000])
def test_rates_at_the_edges_have_a_scale(khz: int) -> None:
    assert tsc_scale(khz) == pytest.approx((10**7 << 64) / (khz * 1000), rel=1e-6)


def test_without_a_page_it_is_kvmclock(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    assert clock.ticks() == world.ns // 100
    world.ns += 12_345
    assert clock.ticks() == world.ns // 100


def test_page_and_msr_agree(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    sequence, reserved, scale, _ = page(world)
    assert (sequence, reserved, scale) == (1, 0, tsc_scale(world.khz))
    for _ in range(50):
        world.ns += 777_777
        assert clock.ticks() == guest_time(world)
        assert abs(clock.ticks() - world.ns // 100) <= 1


def test_offset_is_as_kvm_computes_it(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    tsc, ns = world.clock_pair()
    assert page(world)[3] == ns // 100 - (tsc * tsc_scale(world.khz) >> 64)
    assert page(world)[3] < 0, "the TSC started before the partition"


@pytest.mark.parametrize(
    ("old", "new"), [(0, 1), (1, 2), (0xFFFFFFFD, 0xFFFFFFFE), (0xFFFFFFFE, 1), (0xFFFFFFFF, 1)]
)
def test_sequence_skips_0_and_ffffffff(
    ready: tuple[ReferenceClock, FakeWorld], old: int, new: int
) -> None:
    clock, world = ready
    world.memory.write_u32(PAGE, old)
    clock.write_reference_tsc(PAGE | 1)
    assert page(world)[0] == new


def test_sequence_is_0_while_the_page_changes(
    ready: tuple[ReferenceClock, FakeWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    seen = []
    pair = world.clock_pair
    monkeypatch.setattr(world, "clock_pair", lambda: seen.append(page(world)[0]) or pair())
    clock.refresh()
    assert seen == [0]
    assert page(world)[0] == 2


def test_only_the_first_24_bytes_are_written(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    world.memory.write(PAGE, bytes(4) + b"\xee" * 4092)
    clock.write_reference_tsc(PAGE | 1)
    assert world.memory.read(PAGE + 24, 4072) == b"\xee" * 4072


def test_unstable_tsc_leaves_sequence_0(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    world.stable = False
    world.memory.write_u32(PAGE, 7)
    clock.write_reference_tsc(PAGE | 1)
    assert page(world)[0] == 0
    assert clock.ticks() == world.ns // 100
    world.stable = True
    clock.refresh()  # as KVM: a broken page stays so until the next WRMSR
    assert page(world)[0] == 0
    clock.write_reference_tsc(PAGE | 1)
    assert page(world)[0] == 1


def test_tsc_going_bad_is_noticed_when_the_msr_is_read(
    ready: tuple[ReferenceClock, FakeWorld],
) -> None:
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    world.stable = False
    assert clock.ticks() == world.ns // 100
    assert page(world)[0] == 0


@pytest.mark.parametrize("value", [0x8000000001, (1 << 64) - 1], ids=hex)
def test_a_bad_address_is_no_fault(ready: tuple[ReferenceClock, FakeWorld], value: int) -> None:
    clock, world = ready
    clock.write_reference_tsc(value)
    assert clock.reference_tsc == value
    assert clock.ticks() == world.ns // 100
    clock.reset()


def test_clock_change(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    """KVM_SET_CLOCK: the page gets a new offset and sequence, the time of both stays one."""
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    world.tsc_base += 10**9
    clock.refresh()
    assert page(world)[0] == 2
    assert clock.ticks() == guest_time(world)
    assert abs(clock.ticks() - world.ns // 100) <= 1


def test_tsc_emulation_freezes_the_page_but_not_for_a_new_one() -> None:
    partition, world = make()
    partition.write_msr(0, REFERENCE_TSC, PAGE | 1)
    partition.write_msr(1, EMULATION_CONTROL, 1)
    before = page(world)
    world.tsc_base += 10**9
    partition.refresh()
    assert page(world) == before
    partition.write_msr(0, REFERENCE_TSC, PAGE | 1)
    assert page(world) != before


def test_disabled_page_keeps_its_content(ready: tuple[ReferenceClock, FakeWorld]) -> None:
    clock, world = ready
    clock.write_reference_tsc(PAGE | 1)
    before = page(world)
    clock.write_reference_tsc(PAGE)
    assert page(world) == before
    clock.refresh()
    assert page(world) == before
    clock.write_reference_tsc(PAGE | 1)
    assert page(world)[0] == 2


def test_reset_zeroes_the_sequence_and_time_runs_on() -> None:
    partition, world = make()
    partition.write_msr(0, REFERENCE_TSC, PAGE | 1)
    before = partition.read_msr(0, TIME_REF_COUNT)
    partition.reset()
    assert page(world)[0] == 0
    assert partition.read_msr(0, REFERENCE_TSC) == 0
    world.ns += 1000
    assert partition.read_msr(0, TIME_REF_COUNT) >= before
