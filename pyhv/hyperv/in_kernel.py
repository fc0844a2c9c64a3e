"""The Hyper-V interface where KVM has it: capabilities on, and the few calls that still come out.

KVM keeps the MSRs, the timers and the flush and IPI calls. To user space come HvPostMessage,
HvSignalEvent for ids without an eventfd, crash and reset, and notes where the SynIC pages are.
"""

from __future__ import annotations

import ctypes
import os
import threading
from _collections import deque

from ..errors import BadGpa, HostError, KvmError
from ..kvm import uapi
from . import features as f
from .connections import Connections
from .overlay import Overlays
from .syndbg import HV_SYNDBG_STATUS_INVALID
from .synic import fill_slot
from .tlfs import (
    HV_EXT_CALL_MEMORY_HEAT_HINT,
    HV_EXT_CALL_QUERY_CAPABILITIES,
    HV_HYPERCALL_REP_COMP_OFFSET,
    HV_HYPERCALL_REP_MASK,
    HV_MESSAGE_SIZE,
    HV_PAGE_ENABLE,
    HV_PAGE_MASK,
    HV_STATUS_INVALID_HYPERCALL_CODE,
    HV_SYNIC_SINT_COUNT,
    HV_X64_MSR_CRASH_CTL,
    HV_X64_MSR_CRASH_P0,
    HV_X64_MSR_SCONTROL,
    HV_X64_MSR_SIMP,
    HV_X64_MSR_SINT0,
    HV_X64_MSR_STIMER0_CONFIG,
    HV_X64_MSR_SVERSION,
    HV_X64_MSR_TIME_REF_COUNT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..kvm.vcpu import Vcpu
    from ..kvm.vm import Vm
    from ..memory import GuestMemory
    from ..runloop import VcpuThread
    from .driver import Events, MessageHandler
    from .privileges import Features

CRASH_NOTIFY = 1 << 63
#: MSRs of a SynIC that KVM_GET_MSR_INDEX_LIST leaves out, in the order in which a snapshot's go in:
#: a timer's count before its config, for a count makes a timer with auto-enable run.
SYNIC_MSRS = (
    *range(HV_X64_MSR_SCONTROL, HV_X64_MSR_SIMP + 1),
    *range(HV_X64_MSR_SINT0, HV_X64_MSR_SINT0 + HV_SYNIC_SINT_COUNT),
    *(HV_X64_MSR_STIMER0_CONFIG + n for n in (1, 0, 3, 2, 5, 4, 7, 6)),
)
HVCALL_POST_MESSAGE, HVCALL_SIGNAL_EVENT = 0x5C, 0x5D
EVMCS_VERSION = 1  # as in leaf 0x4000000A, see flags.py


def enable_evmcs(vcpu: Vcpu) -> None:
    """Switch the enlightened VMCS on (KVM_CAP_HYPERV_ENLIGHTENED_VMCS).

    :raises HostError: this KVM has none, or none of the one version that flags.py announces.
    """
    version = ctypes.c_uint16()  # the lowest in the low byte, the highest above
    vcpu.enable_cap(uapi.KVM_CAP_HYPERV_ENLIGHTENED_VMCS, ctypes.addressof(version))
    lowest, highest = version.value & 0xFF, version.value >> 8
    if not lowest <= EVMCS_VERSION <= highest:
        raise HostError(
            f"hv-evmcs: eVMCS version range [{EVMCS_VERSION}..{EVMCS_VERSION}] is not supported by "
            f"kernel (supported: [{lowest}..{highest}]); leave out hv-evmcs"
        )


class _Sint:
    """A (VP, SINT) that somebody uses: its GSI's eventfd, the resample eventfd, the queue."""

    __slots__ = ("eventfd", "queue", "resample", "scheduled", "sint", "vp")

    def __init__(self, vp: int, sint: int) -> None:
        self.vp, self.sint = vp, sint
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.resample = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            os.close(self.eventfd)
            raise
        self.queue: deque[tuple[int, bytes]] = deque()
        self.scheduled = False

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.eventfd)
        os.close(self.resample)


