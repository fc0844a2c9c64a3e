"""A vCPU of a running or paused machine as a caller sees it: registers, MSRs, its page tables.

Every access is made on the vCPU's own thread, outside the guest; so it works while the machine
runs, but only of a paused one do two accesses tell of the same instant.
"""

from __future__ import annotations

import threading
import time

from . import cpustate
from .errors import ConfigError, HostError
from .kvm import requests, uapi
from .pagewalk import Walk, read_virtual, walk, write_virtual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .kvm.vcpu import Vcpu
    from .machine import Machine
    from .runloop import VcpuThread

PATIENCE_S = 10.0
#: KVM_MP_STATE_*
STATES = {0: "runnable", 1: "uninitialized", 2: "waits for SIPI", 3: "halted", 4: "SIPI received"}


class Registers(dict):
    """The registers of one instant by name (see cpustate.snapshot); a change goes to the vCPU.

    ``registers["rip"]`` or ``registers.rip``. Writable: the general ones, rip, rflags, cr0 to
    cr4, efer, and selectors and bases (``cs``, ``cs.base``).
    """

    def __init__(self, view: VcpuView, values: dict[str, int]) -> None:
        super().__init__(values)
        self.__dict__["_view"] = view

    def __setitem__(self, name: str, value: int) -> None:
        if name not in self:
            raise KeyError(f"{name}: no such register; there are {', '.join(self)}")
        self._view.ask(lambda vcpu: cpustate.change(vcpu, {name: value}))
        super().__setitem__(name, value & 0xFFFFFFFFFFFFFFFF)

    def __getattr__(self, name: str) -> int:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: int) -> None:
        self[name] = value


class VcpuView:
    """vCPU *index* of *machine*; :attr:`Machine.vcpus` has one for each."""

    def __init__(self, machine: Machine, index: int) -> None:
        self._machine, self.index = machine, index

    @property
    def thread(self) -> VcpuThread:
        """Its thread in this life of the machine. :raises ConfigError: the machine has stopped."""
        board = self._machine.board
        threads = board.threads if board is not None else []
        if self.index >= len(threads):
            raise ConfigError(
                f"vcpu {self.index}: the machine has stopped; wait().details has its registers"
            )
        return threads[self.index]

    def ask(self, function: Callable[[Vcpu], Any], timeout: float = PATIENCE_S) -> Any:
        """Return ``function(vcpu)``, called on the vCPU's thread outside the guest.

        :raises ConfigError: the machine has stopped. HostError: no answer in *timeout* s.
        """
        thread = self.thread
        here = threading.current_thread() is thread.thread
        if here or thread.thread.ident is None:  # its own hook, or not started
            return function(thread.vcpu)
        done, result, errors = threading.Event(), [], []

        def call() -> None:
            try:
                result.append(function(thread.vcpu))
            except Exception as error:
                errors.append(error)
            done.set()

        thread.request(call)
        deadline = time.monotonic() + timeout
        while not done.wait(0.1):
            if not thread.thread.is_alive() and not done.is_set():
                raise ConfigError(f"vcpu {self.index}: its thread has ended; the machine stops")
            if time.monotonic() > deadline:
                raise HostError(f"vcpu {self.index} did not leave the guest in {timeout:g} s")
        if errors:
            raise errors[0]
        return result[0]

    @property
    def registers(self) -> Registers:
        """The registers of this instant."""
        return Registers(self, self.ask(cpustate.snapshot))

    @property
    def state(self) -> str:
        """What the vCPU does, one of STATES."""
        found = self.ask(lambda vcpu: vcpu.get_struct(requests.GET_MP_STATE, uapi.MpState).mp_state)
        return STATES.get(found, str(found))

    def msr(self, number: int) -> int | None:
        """Return an MSR as KVM has it; None when it has none such (in_user's are in hyperv)."""
        return self.ask(lambda vcpu: vcpu.get_msr(number))

    def set_msr(self, number: int, value: int) -> bool:
        """Write an MSR; False when KVM refuses it."""
        return self.ask(lambda vcpu: vcpu.set_msr(number, value))

    def walk(self, gva: int) -> Walk:
        """Walk its page tables for the guest-virtual address *gva*."""
        return walk(self._machine.memory, self.registers, gva)

    def read(self, gva: int, length: int) -> bytes:
        """Return the bytes at *gva*, fewer when a page is not mapped to RAM."""
        return read_virtual(self._machine.memory, self.registers, gva, length)

    def write(self, gva: int, data: bytes) -> bool:
        """Write *data* at *gva*; False, and nothing written, when a page is not mapped to RAM."""
        return write_virtual(self._machine.memory, self.registers, gva, data)
