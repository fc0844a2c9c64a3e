"""The machine as a debugger drives it: breakpoints, steps, and why a vCPU stopped. No protocol.

KVM_SET_GUEST_DEBUG sends #BP and #DB to us; a #BP that is none of ours (Linux patches its own code
with INT3) goes back to the guest. Addresses are guest-virtual, by the page tables of one vCPU.

Where KVM cannot stop a guest by INT3 or debug registers (probe.py), every vCPU is stepped and each
step is looked at: slow, blind inside interrupt handlers, but it stops where it should.
"""

from __future__ import annotations

from _collections import deque

from ..errors import PyhvError
from ..kvm import requests, uapi
from ..pagewalk import walk
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..board import Board
    from ..machine import Machine
    from ..runloop import VcpuThread

INT3 = b"\xcc"
BP_VECTOR = 3
DR6_SINGLE_STEP = 1 << 14
DEBUG_REGISTERS = 4
#: gdb's Z types -> what DR7 calls it: R/W bits; Intel SDM vol. 3, 18.2.4
HARDWARE = {1: 0b00, 2: 0b01, 3: 0b11, 4: 0b11}
WATCH_NAMES = {2: "watch", 3: "rwatch", 4: "awatch"}
LENGTHS = {1: 0b00, 2: 0b01, 4: 0b11, 8: 0b10}


class Stopped(Record):
    """A vCPU stopped. ``reason``: swbreak, hwbreak, step, a watch name, interrupt, or ended."""

    vcpu: int
    reason: str
    address: int = 0


class Hardware(Record):
    """A debug register: gdb's *kind* (1 execute, 2 write, 3 read, 4 access), *length* in bytes."""

    kind: int
    address: int
    length: int


