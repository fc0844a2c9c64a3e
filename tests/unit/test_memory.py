"""Guest RAM: the hole, the checks at its edges, and the atomic stores."""

from __future__ import annotations

import pathlib
import re
import threading

import pytest

from pyhv.errors import BadGpa, ConfigError, HostError
from pyhv.memory import BLOCK, HIGH, HOLE, HUGE_FROM, HUGE_PAGE, GuestMemory

SIZE = 2 << 20


@pytest.fixture
def memory():
    memory = GuestMemory(SIZE)
    yield memory
    memory.close()


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (SIZE - 3, 4),
        (SIZE, 1),
        (-1, 1),
        (1 << 52, 8),
        (0xFFFFFFFFFFFFFFFF, 1),
        (HIGH, 1),
        (0, SIZE + 1),
    ],
)
def test_outside_ram_is_refused(memory: GuestMemory, gpa: int, length: int) -> None:
    for access in (memory.read, memory.view, memory.zero, memory.offset):
        with pytest.raises(BadGpa) as caught:
            access(gpa, length)
        assert (caught.value.gpa, caught.value.length) == (gpa, length)
    with pytest.raises(BadGpa):
        memory.write(gpa, bytes(length))


def test_last_byte_is_ram(memory: GuestMemory) -> None:
    memory.write(SIZE - 1, b"x")
    assert memory.read(SIZE - 1, 1) == b"x"


def test_more_than_the_hole_continues_at_4_gib() -> None:
    memory = GuestMemory(HOLE + (1 << 20))
    try:
        memory.write(HIGH + 5, b"high")
        assert memory.read(HIGH + 5, 4) == b"high"
        assert memory.offset(HIGH, 1) == HOLE
        for gpa, length in ((HOLE, 1), (HOLE - 1, 2), (HIGH - 1, 2), (HIGH + (1 << 20), 1)):
            with pytest.raises(BadGpa):
                memory.read(gpa, length)
    finally:
        memory.close()


@pytest.mark.parametrize("size", [SIZE, HOLE + BLOCK])
def test_ram_that_grows_goes_on_above_4_gib(size: int) -> None:
    memory = GuestMemory(size, size + 3 * BLOCK)
    end = HIGH + max(0, size - HOLE)
    told: list = []
    try:
        assert memory.top == end + 3 * BLOCK
        assert len(memory.bytes) == memory.capacity == size + 3 * BLOCK
        for added in (BLOCK, 3 * BLOCK, 2 * BLOCK):
            with pytest.raises(BadGpa):
                memory.read(end + max(memory.added, added) - 1, 2)
            memory.grow(added, lambda *told_now: told.append(told_now))
        assert memory.added == 3 * BLOCK
        first = memory.address + size
        assert told == [(end, BLOCK, first), (end + BLOCK, 2 * BLOCK, first + BLOCK)]
        memory.write(end + 2 * BLOCK - 2, b"both")
        assert memory.bytes[size + 2 * BLOCK - 2] == ord("b")
        memory.write(end + 3 * BLOCK - 1, b"x")
        memory.discard(end + 2 * BLOCK, BLOCK)
        memory.shrink()
        assert memory.added == 0
        with pytest.raises(BadGpa):
            memory.read(end, 1)
        memory.grow(BLOCK * 3, lambda *told_now: None)
        assert memory.read(end + 2 * BLOCK - 2, 4) == bytes(4)  # nothing of the life before
    finally:
        memory.close()


def test_what_kvm_refuses_was_not_added() -> None:
    memory = GuestMemory(SIZE, SIZE + BLOCK)
    try:
        with pytest.raises(ZeroDivisionError):
            memory.grow(BLOCK, lambda *told: 1 // 0)
        assert (memory.added, len(memory.regions)) == (0, 1)
    finally:
        memory.close()


@pytest.mark.parametrize(
    ("size", "capacity", "text"),
    [
        (SIZE, 1 << 20, "-m 2M,maxmem=1M: .* at least the first size"),
        (SIZE, SIZE + BLOCK - 4096, "steps of 128 MiB"),
        (HOLE + SIZE, HOLE + SIZE + BLOCK, "begins with above 3 GiB"),
    ],
)
def test_capacities_that_cannot_be(size: int, capacity: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        GuestMemory(size, capacity)


@pytest.mark.parametrize("size", [0, 4096, (1 << 20) + 1, -4096])
def test_impossible_size(size: int) -> None:
    with pytest.raises(ConfigError):
        GuestMemory(size)


def test_more_than_the_address_space() -> None:
    with pytest.raises(HostError, match="MiB of guest RAM"):
        GuestMemory(1 << 60)


def test_words(memory: GuestMemory) -> None:
    memory.write_u64(0x100, 0x1122334455667788)
    assert (memory.read_u32(0x100), memory.read_u32(0x104)) == (0x55667788, 0x11223344)
    memory.write_u32(0x104, 0xAABBCCDD)
    assert memory.read_u64(0x100) == 0xAABBCCDD55667788


def test_atomic_or_touches_one_byte(memory: GuestMemory) -> None:
    memory.write(0x200, b"\x10\x20\x30")
    memory.atomic_or(0x201, 0x81)
    assert memory.read(0x200, 3) == b"\x10\xa1\x30"


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 1000, 2047])
def test_test_and_set_tells_what_was(memory: GuestMemory, bit: int) -> None:
    assert memory.test_and_set(0x1000, bit) is False
    assert memory.test_and_set(0x1000, bit) is True
    assert int.from_bytes(memory.read(0x1000, 256), "little") == 1 << bit


def test_atomic_bits_of_four_threads_all_arrive(memory: GuestMemory) -> None:
    """A Python |= on the same bytes loses updates."""

    def setter(start: int) -> None:
        for bit in range(start, 2048, 4):
            memory.test_and_set(0x3000, bit)

    threads = [threading.Thread(target=setter, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.read(0x3000, 256) == b"\xff" * 256


def test_close_with_a_view_still_held() -> None:
    memory = GuestMemory(SIZE)
    view = memory.view(0, 16)
    memory.close()
    assert len(view) == 16


def test_by_index(memory: GuestMemory) -> None:
    """memory[...] as a caller writes it: a byte, a slice, and nothing beyond RAM."""
    memory[0x1000:] = b"hello"
    assert memory[0x1000:0x1005] == b"hello"
    assert memory[0x1001] == ord("e")
    memory[0x1001] = ord("a")
    memory[0x1004:0x1005] = b"O"
    assert memory[0x1000:0x1006] == b"hallO\0"
    with pytest.raises(ValueError, match="2 bytes for 1"):
        memory[0:1] = b"xx"
    for at in (memory.size, -1):
        with pytest.raises(BadGpa):
            memory[at]


@pytest.mark.parametrize(("size", "aligned"), [(HUGE_FROM, True), (HUGE_FROM - 4096, False)])
def test_large_ram_can_lie_in_huge_pages(size: int, aligned: bool) -> None:
    """KVM maps 2 MiB at once only where both addresses have the same low bits."""
    memory = GuestMemory(size)
    try:
        assert len(memory.bytes) == size
        assert not aligned or memory.address % HUGE_PAGE == 0
        maps = pathlib.Path("/proc/self/smaps").read_text().split("VmFlags:")
        ours = next(
            part for part in maps
            if (span := re.search(r"^([0-9a-f]+)-([0-9a-f]+) ", part, re.MULTILINE))
            and int(span[1], 16) <= memory.address < int(span[2], 16)
        )  # fmt: skip
        flags = maps[maps.index(ours) + 1].split("\n")[0].split()
        assert ("hg" in flags) is aligned
    finally:
        memory.close()
