"""The machine as the shell drives it: let it run until something, step it, look at it when it died.

The machine is built paused. What it printed is shown by the shell itself, between two of its own
lines, so that a transcript reads in the order in which things happened.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time

from ..errors import ConfigError, HostError, PyhvError
from ..gdb.probe import probe
from ..gdb.target import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..machine import Machine

LOOK_S = 0.02
STEP_S = 5.0
END_S = 10.0
SOFTWARE, HARDWARE = 0, 1  # kinds of breakpoints, see Target.insert
#: EFER.LMA, CR0.PE
LONG_MODE, PROTECTED = 1 << 10, 1 << 0


def terminal() -> bool:
    """Tell whether somebody types: what comes from a pipe is commands, never the guest's input."""
    return sys.stdin is not None and sys.stdin.isatty()


class Session:
    """*machine* is not started, and paused; *show* prints text, guest output or our own."""

    def __init__(self, machine: Machine, show: Callable[[bytes], None]) -> None:
        self.machine, self._show, self.current = machine, show, 0
        self._printed = 0  # position in the console's stream
        self._line_open = False  # the guest has not ended its line
        self._woken = threading.Event()
        self.breakpoints: list[int] = []
        self.names: dict[str, object] = {}  # of the command python
        self.rest = ""  # of the command line that is served, behind its name
        able = probe(machine.kvm)
        self._kind = SOFTWARE
        if "software" not in able and "hardware" in able:
            self._kind, able = HARDWARE, able | {"software"}
        #: a sentence where breakpoints are slow; "" elsewhere
        self.warning = "" if {"software", "hardware"} <= able else (
            "this KVM does not stop a guest at breakpoints (emulated?); with breakpoints it is "
            "single-stepped: slow, and blind inside interrupt handlers"
        )  # fmt: skip
        self.target = Target(machine, self._woken.set, able)

    # looking

    def registers(self) -> dict[str, int]:
        """Return the current vCPU's registers; those of the end once the machine has stopped.

        :raises ConfigError: it has stopped, and they are lost.
        """
        ended = self.machine.ended
        if ended is None:
            return self.machine.vcpus[self.current].registers
        found = ended.details.get("registers")
        if not found:
            raise ConfigError(f"the machine has stopped ({ended.text}): no registers are left")
        return found

    def code_bits(self) -> int:
        """Return 16, 32 or 64: how the current vCPU reads its code."""
        registers = self.registers()
        if self.machine.ended is not None:  # CS's bits are gone; what its mode makes likely
            long = registers["efer"] & LONG_MODE
            return 64 if long else 32 if registers["cr0"] & PROTECTED else 16

        def bits(vcpu: object) -> int:
            cs = vcpu.sregs.cs  # type: ignore[attr-defined]
            return 64 if cs.l else 32 if cs.db else 16

        return self.machine.vcpus[self.current].ask(bits)

    def linear(self, register: str = "rip") -> int:
        """Return the address that CS:RIP or SS:RSP stands for."""
        found, segment = self.registers(), {"rip": "cs", "rsp": "ss"}[register]
        return found[register] + (0 if self.code_bits() == 64 else found[f"{segment}.base"])

    def address(self, text: str) -> int:
        """Return the value of ``0x1000``, ``rsp``, ``cs.base+rip-0x10``.

        :raises ConfigError: neither a number nor a register.
        """
        total, sign = 0, 1
        for word in text.replace("+", " + ").replace("-", " - ").split():
            if word in "+-":
                sign = 1 if word == "+" else -1
                continue
            try:
                value = int(word, 0)
            except ValueError:
                registers = self.registers()
                if word.lower() not in registers:
                    raise ConfigError(f"{word}: neither a number (0x...) nor a register") from None
                value = registers[word.lower()]
            total += sign * value
        return total & 0xFFFFFFFFFFFFFFFF

    # running

    def run(self, seconds: float | None = None, text: str = "", step: bool = False) -> str:
        """Let the machine go; return why it stands again, a sentence.

        :param seconds: that long at most. *text*: until the console shows it.
        :param step: the current vCPU alone, one instruction.
        :raises ConfigError: it has stopped.
        """
        if self.machine.ended is not None:
            raise ConfigError(f"the machine has stopped: {self.machine.ended.text}")
        if step and not self.target.attached:
            self.target.attach()
        here = self.linear()
        if here in self.breakpoints:  # or it would stop at once, where it stands
            self.target.remove(self._kind, here, 1)
            try:
                why = self._go(STEP_S, "", True)
            finally:
                self.target.insert(self._kind, self.current, here, 1)
            if step or why or self.linear() in self.breakpoints:
                return why
        return self._go(seconds, text, step)

    def _go(self, seconds: float | None, text: str, step: bool) -> str:
        self._woken.clear()
        begin = self.machine.console.position
        if self.target.attached:
            everybody = frozenset(range(self.machine.config.smp.cpus))
            one = frozenset((self.current,))
            self.target.go(one if step else frozenset(), frozenset() if step else everybody)
        else:
            self.machine.resume()
        why = self._wait(seconds, text.encode(), begin)
        try:
            stopped = None
            if self.target.attached:
                stopped = self.target.halt()
            else:
                self.machine.pause()
        except PyhvError:
            if self.machine.ended is None:
                raise
        self._drain()
        self.show_console()
        if self.machine.ended is not None:
            with contextlib.suppress(TimeoutError):
                self.machine.wait(END_S)
            self.show_console()
            return self.machine.ended.text
        if stopped is not None and stopped.reason != "interrupt":
            self.current = stopped.vcpu
            return "" if stopped.reason == "step" else f"vcpu {stopped.vcpu}: breakpoint"
        return why

    def _wait(self, seconds: float | None, wanted: bytes, begin: int) -> str:
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._keys() as keyboard:
            try:
                while True:
                    self.show_console()
                    if self.machine.ended is not None or self._woken.is_set():
                        return ""
                    if wanted and wanted in self.machine.console.since(begin)[0]:
                        return f"the console shows {wanted.decode()!r}"
                    if deadline is not None and time.monotonic() > deadline:
                        return f"{seconds:g} s are over"
                    if keyboard is None:
                        self._woken.wait(LOOK_S)
                    elif select.select([keyboard], [], [], LOOK_S)[0]:
                        self.machine.console.offer(os.read(keyboard, 4096))
            except KeyboardInterrupt:
                return "Ctrl-C"

    @contextlib.contextmanager
    def _keys(self) -> Iterator[int | None]:
        """Give what is typed to the guest, key by key, but for Ctrl-C; None: no terminal."""
        if not terminal():
            yield None
            return
        import termios

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        mode = termios.tcgetattr(fd)
        mode[0] &= ~termios.ICRNL
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(fd, termios.TCSADRAIN, mode)
        try:
            yield fd
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def _drain(self) -> None:
        """Bring out what lies in the serial port's coalesced ring."""
        board, done = self.machine.board, threading.Event()
        if board is None:
            return

        def drain() -> None:
            if not board.ended:
                board.serial.drain()
            done.set()

        self.machine.call(drain)
        done.wait(1.0)

    def show_console(self) -> None:
        """Print what the guest has printed since."""
        data, self._printed = self.machine.console.since(self._printed)
        if data:
            self._show(data)
            self._line_open = data[-1:] not in (b"\n", b"\r")

    def end_line(self) -> None:
        """Begin a line of our own where the guest has not ended its one."""
        if self._line_open:
            self._show(b"\n")
            self._line_open = False

    def set_breakpoint(self, address: int) -> None:
        """Stop before the instruction at the linear address *address*.

        :raises ConfigError: nothing is mapped there, or the debug registers are used up.
        """
        if not self.target.attached:
            self.target.attach()
        if not self.target.insert(self._kind, self.current, address, 1):
            raise ConfigError(
                f"{address:#x}: " + ("no RAM is mapped there" if self._kind == SOFTWARE else
                                     "the CPU's four debug registers are in use")
            )  # fmt: skip
        if address not in self.breakpoints:
            self.breakpoints.append(address)

    def delete_breakpoint(self, address: int) -> None:
        """Undo it. :raises ConfigError: there is none."""
        if address not in self.breakpoints:
            raise ConfigError(f"{address:#x}: no breakpoint is there")
        self.breakpoints.remove(address)
        self.target.remove(self._kind, address, 1)

    def reset(self) -> None:
        """Press the reset button; return when the machine stands before its first instruction.

        :raises ConfigError: it has stopped.
        """
        machine, old = self.machine, self.machine.board
        if machine.ended is not None:
            raise ConfigError(f"the machine has stopped: {machine.ended.text}")
        machine.reset()
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline and machine.ended is None:
            board = machine.board
            if board not in (None, old) and all(one.parked.is_set() for one in board.threads):
                return
            time.sleep(LOOK_S)
        raise HostError("reset: " + (machine.ended.text if machine.ended else "it takes too long"))

    def step(self) -> str:
        """Let the current vCPU do one instruction; "" if it did, else why it did not.

        :raises HostError: KVM does not stop it after one.
        """
        before = self.registers()["rip"]
        why = self.run(STEP_S, step=True)
        if why.endswith("are over") and self.registers()["rip"] == before:
            state = self.machine.vcpus[self.current].state
            raise HostError(f"vcpu {self.current} did nothing in {STEP_S:g} s: it is {state}")
        return why
