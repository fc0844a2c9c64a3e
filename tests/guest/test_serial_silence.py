"""A guest that talks, is silent for seconds, talks again: nothing is lost, silence is free."""

from __future__ import annotations

import time

import pytest
from libguest import SECONDS, machine

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
#: a byte on COM1 is answered with the alphabet on COM1, and on COM2 before it
TALKS = """
1:      read_com1
        mov $'a', %al
2:      mov $0x2f8, %dx
        out %al, %dx
        mov $0x3f8, %dx
        out %al, %dx
        inc %al
        cmp $'z' + 1, %al
        jne 2b
        jmp 1b
"""


def until_silent(vm) -> None:
    deadline = time.monotonic() + SECONDS
    while not vm.board.serial.quiet:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("agent", [False, True], ids=["COM1", "COM1 and COM2"])
def test_nothing_is_lost(agent: bool) -> None:
    with machine(TALKS, agent=agent) as vm:
        vm.start()
        for _ in range(3):
            until_silent(vm)
            vm.console.send("x")
            vm.console.expect(ALPHABET)
        assert vm.console.text() == ALPHABET * 3


def test_no_timer_is_left_that_looks() -> None:
    with machine(TALKS) as vm:
        vm.start()
        until_silent(vm)
        time.sleep(0.2)
        assert all(function.__name__ != "_look" for _, _, function in vm.events._timers)
