"""One exception tree, and the exit status that each kind of ending has.

A message reads *what was tried: what came back; what to do*. Lower case, no
full stop, the user's own spelling of a flag.
"""

from __future__ import annotations

import errno
import os


class Exit:
    """Exit statuses of ``python -m pyhv run``; README lists them too."""

    POWER_OFF = 0  # the guest powered off, or reset under -no-reboot
    ERROR = 1  # this host cannot do it, or something of ours failed
    USAGE = 2  # the command line is wrong, or names a file that cannot be used
    TRIPLE_FAULT = 3  # triple fault or shutdown, as the CPU calls it
    KVM_ERROR = 4  # KVM could not go on: internal error, failed entry
    HV_CRASH = 5  # the guest wrote HV_X64_MSR_CRASH_CTL
    STUCK = 6  # every vCPU halted for good with interrupts off
    TIME_LIMIT = 124  # --time-limit ran out, as timeout(1) says
    QUIT = 130  # the user quit: Ctrl-A x, SIGINT, SIGTERM


class PyhvError(Exception):
    """Anything pyhv says in one line instead of a traceback."""


class ConfigError(PyhvError):
    """What the user asked for cannot be built."""


class HostError(PyhvError):
    """This host cannot do it: no /dev/kvm, a capability missing, a file gone."""


class KvmError(HostError, OSError):
    """A KVM ioctl failed; ``errno`` is set, the text says which one and why."""

    def __init__(self, call: str, code: int, hint: str = "") -> None:
        name = errno.errorcode.get(code, str(code))
        super().__init__(code, f"{call}: {name} ({os.strerror(code)})" + (hint and f"; {hint}"))

    def __str__(self) -> str:
        return str(self.strerror)


class BadGpa(PyhvError):
    """A guest physical range is not wholly in RAM. ``gpa`` and ``length`` are kept."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"gpa {gpa:#x}, {length:#x} bytes: not in guest RAM")
        self.gpa, self.length = gpa, length


class GuestFault(PyhvError):
    """The guest's access becomes #GP(0); never leaves the run loop."""


class UndefinedOpcode(PyhvError):
    """The guest's hypercall becomes #UD; never leaves the run loop."""


class HypercallError(PyhvError):
    """Becomes the HV_STATUS in ``status``; never leaves the hypercall dispatcher."""

    def __init__(self, status: int, text: str = "", reps: int = 0) -> None:
        super().__init__(text or f"hypercall status {status}")
        self.status, self.reps = status, reps
