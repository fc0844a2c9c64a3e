"""Overlay pages in every order, also several on one address, against a model of the TLFS."""

from __future__ import annotations

import random

import pytest

from pyhv.hyperv.overlay import Overlays
from pyhv.memory import GuestMemory

PLACES = (0x10000, 0x11000, 0x12000)
NOT_RAM = 0x7FFFFFF000
PAGES = [(kind, vp) for kind in ("SIM", "SIEF") for vp in range(2)]


class Model:
    """What the guest must see: RAM, each page's own content, and the order on each address."""

    def __init__(self) -> None:
        self.ram = {place: place >> 12 & 0xFF for place in PLACES}
        self.content = dict.fromkeys(PAGES, 0)
        self.stacks: dict[int, list] = {place: [] for place in PLACES}

    def place(self, page: tuple, gpa: int | None) -> None:
        if gpa is not None and page in self.stacks.get(gpa, ()):
            return  # it lies there already
        for stack in self.stacks.values():
            if page in stack:
                stack.remove(page)
        if gpa in self.stacks:
            self.stacks[gpa].append(page)

    def write(self, gpa: int, value: int) -> None:
        if self.stacks[gpa]:
            self.content[self.stacks[gpa][-1]] = value
        else:
            self.ram[gpa] = value

    def seen(self, gpa: int) -> int:
        return self.content[self.stacks[gpa][-1]] if self.stacks[gpa] else self.ram[gpa]


@pytest.mark.parametrize("seed", range(20))
def test_every_order(seed: int) -> None:
    choose = random.Random(seed)
    memory, model = GuestMemory(1 << 20), Model()
    for place, value in model.ram.items():
        memory.write(place, bytes([value]) * 4096)
    overlays = Overlays(memory)
    for step in range(300):
        page = choose.choice(PAGES)
        what = choose.randrange(8)
        if what < 4:
            gpa = choose.choice((*PLACES, NOT_RAM))
            overlays.place(page, gpa | choose.choice((1, 3, 0xFFF)))
            model.place(page, gpa)
        elif what < 6:
            overlays.place(page, choose.choice(PLACES))
            model.place(page, None)
        elif what < 7:
            gpa, value = choose.choice(PLACES), step & 0xFF
            memory.write(gpa, bytes([value]) * 4096)
            model.write(gpa, value)
        else:
            overlays.reset(page)
            model.place(page, None)
            model.content[page] = 0
        for gpa in PLACES:
            assert memory.read(gpa, 4096) == bytes([model.seen(gpa)]) * 4096, (step, hex(gpa))
    overlays.clear()
    for gpa in PLACES:
        assert memory.read(gpa, 4096) == bytes([model.ram[gpa]]) * 4096
    overlays.place(PAGES[0], PLACES[0] | 1)
    assert memory.read(PLACES[0], 4096) == bytes(4096), "clear() forgets the content"


def test_a_page_beyond_ram_is_nowhere() -> None:
    """No memory is kept for it, and its content waits for an address that is RAM."""
    memory = GuestMemory(1 << 20)
    overlays = Overlays(memory)
    overlays.place("page", 0x10001)
    memory.write(0x10000, b"mine")
    for gpa in (NOT_RAM, 1 << 20, 0xFFFFFFFFFFFFF000):
        overlays.place("page", gpa | 1)
        assert memory.read(0x10000, 4) == bytes(4)
    overlays.place("page", 0x20001)
    assert memory.read(0x20000, 4) == b"mine"
