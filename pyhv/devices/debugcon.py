"""A port that prints bytes: QEMU's debugcon, which firmware and small test kernels write to."""

from __future__ import annotations

from .ports import BytePorts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BOCHS_PORT, SEABIOS_PORT = 0xE9, 0x402
PRESENT = 0xE9  # what a read answers, whatever the port


class DebugConsole(BytePorts):
    """One port.

    :param out: takes the bytes; must not block.
    """

    def __init__(self, out: Callable[[bytes], None]) -> None:
        self._out = out

    def read(self, offset: int) -> int:
        """Tell that there is a console."""
        return PRESENT

    def write(self, offset: int, value: int) -> None:
        """Print a byte."""
        self._out(bytes((value,)))