class Target:
    """Breakpoints of one machine. Called by one thread, while the machine is paused.

    :param woken: called from a vCPU's thread when it stopped; the owner then calls :meth:`halt`.
    :param able: the ways to stop a guest that work here, see probe.py.
    """

    def __init__(self, machine: Machine, woken: Callable[[], None], able: frozenset[str]) -> None:
        self.machine, self._woken = machine, woken
        self.stops: deque[Stopped] = deque()
        self._software: dict[int, tuple[int, bytes]] = {}  # gva -> (gpa, the byte there)
        self._hardware: list[Hardware] = []
        self._stepping: frozenset[int] = frozenset()
        self._step_all = not {"software", "hardware"} <= able
        self._values: dict[Hardware, tuple[int, bytes]] = {}  # step_all: watched gpa, last value
        self.attached = False
        allowed = machine.kvm.check(uapi.KVM_CAP_SET_GUEST_DEBUG2)
        self._block_irq = uapi.KVM_GUESTDBG_BLOCKIRQ & allowed
        machine.add_instrument(self._install)

    def _install(self, board: Board) -> None:
        """Serve KVM_EXIT_DEBUG of a new board; hardware breakpoints outlive a reset."""
        for thread in board.threads:
            thread.exits[uapi.KVM_EXIT_DEBUG] = self._debug_exit(thread)
            if self.attached:
                self._program(thread)

    def _debug_exit(self, thread: VcpuThread) -> Callable[[], None]:
        m32, m64, index = thread.vcpu.m32, thread.vcpu.m64, thread.index

        def served() -> None:
            vector, pc, dr6 = m32[8], m64[5], m64[6]
            if not self.attached:
                self._program(thread)
                return
            if vector == BP_VECTOR:
                if pc not in self._software:  # the guest's own
                    self._program(thread, uapi.KVM_GUESTDBG_INJECT_BP)
                    return
                stop = Stopped(index, "swbreak", pc)
            elif self._step_all and index not in self._stepping:
                looked = self._look(index, pc)
                if looked is None:
                    return
                stop = looked
            else:
                stop = self._debug(index, pc, dr6)
            self.stops.append(stop)
            thread.hold = True
            thread.vcpu.m8[uapi.RUN_IMMEDIATE_EXIT] = 1  # it parks before another instruction
            self._woken()

        return served

    def _debug(self, index: int, pc: int, dr6: int) -> Stopped:
        for number, hardware in enumerate(self._hardware):
            if dr6 >> number & 1:
                if hardware.kind == 1:
                    return Stopped(index, "hwbreak", pc)
                return Stopped(index, WATCH_NAMES[hardware.kind], hardware.address)
        return Stopped(index, "step", pc)

    def _look(self, index: int, pc: int) -> Stopped | None:
        """Tell whether a stepped vCPU has come to a breakpoint or changed what is watched."""
        if pc in self._software:
            return Stopped(index, "swbreak", pc)
        for row in self._hardware:
            if row.kind == 1:
                if row.address == pc:
                    return Stopped(index, "hwbreak", pc)
                continue
            gpa, before = self._values[row]
            now = self.machine.memory.read(gpa, row.length)
            if now != before:
                self._values[row] = gpa, now
                return Stopped(index, WATCH_NAMES[row.kind], row.address)
        return None

    def _program(self, thread: VcpuThread, more: int = 0) -> None:
        """Tell KVM what stops this vCPU; on its thread, or while it stands."""
        request = uapi.GuestDebug()
        if self.attached:
            request.control = uapi.KVM_GUESTDBG_ENABLE | more
            if not self._step_all:  # else no INT3 is ours: all stay the guest's
                request.control |= uapi.KVM_GUESTDBG_USE_SW_BP
            if thread.index in self._stepping:
                request.control |= uapi.KVM_GUESTDBG_SINGLESTEP | self._block_irq
            elif self._step_all and (self._software or self._hardware):
                request.control |= uapi.KVM_GUESTDBG_SINGLESTEP
            if self._hardware and not self._step_all:
                request.control |= uapi.KVM_GUESTDBG_USE_HW_BP
                request.debugreg[7] = 1 << 10  # always set
                for number, row in enumerate(self._hardware):
                    request.debugreg[number] = row.address
                    bits = LENGTHS[row.length] << 2 | HARDWARE[row.kind]
                    request.debugreg[7] |= 2 << 2 * number | bits << 16 + 4 * number
        requests.SET_GUEST_DEBUG(thread.vcpu.fd, request, f"vcpu {thread.index}")

    def _program_all(self) -> None:
        board = self.machine.board
        for thread in board.threads if board is not None else ():
            self._program(thread)

    def attach(self) -> None:
        """Stop the machine for a debugger."""
        self.machine.pause()
        self.attached = True
        self._program_all()

    def detach(self, go_on: bool = True) -> None:
        """Take every breakpoint out, and let the machine run."""
        if not self.attached:
            return
        try:
            self.machine.pause()
            for address in list(self._software):
                self.remove(0, address, 1)
            self._hardware.clear()
            self._stepping, self.attached = frozenset(), False
            self._program_all()
            if go_on:
                self.machine.resume()
        except PyhvError:
            self.attached = False  # the machine has ended

    def insert(self, kind: int, vcpu: int, address: int, length: int) -> bool:
        """Set a breakpoint (*kind* 0 software, 1 hardware) or watchpoint (2 to 4).

        False: nothing is mapped there, or there is no debug register left for it.
        """
        if kind == 0:
            return self._insert_software(vcpu, address)
        row = Hardware(kind, address, 1 if kind == 1 else length)
        if row in self._hardware:
            return True
        if row.length not in LENGTHS or address % row.length:
            return False
        if len(self._hardware) == DEBUG_REGISTERS:
            return False
        if self._step_all and kind != 1:
            gpa = walk(self.machine.memory, self.machine.vcpus[vcpu].registers, address).gpa
            if gpa is None or kind != 2:  # a step does not tell what was read
                return False
            try:
                self._values[row] = gpa, self.machine.memory.read(gpa, length)
            except PyhvError:
                return False
        self._hardware.append(row)
        self._program_all()
        return True

    def _insert_software(self, vcpu: int, address: int) -> bool:
        if address in self._software:
            return True
        memory = self.machine.memory
        gpa = walk(memory, self.machine.vcpus[vcpu].registers, address).gpa
        try:
            if gpa is None:
                return False
            self._software[address] = gpa, memory.read(gpa, 1)
            if not self._step_all:
                memory.write(gpa, INT3)
            else:
                self._program_all()
        except PyhvError:
            self._software.pop(address, None)
            return False
        return True

    def remove(self, kind: int, address: int, length: int) -> bool:
        """Undo :meth:`insert`; False if there is none such."""
        if kind == 0:
            found = self._software.pop(address, None)
            if found is None:
                return False
            gpa, byte = found
            if self._step_all:
                self._program_all()
            elif self.machine.memory.read(gpa, 1) == INT3:  # else the guest wrote new code there
                self.machine.memory.write(gpa, byte)
            return True
        row = Hardware(kind, address, 1 if kind == 1 else length)
        if row not in self._hardware:
            return False
        self._hardware.remove(row)
        self._program_all()
        return True

    def hide(self, address: int, data: bytes) -> bytes:
        """Return *data*, read at *address*, as it is without our INT3s."""
        found = bytearray(data)
        for at, (_, byte) in self._software.items():
            if address <= at < address + len(found):
                found[at - address] = byte[0]
        return bytes(found)

    def go(self, stepping: frozenset[int], running: frozenset[int]) -> None:
        """Let some vCPUs step and some run; the others stand."""
        self.stops.clear()
        if stepping != self._stepping:
            self._stepping = stepping
            self._program_all()
        everybody = stepping | running == frozenset(range(self.machine.config.smp.cpus))
        self.machine.control.resume(only=None if everybody else stepping | running)

    def halt(self) -> Stopped:
        """Bring all to a stand, one vCPU stopped or to interrupt them; return why it stopped."""
        self.machine.pause()
        if self._stepping:
            self._stepping = frozenset()
            self._program_all()
        return self.stops.popleft() if self.stops else Stopped(0, "interrupt")
