"""Synthetic timers with a clock that moves when told: modes, lost ticks, pending messages."""

from __future__ import annotations

import struct
import threading

import pytest
from fake_world import EVERYTHING, FakeWorld, make

from pyhv.errors import GuestFault
from pyhv.hyperv.partition import Partition
from pyhv.hyperv.stimer import MIN_PERIOD_TICKS

SIM = 0x20000
NOW = 10_000  # FakeWorld starts there, in ticks
ENABLE, PERIODIC, LAZY, AUTO, DIRECT = 1, 2, 4, 8, 1 << 12
SINT2, SINT3 = 2 << 16, 3 << 16
VECTOR = 0x50
CONFIG, COUNT = 0x400000B0, 0x400000B1


def direct(vector: int) -> int:
    return DIRECT | vector << 4


@pytest.fixture
def ready() -> tuple[Partition, FakeWorld]:
    partition, world = make()
    synic = partition.vps[0].synic
    synic.write_control(1)
    synic.write_simp(SIM | 1)
    synic.write_sint(2, VECTOR)
    return partition, world


def start(partition: Partition, config: int, count: int, index: int = 0) -> None:
    """Write _CONFIG, then _COUNT, as a guest does."""
    partition.write_msr(0, CONFIG + 2 * index, config)
    partition.write_msr(0, COUNT + 2 * index, count)


def message(world: FakeWorld, sint: int = 2) -> tuple[int, int, int, int, int] | None:
    """Take the message out of the slot: index, expiration, delivery; size and flags."""
    kind, size, flags = struct.unpack("<IBB", world.memory.read(SIM + sint * 256, 6))
    if kind == 0:
        return None
    assert kind == 0x80000010
    index, zero, expiration, delivery = struct.unpack(
        "<IIQQ", world.memory.read(SIM + sint * 256 + 16, 24)
    )
    assert zero == 0
    world.memory.write_u32(SIM + sint * 256, 0)
    return index, expiration, delivery, size, flags


@pytest.mark.parametrize("index", range(4))
def test_one_shot_message(ready: tuple[Partition, FakeWorld], index: int) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, NOW + 500, index)
    assert world.armed == {(0, index): NOW + 500}
    world.advance(partition, 499)
    assert not world.interrupts
    world.advance(partition, 3)
    assert message(world) == (index, NOW + 500, NOW + 502, 24, 0)
    assert world.interrupts == [(0, VECTOR)]
    assert partition.read_msr(0, CONFIG + 2 * index) == AUTO | SINT2, "enable is gone"
    assert partition.read_msr(0, COUNT + 2 * index) == NOW + 500, "count stays"
    assert not world.armed


@pytest.mark.parametrize("count", [1, NOW - 1, NOW])
def test_a_count_in_the_past_expires_at_once(
    ready: tuple[Partition, FakeWorld], count: int
) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, count)
    assert message(world)[:2] == (0, count)
    assert not world.armed


