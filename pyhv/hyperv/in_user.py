"""Hyper-V on any KVM: MSR-filter exits, an OUT as hypercall, our own SynIC and timers.

Everything of the TLFS is in the pure core; this file lends it a KVM: it is the core's
``World``, and the ``SynicPort`` of VMBus. The hypercall page holds ``out imm8, eax; ret``:
an OUT changes no register, exits on every KVM, and a VMCALL at CPL 0 loops for ever on
some (measured).
"""

from __future__ import annotations

import os
import time

from ..bus import io_word
from ..errors import HostError, UndefinedOpcode
from ..kvm import requests, uapi
from ..kvm.vm import zero_ns
from ..memory import rdtsc
from ..timerthread import Timers
from . import in_user_apic
from .hypercalls import caller
from .partition import Partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..kvm.vcpu import Vcpu
    from ..kvm.vm import Vm
    from ..memory import GuestMemory
    from ..runloop import VcpuThread
    from .driver import MessageHandler
    from .privileges import Features

HYPERCALL_PORT = 0xE8
HYPERCALL_PAGE = bytes((0xE7, HYPERCALL_PORT, 0xC3))  # out HYPERCALL_PORT, eax; ret

#: The MSRs that come to us: all that the TLFS has, and a few more that must be #GP.
FILTERED = (0x40000000, 0x2000)  # first, count

UD_VECTOR = 6

# items of kvm_run's sync-regs copies: 64-bit words, 32-bit words, two bytes of segment attributes
RAX, RBX, RCX, RDX, RSI, RDI, R8, RIP, RFLAGS = (
    (uapi.RUN_SYNC_REGS + getattr(uapi.Regs, name).offset) >> 3
    for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "rip", "rflags")
)
EAX, EBX, ECX, EDX, ESI, EDI = (word * 2 for word in (RAX, RBX, RCX, RDX, RSI, RDI))
CR0, EFER = (
    (uapi.RUN_SYNC_SREGS + getattr(uapi.Sregs, name).offset) >> 3 for name in ("cr0", "efer")
)
CS_L = uapi.RUN_SYNC_SREGS + uapi.Sregs.cs.offset + uapi.Segment.l.offset
SS_DPL = uapi.RUN_SYNC_SREGS + uapi.Sregs.ss.offset + uapi.Segment.dpl.offset
DIRTY = uapi.RUN_KVM_DIRTY_REGS >> 3
CR0_PE, EFER_LMA, RFLAGS_VM = 1 << 0, 1 << 10, 1 << 17


