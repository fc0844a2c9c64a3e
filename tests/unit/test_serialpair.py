"""Two ports behind one ring: each UART gets its own bytes, in the order they were written."""

from __future__ import annotations

import random

import pytest
from test_serialring import FakeVcpu

from pyhv.devices.uart import IER, SCR, Uart
from pyhv.serialpair import SerialPair
from pyhv.serialring import ENTRIES, ENTRY, RING

COM1, COM2 = 0x3F8, 0x2F8


class Vcpu(FakeVcpu):
    """KVM writes the port beside the byte."""

    def put_at(self, port: int, value: int) -> bool:
        at = RING + 8 + self.m32[(RING >> 2) + 1] * ENTRY
        if not self.put(value):
            return False
        self.m8[at : at + 8] = port.to_bytes(8, "little")
        return True


@pytest.fixture
def parts():
    vcpu, first, second = Vcpu(), [], []
    pair = SerialPair(
        Uart(first.append, lambda level: None), Uart(second.append, lambda level: None), vcpu
    )
    return vcpu, pair, first, second


def test_mixed_bytes_find_their_ports(parts) -> None:
    vcpu, pair, first, second = parts
    rng, wanted = random.Random(1), {COM1: bytearray(), COM2: bytearray()}
    for number in range(5000):
        port = COM1 if rng.random() < 0.7 else COM2
        wanted[port].append(number & 0xFF)
        if not vcpu.put_at(port, number & 0xFF):
            device = pair if port == COM1 else pair.second
            device.pio_out(0, 1, number & 0xFF)
        if rng.random() < 0.005:
            pair.drain()
    assert pair.drain()
    assert b"".join(first) == wanted[COM1]
    assert b"".join(second) == wanted[COM2]
    assert not pair.drain()


def test_neighbours_come_as_one(parts) -> None:
    vcpu, pair, first, second = parts
    for port, text in ((COM1, b"abc"), (COM2, b"de"), (COM1, b"f")):
        for byte in text:
            vcpu.put_at(port, byte)
    pair.drain()
    assert (first, second) == ([b"abc", b"f"], [b"de"])


@pytest.mark.parametrize("second_asks", [False, True])
def test_the_ring_comes_before_any_access_to_either(parts, second_asks: bool) -> None:
    vcpu, pair, first, second = parts
    device = pair.second if second_asks else pair
    vcpu.put_at(COM1, 1)
    vcpu.put_at(COM2, 2)
    device.pio_out(IER, 1, 0)
    assert (first, second) == ([b"\x01"], [b"\x02"])
    vcpu.put_at(COM2, 3)
    device.pio_in(SCR, 1)
    assert second == [b"\x02", b"\x03"]


def test_a_full_ring(parts) -> None:
    vcpu, pair, first, second = parts
    while vcpu.put_at(COM2, 2):
        pass
    pair.pio_out(0, 1, 1)
    assert b"".join(second) == b"\x02" * (ENTRIES - 1)
    assert first == [b"\x01"]