def test_one_shot_direct(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    start(partition, AUTO | direct(0xEF), NOW + 10)
    world.advance(partition, 10)
    assert world.interrupts == [(0, 0xEF)]
    assert message(world) is None
    start(partition, AUTO | direct(0x05), NOW)  # KVM does not check the vector
    assert world.interrupts == [(0, 0xEF), (0, 0x05)]


def test_one_shot_again_from_the_handler(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    partition.write_msr(0, CONFIG, AUTO | direct(0xEF))
    for tick in range(1, 6):
        partition.write_msr(0, COUNT, NOW + 100 * tick)
        world.advance(partition, 100)
        assert len(world.interrupts) == tick


def test_periodic_keeps_its_phase_and_loses_what_was_missed(
    ready: tuple[Partition, FakeWorld],
) -> None:
    partition, world = ready
    period = 2 * MIN_PERIOD_TICKS
    start(partition, AUTO | PERIODIC | SINT2, period)
    assert world.armed == {(0, 0): NOW + period}
    world.advance(partition, period + 3)
    assert message(world)[:3] == (0, NOW + period, NOW + period + 3)
    assert world.armed == {(0, 0): NOW + 2 * period}
    world.advance(partition, 3 * period)  # two ticks go by unseen
    assert message(world)[:2] == (0, NOW + 2 * period)
    assert world.armed == {(0, 0): NOW + 5 * period}
    assert partition.read_msr(0, CONFIG) & ENABLE


def test_periodic_tick_for_a_full_slot_is_dropped_without_a_trace(
    ready: tuple[Partition, FakeWorld],
) -> None:
    partition, world = ready
    start(partition, AUTO | PERIODIC | SINT2, 5000)
    world.advance(partition, 5000)
    world.advance(partition, 5000)
    assert world.interrupts == [(0, VECTOR)]
    assert message(world)[1:] == (NOW + 5000, NOW + 5000, 24, 0), "the first, no pending flag"
    assert not partition.vps[0].synic.waiting
    world.advance(partition, 5000)
    assert message(world)[1] == NOW + 15000


def test_a_tiny_period_is_bounded(ready: tuple[Partition, FakeWorld]) -> None:
    """A guest cannot make the timer thread spin."""
    partition, world = ready
    start(partition, AUTO | PERIODIC | direct(0xEF), 1)
    assert world.armed == {(0, 0): NOW + MIN_PERIOD_TICKS}
    world.advance(partition, MIN_PERIOD_TICKS)
    assert world.interrupts == [(0, 0xEF)]
    assert world.armed == {(0, 0): NOW + 2 * MIN_PERIOD_TICKS}


@pytest.mark.parametrize("flags", [AUTO | PERIODIC | SINT2, AUTO | SINT2])
def test_a_huge_count_is_no_storm(ready: tuple[Partition, FakeWorld], flags: int) -> None:
    partition, world = ready
    start(partition, flags, (1 << 64) - 1)
    assert world.armed[0, 0] >= (1 << 64) - 1
    assert not world.interrupts


def test_full_slot_leaves_a_one_shot_pending(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, NOW, 0)
    start(partition, AUTO | SINT2, NOW, 1)
    assert partition.read_msr(0, CONFIG + 2) == ENABLE | AUTO | SINT2
    partition.write_msr(0, 0x40000084, 0)  # EOM with the slot still full
    assert partition.vps[0].stimers[1].pending
    assert message(world)[0] == 0
    world.advance(partition, 7)
    partition.write_msr(0, 0x40000084, 0)
    assert message(world) == (1, NOW, NOW + 7, 24, 0)
    assert partition.read_msr(0, CONFIG + 2) == AUTO | SINT2
    assert world.interrupts == [(0, VECTOR)] * 2


def test_timers_go_before_queued_messages(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    synic = partition.vps[0].synic
    synic.post_message(2, 1, b"first")
    synic.post_message(2, 1, b"second")
    start(partition, AUTO | SINT2, NOW)
    world.memory.write_u32(SIM + 0x200, 0)
    synic.end_of_message()
    assert message(world)[:2] == (0, NOW)


@pytest.mark.parametrize("periodic", [0, PERIODIC])
def test_masked_sint_leaves_the_timer_undelivered(
    ready: tuple[Partition, FakeWorld], periodic: int
) -> None:
    """The message is there, the interrupt is not: KVM tries again at the next acknowledge."""
    partition, world = ready
    partition.vps[0].synic.write_sint(2, 0x10000 | VECTOR)
    start(partition, AUTO | SINT2 | periodic, 5000 if periodic else NOW)
    world.advance(partition, 5000)
    assert message(world) is not None
    assert partition.vps[0].stimers[0].pending
    assert not world.armed
    partition.vps[0].synic.write_sint(2, VECTOR)
    partition.write_msr(0, 0x40000084, 0)
    assert message(world) is not None
    assert world.interrupts == [(0, VECTOR)]
    assert bool(world.armed) == bool(periodic)


@pytest.mark.parametrize("simp", [SIM, 0x8000000001], ids=["off", "not ram"])
@pytest.mark.parametrize("periodic", [0, PERIODIC])
def test_no_message_page(ready: tuple[Partition, FakeWorld], simp: int, periodic: int) -> None:
    partition, world = ready
    partition.write_msr(0, 0x40000083, simp)
    start(partition, AUTO | SINT2 | periodic, 5000)
    world.advance(partition, 5000)
    assert partition.vps[0].stimers[0].pending
    partition.write_msr(0, 0x40000083, SIM | 1)
    partition.write_msr(0, 0x40000084, 0)
    assert message(world)[0] == 0


def test_direct_without_apic_stays_pending_for_ever(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    world.apic_enabled = False
    start(partition, AUTO | direct(0xEF), NOW)
    world.apic_enabled = True
    partition.write_msr(0, 0x40000084, 0)
    assert not world.interrupts
    assert partition.read_msr(0, CONFIG) & ENABLE
    partition.write_msr(0, COUNT, NOW)  # only a write starts it again
    assert world.interrupts == [(0, 0xEF)]


def test_auto_eoi_sint(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    partition.write_msr(0, 0x40000093, 0x20060)
    start(partition, AUTO | SINT3, NOW)
    assert world.auto_eois == [(0, 0x60)]
    assert not world.interrupts
    assert partition.read_msr(0, CONFIG) == AUTO | SINT3


def test_enable_rules(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    partition.write_msr(0, CONFIG, ENABLE)  # first enable, SINTx = 0, no count: idle
    assert partition.read_msr(0, CONFIG) == ENABLE
    assert not world.armed
    partition.write_msr(0, CONFIG, ENABLE)  # enabled before: SINTx = 0 takes it away
    assert partition.read_msr(0, CONFIG) == 0
    partition.write_msr(0, CONFIG, ENABLE | SINT2)
    partition.write_msr(0, CONFIG, ENABLE | direct(0xEF))  # direct mode has no SINTx
    assert partition.read_msr(0, CONFIG) & ENABLE
    partition.write_msr(0, COUNT, NOW + 5)
    assert world.armed
    partition.write_msr(0, COUNT, 0)  # 0 disables
    assert not partition.read_msr(0, CONFIG) & ENABLE
    assert not world.armed
    partition.write_msr(0, COUNT, NOW + 5)  # no auto-enable
    assert not world.armed
    partition.write_msr(0, CONFIG, ENABLE | SINT2)  # count was kept
    assert world.armed == {(0, 0): NOW + 5}


def test_disable_cancels(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, NOW + 100)
    partition.write_msr(0, CONFIG, AUTO | SINT2)
    assert not world.armed
    partition.vps[0].stimers[0].expire()  # was on its way
    assert not world.interrupts


def test_expiries_too_early_or_stale_do_no_harm(ready: tuple[Partition, FakeWorld]) -> None:
    """CLOCK_MONOTONIC is slewed, reference time is not: the timer thread may come early."""
    partition, world = ready
    timer = partition.vps[0].stimers[0]
    timer.expire()
    start(partition, AUTO | SINT2, NOW + 100)
    world.armed.clear()
    timer.expire()
    assert world.armed == {(0, 0): NOW + 100}
    start(partition, AUTO | SINT2, NOW + 900)  # moved while an expiry was on its way
    world.ns += 10_000
    timer.expire()
    assert world.armed == {(0, 0): NOW + 900}
    assert not world.interrupts


def test_a_stale_expiry_does_not_retry_a_pending_message(
    ready: tuple[Partition, FakeWorld],
) -> None:
    """Only an acknowledge does."""
    partition, world = ready
    partition.vps[0].synic.write_sint(2, 0x10000 | VECTOR)
    start(partition, AUTO | SINT2, NOW)
    assert message(world) is not None
    partition.vps[0].stimers[0].expire()
    assert message(world) is None


def test_timers_and_vps_are_apart(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, NOW + 10, 0)
    start(partition, AUTO | SINT2, NOW + 20, 3)
    partition.write_msr(1, CONFIG, AUTO | direct(0x40))
    partition.write_msr(1, COUNT, NOW + 30)
    assert world.armed == {(0, 0): NOW + 10, (0, 3): NOW + 20, (1, 0): NOW + 30}
    world.advance(partition, 10)
    assert set(world.armed) == {(0, 3), (1, 0)}


def test_direct_mode_not_shown_under_enforce() -> None:
    hidden = EVERYTHING._replace(leaf3_edx=EVERYTHING.leaf3_edx & ~(1 << 19))
    partition, _ = make(hidden)
    partition.write_msr(0, CONFIG, direct(0xEF))
    partition, _ = make(hidden._replace(enforce=True))
    with pytest.raises(GuestFault):
        partition.write_msr(0, CONFIG, direct(0xEF))
    partition.write_msr(0, CONFIG, AUTO | SINT2)


def test_reset_disarms(ready: tuple[Partition, FakeWorld]) -> None:
    partition, world = ready
    start(partition, AUTO | SINT2, NOW + 10)
    partition.reset()
    assert not world.armed
    assert partition.read_msr(0, CONFIG) == partition.read_msr(0, COUNT) == 0


def test_who_wakes_up_at_once_reads_a_cleared_enable(ready: tuple[Partition, FakeWorld]) -> None:
    """KVM clears enable before any guest code runs; here the interrupt is out a moment earlier."""
    partition, world = ready
    seen: list[int] = []
    readers: list[threading.Thread] = []

    def interrupt(vp_index: int, vector: int) -> bool:
        reader = threading.Thread(target=lambda: seen.append(partition.read_msr(0, CONFIG)))
        readers.append(reader)
        reader.start()
        reader.join(0.05)
        return True

    world.interrupt = interrupt  # type: ignore[method-assign]
    start(partition, AUTO | direct(VECTOR), NOW + 500)
    world.ns += 50_000
    partition.vps[0].stimers[0].expire()
    readers[0].join()
    assert seen == [AUTO | direct(VECTOR)]
