"""One life of the machine, from power-on to reset or off: VM, vCPUs, devices, driver, VMBus.

A reset throws the board away and makes a new one around the same RAM, disks and console:
no state of KVM or of a device can survive by mistake.
"""

from __future__ import annotations

import threading
import time

from . import cpustate
from .bus import Bus, io_word
from .devices.cf9 import ResetControl
from .devices.cmos import Cmos
from .devices.exitport import ExitPort
from .devices.fwcfg import FwCfg
from .devices.i8042 import I8042, SystemControl
from .devices.pcihole import PciHole
from .devices.pm import Pm
from .devices.uart import Uart
from .errors import HostError, PyhvError
from .kvm import uapi
from .kvm.vcpu import Vcpu
from .kvm.vm import Vm
from .runloop import VcpuThread
from .serialring import SerialRing
from .serialwatch import SerialWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .hyperv.in_kernel import InKernel
    from .hyperv.in_user import InUser
    from .machine import Machine

COM1, COM1_IRQ, SCI_GSI = 0x3F8, 4, 9
COM2, COM2_IRQ = 0x2F8, 3
STUCK_CHECK_S = 3.0
RFLAGS_IF = 1 << 9
INIT_STATE = (0xF000, 0xFFF0)  # CS selector and RIP
AP_WAITS = (1, 2)  # KVM_MP_STATE_UNINITIALIZED, _INIT_RECEIVED: nobody has started this vCPU yet


