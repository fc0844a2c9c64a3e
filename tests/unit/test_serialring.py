"""COM1's ring without KVM: the bytes' order, the wrap, and the byte that finds the ring full."""

from __future__ import annotations

import mmap
import threading

import pytest

from pyhv.devices.uart import LCR, LCR_DLAB, SCR, Uart
from pyhv.serialring import DATA, ENTRIES, ENTRY, RING, SerialRing


class FakeVcpu:
    """Three pages of kvm_run; :meth:`put` is what KVM does with a write to 0x3f8."""

    def __init__(self) -> None:
        self.run = mmap.mmap(-1, 3 * 4096)
        self.m8 = memoryview(self.run)
        self.m32 = self.m8.cast("I")

    def put(self, value: int) -> bool:
        """Return False if the ring is full: that write exits."""
        first, last = self.m32[RING >> 2], self.m32[(RING >> 2) + 1]
        after = (last + 1) % ENTRIES
        if after == first:
            return False
        self.m8[RING + 8 + last * ENTRY + DATA] = value
        self.m32[(RING >> 2) + 1] = after
        return True


@pytest.fixture
def parts() -> tuple[FakeVcpu, SerialRing, list[bytes]]:
    vcpu, sent = FakeVcpu(), []
    return vcpu, SerialRing(Uart(sent.append, lambda level: None), vcpu), sent


def test_a_thousand_bytes_in_order(parts) -> None:
    """The ring wraps several times; the byte that exits comes in one string with what was there."""
    vcpu, ring, sent = parts
    for n in range(1000):
        if not vcpu.put(n & 0xFF):
            ring.pio_out(0, 1, n & 0xFF)
    ring.drain()
    assert b"".join(sent) == bytes(n & 0xFF for n in range(1000))
    assert [len(data) for data in sent[:-1]] == [ENTRIES] * (1000 // ENTRIES)
    assert ring.drain() is False


@pytest.mark.parametrize("access", [(SCR, 1, 0), (0, 2, 0x4241)])
def test_the_ring_comes_before_any_other_access(parts, access: tuple[int, int, int]) -> None:
    vcpu, ring, sent = parts
    vcpu.put(ord("x"))
    ring.pio_out(*access)
    assert sent[0] == b"x"
    vcpu.put(ord("y"))
    ring.pio_in(SCR, 1)
    assert sent[-1] == b"y"


def test_a_full_ring_while_the_divisor_is_set(parts) -> None:
    """What the bytes mean is what the chip's state says: here, its baud rate."""
    vcpu, ring, sent = parts
    ring.pio_out(LCR, 1, LCR_DLAB)
    vcpu.put(7)
    ring.pio_out(0, 1, 9)
    assert not sent
    assert ring.pio_in(0, 1) == 9


def test_an_exit_does_not_overtake_a_drain(parts) -> None:
    """The event loop empties a ring while a vCPU comes out with the byte that found it full."""
    vcpu, ring, sent = parts
    exits = threading.Thread(target=ring.pio_out, args=(0, 1, ord("z")))

    def slow_console(data: bytes) -> None:
        if not exits.ident:
            exits.start()
            exits.join(0.1)
        sent.append(data)

    ring.uart = Uart(slow_console, lambda level: None)
    for byte in b"xy":
        vcpu.put(byte)
    ring.drain()
    exits.join()
    assert b"".join(sent) == b"xyz"
