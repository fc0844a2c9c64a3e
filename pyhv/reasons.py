"""Why a machine stopped, as an enumeration; ``Stop.reason``. Imported by who asks: enum is slow."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """``Stop.kind`` as a name; equal to that string, too."""

    POWER_OFF = "poweroff"  # the guest entered ACPI S5
    EXIT = "exit"  # it wrote the debug-exit port; Stop.status has its number
    RESET = "reset"  # it reset, and the machine was made with no_reboot
    TRIPLE_FAULT = "triple-fault"
    HV_CRASH = "hv-crash"  # it wrote the crash MSRs: a panic or a stop code
    STUCK = "stuck"  # every vCPU halted with interrupts off
    KVM_ERROR = "kvm-error"  # KVM could not go on
    NO_BOOT = "no-boot"  # the BIOS found nothing to boot
    ERROR = "error"  # pyhv could not go on
    TIME_LIMIT = "time-limit"
    KILLED = "quit"  # kill(), a signal, Ctrl-A x, gdb or QMP
