"""A port that ends the machine with the guest's own status: test programs report through it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PORT, PORTS = 0xF4, 4  # QEMU's isa-debug-exit as kvm-unit-tests start it


class ExitPort:
    """isa-debug-exit.

    :param exit: called with ``value << 1 | 1``, the status QEMU would end with; it is odd, and
        only its low 8 bits reach a shell.
    """

    def __init__(self, exit: Callable[[int], None]) -> None:
        self._exit = exit

    def pio_in(self, offset: int, size: int) -> int:
        """Return 0."""
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """End the machine."""
        self._exit(value << 1 | 1)
