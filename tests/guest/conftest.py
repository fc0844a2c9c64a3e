"""What guest tests share: nothing may be left behind, and a neighbour that must not notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import guestcode
import pytest
from libguest import SECONDS, descriptors

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


@pytest.fixture
def neighbour() -> Iterator[Machine]:
    """Another machine in this process; it must beat before the test and after it."""
    with Machine(kernel=guestcode.sector(HEARTBEAT), cpu="host", memory="2M") as vm:
        vm.start()
        vm.console.expect("..", timeout=SECONDS)
        yield vm
        vm.console.expect(vm.console.text(), timeout=SECONDS)  # what came meanwhile
        vm.console.expect("...", timeout=SECONDS)
        vm.kill()
        assert vm.wait(SECONDS).kind == "quit"
