"""COM1 and COM2 behind KVM's one coalesced ring, whose entries then need their port looked at.

Only a machine with an agent has this: COM1 alone is a little cheaper (serialring.py).
"""

from __future__ import annotations

from .devices.uart import Uart
from .kvm.vcpu import Vcpu
from .serialring import DATA, ENTRIES, ENTRY, RING, SerialRing

PORT = 1  # the byte of phys_addr in which 0x3f8 and 0x2f8 differ
COM2_BYTE = 0x02


class SecondPort:
    """The bus device on COM2's ports: what lies in the ring comes first."""

    def __init__(self, pair: SerialPair, uart: Uart) -> None:
        self._pair, self._uart = pair, uart

    def pio_in(self, offset: int, size: int) -> int:
        """Read the chip."""
        self._pair.drain()
        return self._uart.pio_in(offset, size)

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Write the chip."""
        if self._pair.quiet:
            self._pair.rouse()
        self._pair.drain()
        self._uart.pio_out(offset, size, value)


class SerialPair(SerialRing):
    """COM1's bus device; ``second`` is COM2's. All vCPUs map the same ring."""

    def __init__(self, uart: Uart, other: Uart, vcpu: Vcpu) -> None:
        super().__init__(uart, vcpu)
        self._other = other
        self.second = SecondPort(self, other)

    def drain(self, more: bytes = b"") -> bool:
        """Hand the ring's bytes to their UARTs, then *more* to COM1's; as SerialRing's."""
        words = self._words
        if words[self._first] == words[self._last] and not more:
            return False
        with self._lock:
            first, last = words[self._first], words[self._last]
            if first >= ENTRIES or last >= ENTRIES:
                return False
            for start, end in ((first, last),) if first <= last else ((first, ENTRIES), (0, last)):
                self._hand_out(self._column(PORT, start, end), self._column(DATA, start, end))
            if more:
                self.uart.transmit(more)
            words[self._first] = last
        return True

    def _column(self, offset: int, start: int, end: int) -> bytes:
        """Return the byte at *offset* of the entries from *start* up to *end*."""
        base = RING + 8 + offset
        return self._run[base + start * ENTRY : base + (end - 1) * ENTRY + 1 : ENTRY]

    def _hand_out(self, ports: bytes, data: bytes) -> None:
        while ports:
            rest = ports.lstrip(ports[:1])  # the others of the same port, in a row
            count = len(ports) - len(rest)
            uart = self._other if ports[0] == COM2_BYTE else self.uart
            uart.transmit(data[:count])
            ports, data = rest, data[count:]
