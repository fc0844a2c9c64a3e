"""What in_user does to a vCPU from outside the guest: APIC registers, injection, TLB flush.

All of it runs on the vCPU's own thread, outside KVM_RUN.
"""

from __future__ import annotations

import ctypes
import time

from ..kvm import requests, uapi
from .tlfs import HV_X64_MSR_EOI, HV_X64_MSR_ICR, HV_X64_MSR_TPR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..kvm.vcpu import Vcpu
    from ..runloop import VcpuThread
    from ..timerthread import Timers

RETRY_NS = 100_000
_PAGE = ctypes.c_uint32 * 256

APIC_TPR, APIC_EOI, APIC_ISR, APIC_TMR, APIC_ICR = 0x80, 0xB0, 0x100, 0x180, 0x300
X2APIC_MSR = 0x800  # + register >> 4
APIC_BASE_EXTD = 1 << 10
RFLAGS_IF = 1 << 9
CR4_PGE = 1 << 7


def _lapic(vcpu: Vcpu) -> ctypes.Array:
    state = vcpu.get_struct(requests.GET_LAPIC, uapi.LapicState)
    return _PAGE.from_buffer(state)  # type: ignore[arg-type]


def _x2apic(vcpu: Vcpu) -> bool:
    return bool(vcpu.m64[uapi.RUN_APIC_BASE >> 3] & APIC_BASE_EXTD)  # there after every exit


def read(vcpu: Vcpu, register: int) -> int:
    """Return HV_X64_MSR_ICR (64 bits) or HV_X64_MSR_TPR."""
    page = _lapic(vcpu)
    if register == HV_X64_MSR_TPR:
        return page[APIC_TPR >> 2] & 0xFF
    return page[(APIC_ICR + 0x10) >> 2] << 32 | page[APIC_ICR >> 2]


def write(vcpus: list[Vcpu], index: int, register: int, value: int) -> None:
    """Do what the APIC register does.

    In x2APIC mode KVM's own MSR does all of it, also towards the IOAPIC. In xAPIC mode an EOI of
    a level-triggered vector would leave the in-kernel IOAPIC's remote IRR set: the mode is
    switched for the length of that one write.
    """
    vcpu = vcpus[index]
    if _x2apic(vcpu):
        offset = {HV_X64_MSR_EOI: APIC_EOI, HV_X64_MSR_ICR: APIC_ICR, HV_X64_MSR_TPR: APIC_TPR}
        vcpu.set_msr(
            X2APIC_MSR + (offset[register] >> 4), 0 if register == HV_X64_MSR_EOI else value
        )
        return
    page = _lapic(vcpu)
    if register == HV_X64_MSR_TPR:
        page[APIC_TPR >> 2] = value & 0xFF
        _set_lapic(vcpu, page)
    elif register == HV_X64_MSR_ICR:
        _send_ipi(vcpus, index, value, page)
    else:
        vector = highest(page, APIC_ISR)
        if vector is None:
            return
        if page[(APIC_TMR >> 2) + (vector >> 5) * 4] >> (vector & 31) & 1:
            _eoi_level(vcpu, page)
        else:
            page[(APIC_ISR >> 2) + (vector >> 5) * 4] &= ~(1 << (vector & 31))
            _set_lapic(vcpu, page)


def _set_lapic(vcpu: Vcpu, page: ctypes.Array) -> None:
    requests.SET_LAPIC(vcpu.fd, uapi.LapicState.from_buffer(page))


def _eoi_level(vcpu: Vcpu, page: ctypes.Array) -> None:
    ldr, dfr = page[0xD0 >> 2], page[0xE0 >> 2]
    vcpu.fetch(uapi.KVM_SYNC_X86_SREGS)
    apic_base = vcpu.sregs.apic_base
    vcpu.sregs.apic_base = apic_base | APIC_BASE_EXTD
    vcpu.store(uapi.KVM_SYNC_X86_SREGS)
    vcpu.set_msr(X2APIC_MSR + (APIC_EOI >> 4), 0)
    vcpu.sregs.apic_base = apic_base
    vcpu.store(uapi.KVM_SYNC_X86_SREGS)
    page = _lapic(vcpu)
    page[0xD0 >> 2], page[0xE0 >> 2] = ldr, dfr  # the x2APIC switch rewrote them
    page[0x20 >> 2] = vcpu.index << 24
    _set_lapic(vcpu, page)


