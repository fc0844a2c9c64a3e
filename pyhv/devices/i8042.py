"""Two old ways to reset a PC: the keyboard controller's pulse, and port 0x92.

There is no keyboard and no controller: the FADT says so, and the status port reads
0xff, at which Linux gives up at once (any other value costs it seconds of polling).
"""

from __future__ import annotations

from .ports import BytePorts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PULSE = 0xF0  # pulse the output lines whose low bits are 0; bit 0 is the CPU's reset
RESET_LINE = 1

A20_GATE, FAST_RESET = 2, 1  # port 0x92


class I8042(BytePorts):
    """Port 0x64. The data port 0x60 needs no device (ones come from the bus), 0x61 is KVM's PIT.

    :param reset: called with the reason.
    """

    def __init__(self, reset: Callable[[str], None]) -> None:
        self._reset = reset

    def write(self, offset: int, value: int) -> None:
        """Take a command; only the pulses of the reset line do something."""
        if value & PULSE == PULSE and not value & RESET_LINE:
            self._reset(f"i8042 command {value:#x}")


class SystemControl(BytePorts):
    """Port 0x92: A20 is always on, bit 0 resets."""

    def __init__(self, reset: Callable[[str], None]) -> None:
        self._reset = reset

    def read(self, offset: int) -> int:
        """Return A20 on."""
        return A20_GATE

    def write(self, offset: int, value: int) -> None:
        """Reset on bit 0."""
        if value & FAST_RESET:
            self._reset("port 0x92")
