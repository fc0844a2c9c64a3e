"""What guest tests share: nothing may be left behind, and a neighbour that must not notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import guestcode
import pytest
from libguest import SECONDS, chosen, descriptors, drivers

from pyhv import Machine


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread."""
    before, threads = descriptors(), set(threading.enumerate())
    yield
    left = descriptors().items() - before.items()
    assert not left
    assert set(threading.enumerate()) <= threads


#: 18 times a second a timer interrupt prints a dot; between them it sleeps.
HEARTBEAT = """
        movw $tick, 8 * 4
        movw $0, 8 * 4 + 2
        outb 0x20, 0x11
        outb 0x21, 8
        outb 0x21, 4
        outb 0x21, 1
        outb 0x21, 0xfe
        outb 0x43, 0x34
        outb 0x40, 0xff
        outb 0x40, 0xff
        sti
1:      hlt
        jmp 1b
tick:   outb 0x3f8, '.'
        outb 0x20, 0x20
        iret
"""


@pytest.fixture(scope="module")
def neighbour_machine() -> Iterator[Machine]:
    """Another machine in this process, for all tests of a module."""
    with Machine(kernel=guestcode.sector(HEARTBEAT), cpu="host", memory="2M") as vm:
        vm.start()
        vm.console.expect("..", timeout=SECONDS)  # its threads are there
        yield vm
        vm.kill()
        assert vm.wait(SECONDS).kind == "quit"


def beats(vm: Machine) -> None:
    """Wait for two more dots."""
    seen, deadline = len(vm.console.data()), time.monotonic() + SECONDS
    while len(vm.console.data()) < seen + 2:
        assert time.monotonic() < deadline, "the other machine stands still"
        time.sleep(0.02)


@pytest.fixture
def neighbour(neighbour_machine: Machine) -> Iterator[Machine]:
    """That machine; it must beat before the test and after it."""
    beats(neighbour_machine)
    yield neighbour_machine
    beats(neighbour_machine)


@pytest.fixture
def same_descriptors() -> Iterator[None]:
    """Fail a test after which there are others."""
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture(params=drivers())
def driver(request: pytest.FixtureRequest) -> str:
    """Every test that uses this runs once with each driver that is here."""
    chosen["driver"] = request.param
    return request.param
