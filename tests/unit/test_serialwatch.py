"""The looking at COM1's ring: it stops in silence, one byte brings it back, and no byte is lost."""

from __future__ import annotations

import pytest
from test_serialring import FakeVcpu

from pyhv.devices.uart import SCR, Uart
from pyhv.serialring import SerialRing
from pyhv.serialwatch import BUSY_S, IDLE_S, LOOKS, SerialWatch

COM1 = 0x3F8


class Vm:
    """Which ports are collected; ``before`` is the guest, just before one no longer is."""

    def __init__(self, able: bool = True) -> None:
        self.able, self.ports = able, set()
        self.before = lambda: None

    def coalesce_pio(self, port: int, size: int) -> bool:
        assert port not in self.ports
        assert size == 1
        if self.able:
            self.ports.add(port)
        return self.able

    def uncoalesce_pio(self, port: int, size: int) -> None:
        self.before()
        self.ports.remove(port)


class Events:
    """The loop: calls, then one timer at a time."""

    def __init__(self) -> None:
        self.calls, self.timers = [], []

    def call(self, function) -> None:
        self.calls.append(function)

    def after(self, seconds: float, function) -> None:
        self.timers.append((seconds, function))

    def turn(self) -> float:
        """Run all calls, then the timer, of which there is one at most; return its time."""
        while self.calls:
            self.calls.pop(0)()
        assert len(self.timers) <= 1
        if not self.timers:
            return 0
        seconds, function = self.timers.pop()
        function()
        return seconds

    def sleep(self) -> list[float]:
        """Run until nothing is due; return the times."""
        return list(iter(self.turn, 0))


class Parts:
    def __init__(self, able: bool = True) -> None:
        self.vcpu, self.vm, self.events = FakeVcpu(), Vm(able), Events()
        self.sent = bytearray()
        self.ring = SerialRing(Uart(self.sent.extend, lambda level: None), self.vcpu)
        self.watch = SerialWatch(self.ring, self.vm, (COM1,), self.events)

    def send(self, data: bytes) -> None:
        """As a guest: into the ring if KVM collects, by an exit otherwise."""
        for value in data:
            if not (self.vm.ports and self.vcpu.put(value)):
                self.ring.pio_out(0, 1, value)


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_silence_ends_it_and_a_byte_begins_it(parts: Parts) -> None:
    parts.watch.start()
    parts.send(b"one")
    assert parts.events.sleep() == [BUSY_S] + [IDLE_S] * LOOKS
    assert not parts.vm.ports
    for _ in range(3):
        parts.sent.clear()
        parts.send(b"two")  # three exits: nobody collects yet
        assert parts.sent == b"two"
        parts.events.turn()
        assert parts.vm.ports == {COM1}
        parts.send(b" three")
        assert parts.sent == b"two"
        assert set(parts.events.sleep()) == {BUSY_S, IDLE_S}
        assert parts.sent == b"two three"
        assert not parts.vm.ports


def test_bytes_keep_it_looking(parts: Parts) -> None:
    parts.watch.start()
    for number in range(200):
        if number % (LOOKS - 2) == 0:
            parts.send(b"x")
        assert parts.events.turn()
    assert parts.vm.ports


def test_what_comes_while_the_ring_is_put_away_comes_out(parts: Parts) -> None:
    """Once into the ring, once past it from another vCPU, which brings the ring back."""
    parts.watch.start()
    parts.vm.before = lambda: parts.vcpu.put(ord("r"))
    parts.events.sleep()
    assert parts.sent == b"r"
    parts.vm.before = lambda: parts.ring.pio_out(0, 1, ord("p"))
    parts.send(b"q")
    parts.events.turn()
    for _ in range(LOOKS):
        parts.events.turn()
    assert parts.sent == b"rqp"
    parts.vm.before = lambda: None
    parts.events.turn()
    assert parts.vm.ports


def test_two_vcpus_rouse_it_once(parts: Parts) -> None:
    parts.watch.start()
    parts.events.sleep()
    parts.ring.pio_out(0, 1, ord("x"))
    parts.ring.roused()
    parts.events.turn()
    assert len(parts.events.timers) == 1


def test_another_register_leaves_the_order(parts: Parts) -> None:
    parts.watch.start()
    parts.events.sleep()
    parts.ring.pio_out(SCR, 1, 7)
    assert not parts.ring.quiet
    assert parts.ring.pio_in(SCR, 1) == 7


def test_the_end_drains(parts: Parts) -> None:
    parts.watch.start()
    parts.events.turn()
    parts.send(b"last")
    parts.watch.end()
    assert parts.sent == b"last"
    assert parts.events.sleep() == [IDLE_S]
    parts.ring.quiet = True
    parts.ring.pio_out(0, 1, ord("x"))  # a vCPU that still runs
    assert parts.events.sleep() == []


def test_a_kvm_that_collects_nothing_needs_no_looking() -> None:
    parts = Parts(able=False)
    parts.watch.start()
    assert parts.events.sleep() == []
    parts.send(b"each by an exit")
    assert parts.sent == b"each by an exit"
