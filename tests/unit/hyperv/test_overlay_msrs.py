"""All pages that a guest places by MSR, of two VPs, on the same few addresses, in every order.

Against a model of what the guest must see: SIM and SIEF pages are overlays; the hypercall, TSC and
assist pages are written into whatever lies at their address, as by KVM.
"""

from __future__ import annotations

import functools
import itertools
import random

import pytest
from fake_world import EVERYTHING, HYPERCALL_CODE, FakeWorld, make

from pyhv.errors import GuestFault
from pyhv.hyperv.partition import Partition

PAGE = 4096
PLACES = (0x10000, 0x11000, 0x12000)
NOT_RAM = 0x7FFFFFF000
HYPERCALL, REFERENCE_TSC, ASSIST, SIEFP, SIMP = (
    0x40000001, 0x40000021, 0x40000073, 0x40000082, 0x40000083,
)  # fmt: skip
OVERLAYS = tuple(itertools.product((SIEFP, SIMP), (0, 1)))
TSC_PAGE_BYTES, ASSIST_BYTES = 24, 4
SEQUENCES = 10_000


def filled(value: int) -> bytes:
    return bytes([value & 0xFF]) * PAGE


class Model:
    """RAM, each overlay's content, and who lies on each address, the seen one last."""

    def __init__(self) -> None:
        self.ram = {place: filled(place >> 12) for place in PLACES}
        self.content: dict[tuple[int, int], bytes] = {}
        self.stacks: dict[int, list[tuple[int, int]]] = {place: [] for place in PLACES}
        self.tsc: int | None = None  # where the guest has the TSC page

    def place(self, page: tuple[int, int], gpa: int | None) -> None:
        if page in self.stacks.get(gpa or 0, ()):
            return
        for stack in self.stacks.values():
            if page in stack:
                stack.remove(page)
        if gpa in self.stacks:
            self.stacks[gpa].append(page)

    def seen(self, gpa: int) -> bytes:
        stack = self.stacks[gpa]
        return self.content.get(stack[-1], bytes(PAGE)) if stack else self.ram[gpa]

    def write(self, gpa: int, data: bytes) -> None:
        if gpa not in self.stacks:
            return
        page = data + self.seen(gpa)[len(data) :]
        if self.stacks[gpa]:
            self.content[self.stacks[gpa][-1]] = page
        else:
            self.ram[gpa] = page

    def reset(self) -> None:
        for stack in self.stacks.values():
            stack.clear()
        self.content.clear()
        if self.tsc is not None:  # its sequence says "invalid"
            self.write(self.tsc, bytes(4))
        self.tsc = None


class Guest:
    """A partition and its model; each step is done to both, then the places are compared."""

    def __init__(self) -> None:
        self.partition: Partition
        self.world: FakeWorld
        self.partition, self.world = make(EVERYTHING)
        self.model = Model()
        for place, data in self.model.ram.items():
            self.world.memory.write(place, data)

    def check(self) -> None:
        for place in PLACES:
            assert self.world.memory.read(place, PAGE) == self.model.seen(place), hex(place)

    def overlay(self, page: tuple[int, int], gpa: int | None, low: int = 0) -> None:
        """Place SIEFP or SIMP of a VP; None takes it away."""
        msr, vp = page
        self.partition.write_msr(vp, msr, 0 if gpa is None else gpa | low | 1)
        self.model.place(page, gpa)

    def assist(self, vp: int, gpa: int) -> None:
        self._or_fault(vp, ASSIST, gpa)
        self.model.write(gpa, bytes(ASSIST_BYTES))

    def hypercall(self, vp: int, gpa: int) -> None:
        self.partition.guest_os_id = 1
        self._or_fault(vp, HYPERCALL, gpa)
        self.model.write(gpa, HYPERCALL_CODE)

    def _or_fault(self, vp: int, msr: int, gpa: int) -> None:
        if gpa == NOT_RAM:
            with pytest.raises(GuestFault):
                self.partition.write_msr(vp, msr, gpa | 1)
        else:
            self.partition.write_msr(vp, msr, gpa | 1)

    def reference_tsc(self, vp: int, gpa: int) -> None:
        self.partition.write_msr(vp, REFERENCE_TSC, gpa | 1)
        self.model.tsc = gpa
        self._tsc_written()

    def refresh(self) -> None:
        self.partition.refresh()
        self._tsc_written()

    def _tsc_written(self) -> None:
        """The page's values are its own; the model takes what it finds there."""
        gpa = self.model.tsc
        if gpa in PLACES:
            head = self.world.memory.read(gpa, TSC_PAGE_BYTES)
            assert head[:4] != bytes(4)
            self.model.write(gpa, head)

    def off(self, vp: int, msr: int) -> None:
        self.partition.write_msr(vp, msr, 0)
        if msr == REFERENCE_TSC:
            self.model.tsc = None

    def store(self, gpa: int, value: int) -> None:
        self.world.memory.write(gpa, filled(value))
        self.model.write(gpa, filled(value))

    def reset(self) -> None:
        self.partition.reset()
        self.model.reset()


def step(guest: Guest, choose: random.Random) -> None:
    """Do one thing."""
    what, vp = choose.randrange(16), choose.randrange(2)
    place = choose.choice(PLACES)
    anywhere = choose.choice((*PLACES, NOT_RAM))
    if what < 5:
        guest.overlay(choose.choice(OVERLAYS), anywhere, choose.choice((0, 2, 0xFFE)))
    elif what < 8:
        guest.overlay(choose.choice(OVERLAYS), None)
    elif what < 10:
        guest.store(place, choose.randrange(1, 256))
    elif what == 10:
        guest.assist(vp, anywhere)
    elif what == 11:
        guest.hypercall(vp, anywhere)
    elif what == 12:
        guest.reference_tsc(vp, anywhere)
    elif what == 13:
        guest.off(vp, choose.choice((ASSIST, REFERENCE_TSC, HYPERCALL)))
    elif what == 14:
        guest.refresh()
    else:
        guest.reset()


def test_ten_thousand_sequences() -> None:
    """Each a dozen steps; the content that is left belongs to the next one."""
    guest = Guest()
    for seed in range(SEQUENCES):
        choose = random.Random(seed)
        for _ in range(12):
            step(guest, choose)
            try:
                guest.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
        guest.world.synic_changes.clear()


@pytest.mark.parametrize("first", OVERLAYS, ids=lambda page: f"{page[0]:x} of {page[1]}")
def test_every_order_on_one_address(first: tuple[int, int]) -> None:
    """Four overlays put on one address and taken away, each order with each other order."""
    orders = [order for order in itertools.permutations(OVERLAYS) if order[0] == first]
    for put, take in itertools.product(orders, itertools.permutations(OVERLAYS)):
        guest = _fresh()
        for n, page in enumerate(put):
            guest.overlay(page, PLACES[0])
            guest.check()
            guest.store(PLACES[0], 0x80 + n)
        for page in take:
            guest.overlay(page, None)
            guest.check()
        assert guest.world.memory.read(PLACES[0], PAGE) == filled(PLACES[0] >> 12)


@functools.cache
def _one() -> Guest:
    return Guest()


def _fresh() -> Guest:
    guest = _one()
    guest.reset()
    return guest