class InUser:
    """Hyper-V served by pyhv. One object per VM; made after the vCPUs, before they run."""

    name = "in_user"

    def __init__(
        self,
        vm: Vm,
        vcpus: list[Vcpu],
        memory: GuestMemory,
        features: Features,
        on_reset: Callable[[], None],
        on_crash: Callable[[tuple[int, ...], int], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.vm, self.vcpus, self.memory, self.features = vm, vcpus, memory, features
        self._on_reset, self._on_crash = on_reset, on_crash
        self._threads: list[VcpuThread] = []
        self._tsc_khz = vcpus[0].tsc_khz()
        self._tsc_offset = vcpus[0].tsc_offset()
        self._rdtsc, self._tsc_stable, self._tsc_look_at = rdtsc(), False, 0
        self._skew_ns = self._skew_until_ns = 0
        self._stopping = False
        self._runtimes = [0] * len(vcpus)  # what they had when a snapshot was taken, ns
        self.interrupt = vm.signal_msi  # an APIC id is a VP index
        self._timers = Timers(failed)
        self._auto_eois = [in_user_apic.AutoEois(self._timers) for _ in vcpus]
        if features.enabled and vm.filtered is None:  # a board has it done when it makes its VM
            vm.filter_msrs(*FILTERED)
        for vcpu in vcpus:
            # an APIC that was never set is not in KVM's map, and an MSI to it is lost (measured)
            lapic = vcpu.get_struct(requests.GET_LAPIC, uapi.LapicState)
            requests.SET_LAPIC(vcpu.fd, lapic)
        self.partition = Partition(features, self, len(vcpus), HYPERCALL_PAGE)

    def attach(self, threads: list[VcpuThread]) -> None:
        """Put our handlers into the vCPUs' tables; before they start."""
        self._threads = threads
        for thread, auto_eois in zip(threads, self._auto_eois, strict=True):
            auto_eois.attach(thread)
        if not self.features.enabled:
            return
        for thread in threads:
            for msr, (read, write) in self.partition.msr_table(thread.index).items():
                if read is not None:
                    thread.rdmsr[msr] = read
                if write is not None:
                    thread.wrmsr[msr] = write
            thread.pio[io_word(HYPERCALL_PORT, 4, out=True)] = self._hypercall_exit(thread)
            # A copy of the general registers at each exit costs 0.09 thousand instructions, one of
            # the segments 0.72 (measured); only few hypercalls need those, and ask for them.
            thread.vcpu.valid_regs |= uapi.KVM_SYNC_X86_REGS

    def _hypercall_exit(self, thread: VcpuThread) -> Callable[[int], None]:
        vcpu, note = thread.vcpu, thread.history.append
        m8, m32, m64 = vcpu.m8, vcpu.m32, vcpu.m64

        def xmm() -> bytes:
            return bytes(vcpu.get_struct(requests.GET_FPU, uapi.Fpu).xmm)[:96]

        call = caller(self.partition, thread.index, xmm)

        def served(word: int) -> None:
            note(word)
            # Registers through the views: a field of a ctypes structure costs five times as much.
            try:
                if m64[RIP] >> 63:
                    # Only 64-bit code is there, and a kernel's: to let CPL 3 do it, that would
                    # have to give it a page of its half and the port. So no ioctl for segments.
                    m64[RAX] = call(m64[RCX], m64[RDX], m64[R8], True)
                    m64[DIRTY] |= uapi.KVM_SYNC_X86_REGS
                    return
                vcpu.read_sregs()
                if m8[SS_DPL]:
                    raise UndefinedOpcode("hypercall outside CPL 0")
                if m8[CS_L] and m64[EFER] & EFER_LMA:
                    m64[RAX] = call(m64[RCX], m64[RDX], m64[R8], True)
                elif not m64[CR0] & CR0_PE or m64[RFLAGS] & RFLAGS_VM:
                    raise UndefinedOpcode("hypercall in real mode")
                else:
                    result = call(
                        m32[EDX] << 32 | m32[EAX], m32[EBX] << 32 | m32[ECX],
                        m32[EDI] << 32 | m32[ESI], False,
                    )  # fmt: skip
                    m64[RDX], m64[RAX] = result >> 32, result & 0xFFFFFFFF
                m64[DIRTY] |= uapi.KVM_SYNC_X86_REGS
            except UndefinedOpcode:
                # Whether RIP is behind the OUT already is KVM's affair (an emulated one: yes; else
                # the next KVM_RUN steps over it): that KVM_RUN comes first, and enters no guest.
                thread.requests.append(undefined)
                m8[uapi.RUN_IMMEDIATE_EXIT] = 1

        def undefined() -> None:
            requests.GET_REGS(vcpu.fd, vcpu.regs)
            vcpu.regs.rip = vcpu.regs.rip - 2 & 0xFFFFFFFFFFFFFFFF
            in_user_apic.inject_exception(vcpu, UD_VECTOR)

        return served

    # World: what the core asks for

    def clock_ns(self) -> int:
        """Return kvmclock, ns since the VM was made."""
        return self.vm.clock()[0]

    def clock_pair(self) -> tuple[int, int] | None:
        """Return (guest TSC, clock_ns) of one instant; None while KVM calls the TSC unstable."""
        clock, flags, host_tsc = self.vm.clock()
        wanted = uapi.KVM_CLOCK_TSC_STABLE | uapi.KVM_CLOCK_HOST_TSC
        if flags & wanted != wanted:
            return None
        return host_tsc + self._tsc_offset & 0xFFFFFFFFFFFFFFFF, clock

    def guest_tsc(self) -> int | None:
        """Return the guest's TSC. Once a second KVM is asked whether it is what we think."""
        tsc = self._rdtsc()
        if tsc >= self._tsc_look_at:
            pair = self.clock_pair()
            if self.vm.frozen:
                return pair and pair[0]
            self._tsc_look_at = tsc + self._tsc_khz * 1000
            self._tsc_stable = pair is not None
            if self._threads:
                self._threads[0].request(self._ask_tsc_offset)
        return tsc + self._tsc_offset & 0xFFFFFFFFFFFFFFFF if self._tsc_stable else None

    def _ask_tsc_offset(self) -> None:
        """Take the offset, which changes when the guest writes its TSC; on vCPU 0's own thread.

        A vCPU's ioctls wait until it leaves the guest: another thread would wait with them
        (measured: 85 ms a tick).
        """
        self._tsc_offset = self.vcpus[0].tsc_offset()

    def tsc_khz(self) -> int:
        """Return the guest's TSC frequency."""
        return self._tsc_khz

    def inject_auto_eoi(self, vp_index: int, vector: int) -> None:
        """Deliver without an ISR bit: on the vCPU's own thread, as soon as it takes interrupts."""
        self._auto_eois[vp_index].add(vector)

    def new_timer(self, vp_index: int, index: int) -> Callable[[int | None], None]:
        """Return what arms a synthetic timer; its timerfd is made when that is used first."""
        arm: Callable[[int], None] | None = None
        monotonic_ns = time.monotonic_ns

        def arm_at(due_ticks: int | None) -> None:
            nonlocal arm
            if arm is None:
                try:
                    arm = self._timers.timer(self.partition.vps[vp_index].stimers[index].expire)
                except (OSError, RuntimeError) as error:
                    raise HostError(f"timerfd of synthetic timer {index}: {error}") from error
            if due_ticks is None:
                arm(0)
                return
            due_ns, now_ns = due_ticks * 100 + self._skew_ns, monotonic_ns()
            if now_ns >= due_ns or now_ns >= self._skew_until_ns:
                self._measure_skew()
                due_ns = max(due_ticks * 100 + self._skew_ns, 1)
            arm(due_ns)

        return arm_at

    def _measure_skew(self) -> None:
        """Compare CLOCK_MONOTONIC with the reference time; a timer may be late, not early.

        With the reference time itself and not with kvmclock: once the TSC page is valid the two
        drift apart. So it is done once a second, and when a timer expired early: without a new
        skew it would expire again at once, and again.
        """
        ticks = self.partition.clock.ticks
        self._skew_ns = zero_ns(lambda: ticks() * 100)
        self._skew_until_ns = time.monotonic_ns() + 1_000_000_000

    def set_pv_eoi(self, vp_index: int, gpa: int | None) -> None:
        """Use KVM's own lazy EOI: it shares its code with the Hyper-V assist page."""
        value = 0 if gpa is None else gpa | 1
        self.vcpus[vp_index].set_msr(uapi.MSR_KVM_PV_EOI_EN, value)

    def apic_read(self, vp_index: int, register: int) -> int:
        """Return HV_X64_MSR_ICR or _TPR."""
        return in_user_apic.read(self.vcpus[vp_index], register)

    def apic_write(self, vp_index: int, register: int, value: int) -> None:
        """Write HV_X64_MSR_EOI, _ICR or _TPR."""
        in_user_apic.write(self.vcpus, vp_index, register, value)

    def vp_runtime_ns(self, vp_index: int) -> int:
        """Return the CPU time of the vCPU's thread, which is the caller."""
        spent = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        return spent + self._runtimes[vp_index]

    def flush_tlb(self, vp_indexes: list[int], caller: int) -> None:
        """Make every target flush on its own thread, and wait for it.

        Two vCPUs may flush each other: a waiting one serves its own requests meanwhile.
        """
        threads = self._threads
        waiting: set[int] = set()
        for vp in vp_indexes:
            if vp == caller:
                in_user_apic.flush_tlb(threads[vp].vcpu)
                continue
            waiting.add(vp)

            def flush(vp: int = vp) -> None:
                in_user_apic.flush_tlb(threads[vp].vcpu)
                waiting.discard(vp)

            threads[vp].request(flush)
        while waiting and not self._stopping:
            threads[caller].serve_requests()
            os.sched_yield()

    def spin_wait(self, vp_index: int) -> None:
        """Let another vCPU's thread run."""
        os.sched_yield()

    def reset(self) -> None:
        """The guest wrote HV_X64_MSR_RESET."""
        self._on_reset()

    def crash(self, parameters: tuple[int, int, int, int, int], control: int) -> None:
        """The guest wrote HV_X64_MSR_CRASH_CTL."""
        self._on_crash(parameters, control)

    def synic_changed(self, vp_index: int) -> None:
        """Nothing to mirror: the core's SynIC is the SynIC."""
        # but an OS is here: the BIOS needs the segments at each exit no more
        self.vcpus[vp_index].valid_regs = uapi.KVM_SYNC_X86_REGS

    # SynicPort: what VMBus asks for

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        """Queue a message for a SIM slot."""
        self.partition.vps[vp_index].synic.post_message(sint, message_type, payload)

    def drop_messages(self, vp_index: int, sint: int, message_type: int) -> None:
        """Forget messages that wait for a SIM slot."""
        self.partition.vps[vp_index].synic.drop_messages(sint, message_type)

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        """Return how many messages wait for a SIM slot."""
        return self.partition.vps[vp_index].synic.messages_waiting(sint)

    def raise_sint(self, vp_index: int, sint: int) -> None:
        """Send a SINT's interrupt."""
        self.partition.vps[vp_index].synic.raise_sint(sint)

    def event_signaller(self, vp_index: int, sint: int, flag: int) -> Callable[[], None]:
        """Return a function that sets an event flag and raises the SINT if it was clear."""
        set_event = self.partition.vps[vp_index].synic.set_event
        return lambda: set_event(sint, flag)

    def connect_messages(self, connection_id: int, handler: MessageHandler) -> None:
        """Route HvCallPostMessage."""
        self.partition.connections.connect_messages(connection_id, handler)

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        """Route HvCallSignalEvent: the exit only writes the eventfd, the loop does the work."""
        self.partition.connections.bind_event(connection_id, eventfd)

    def unbind_event(self, connection_id: int) -> None:
        """Undo :meth:`bind_event`."""
        self.partition.connections.unbind_event(connection_id)

    def reference_ticks(self) -> int:
        """Return the partition reference time, 100 ns."""
        return self.partition.clock.ticks()

    def freeze(self) -> None:
        """Let the partition's time stand; every vCPU is outside the guest."""
        self._timers.hold()
        self.vm.freeze_clock(self.partition.clock.ticks() * 100 + 99)
        self._tsc_look_at = 0

    def thaw(self) -> None:
        """Let it go on: first the clock, then the TSC page, then timers."""
        for vcpu in self.vcpus:
            vcpu.clock_stopped()
        self.vm.thaw_clock()
        self.partition.refresh()
        self._measure_skew()
        self._timers.release()

    # for snapshots: time stands

    def save(self) -> dict[str, Any]:
        """Return the partition's state and the interrupts that wait for a vCPU to take them."""
        waiting = [auto_eois.waiting() for auto_eois in self._auto_eois]
        return {"partition": self.partition.save(), "auto_eois": waiting,
                "runtimes": [self._runtime_ns(thread) for thread in self._threads]}  # fmt: skip

    def _runtime_ns(self, thread: VcpuThread) -> int:
        ident, before = thread.thread.ident, self._runtimes[thread.index]
        if ident is None or not self.features.enabled:
            return before
        return before + time.clock_gettime_ns(time.pthread_getcpuclockid(ident))

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save` on a new board, before its vCPUs run; time stands until thaw."""
        self._timers.hold()
        self._tsc_offset, self._tsc_look_at = self.vcpus[0].tsc_offset(), 0
        self._runtimes = state["runtimes"]
        self.partition.load(state["partition"])
        for auto_eois, vectors in zip(self._auto_eois, state["auto_eois"], strict=True):
            for vector in vectors:
                auto_eois.add(vector)

    def renew(self) -> bool:
        """Make the TSC page of a snapshot valid again: KVM tells of its clock once a vCPU ran."""
        return self.partition.clock.renew()

    def stop(self) -> None:
        """Let no vCPU wait for another any more."""
        self._stopping = True

    def close(self) -> None:
        """End the timers; the vCPU threads must have ended."""
        self._stopping = True
        self._timers.close()
        self.partition.overlays.clear()
        # The partition and this refer to each other; the machine shall not wait for a collector.
        self._threads = []
        del self.partition, self._timers, self._auto_eois, self._on_reset, self._on_crash
