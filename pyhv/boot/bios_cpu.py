"""The CPU as a BIOS service sees it, and the register halves that services are written in.

Every value comes from the guest: 32 bits, nothing more is known of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Cpu(Protocol):
        """The boot vCPU at a trap. Registers are 32-bit ints, segments selector and base.

        An assignment goes to the guest when it runs on. pyhv/cpustate.py has it over KVM's
        sync regs, the tests a plain object.
        """

        eax: int
        ebx: int
        ecx: int
        edx: int
        esi: int
        edi: int
        ebp: int
        esp: int
        eip: int
        eflags: int
        cs_sel: int
        cs_base: int
        ds_sel: int
        ds_base: int
        es_sel: int
        es_base: int
        ss_sel: int
        ss_base: int


CARRY, ZERO, INTERRUPT = 1 << 0, 1 << 6, 1 << 9  # FLAGS


def ah(cpu: Cpu) -> int:
    """Return AH."""
    return cpu.eax >> 8 & 0xFF


def set_ah(cpu: Cpu, value: int) -> None:
    """Set AH; *value* is 0..255."""
    cpu.eax = cpu.eax & ~0xFF00 | value << 8


def set_al(cpu: Cpu, value: int) -> None:
    """Set AL; *value* is 0..255."""
    cpu.eax = cpu.eax & ~0xFF | value


def set_ax(cpu: Cpu, value: int) -> None:
    """Set AX; *value* is 0..65535, as in the next three."""
    cpu.eax = cpu.eax & ~0xFFFF | value


def set_bx(cpu: Cpu, value: int) -> None:
    """Set BX."""
    cpu.ebx = cpu.ebx & ~0xFFFF | value


def set_cx(cpu: Cpu, value: int) -> None:
    """Set CX."""
    cpu.ecx = cpu.ecx & ~0xFFFF | value


def set_dx(cpu: Cpu, value: int) -> None:
    """Set DX."""
    cpu.edx = cpu.edx & ~0xFFFF | value


def set_es(cpu: Cpu, segment: int) -> None:
    """Load ES in real mode."""
    cpu.es_sel, cpu.es_base = segment, segment << 4


def es_offset(cpu: Cpu, register: int) -> int:
    """Return the guest address ES:*register*, 16-bit offset."""
    return cpu.es_base + (register & 0xFFFF)


def ds_offset(cpu: Cpu, register: int) -> int:
    """Return the guest address DS:*register*, 16-bit offset."""
    return cpu.ds_base + (register & 0xFFFF)
