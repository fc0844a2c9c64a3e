"""COM1 on the bus, with KVM's coalesced ring before it: a byte that the guest sends costs no exit.

KVM puts writes to 0x3f8 into a ring in kvm_run's third page (170 entries); the write that
finds it full exits. The ring is drained before any other access to the chip, so their
order stays, and by the event loop (serialwatch.py), for a guest that sends and then sleeps.
Drained bytes come as one strided slice: 1.4 thousand instructions a byte against 7.
"""

from __future__ import annotations

import threading

from .devices.uart import BYTES, LCR, Uart
from .kvm.uapi import KVM_COALESCED_MMIO_PAGE_OFFSET
from .kvm.vcpu import PAGE, Vcpu

RING = KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE  # struct kvm_coalesced_mmio_ring: first, last, entries
ENTRY, DATA = 24, 16  # struct kvm_coalesced_mmio: phys_addr, len, pio, data[8]
ENTRIES = (PAGE - 8) // ENTRY


def _nobody() -> None:
    pass


class SerialRing:
    """A bus device: the UART behind the ring of *vcpu* (all vCPUs map the same ring)."""

    def __init__(self, uart: Uart, vcpu: Vcpu) -> None:
        self.uart = uart
        self._run, self._words = vcpu.run, vcpu.m32
        self._first, self._last = RING >> 2, (RING >> 2) + 1
        self._lock = threading.Lock()
        self.programmed = False  # the guest set the line: it drives COM1 itself
        #: KVM collects nothing: the guest was silent. The next byte calls ``roused``.
        self.quiet, self.roused = False, _nobody

    def drain(self, more: bytes = b"") -> bool:
        """Hand the ring's bytes to the UART, then *more*; tell whether there were any. Any thread.

        :param more: what found the ring full: one string for the console costs half of two.
        """
        words = self._words
        if words[self._first] == words[self._last] and not more:
            return False
        with self._lock:
            first, last = words[self._first], words[self._last]
            if first >= ENTRIES or last >= ENTRIES:
                return False  # the page is the vCPU's, not the guest's: cannot be
            # of the mmap itself: a strided slice of it costs a fifth of a memoryview's
            run, base = self._run, RING + 8 + DATA
            if first <= last:
                data = run[base + first * ENTRY : base + last * ENTRY : ENTRY]
            else:
                data = run[base + first * ENTRY : base + ENTRIES * ENTRY - DATA : ENTRY]
                data += run[base : base + last * ENTRY : ENTRY]
            # Only then is the ring empty: a vCPU that sees it so writes to the UART at once, and
            # would overtake these bytes (seen: a digit, a line too early).
            self.uart.transmit(data + more)
            words[self._first] = last
        return True

    def rouse(self) -> None:
        """Have KVM collect again."""
        self.quiet = False
        self.roused()

    def pio_in(self, offset: int, size: int) -> int:
        """Read the chip."""
        if self._words[self._first] != self._words[self._last]:
            self.drain()
        return self.uart.pio_in(offset, size)

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Write the chip."""
        if self.quiet:
            self.rouse()
        if self._words[self._first] != self._words[self._last]:
            if not offset and size == 1:
                self.drain(BYTES[value & 0xFF])
                return
            self.drain()
        if offset == LCR:
            self.programmed = True
        self.uart.pio_out(offset, size, value)
