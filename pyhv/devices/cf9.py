"""The chipset's reset control, which ACPI's reset register points at.

It lies inside the PCI configuration address port, as on Intel chipsets: a byte access
to 0xcf9 is this, a four-byte access to 0xcf8 is PCI (pcihole.py sorts them out).
"""

from __future__ import annotations

from .ports import BytePorts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RESET_CPU = 4  # a 0-1 edge starts the reset
HARD = 2  # what kind of reset bit 2 starts; both are one here


class ResetControl(BytePorts):
    """Port 0xcf9.

    :param reset: called with the reason.
    """

    def __init__(self, reset: Callable[[str], None]) -> None:
        self._reset = reset
        self._value = 0

    def save(self) -> int:
        """Return its state."""
        return self._value

    def load(self, state: int) -> None:
        """Undo :meth:`save`."""
        self._value = state

    def read(self, offset: int) -> int:
        """Return what was written."""
        return self._value

    def write(self, offset: int, value: int) -> None:
        """Reset when bit 2 goes from 0 to 1."""
        rising = value & ~self._value & RESET_CPU
        self._value = value & HARD
        if rising:
            self._reset("port 0xcf9")
