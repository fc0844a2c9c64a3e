"""Which console lines, MSRs and bus messages mark a step of a boot, and the phase they begin."""

from __future__ import annotations

import re

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Milestone(Record):
    """*kind*: a phase that begins here, hyperv or bus for a step inside one, or trouble."""

    time_ns: int
    text: str
    kind: str


PHASES = {"kernel": "kernel", "user": "user space", "shutdown": "shutdown"}
#: pattern of a console line, the milestone's text with its groups, kind
LINES = (
    (re.compile(r"pyhv demo disk"), "the boot sector runs", "loader"),
    (re.compile(r"pyhv demo guest"), "the demo guest is in long mode", "kernel"),
    (re.compile(r"GRUB loading|Welcome to GRUB"), "GRUB", "loader"),
    (re.compile(r"Linux version (\S{1,80})"), "Linux {0}", "kernel"),
    (re.compile(r"Hypervisor detected: (.{1,60})"), "detects {0}", "hyperv"),
    (re.compile(r"clocksource: Switched to clocksource (\S{1,60})"), "clock: {0}", "hyperv"),
    (re.compile(r"\] Run (\S{1,60}) as init process"), "init is {0}", "user"),
    (re.compile(r"Welcome to (.{1,60})!"), "{0}", "user"),
    (re.compile(r"login: ?$"), "login prompt", "user"),
    (re.compile(r"Kernel panic - (.{1,100})"), "panic: {0}", "trouble"),
    (re.compile(r"(BUG: .{1,100}|Oops: .{1,40})"), "{0}", "trouble"),
    (re.compile(r"reboot: (.{1,60})"), "kernel: {0}", "shutdown"),
    (re.compile(r"powering off"), "the guest powers off", "shutdown"),
)
#: MSR or channel message, its text, kind; the first of each counts
EVENTS = {
    "HV_X64_MSR_GUEST_OS_ID": ("names itself to Hyper-V", "hyperv"),
    "HV_X64_MSR_HYPERCALL": ("hypercall page", "hyperv"),
    "HV_X64_MSR_REFERENCE_TSC": ("reference TSC page", "hyperv"),
    "HV_X64_MSR_SCONTROL": ("SynIC", "hyperv"),
    "HV_X64_MSR_STIMER0_CONFIG": ("synthetic timer 0", "hyperv"),
    "CHANNELMSG_INITIATE_CONTACT": ("VMBus: contact", "bus"),
    "CHANNELMSG_ALLOFFERS_DELIVERED": ("VMBus: all offers are there", "bus"),
    "CHANNELMSG_OPENCHANNEL": ("VMBus: the first channel opens", "bus"),
    "CHANNELMSG_UNLOAD": ("VMBus: the guest leaves", "bus"),
}


def of_line(when: int, text: str) -> Milestone | None:
    """Return what a console line means."""
    for pattern, shown, kind in LINES:
        match = pattern.search(text)
        if match:
            return Milestone(when, shown.format(*match.groups()), kind)
    return None


def of_event(when: int, name: str, fields: dict[str, Any]) -> Milestone | None:
    """Return what a write of an MSR, or a channel message, means."""
    if name == "rdmsr":
        return None
    row = EVENTS.get(str(fields.get("msr")) if name == "wrmsr" else name)
    return Milestone(when, *row) if row is not None and fields.get("value") != 0 else None
