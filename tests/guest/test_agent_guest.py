"""Machine.run with guests on COM2 that flood, echo or say nothing: it ends, and nothing is left."""

from __future__ import annotations

import time

import pytest
from libguest import GROWTH_KIB, machine, rss_kib

from pyhv import GuestTimeout
from pyhv.errors import ConfigError, HostError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

LISTEN = """
        outb 0x2f9, 1
"""
FLOOD = LISTEN + """
1:      mov $0x2f8, %dx
        mov $'p', %al
        out %al, %dx
        jmp 1b
"""
ECHO = LISTEN + """
1:      mov $0x2fd, %dx
        in %dx, %al
        test $1, %al
        jz 1b
        mov $0x2f8, %dx
        in %dx, %al
        out %al, %dx
        jmp 1b
"""
SILENCE = LISTEN + """
        outb 0x3f8, '!'
1:      jmp 1b
"""
DEAF = """
1:      jmp 1b
"""


GUESTS = {"flood": FLOOD, "echo": ECHO, "silence": SILENCE, "deaf": DEAF}


@pytest.mark.parametrize("guest", GUESTS.values(), ids=GUESTS)
def test_it_ends_at_its_time(guest: str) -> None:
    with machine(guest, agent=True) as vm:
        vm.start()
        before, begin = rss_kib(), time.monotonic()
        with pytest.raises(GuestTimeout, match=r"run 'true': no shell answered in 1\.5 s"):
            vm.run("true", 1.5)
        assert time.monotonic() - begin < 5
        for call in (lambda: vm.push(b"x", "/x", 0.5), lambda: vm.pull("/x", timeout=0.5)):
            with pytest.raises(GuestTimeout):
                call()
        assert rss_kib() - before < GROWTH_KIB


def test_the_error_has_the_consoles_last_lines() -> None:
    with machine(SILENCE, agent=True) as vm:
        vm.start()
        vm.console.expect("!")
        with pytest.raises(GuestTimeout, match=r"last lines:\n  \| !"):
            vm.run("true", 0.5)


def test_it_does_not_outlive_the_machine() -> None:
    with machine(ECHO, agent=True) as vm:
        with pytest.raises(ConfigError, match="does not run"):
            vm.run("true")
        vm.start()
        vm.events.call(lambda: vm.events.after(0.5, vm.kill))
        begin = time.monotonic()
        with pytest.raises((ConfigError, HostError), match="the machine does not run"):
            vm.run("true", 30)
        assert time.monotonic() - begin < 10


def test_com2_is_there_when_asked_for() -> None:
    probe = """
        mov $0x2ff, %dx
        mov $0x5a, %al
        out %al, %dx
        in %dx, %al
        mov $0xf4, %dx
        out %al, %dx
"""
    for agent, status in ((True, 0x5A), (False, 0xFF)):
        with machine(probe, agent=agent) as vm:
            vm.start()
            assert vm.wait(30).status == (2 * status + 1) & 0xFF


def test_com2_is_part_of_a_snapshot() -> None:
    with machine(ECHO, agent=True) as vm:
        vm.start()
        end = time.monotonic() + 30
        while not vm.board.agent_uart.listening:
            assert time.monotonic() < end
            time.sleep(0.01)
        with vm.snapshot() as snap:
            state = snap.state["board"]["serial"]
            assert state["second"] is not None
            with snap.clone() as other, other.snapshot() as again:
                assert again.state["board"]["serial"] == state
            vm.restore(snap)
            assert vm.board.agent_uart.listening
