"""The VP assist page of one VP; of its fields only the lazy-EOI word is in use.

The bit itself is set and read by KVM: its own PV EOI has the same layout (World.set_pv_eoi).
"""

from __future__ import annotations

from ..errors import BadGpa, GuestFault
from .tlfs import HV_PAGE_ENABLE, HV_PAGE_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .driver import World

APIC_ASSIST_BYTES = 4  # KVM clears this much on enable; the TLFS: the whole page


class AssistPage:
    """HV_X64_MSR_VP_ASSIST_PAGE; ``value`` is the MSR as the guest wrote it."""

    def __init__(self, world: World, vp_index: int) -> None:
        self._world, self._vp_index = world, vp_index
        self.value = 0

    def write(self, value: int) -> None:
        """Take a guest's WRMSR.

        :raises GuestFault: enabled at an address without RAM; the old value stays.
        """
        gpa = None
        if value & HV_PAGE_ENABLE:
            gpa = value & HV_PAGE_MASK
            try:
                self._world.memory.zero(gpa, APIC_ASSIST_BYTES)
            except BadGpa as error:
                raise GuestFault(str(error)) from error
        self.value = value
        self._world.set_pv_eoi(self._vp_index, gpa)

    def reset(self) -> None:
        """Switch it off; the page keeps its content."""
        if self.value & HV_PAGE_ENABLE:
            self._world.set_pv_eoi(self._vp_index, None)
        self.value = 0
