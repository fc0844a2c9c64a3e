"""Message slots, queues, event flags, SINT vectors: one SynIC, and a guest played by the test."""

from __future__ import annotations

import struct
import threading
import time

import pytest
from fake_world import FakeWorld, make

from pyhv.errors import GuestFault
from pyhv.hyperv.synic import Synic, fill_slot
from pyhv.hyperv.tlfs import HV_SYNIC_SINT_AUTO_EOI, HV_SYNIC_SINT_MASKED
from pyhv.memory import GuestMemory

SIM, SIEF = 0x20000, 0x21000
VP = 1
VECTOR = 0x50
NOT_RAM = 0x8000000000


def slot(n: int) -> int:
    return SIM + n * 256


@pytest.fixture
def ready() -> tuple[Synic, FakeWorld]:
    """A SynIC as an OS sets it up; SINT2 has VECTOR."""
    partition, world = make()
    synic = partition.vps[VP].synic
    synic.write_control(1)
    synic.write_simp(SIM | 1)
    synic.write_siefp(SIEF | 1)
    synic.write_sint(2, VECTOR)
    return synic, world


def message(world: FakeWorld, n: int = 2) -> tuple[int, int, int, int, bytes]:
    """Return type, size, flags, sender, payload of slot *n*."""
    kind, size, flags, _, sender = struct.unpack("<IBBHQ", world.memory.read(slot(n), 16))
    return kind, size, flags, sender, world.memory.read(slot(n) + 16, size)


# The slot


def test_a_message_is_whole() -> None:
    memory = GuestMemory(1 << 20)
    memory.write(slot(3), b"\0" * 4 + b"\xff" * 252)
    assert fill_slot(memory, slot(3), 0x80000010, b"payload")
    assert memory.read(slot(3), 16) == bytes.fromhex("10000080 07000000 0000000000000000")
    assert memory.read(slot(3) + 16, 8) == b"payload\xff"  # the rest of the slot is not touched


def test_a_full_slot_gets_the_pending_flag_and_keeps_its_message() -> None:
    memory = GuestMemory(1 << 20)
    assert fill_slot(memory, slot(0), 1, b"first")
    before = memory.read(slot(0), 256)
    assert not fill_slot(memory, slot(0), 1, b"other")
    after = memory.read(slot(0), 256)
    assert after[5] == 1
    assert after[:5] + after[6:] == before[:5] + before[6:]


def test_a_slot_outside_ram_takes_nothing() -> None:
    assert not fill_slot(GuestMemory(1 << 20), NOT_RAM, 1, b"")


def test_slot_emptied_while_we_set_the_pending_flag() -> None:
    """The guest tested the flag before it was set, so no EOM will come: look again."""

    class Racing(GuestMemory):
        def atomic_or(self, gpa: int, mask: int) -> None:
            super().atomic_or(gpa, mask)
            self.write_u32(slot(0), 0)

    memory = Racing(1 << 20)
    assert fill_slot(memory, slot(0), 1, b"first")
    assert fill_slot(memory, slot(0), 2, b"second")
    assert memory.read(slot(0), 6) == bytes.fromhex("02000000 06 00")
    assert memory.read(slot(0) + 16, 6) == b"second"


def test_the_type_is_stored_last_and_at_once() -> None:
    """Until then a guest that looks sees an empty slot."""
    stores = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, item):
            return 0

        def __setitem__(self, item, value) -> None:
            stores.append((self.name, item))

    class SpyMemory:
        bytes, u32, u64 = Spy("bytes"), Spy("u32"), Spy("u64")

        def offset(self, gpa: int, length: int) -> int:
            return gpa

    fill_slot(SpyMemory(), 0x1000, 1, b"x" * 240)
    assert stores[-1] == ("u32", 0x1000 >> 2)
    assert ("u32", 0x1000 >> 2) not in stores[:-1]
    assert {name for name, _ in stores} == {"bytes", "u32", "u64"}


# Messages