class Board:
    """Made while nothing of an older board runs, on any thread; :meth:`start`, :meth:`close`.

    :param state: of a snapshot (boardstate.py), to go on from; its memory is there already.
    """

    restored = False  # made from a snapshot

    def __init__(self, machine: Machine, state: dict[str, Any] | None = None) -> None:
        self.machine = machine
        config, memory = machine.config, machine.memory
        memory.shrink()  # what an older life was given
        self.vcpus: list[Vcpu] = []
        self.threads: list[VcpuThread] = []
        self.driver: InKernel | InUser | None = None
        self.vmbus = self.testdev = None
        self.agent_uart: Uart | None = None
        self.offered: dict[str, object] = {}  # what offers.py made, by the name of its row
        self.ended = self.closed = False
        self.restored = state is not None
        self.bus = Bus()
        self.vm = Vm(machine.kvm, memory, self._filtered())
        try:
            limit = machine.kvm.check(uapi.KVM_CAP_MAX_VCPUS)
            if config.smp.cpus > limit:
                raise HostError(f"-smp {config.smp.cpus}: this KVM has at most {limit} vCPUs")
            if machine.clock_zero_ns is not None:  # a reset: the reference time runs on
                self.vm.set_clock_zero(machine.clock_zero_ns)
            for index in range(config.smp.cpus):
                self.vcpus.append(Vcpu(self.vm, index))
            if state is not None:
                from . import boardstate

                boardstate.prepare(self, state)
            elif machine.guest_cpuid.tsc_khz:
                for vcpu in self.vcpus:
                    vcpu.set_tsc_khz(machine.guest_cpuid.tsc_khz)
            self._make_driver()
            for vcpu in self.vcpus:
                machine.cpuid_for(vcpu.index).install(vcpu.fd)
                vcpu.set_msr(cpustate.MSR_MTRR_DEF_TYPE, cpustate.MTRR_ENABLED_WRITE_BACK)
            for vcpu in self.vcpus:
                self.threads.append(VcpuThread(vcpu, self.bus, self._vcpu_failed))
            self._make_devices()
            self._make_vmbus()
            self._make_testdev()
            for thread in self.threads:
                thread.exits.update(self._common_exits(thread))
            self.driver.attach(self.threads)
            self._load(state)
            for instrument in machine.instruments:
                instrument(self)
        except BaseException:
            self.close()
            raise

    def _filtered(self) -> tuple[int, int] | None:
        """Return the MSRs that pyhv serves, first and count."""
        if self.machine.in_kernel or not self.machine.features.enabled:
            return None
        from .hyperv.in_user import FILTERED

        return FILTERED

    def _make_driver(self) -> None:
        machine = self.machine
        if machine.in_kernel:
            from .hyperv.in_kernel import InKernel

            self.driver = InKernel(
                self.vm, self.vcpus, machine.memory, machine.features, machine.events,
                lambda: machine.request_reset("HV_X64_MSR_RESET"), machine.hv_crash,
            )  # fmt: skip
        else:
            from .hyperv.in_user import InUser

            self.driver = InUser(
                self.vm, self.vcpus, machine.memory, machine.features,
                lambda: machine.request_reset("HV_X64_MSR_RESET"), machine.hv_crash,
                machine.internal_error,
            )  # fmt: skip

    def _line(self, gsi: int) -> Callable[[bool], None]:
        irq_line = self.vm.irq_line
        return lambda level: irq_line(gsi, level)

    def _make_devices(self) -> None:
        machine, bus, config = self.machine, self.bus, self.machine.config
        self.uart = Uart(machine.console.write, self._line(COM1_IRQ))
        ports = (COM1,)
        if config.agent:
            from .serialpair import SerialPair

            self.agent_uart = Uart(machine.shell_output, self._line(COM2_IRQ))
            self.serial = SerialPair(self.uart, self.agent_uart, self.vcpus[0])
            ports += (COM2,)
            bus.claim_pio(COM2, 8, self.serial.second)
        else:
            self.serial = SerialRing(self.uart, self.vcpus[0])
        self.serial_watch = SerialWatch(self.serial, self.vm, ports, machine.events)
        self.pm = Pm(machine.power_off, self._line(SCI_GSI), machine.control.now_ns)
        self.cf9 = ResetControl(machine.request_reset)
        self.fwcfg = FwCfg(config.smp.cpus, machine.memory.size)
        if machine.cmos is None:
            machine.cmos = Cmos(
                machine.memory, config.smp.cpus, machine.clock_line, machine.events.after
            )
        else:
            machine.cmos.reset()
        self.cmos = machine.cmos
        for first, count, device in (
            (COM1, 8, self.serial),
            (0x600, 14, self.pm),
            (0x70, 2, self.cmos),
            (0x64, 1, I8042(machine.request_reset)),
            (0x92, 1, SystemControl(machine.request_reset)),
            (0xCF8, 8, PciHole(self.cf9)),
            (0xF4, 4, ExitPort(machine.exit)),
            (0x510, 2, self.fwcfg),
        ):
            bus.claim_pio(first, count, device)

    def _make_vmbus(self) -> None:
        if not self.machine.features.user_synic:
            return
        from .offers import OFFERS
        from .vmbus.protocol import VERSION_WIN10_V5_3
        from .vmbus.server import VmbusServer

        machine = self.machine
        self.vmbus = VmbusServer(
            machine.memory, self.driver, machine.events, len(self.vcpus),
            machine.config.vmbus_version or VERSION_WIN10_V5_3,
        )  # fmt: skip
        for offer in OFFERS:
            self.offered[offer.name] = offer.make(machine, self.vmbus)

    def _make_testdev(self) -> None:
        machine = self.machine
        if machine.config.testdev:
            from .devices import testdev

            count = len(self.vcpus) if machine.features.user_synic else 0
            self.testdev = testdev.HypervTestDevice(self.driver, machine.events, count)
            self.bus.claim_pio(testdev.PORT, testdev.PORTS, self.testdev)

    def _load(self, state: dict[str, Any] | None) -> None:
        machine = self.machine
        entry = machine.load(self, boot=state is None)
        boot = self.vcpus[0]
        if machine.bios is not None:
            boot.valid_regs |= uapi.KVM_SYNC_X86_REGS | uapi.KVM_SYNC_X86_SREGS
            cpu, trap = cpustate.BiosCpu(boot), machine.bios.trap
            note = self.threads[0].history.append

            def bios_service(word: int) -> None:
                note(word)
                cpu.load()
                trap(cpu)

            self.threads[0].pio[io_word(machine.bios.PORT, 1, out=True)] = bios_service
        if state is not None:
            from . import boardstate

            boardstate.load(self, state)
        else:
            cpustate.enter(boot, entry)

    def _common_exits(self, thread: VcpuThread) -> dict[int, Callable[[], None]]:
        machine, vcpu = self.machine, thread.vcpu

        def shutdown() -> None:
            from . import causes

            text, details = f"vcpu {vcpu.index}: triple fault", self.details(thread)
            registers = details["registers"]
            # KVM on AMD: the VMCB is undefined after a shutdown, so the vCPU is in its INIT state
            if (registers["cs"], registers["rip"]) == INIT_STATE:
                del details["registers"]
                text += "; AMD's SVM lost its registers"
                details["cause"] = causes.refused_msr(details["exits"])
            else:
                details["cause"] = causes.triple_fault(
                    machine.memory, registers, details["exits"]
                )
            machine.stop("triple-fault", text, details)
            thread.leave()

        def kvm_error() -> None:
            reason = uapi.EXIT_NAMES[vcpu.m32[2]].lower().replace("_", " ")
            details = self.details(thread)
            if vcpu.m32[2] == uapi.KVM_EXIT_INTERNAL_ERROR:
                details["suberror"], count = vcpu.m32[8], min(vcpu.m32[9], 16)
                details["data"] = [vcpu.m64[5 + i] for i in range(count)]
            else:
                details["hardware_reason"] = vcpu.m64[4]
            machine.stop("kvm-error", f"vcpu {vcpu.index}: KVM {reason}", details)
            thread.leave()

        def system_event() -> None:
            machine.request_reset("KVM system event")

        return {
            uapi.KVM_EXIT_SHUTDOWN: shutdown,
            uapi.KVM_EXIT_FAIL_ENTRY: kvm_error,
            uapi.KVM_EXIT_INTERNAL_ERROR: kvm_error,
            uapi.KVM_EXIT_SYSTEM_EVENT: system_event,
            uapi.KVM_EXIT_IRQ_WINDOW_OPEN: _nothing,
            uapi.KVM_EXIT_INTR: _nothing,
            uapi.KVM_EXIT_UNKNOWN: kvm_error,
            uapi.KVM_EXIT_HLT: _nothing,
        }

    def details(self, thread: VcpuThread) -> dict[str, object]:
        """Return what a report says of a vCPU; on its own thread or after that ended."""
        return {
            "vcpu": thread.index,
            "exits": thread.last_exits(),
            "registers": cpustate.snapshot(thread.vcpu),
        }

    def _vcpu_failed(self, thread: VcpuThread, error: BaseException) -> None:
        if isinstance(error, KeyError) and error.args and error.args[0] == thread.vcpu.m32[2]:
            reason = uapi.EXIT_NAMES.get(error.args[0], f"exit reason {error.args[0]}")
            error = PyhvError(
                f"vcpu {thread.index}: KVM came back with {reason}, which pyhv does not know"
            )
        self.machine.internal_error(error)

    # life

    def start(self) -> None:
        """Let the vCPUs go. The boot vCPU runs; the others wait in KVM for their INIT and SIPI."""
        self.serial_watch.start()
        self.machine.events.after(STUCK_CHECK_S, self._check_stuck)
        if self.machine.control.paused:
            for thread in self.threads:
                thread.hold = True
        else:
            self.machine.control.ran = True
            if self.restored:
                self.machine.control.thaw(self)
        for thread in self.threads:
            thread.start()
        if self.restored:
            from . import boardstate

            boardstate.renew(self)
        if self.machine.control.paused:
            self.machine.control.hold(self)

    def _check_stuck(self) -> None:
        """Ask every vCPU whether it is halted with interrupts off: then nothing can wake it."""
        if self.ended:
            return
        if self.machine.control.paused:
            self.machine.events.after(STUCK_CHECK_S, self._check_stuck)
            return
        halted: list[int] = []

        def ask(thread: VcpuThread) -> None:
            vcpu = thread.vcpu
            state = vcpu.get_struct(cpustate.requests.GET_MP_STATE, uapi.MpState).mp_state
            vcpu.fetch(uapi.KVM_SYNC_X86_REGS)
            waits = state == uapi.KVM_MP_STATE_HALTED and not vcpu.regs.rflags & RFLAGS_IF
            if waits or state in AP_WAITS:
                halted.append(thread.index)
            if len(halted) == len(self.threads) and 0 in halted:
                details = self.details(thread)
                self.machine.stop("stuck", "every vCPU is halted with interrupts off", details)

        for thread in self.threads:
            if thread.thread.is_alive():
                thread.request(lambda thread=thread: ask(thread))
        self.machine.events.after(STUCK_CHECK_S, self._check_stuck)

    def halt(self) -> None:
        """End the vCPU threads; on the event loop."""
        self.ended = True
        self.driver.stop()
        for thread in self.threads:
            thread.request(thread.leave)
        for thread in self.threads:
            if thread.thread.ident is not None:
                thread.thread.join()
        self.serial_watch.end()

    def hold(self, deadline: float) -> None:
        """Return when every vCPU stands outside the guest; on the event loop.

        :param deadline: time.monotonic() of it.
        :raises HostError: one did not come out.
        """
        for thread in self.threads:
            thread.hold = True
            thread.kick()
        for thread in self.threads:
            if not thread.parked.wait(max(0.0, deadline - time.monotonic())):
                raise HostError(f"pause: vcpu {thread.index} did not leave the guest in time")

    def let_go(self, only: frozenset[int] | None = None) -> None:
        """Let the vCPUs, or *only* some, go back into the guest."""
        for thread in self.threads:
            if only is None or thread.index in only:
                thread.hold = False
                thread.kick()

    def leave_here(self) -> None:
        """Called on a vCPU's thread: do not go back into the guest. Elsewhere: nothing."""
        thread = self.thread_here()
        if thread is not None:
            thread.leave()

    def thread_here(self) -> VcpuThread | None:
        """Return the vCPU's thread that is the caller; None for any other caller."""
        here = threading.get_ident()
        return next((thread for thread in self.threads if thread.thread.ident == here), None)

    def close(self) -> None:
        """Give everything back; the vCPU threads must have ended. Idempotent.

        No step keeps the next from being made; the first one's error is raised at the end.
        """
        if self.closed:
            return
        self.ended = self.closed = True
        steps = [part.close for part in (self.vmbus, self.testdev, self.driver) if part is not None]
        steps += [thread.release for thread in self.threads]
        steps += [part.close for part in (*self.vcpus, self.vm)]
        self.threads = []
        errors = []
        for step in steps:
            try:
                step()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _nothing() -> None:
    pass
