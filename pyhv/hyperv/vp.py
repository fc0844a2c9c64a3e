"""One virtual processor as the TLFS sees it: what the per-VP MSRs stand for."""

from __future__ import annotations

from ..errors import GuestFault
from .assist import AssistPage
from .stimer import Stimer
from .synic import Synic
from .tlfs import HV_SYNIC_STIMER_COUNT, HV_X64_MSR_EOI, HV_X64_MSR_ICR, HV_X64_MSR_TPR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .partition import Partition

#: KVM applies the reserved bits of the x2APIC's ICR in xAPIC mode too: [31:20], [17:16], [13]
ICR_RESERVED = 0xFFF3_2000
ICR_BUSY = 1 << 12


class Vp:
    """A VP: ``index``, ``synic``, ``stimers[0..3]``, ``assist``."""

    partition: Partition
    index: int
    synic: Synic
    stimers: tuple[Stimer, ...]
    assist: AssistPage

    def __init__(self, partition: Partition, index: int) -> None:
        self.partition, self.index, self._world = partition, index, partition.world
        self.synic = Synic(partition.world, partition.overlays, index)
        self.stimers = tuple(
            Stimer(partition.world, partition.clock, self.synic, partition.features, index, i)
            for i in range(HV_SYNIC_STIMER_COUNT)
        )
        self.synic.timers = self.stimers
        self.assist = AssistPage(partition.world, index)

    def runtime_ticks(self) -> int:
        """Return HV_X64_MSR_VP_RUNTIME, 100 ns: the CPU time of the VP's thread, the caller."""
        return self._world.vp_runtime_ns(self.index) // 100

    def write_eoi(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_EOI; GuestFault if any of bits [63:32] is set."""
        if value >> 32:
            raise GuestFault("EOI")
        self._world.apic_write(self.index, HV_X64_MSR_EOI, value)
        # TLFS: the EOI of a SINT's vector is an acknowledge too. Which vector it was, we do not
        # know; looking once too often only finds the slots still full.
        if self.synic.waiting:
            self.synic.end_of_message()

    def read_icr(self) -> int:
        """Return HV_X64_MSR_ICR, 64 bits."""
        return self._world.apic_read(self.index, HV_X64_MSR_ICR)

    def write_icr(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_ICR; GuestFault for reserved bits."""
        if value & ICR_RESERVED:
            raise GuestFault("ICR")
        self._world.apic_write(self.index, HV_X64_MSR_ICR, value & ~ICR_BUSY)

    def read_tpr(self) -> int:
        """Return HV_X64_MSR_TPR."""
        return self._world.apic_read(self.index, HV_X64_MSR_TPR)

    def write_tpr(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_TPR: bits [7:0]; GuestFault if any of [63:32] is set."""
        if value >> 32:
            raise GuestFault("TPR")
        self._world.apic_write(self.index, HV_X64_MSR_TPR, value & 0xFF)

    def save(self) -> dict[str, Any]:
        """Return its state."""
        return {"synic": self.synic.save(), "assist": self.assist.value,
                "stimers": [timer.save() for timer in self.stimers]}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; KVM has its part of the assist page by itself."""
        self.assist.value = state["assist"]
        self.synic.load(state["synic"])
        for timer, saved in zip(self.stimers, state["stimers"], strict=True):
            timer.load(saved)

    def reset(self) -> None:
        """Zero the per-VP MSRs and stop the timers; the VP must not run."""
        self.synic.reset()
        self.assist.reset()