class InKernel:
    """Hyper-V served by KVM. Made after the vCPUs, before CPUID is set and before they run."""

    name = "in_kernel"

    def __init__(
        self,
        vm: Vm,
        vcpus: list[Vcpu],
        memory: GuestMemory,
        features: Features,
        events: Events,
        on_reset: Callable[[], None],
        on_crash: Callable[[tuple[int, ...], int], None],
    ) -> None:
        self.vm, self.vcpus, self.memory, self.events = vm, vcpus, memory, events
        self._on_reset, self._on_crash = on_reset, on_crash
        self._threads: list[VcpuThread] = []
        self.connections = Connections(memory)
        self.overlays = Overlays(memory)
        self._pages = [(0, 0, 0)] * len(vcpus)  # SCONTROL, SIEFP, SIMP
        self._sints: dict[tuple[int, int], _Sint] = {}
        self._making = threading.Lock()  # one route at a time
        self._bound: dict[int, int] = {}
        self._closed = False
        self._free_pages = features.free_pages
        self._kvm_synic = features.kvm_synic  # KVM clears the pages itself and lays nothing over
        for vcpu in vcpus:
            if features.synic:
                vcpu.enable_cap(
                    uapi.KVM_CAP_HYPERV_SYNIC if features.kvm_synic else uapi.KVM_CAP_HYPERV_SYNIC2
                )
            if features.leaf4_eax & f.ENLIGHTENED_VMCS_RECOMMENDED:
                enable_evmcs(vcpu)
            if features.enabled and features.enforce:
                vcpu.enable_cap(uapi.KVM_CAP_HYPERV_ENFORCE_CPUID, 1)
            if features.enabled:
                # QEMU sets it always, flag or not: the guest then reads "notify" in CRASH_CTL
                vcpu.set_msr(HV_X64_MSR_CRASH_CTL, CRASH_NOTIFY)
                vcpu.set_msr(HV_X64_MSR_SVERSION, 1)
                if features.synic:
                    vcpu.set_msr(HV_X64_MSR_SCONTROL, 0)  # as QEMU at reset; KVM has 1

    def attach(self, threads: list[VcpuThread]) -> None:
        """Put our handlers into the vCPUs' tables; before they start."""
        self._threads = threads
        for thread in threads:
            thread.exits[uapi.KVM_EXIT_HYPERV] = self._hyperv_exit(thread)
            thread.exits[uapi.KVM_EXIT_SYSTEM_EVENT] = self._system_event(thread)

    def _hyperv_exit(self, thread: VcpuThread) -> Callable[[], None]:
        m32, m64, vp = thread.vcpu.m32, thread.vcpu.m64, thread.index

        def served() -> None:
            kind = m32[8]
            if kind == uapi.KVM_EXIT_HYPERV_HCALL:
                # hcall: input @40, result @48, params @56
                m64[6] = self._hypercall(m64[5], m64[7], m64[8])
            elif kind == uapi.KVM_EXIT_HYPERV_SYNDBG:
                # syndbg: msr @40, control @48, status @56, send_page @64, recv_page @72,
                # pending_page @80; after a write of CONTROL the guest reads our status
                m64[7] = HV_SYNDBG_STATUS_INVALID
            elif kind == uapi.KVM_EXIT_HYPERV_SYNIC:
                # synic: msr @40, control @48, evt_page @56, msg_page @64
                if not self._kvm_synic:
                    self._pages_moved(vp, (m64[6], m64[7], m64[8]))
                thread.vcpu.valid_regs = 0  # an OS is here: the BIOS needs no registers any more

        return served

    def _pages_moved(self, vp: int, pages: tuple[int, int, int]) -> None:
        """Note the VP's SCONTROL, SIEFP, SIMP, and lay the pages where they are now.

        With KVM_CAP_HYPERV_SYNIC2 KVM leaves that to us; an address without RAM is no fault in KVM.
        """
        control, siefp, simp = pages
        self._pages[vp] = (control, 0, 0)  # no event, no message while a page is on its way
        self.overlays.place(("SIEF", vp), siefp)
        self.overlays.place(("SIM", vp), simp)
        self._pages[vp] = pages
        for (owner, _), sint in list(self._sints.items()):
            if owner == vp:
                self._schedule(sint)  # what waited for the page

    def _hypercall(self, control: int, parameter: int, output: int) -> int:
        code, fast = control & 0xFFFF, bool(control & 1 << 16)
        if code == HVCALL_POST_MESSAGE:
            return self.connections.post_message(parameter, fast)
        if code == HVCALL_SIGNAL_EVENT:
            # In the slow form KVM has read the 8 bytes already and hands them over in place of
            # the address (linux 6.12: kvm_hvcall_signal_event): the value is the input.
            return self.connections.signal_value(parameter)
        # of the extended calls KVM refuses the fast form by itself
        if code == HV_EXT_CALL_QUERY_CAPABILITIES and self._free_pages:
            from .extended import query_capabilities

            return query_capabilities(self.memory, output)
        if code == HV_EXT_CALL_MEMORY_HEAT_HINT and self._free_pages:
            from .extended import memory_heat_hint

            reps = control >> HV_HYPERCALL_REP_COMP_OFFSET & HV_HYPERCALL_REP_MASK
            return memory_heat_hint(self.memory, parameter, reps)
        return HV_STATUS_INVALID_HYPERCALL_CODE

    def _system_event(self, thread: VcpuThread) -> Callable[[], None]:
        m32, vcpu = thread.vcpu.m32, thread.vcpu

        def served() -> None:
            if m32[8] == uapi.KVM_SYSTEM_EVENT_CRASH:
                values = tuple(vcpu.get_msr(HV_X64_MSR_CRASH_P0 + i) or 0 for i in range(5))
                self._on_crash(values, CRASH_NOTIFY)
            else:
                self._on_reset()

        return served

    # SynicPort: what VMBus asks for

    def _sint(self, vp: int, sint: int) -> _Sint:
        """Return the route of (*vp*, *sint*), made on first use; any thread, but not after close.

        :raises OSError: no descriptor, or no route, is left.
        """
        found = self._sints.get((vp, sint))
        if found is not None:
            return found
        with self._making:
            found = self._sints.get((vp, sint))
            if found is None:
                found = _Sint(vp, sint)
                try:
                    gsi = self.vm.add_route(uapi.KVM_IRQ_ROUTING_HV_SINT, vp, sint)
                    self.vm.irqfd(gsi, found.eventfd, found.resample)
                    self.events.add(found.resample, lambda: self._acknowledged(found))
                except BaseException:
                    found.close()
                    raise
                self._sints[vp, sint] = found
        return found

    def _acknowledged(self, sint: _Sint) -> None:
        """The guest wrote EOM or EOI: the slot may be free for the next message."""
        os.eventfd_read(sint.resample)
        self._schedule(sint)

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        """Queue a message for a SIM slot."""
        if self._closed:
            return  # a reset came first
        route = self._sint(vp_index, sint)
        route.queue.append((message_type, payload))
        self._schedule(route)

    def drop_messages(self, vp_index: int, sint: int, message_type: int) -> None:
        """Forget messages that wait for a SIM slot; the VP's thread may be delivering one."""
        route = self._sints.get((vp_index, sint))
        if route is not None:
            route.queue = deque(one for one in tuple(route.queue) if one[0] != message_type)

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        """Return how many messages wait for a SIM slot."""
        route = self._sints.get((vp_index, sint))
        return len(route.queue) if route is not None else 0

    def _schedule(self, sint: _Sint) -> None:
        if sint.queue and not sint.scheduled:
            sint.scheduled = True
            self._threads[sint.vp].request(lambda: self._deliver(sint))

    def _deliver(self, sint: _Sint) -> None:
        """Write what fits; on the VP's own thread, because KVM's timers write there too.

        The next message is tried at once: the full slot then gets its pending flag, without which
        a guest with auto-EOI would tell nobody when it is empty.
        """
        sint.scheduled = False
        simp = self._pages[sint.vp][2]
        if not simp & HV_PAGE_ENABLE:
            return
        gpa = (simp & HV_PAGE_MASK) + sint.sint * HV_MESSAGE_SIZE
        # another queue may take its place at any time (drop_messages): look for it every time
        while (queue := sint.queue) and fill_slot(self.memory, gpa, *queue[0]):
            queue.popleft()
            os.eventfd_write(sint.eventfd, 1)

    def raise_sint(self, vp_index: int, sint: int) -> None:
        """Send a SINT's interrupt."""
        if not self._closed:
            os.eventfd_write(self._sint(vp_index, sint).eventfd, 1)

    def event_signaller(self, vp_index: int, sint: int, flag: int) -> Callable[[], None]:
        """Return a function that sets an event flag and raises the SINT if it was clear."""
        eventfd, pages, memory = self._sint(vp_index, sint).eventfd, self._pages, self.memory
        one = (1).to_bytes(8, "little")
        write, base = os.write, sint * 256

        def signal() -> None:
            control, siefp, _ = pages[vp_index]
            if not control & siefp & 1:
                return
            try:
                if not memory.test_and_set((siefp & HV_PAGE_MASK) + base, flag):
                    write(eventfd, one)
            except BadGpa:
                pass  # the guest put its page outside RAM: it gets no events

        return signal

    def connect_messages(self, connection_id: int, handler: MessageHandler) -> None:
        """Route HvCallPostMessage."""
        self.connections.connect_messages(connection_id, handler)

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        """Route HvCallSignalEvent in the kernel: no exit at all."""
        try:
            self.vm.hyperv_eventfd(connection_id, eventfd)
        except KvmError as error:
            raise HostError(f"VMBus channel doorbell: {error}") from error
        self._bound[connection_id] = eventfd

    def unbind_event(self, connection_id: int) -> None:
        """Undo :meth:`bind_event`."""
        eventfd = self._bound.pop(connection_id, None)
        if eventfd is not None:
            self.vm.hyperv_eventfd(connection_id, eventfd, remove=True)

    def reference_ticks(self) -> int:
        """Return the partition reference time, 100 ns."""
        return self.vm.clock()[0] // 100

    def freeze(self) -> None:
        """Let the partition's time stand; every vCPU is outside the guest."""
        # With a valid TSC page KVM computes the counter from it, which may be ahead of kvmclock.
        ticks = self.vcpus[0].get_msr(HV_X64_MSR_TIME_REF_COUNT) or 0
        self.vm.freeze_clock(ticks * 100 + 99)

    def thaw(self) -> None:
        """Let it go on; KVM does the TSC page and the timers."""
        for vcpu in self.vcpus:
            vcpu.clock_stopped()
        self.vm.thaw_clock()

    # for snapshots: time stands

    def save(self) -> dict[str, Any]:
        """Return what KVM does not have: covered pages, and messages that wait."""
        queues = [[vp, sint, *one] for (vp, sint), route in self._sints.items()
                  for one in route.queue]  # fmt: skip
        pages = [list(pages) for pages in self._pages]
        return {"overlays": self.overlays.save(), "pages": pages, "queues": queues}

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save` on a new board whose vCPUs have their MSRs already."""
        self.overlays.load(state["overlays"])
        self._pages[:] = [tuple(pages) for pages in state["pages"]]
        for vp, sint, kind, payload in state["queues"]:
            self.post_message(vp, sint, kind, payload)

    def renew(self) -> bool:
        """KVM does it by itself."""
        return True

    def stop(self) -> None:
        """Nothing waits inside this driver."""

    def close(self) -> None:
        """Close the routes' descriptors; on the event-loop thread or after it ended."""
        self._closed = True
        for sint in self._sints.values():
            self.events.remove(sint.resample)
            sint.close()
        self._sints.clear()
        self.overlays.clear()
