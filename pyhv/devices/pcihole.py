"""Where PCI would be: configuration reads answer all ones, so a guest finds no bus at once.

Linux and GRUB ask hundreds of times at start (Linux 1,100 exits, GRUB's serial module
16,000), so nothing here does any work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cf9 import ResetControl

FIRST, PORTS = 0xCF8, 8
RESET_OFFSET = 1


class PciHole:
    """Ports 0xcf8-0xcff.

    :param reset_control: gets the byte accesses to 0xcf9. Were it claimed by itself, the bus would
        split PCI's four-byte write to 0xcf8 into bytes and reset the machine for bus 0, slot 0,
        function 4.
    """

    def __init__(self, reset_control: ResetControl) -> None:
        self._reset_control = reset_control

    def pio_in(self, offset: int, size: int) -> int:
        """Return all ones."""
        if size == 1 and offset == RESET_OFFSET:
            return self._reset_control.read(0)
        return (1 << 8 * size) - 1

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Drop an address or datum."""
        if size == 1 and offset == RESET_OFFSET:
            self._reset_control.write(0, value & 0xFF)
