"""Registers in and out of a vCPU: a loader's entry state, the BIOS's view, a report's words."""

from __future__ import annotations

from .kvm import requests, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .boot.entry import EntryState
    from .kvm.vcpu import Vcpu

GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")

MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6


def enter(vcpu: Vcpu, state: EntryState) -> None:
    """Put a loader's *state* into the boot vCPU; before it runs."""
    requests.GET_SREGS(vcpu.fd, vcpu.sregs)
    sregs = vcpu.sregs
    for name in SEGMENTS:
        segment, source = getattr(sregs, name), state.segments[name]
        for field in ("selector", "base", "limit", "type", "present", "dpl", "db", "s", "l", "g"):
            setattr(segment, field, getattr(source, field))
        segment.unusable = 0
    sregs.gdt.base, sregs.gdt.limit = state.gdt
    sregs.idt.base, sregs.idt.limit = state.idt
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = state.cr0, state.cr3, state.cr4, state.efer
    regs = vcpu.regs
    for name in GENERAL:
        setattr(regs, name, state.registers.get(name, 0))
    regs.rip, regs.rsp, regs.rflags = state.rip, state.rsp, state.rflags
    vcpu.store(uapi.KVM_SYNC_X86_REGS | uapi.KVM_SYNC_X86_SREGS)


class BiosCpu:
    """The boot vCPU as the BIOS sees it: 32-bit registers by name, segments by selector and base.

    Values live in the sync-regs copy inside kvm_run, so a service costs no ioctl; a changed
    register goes back with the next KVM_RUN.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        object.__setattr__(self, "vcpu", vcpu)

    def load(self) -> None:
        """Make the copy current; once per trap."""
        self.vcpu.fetch(uapi.KVM_SYNC_X86_REGS | uapi.KVM_SYNC_X86_SREGS)

    def __getattr__(self, name: str) -> int:
        if name in _REGISTERS:
            return getattr(self.vcpu.regs, _REGISTERS[name]) & 0xFFFFFFFF
        segment, _, field = name.partition("_")
        if field in _FIELDS and segment in SEGMENTS:
            return getattr(getattr(self.vcpu.sregs, segment), _FIELDS[field])
        raise AttributeError(name)

    def __setattr__(self, name: str, value: int) -> None:
        if name in _REGISTERS:
            setattr(self.vcpu.regs, _REGISTERS[name], value & 0xFFFFFFFF)
            self.vcpu.mark_dirty(uapi.KVM_SYNC_X86_REGS)
            return
        segment, _, field = name.partition("_")
        if field not in _FIELDS or segment not in SEGMENTS:
            raise AttributeError(name)
        setattr(getattr(self.vcpu.sregs, segment), _FIELDS[field], value)
        self.vcpu.mark_dirty(uapi.KVM_SYNC_X86_SREGS)


_REGISTERS = {"e" + name[1:]: name for name in GENERAL[:8]} | {"eip": "rip", "eflags": "rflags"}
_FIELDS = {"base": "base", "sel": "selector"}


def _ask(vcpu: Vcpu) -> None:
    """Fill ``regs`` and ``sregs`` from KVM itself: before a first exit their copies are empty."""
    requests.GET_REGS(vcpu.fd, vcpu.regs)
    requests.GET_SREGS(vcpu.fd, vcpu.sregs)


def snapshot(vcpu: Vcpu) -> dict[str, int]:
    """Return the registers a report shows; outside KVM_RUN."""
    _ask(vcpu)
    regs, sregs = vcpu.regs, vcpu.sregs
    values = {name: getattr(regs, name) for name in (*GENERAL, "rip", "rflags")}
    for name in (*SEGMENTS, "tr"):
        values[name] = getattr(sregs, name).selector
        values[name + ".base"] = getattr(sregs, name).base
    values |= {name: getattr(sregs, name) for name in ("cr0", "cr2", "cr3", "cr4", "efer")}
    for name in ("gdt", "idt"):
        values[name + ".base"] = getattr(sregs, name).base
        values[name + ".limit"] = getattr(sregs, name).limit
    return values


def change(vcpu: Vcpu, values: dict[str, int]) -> None:
    """Give a vCPU new values for registers that :func:`snapshot` names; on its own thread.

    :raises KvmError: KVM refuses them (a control register with reserved bits).
    """
    _ask(vcpu)
    mask = 0
    for name, value in values.items():
        if name in GENERAL or name in ("rip", "rflags"):
            setattr(vcpu.regs, name, value & 0xFFFFFFFFFFFFFFFF)
            mask |= uapi.KVM_SYNC_X86_REGS
            continue
        first, _, field = name.partition(".")
        if first in (*SEGMENTS, "tr", "gdt", "idt"):
            setattr(getattr(vcpu.sregs, first), field or "selector", value)
        else:
            setattr(vcpu.sregs, name, value)
        mask |= uapi.KVM_SYNC_X86_SREGS
    vcpu.store(mask)
