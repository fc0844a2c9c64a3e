"""What the devices with 8-bit registers share: a wider access is that many byte accesses."""

from __future__ import annotations


class BytePorts:
    """Base of a device whose ports are bytes, as everything on the ISA bus was.

    A subclass has ``read(offset) -> int`` and ``write(offset, value)``, for one byte; the defaults
    read all ones and drop what is written, as ports do where nothing answers.
    """

    __slots__ = ()

    def read(self, offset: int) -> int:
        """Return the byte at *offset* from the first port of the claim."""
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        """Take the byte *value* (0..255) for the port *offset*."""

    def pio_in(self, offset: int, size: int) -> int:
        """Return *size* bytes (1, 2, 4), little-endian."""
        if size == 1:
            return self.read(offset)
        return sum(self.read(offset + i) << 8 * i for i in range(size))

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Take *size* bytes (1, 2, 4), lowest first."""
        if size == 1:
            self.write(offset, value & 0xFF)
        else:
            for i in range(size):
                self.write(offset + i, value >> 8 * i & 0xFF)
