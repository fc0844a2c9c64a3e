"""The partition: its VPs, its reference clock, and the MSRs that all VPs share.

This is the whole Hyper-V interface of a machine, without KVM: MSR accesses and hypercalls go in,
what they need of a machine comes from a ``World``. Each VP's calls come on its own thread.
"""

from __future__ import annotations

import threading

from ..errors import BadGpa, GuestFault
from ..saving import fields, put
from . import hypercalls, msrs
from .clock import ReferenceClock
from .connections import Connections
from .overlay import Overlays
from .syndbg import REGISTERS, Syndbg
from .tlfs import (
    HV_CRASH_CTL_CRASH_NOTIFY,
    HV_CRASH_PARAMETERS,
    HV_EXPOSE_INVARIANT_TSC,
    HV_PAGE_ENABLE,
    HV_PAGE_MASK,
)
from .vp import Vp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .driver import World
    from .privileges import Features

SAVED = ("crash_parameters", "guest_os_id", "hypercall_msr", "reenlightenment",
         "tsc_emulation_status", "tsc_invariant_control")  # fmt: skip


class Partition:
    """The Hyper-V interface of one machine.

    :param features: what CPUID shows; only ``synic``, ``syndbg`` and, with ``enforce``, the bits
        decide anything here.
    :param world: the machine. Its memory must be there already; nothing is called from here.
    :param vp_count: VPs have the indexes 0 .. vp_count - 1.
    :param hypercall_page_bytes: the code that the hypercall page gets.

    ``vps``, ``clock`` and ``connections`` are for the driver.
    """

    clock: ReferenceClock
    syndbg: Syndbg
    guest_os_id: int
    hypercall_msr: int
    reenlightenment: int
    tsc_emulation_status: int
    tsc_invariant_control: int

    def __init__(
        self, features: Features, world: World, vp_count: int, hypercall_page_bytes: bytes = b""
    ) -> None:
        self.features, self.world = features, world
        self._hypercall_page_bytes = hypercall_page_bytes
        self._lock = threading.Lock()  # guest_os_id and hypercall go together
        self.clock = ReferenceClock(world)
        self.connections = Connections(world.memory)
        self.syndbg = Syndbg()
        self.overlays = Overlays(world.memory)
        self.vps = tuple(Vp(self, index) for index in range(vp_count))
        self._tables: dict[int, msrs.Table] = {}
        self.crash_parameters = [0] * HV_CRASH_PARAMETERS
        self._zero()

    def _zero(self) -> None:
        self.guest_os_id = self.hypercall_msr = 0
        self.crash_parameters[:] = [0] * HV_CRASH_PARAMETERS  # the MSR tables know this list
        self.reenlightenment = self.tsc_emulation_status = self.tsc_invariant_control = 0

    # What the driver calls

    def msr_table(self, vp_index: int) -> msrs.Table:
        """Return the VP's MSRs, number -> (read, write), bound and ready to call.

        A missing number, or a None, is #GP; so is a GuestFault. Empty if CPUID does not show
        Hyper-V. The same dict at every call.
        """
        table = self._tables.get(vp_index)
        if table is None:
            enabled = self.features.enabled
            table = msrs.bind(self.vps[vp_index]) if enabled else {}
            self._tables[vp_index] = table
        return table

    def read_msr(self, vp_index: int, msr: int) -> int:
        """Return what RDMSR gives, 64 bits; GuestFault for #GP."""
        read = self.msr_table(vp_index).get(msr, (None, None))[0]
        if read is None:
            raise GuestFault(f"rdmsr {msr:#x}")
        return read()

    def write_msr(self, vp_index: int, msr: int, value: int) -> None:
        """Do a WRMSR of 64 bits; GuestFault for #GP."""
        write = self.msr_table(vp_index).get(msr, (None, None))[1]
        if write is None:
            raise GuestFault(f"wrmsr {msr:#x}")
        write(value)

    def hypercall(
        self,
        vp_index: int,
        control: int,
        in1: int,
        in2: int,
        xmm: Callable[[], bytes],
        *,
        long_mode: bool,
    ) -> int:
        """Serve a hypercall of CPL 0 in protected mode; return RAX, or EDX:EAX.

        :param control: RCX or EDX:EAX, the hypercall input value.
        :param in1: RDX or EBX:ECX. :param in2: R8 or EDI:ESI.
        :param xmm: gives XMM0-5, 96 bytes; called only if the call reads them.
        :raises UndefinedOpcode: #UD.

        A driver that serves many takes :func:`hypercalls.caller`, once per VP.
        """
        return hypercalls.caller(self, vp_index, xmm)(control, in1, in2, long_mode)

    @property
    def hypercall_page_gpa(self) -> int | None:
        """Where the guest has the hypercall page; None while it is off."""
        value = self.hypercall_msr
        return value & HV_PAGE_MASK if value & HV_PAGE_ENABLE else None

    def refresh(self) -> None:
        """The host's clock or the guest's TSC changed: rewrite the reference TSC page."""
        self.clock.refresh()

    def reset(self) -> None:
        """Put all to where it was at creation; no VP runs. Connections stay: they are the VMM's.

        As the TLFS has it, HYPERCALL becomes 0 (KVM under QEMU keeps the old page number). The
        reference time runs on, and so does VP_RUNTIME.
        """
        for vp in self.vps:
            vp.reset()
        with self._lock:
            self._zero()
        self.clock.reset()
        self.syndbg.reset()

    # for snapshots

    def save(self) -> dict[str, Any]:
        """Return the state of all but connections, which are the VMM's; no VP runs.

        What lies in guest RAM (SIM and SIEF slots, the TSC page) is not part of it.
        """
        return {
            **fields(self, SAVED), "syndbg": fields(self.syndbg, REGISTERS),
            "clock": self.clock.save(), "overlays": self.overlays.save(),
            "vps": [vp.save() for vp in self.vps],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save` in a new partition; guest RAM is there, and time stands."""
        put(self, SAVED[1:], state)
        self.crash_parameters[:] = state["crash_parameters"]  # the MSR tables know this list
        put(self.syndbg, REGISTERS, state["syndbg"])
        self.clock.load(state["clock"])
        self.overlays.load(state["overlays"])
        for vp, saved in zip(self.vps, state["vps"], strict=True):
            vp.load(saved)

    # MSRs

    def write_guest_os_id(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_GUEST_OS_ID; 0 also switches the hypercall page off."""
        with self._lock:
            self.guest_os_id = value
            if not value:
                self.hypercall_msr &= ~HV_PAGE_ENABLE

    def write_hypercall(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_HYPERCALL; ignored while GUEST_OS_ID is 0.

        The code goes into guest RAM as it is (the TLFS overlays a page); the rest of the page
        keeps its content, the lock bit means nothing.

        :raises GuestFault: enabled at an address without RAM; the old value stays.
        """
        with self._lock:
            if not self.guest_os_id:
                return
            if value & HV_PAGE_ENABLE:
                try:
                    self.world.memory.write(value & HV_PAGE_MASK, self._hypercall_page_bytes)
                except BadGpa as error:
                    raise GuestFault(str(error)) from error
            self.hypercall_msr = value

    def write_reset(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_RESET; KVM takes nothing but 1."""
        if value == 1:
            self.world.reset()

    def write_crash_control(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_CRASH_CTL; a read always gives what the VMM offers."""
        if value & HV_CRASH_CTL_CRASH_NOTIFY:
            self.world.crash(tuple(self.crash_parameters), value)  # type: ignore[arg-type]

    def write_tsc_emulation_status(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_TSC_EMULATION_STATUS: only 0."""
        if value:
            raise GuestFault("TSC emulation status")
        self.tsc_emulation_status = 0

    def write_tsc_invariant_control(self, value: int) -> None:
        """Take a WRMSR to HV_X64_MSR_TSC_INVARIANT_CONTROL: bit 0, and no way back."""
        if value & ~HV_EXPOSE_INVARIANT_TSC or (self.tsc_invariant_control and not value):
            raise GuestFault("TSC invariant control")
        self.tsc_invariant_control = value

    def tsc_hz(self) -> int:
        """Return HV_X64_MSR_TSC_FREQUENCY."""
        return self.world.tsc_khz() * 1000
