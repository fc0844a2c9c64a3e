"""Ports and MMIO addresses find their device by one dict look-up; there is no range to scan.

A vCPU's table maps the *io word* of kvm_run (direction | size << 8 | port << 16 | count << 32, one
64-bit load) to a function made on first use that knows device, offset and the place
of the data. So an exit costs a look-up and a call.
"""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class PioDevice(Protocol):
        """What sits on ports; offsets count from the first port of the claim."""

        def pio_in(self, offset: int, size: int) -> int: ...
        def pio_out(self, offset: int, size: int, value: int) -> None: ...

    class MmioDevice(Protocol):
        """What sits in guest physical space outside RAM."""

        def mmio_read(self, offset: int, size: int) -> int: ...
        def mmio_write(self, offset: int, size: int, value: int) -> None: ...


OUT = 1  # KVM_EXIT_IO_OUT
DATA = 4096  # kvm_run: the data of a port access starts on the second page
CACHE_LIMIT = 4096  # a guest that walks all ports must not fill our memory


def io_word(port: int, size: int, out: bool, count: int = 1) -> int:
    """Return the first 64 bits of kvm_run.io for such an access; *count* > 1: rep ins/outs."""
    return (OUT if out else 0) | size << 8 | port << 16 | count << 32


def item(view: memoryview, offset: int, code: str) -> memoryview:
    """Return the number at *offset* of *view* as a memoryview without dimensions.

    ``it[()]`` reads it and ``it[()] = value`` writes it: the cheapest way in Python to look at
    memory that somebody else changes. *code* is of the struct module: B, H, I, Q.
    """
    size = {"B": 1, "H": 2, "I": 4, "Q": 8}[code]
    return view[offset : offset + size].cast(code, ())


class Bus:
    """Who owns which port and which MMIO range; the claims of one machine."""

    def __init__(self) -> None:
        self._ports: dict[int, tuple[PioDevice, int]] = {}
        self._pages: dict[int, tuple[MmioDevice, int, int]] = {}

    def claim_pio(self, first: int, count: int, device: PioDevice) -> None:
        """Give ports *first*.. to *device*."""
        for port in range(first, first + count):
            if port in self._ports:
                raise ConfigError(
                    f"port {port:#x} is claimed twice: {self._ports[port][0]}, {device}"
                )
            self._ports[port] = (device, first)

    def claim_mmio(self, first: int, length: int, device: MmioDevice) -> None:
        """Give guest addresses *first*.. (whole 4 KiB pages) to *device*."""
        if first % 4096 or length % 4096:
            raise ConfigError(f"mmio {first:#x}+{length:#x}: not whole pages")
        for page in range(first >> 12, (first + length) >> 12):
            self._pages[page] = (device, first, length)

    def port_in(self, port: int, size: int) -> int:
        """Read a port; what nobody claims reads as all ones. Wider than the claim: bytes."""
        owner = self._ports.get(port)
        if owner and (size == 1 or self._ports.get(port + size - 1) == owner):
            return owner[0].pio_in(port - owner[1], size) & ((1 << size * 8) - 1)
        if size == 1:
            return 0xFF
        return sum(self.port_in((port + i) & 0xFFFF, 1) << 8 * i for i in range(size))

    def port_out(self, port: int, size: int, value: int) -> None:
        """Write a port; what nobody claims swallows it."""
        owner = self._ports.get(port)
        if owner and (size == 1 or self._ports.get(port + size - 1) == owner):
            owner[0].pio_out(port - owner[1], size, value)
        elif size > 1:
            for i in range(size):
                self.port_out((port + i) & 0xFFFF, 1, value >> 8 * i & 0xFF)

    def owner(self, port: int) -> PioDevice | None:
        """Return the device that has *port*."""
        found = self._ports.get(port)
        return found[0] if found is not None else None

    def claimed(self, port: int, size: int) -> bool:
        """Tell whether any byte of the access has an owner."""
        return any((port + i) & 0xFFFF in self._ports for i in range(size))

    def mmio_claimed(self, gpa: int) -> bool:
        """Tell whether the page of *gpa* has an owner."""
        return gpa >> 12 in self._pages

    def mmio_read(self, gpa: int, size: int) -> int:
        """Read outside RAM; holes read as all ones."""
        owner = self._pages.get(gpa >> 12)
        if owner is None or gpa + size > owner[1] + owner[2]:
            return (1 << size * 8) - 1
        return owner[0].mmio_read(gpa - owner[1], size) & ((1 << size * 8) - 1)

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """Write outside RAM; holes swallow it."""
        owner = self._pages.get(gpa >> 12)
        if owner is not None and gpa + size <= owner[1] + owner[2]:
            owner[0].mmio_write(gpa - owner[1], size, value)


class PioHandlers:
    """Makes one vCPU's functions for port accesses: io word -> function(io word).

    :param m8: kvm_run as bytes, at least two pages.
    :param note: called by every function with the io word, for the report of the last exits.
    """

    def __init__(self, bus: Bus, m8: memoryview, note: Callable[[int], None]) -> None:
        self._bus, self._note = bus, note
        self._views = {1: m8, 2: m8.cast("H"), 4: m8.cast("I")}
        self._data = {size: item(m8, DATA, code) for size, code in ((1, "B"), (2, "H"), (4, "I"))}

    def make(self, word: int) -> Callable[[int], None]:
        """Return what serves *word*; any *word* is served."""
        if word >> 32 != 1:
            return self.string
        port, size = word >> 16 & 0xFFFF, word >> 8 & 0xFF
        return self._out(port, size) if word & OUT else self._in(port, size)

    def _out(self, port: int, size: int) -> Callable[[int], None]:
        bus, note, data = self._bus, self._note, self._data[size]
        owner = bus._ports.get(port)
        if not bus.claimed(port, size):
            return note  # nobody hears it: to note it is all
        if owner and bus._ports.get(port + size - 1) == owner:
            pio_out, offset = owner[0].pio_out, port - owner[1]

            def write(word: int) -> None:
                note(word)
                pio_out(offset, size, data[()])

            return write

        def split(word: int) -> None:
            note(word)
            bus.port_out(port, size, data[()])

        return split

    def _in(self, port: int, size: int) -> Callable[[int], None]:
        bus, note, data, ones = self._bus, self._note, self._data[size], (1 << size * 8) - 1
        owner = bus._ports.get(port)
        if owner and bus._ports.get(port + size - 1) == owner:
            pio_in, offset = owner[0].pio_in, port - owner[1]

            def read(word: int) -> None:
                note(word)
                data[()] = pio_in(offset, size) & ones

            return read
        if not bus.claimed(port, size):

            def nobody(word: int) -> None:
                note(word)
                data[()] = ones

            return nobody

        def split(word: int) -> None:
            note(word)
            data[()] = bus.port_in(port, size)

        return split

    def string(self, word: int) -> None:
        """Serve a string access (rep ins/outs): same port, *count* data side by side."""
        self._note(word)
        port, size, count = word >> 16 & 0xFFFF, word >> 8 & 0xFF, word >> 32
        view, at, bus = self._views[size], DATA // size, self._bus
        if word & OUT:
            for i in range(at, at + count):
                bus.port_out(port, size, view[i])
        else:
            for i in range(at, at + count):
                view[i] = bus.port_in(port, size)

    def release(self) -> None:
        """Let go of kvm_run."""
        for view in (self._views[2], self._views[4], *self._data.values()):
            view.release()