def test_post_message(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.post_message(2, 1, b"hello")
    assert message(world) == (1, 5, 0, 0, b"hello")
    assert world.interrupts == [(VP, VECTOR)]


def test_messages_queue_per_sint_and_go_out_at_eom(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.write_sint(4, 0x60)
    for text in (b"one", b"two", b"three"):
        synic.post_message(2, 1, text)
    synic.post_message(4, 1, b"other slot")
    assert world.interrupts == [(VP, VECTOR), (VP, 0x60)]
    for text, more in ((b"one", 1), (b"two", 1), (b"three", 0)):
        assert message(world) == (1, len(text), more, 0, text)
        world.memory.write_u32(slot(2), 0)
        synic.end_of_message(0)
    assert message(world)[0] == 0
    assert not synic.waiting
    assert world.interrupts.count((VP, VECTOR)) == 3


def test_a_later_post_does_not_overtake(ready: tuple[Synic, FakeWorld]) -> None:
    """The slot is free but an older message waits (the guest has not written EOM yet)."""
    synic, world = ready
    synic.post_message(2, 1, b"one")
    synic.post_message(2, 1, b"two")
    world.memory.write_u32(slot(2), 0)
    synic.post_message(2, 1, b"three")
    assert message(world)[4] == b"two"
    assert message(world)[2] == 1  # and the next one asks for its EOM


def test_eom_too_early_changes_nothing(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.post_message(2, 1, b"one")
    synic.post_message(2, 1, b"two")
    synic.end_of_message()
    assert message(world)[4] == b"one"


def test_eoi_by_msr_is_an_acknowledge_too(ready: tuple[Synic, FakeWorld]) -> None:
    partition, world = make()
    synic = partition.vps[0].synic
    synic.write_simp(SIM | 1)
    synic.post_message(2, 1, b"one")
    synic.post_message(2, 1, b"two")
    world.memory.write_u32(slot(2), 0)
    partition.write_msr(0, 0x40000070, 0)
    assert message(world)[4] == b"two"


def test_masked_sint_message_counts_as_delivered(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.write_sint(2, HV_SYNIC_SINT_MASKED | VECTOR)
    synic.post_message(2, 1, b"quiet")
    assert message(world)[4] == b"quiet"
    assert not world.interrupts
    assert not synic.waiting


def test_messages_wait_for_the_page() -> None:
    partition, world = make()
    synic = partition.vps[0].synic
    synic.post_message(2, 1, b"early")
    synic.write_simp(NOT_RAM | 1)
    assert synic.waiting
    synic.write_simp(SIM | 1)
    assert message(world)[4] == b"early"
    assert not synic.waiting


def test_scontrol_does_not_gate_messages(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.write_control(0)
    synic.post_message(2, 1, b"x")
    assert message(world)[0] == 1


def test_a_message_too_long_is_our_own_error(ready: tuple[Synic, FakeWorld]) -> None:
    with pytest.raises(ValueError, match="240"):
        ready[0].post_message(2, 1, b"x" * 241)
    ready[0].post_message(2, 1, b"x" * 240)


def test_pages_are_overlays() -> None:
    """Empty at first, they keep what is theirs, and the RAM comes back; QEMU's are the same."""
    partition, world = make()
    synic = partition.vps[0].synic
    for write, gpa in ((synic.write_simp, SIM), (synic.write_siefp, SIEF)):
        world.memory.write(gpa, b"\xff" * 4096)
        write(gpa)  # address without the enable bit
        assert world.memory.read(gpa, 1) == b"\xff"
        write(gpa | 1)
        assert world.memory.read(gpa, 4096) == bytes(4096)
        world.memory.write(gpa, b"\x01")
        write(gpa | 3)  # still the same page
        assert world.memory.read(gpa, 1) == b"\x01"
        write(gpa)
        assert world.memory.read(gpa, 4096) == b"\xff" * 4096
        write(gpa + 0x4000 | 1)
        assert world.memory.read(gpa + 0x4000, 2) == b"\x01\x00"
    synic.reset()
    synic.write_simp(SIM | 1)
    assert world.memory.read(SIM, 1) == b"\x00", "a reset forgets"


def test_no_message_is_lost_between_two_threads(ready: tuple[Synic, FakeWorld]) -> None:
    """The guest's protocol against the poster's, as fast as both can."""
    synic, world = ready
    count, got, u32 = 2000, [], world.memory.u32
    word = slot(2) >> 2
    flags = slot(2) + 5

    def guest() -> None:
        deadline = time.monotonic() + 8
        while len(got) < count and time.monotonic() < deadline:
            if u32[word]:
                got.append(int.from_bytes(world.memory.read(slot(2) + 16, 4), "little"))
                u32[word] = 0
                if world.memory.bytes[flags] & 1:
                    synic.end_of_message(0)

    thread = threading.Thread(target=guest)
    thread.start()
    for number in range(count):
        synic.post_message(2, 1, number.to_bytes(4, "little"))
    thread.join(10)
    assert got == list(range(count))


# SINTs


@pytest.mark.parametrize("vector", [0, 1, 15])
def test_low_vectors(ready: tuple[Synic, FakeWorld], vector: int) -> None:
    synic, _ = ready
    with pytest.raises(GuestFault):
        synic.write_sint(5, vector)
    assert synic.sints[5] == HV_SYNIC_SINT_MASKED
    synic.write_sint(5, HV_SYNIC_SINT_MASKED | vector)


def test_auto_eoi_belongs_to_the_vector(ready: tuple[Synic, FakeWorld]) -> None:
    """One unmasked SINT with the bit is enough for all that share the vector."""
    synic, world = ready
    synic.write_sint(3, HV_SYNIC_SINT_AUTO_EOI | VECTOR)
    assert synic.raise_sint(2)
    assert world.auto_eois == [(VP, VECTOR)]
    synic.write_sint(3, HV_SYNIC_SINT_MASKED | HV_SYNIC_SINT_AUTO_EOI | VECTOR)
    assert synic.raise_sint(2)
    assert world.interrupts == [(VP, VECTOR)]


# Events


def test_event_flags(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    for flag in (0, 7, 8, 31, 32, 2047):
        assert synic.set_event(2, flag)
        assert world.memory.read(SIEF + 0x200 + (flag >> 3), 1)[0] & 1 << (flag & 7)
    assert len(world.interrupts) == 6
    assert synic.set_event(2, 2047)
    assert len(world.interrupts) == 6, "a flag still set raises no second interrupt"
    assert world.memory.read(SIEF, 0x200) == bytes(0x200)
    assert world.memory.read(SIEF + 0x300, 0xD00) == bytes(0xD00)


@pytest.mark.parametrize(
    ("control", "siefp"),
    [(0, SIEF | 1), (1, SIEF), (1, NOT_RAM | 1)],
    ids=["off", "no page", "no ram"],
)
def test_events_need_synic_and_page(
    ready: tuple[Synic, FakeWorld], control: int, siefp: int
) -> None:
    synic, world = ready
    synic.write_siefp(siefp)
    synic.write_control(control)
    assert not synic.set_event(2, 0)
    assert not world.interrupts
    assert world.memory.read(SIEF, 4096) == bytes(4096)


def test_masked_sint_still_gets_its_flag(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.write_sint(2, HV_SYNIC_SINT_MASKED)
    assert synic.set_event(2, 0)
    assert world.memory.read(SIEF + 0x200, 1) == b"\1"
    assert not world.interrupts


def test_reset(ready: tuple[Synic, FakeWorld]) -> None:
    synic, world = ready
    synic.post_message(2, 1, b"one")
    synic.post_message(2, 1, b"two")
    synic.reset()
    assert not synic.waiting
    assert (synic.control, synic.siefp, synic.simp) == (0, 0, 0)
    assert synic.sints == [HV_SYNIC_SINT_MASKED] * 16
    synic.write_simp(SIM | 1)
    assert message(world)[0] == 0