def _send_ipi(vcpus: list[Vcpu], index: int, value: int, page: ctypes.Array) -> None:
    """Expand destination and shorthand; KVM_SIGNAL_MSI takes every delivery mode."""
    low, shorthand = value & 0xFFFFFFFF, value >> 18 & 3
    page[(APIC_ICR + 0x10) >> 2], page[APIC_ICR >> 2] = value >> 32 & 0xFFFFFFFF, low & ~(1 << 12)
    _set_lapic(vcpus[index], page)
    data = low & 0xC7FF
    targets = {
        0: lambda: [(value >> 56 & 0xFF, low >> 11 & 1)],
        1: lambda: [(index, 0)],
        2: lambda: [(v.index, 0) for v in vcpus],
        3: lambda: [(v.index, 0) for v in vcpus if v.index != index],
    }[shorthand]()
    for destination, logical in targets:
        address = 0xFEE00000 | destination << 12 | logical << 2
        requests.SIGNAL_MSI.raw(vcpus[index].vm.fd, uapi.Msi(address, 0, data & ~0x800))


def highest(page: ctypes.Array, register: int) -> int | None:
    """Return the highest vector set in the 256-bit field at *register*."""
    for word in range(7, -1, -1):
        bits = page[(register >> 2) + word * 4]
        if bits:
            return word * 32 + bits.bit_length() - 1
    return None


def inject_exception(vcpu: Vcpu, vector: int) -> None:
    """Let the guest take a fault (no error code) at its current RIP."""
    events = vcpu.get_struct(requests.GET_VCPU_EVENTS, uapi.VcpuEvents)
    events.exception_injected, events.exception_nr = 1, vector
    events.exception_has_error_code = 0
    vcpu.mark_dirty(0)
    # registers changed in the sync area must be in KVM before the event is
    vcpu.store(uapi.KVM_SYNC_X86_REGS)
    vcpu.m64[uapi.RUN_KVM_DIRTY_REGS >> 3] = 0
    requests.SET_VCPU_EVENTS(vcpu.fd, events)


def inject_interrupt(vcpu: Vcpu, vector: int) -> bool:
    """Deliver *vector* past the APIC, so that no ISR bit is set (AutoEOI); False: not now.

    Late, never early: only with IF set, nothing in flight and a vector class above PPR.
    """
    events = vcpu.get_struct(requests.GET_VCPU_EVENTS, uapi.VcpuEvents)
    regs = vcpu.get_struct(requests.GET_REGS, uapi.Regs)
    if (
        not regs.rflags & RFLAGS_IF
        or events.interrupt_shadow
        or events.interrupt_injected
        or events.exception_injected
        or events.exception_pending
        or events.nmi_injected
    ):
        return False
    page = _lapic(vcpu)
    in_service = highest(page, APIC_ISR) or 0
    priority = max(page[APIC_TPR >> 2] & 0xFF, in_service) >> 4
    if vector >> 4 <= priority:
        return False
    events.interrupt_injected, events.interrupt_nr, events.interrupt_soft = 1, vector, 0
    requests.SET_VCPU_EVENTS(vcpu.fd, events)
    state = vcpu.get_struct(requests.GET_MP_STATE, uapi.MpState)
    if state.mp_state == uapi.KVM_MP_STATE_HALTED:
        requests.SET_MP_STATE(vcpu.fd, uapi.MpState(uapi.KVM_MP_STATE_RUNNABLE))
    return True


class AutoEois:
    """The vectors of one vCPU that wait to be delivered without an ISR bit (SINT with AutoEOI)."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._waiting: set[int] = set()
        self._retry: Callable[[int], None] | None = None

    def waiting(self) -> list[int]:
        """Return the vectors that wait."""
        return sorted(self._waiting)

    def attach(self, thread: VcpuThread) -> None:
        """Say whose they are."""
        self._thread = thread

    def add(self, vector: int) -> None:
        """Deliver *vector* as soon as the vCPU takes interrupts; any thread.

        An edge on a vector that waits already is one with it, as in an APIC's IRR.
        """
        if vector not in self._waiting:
            self._waiting.add(vector)
            self._thread.request(self._attempt)

    def _attempt(self) -> None:
        """Deliver the highest; the next one has its moment when the guest took this one."""
        waiting = self._waiting
        if waiting and inject_interrupt(self._thread.vcpu, max(waiting)):
            waiting.discard(max(waiting))
        if waiting:
            if self._retry is None:
                self._retry = self._timers.timer(lambda: self._thread.request(self._attempt))
            self._retry(time.monotonic_ns() + RETRY_NS)


def flush_tlb(vcpu: Vcpu) -> None:
    """Drop the vCPU's guest translations: KVM flushes them when CR4.PGE changes."""
    sregs = vcpu.get_struct(requests.GET_SREGS, uapi.Sregs)
    sregs.cr4 ^= CR4_PGE
    requests.SET_SREGS(vcpu.fd, sregs)
    sregs.cr4 ^= CR4_PGE
    requests.SET_SREGS(vcpu.fd, sregs)
