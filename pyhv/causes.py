"""Why a CPU probably shut down: what its IDT, its stack and its page tables look like at the end.

A triple fault is a fault in the delivery of a fault in the delivery of a fault (Intel SDM vol. 3,
6.15, #DF), so what is wrong with the delivery is there to be seen: in the tables, in guest RAM.
"""

from __future__ import annotations

from .errors import BadGpa
from .pagewalk import read_virtual, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .memory import GuestMemory

CR0_PE, EFER_LMA = 1 << 0, 1 << 10
VECTORS = {
    0: "#DE", 1: "#DB", 3: "#BP", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS",
    13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
}  # fmt: skip
#: the faults that end in most triple faults, and #DF, which must be delivered last
LOOKED_AT = (6, 13, 14, 8)
GATES = (0x6, 0x7, 0xE, 0xF, 0x5)  # interrupt, trap, 16 and 32/64 bits; task gate
GATE_PRESENT = 0x80


def triple_fault(
    memory: GuestMemory, registers: dict[str, int], exits: list[str] | tuple[str, ...] = ()
) -> list[str]:
    """Return what probably led to a triple fault, a sentence each, the likeliest first.

    :param registers: of cpustate.snapshot, after the fault. :param exits: in words, oldest first.
    """
    found = [*_instruction(memory, registers), *_stack(memory, registers)]
    found += _idt(memory, registers)
    found += refused_msr(exits)
    return found or ["nothing wrong with its code, stack or IDT was found"]


def refused_msr(exits: list[str] | tuple[str, ...]) -> list[str]:
    """Return a sentence on an MSR access near the end that got #GP."""
    for text in reversed(list(exits)[-4:]):
        if text.endswith(": #GP"):
            words = text.removesuffix(": #GP").split()
            try:
                from .trace.names import msr_name

                words[1] = msr_name(int(words[1], 16))
            except (ValueError, IndexError):
                pass
            return [f"it got #GP for {' '.join(words)}, shortly before"]
    return []


def _linear(registers: dict[str, int], segment: str, offset: int) -> int:
    if registers["efer"] & EFER_LMA and segment in ("cs", "ss"):
        return offset
    return registers.get(f"{segment}.base", 0) + offset & 0xFFFFFFFF


def _mapped(memory: GuestMemory, registers: dict[str, int], gva: int) -> str:
    """Return why nothing can be read at *gva*, "" if something can."""
    found = walk(memory, registers, gva)
    if found.gpa is None:
        return found.why
    try:
        memory.offset(found.gpa, 1)
    except BadGpa:
        return f"gpa {found.gpa:#x} is not RAM"
    return ""


def _instruction(memory: GuestMemory, registers: dict[str, int]) -> list[str]:
    at = _linear(registers, "cs", registers["rip"])
    why = _mapped(memory, registers, at)
    if why:
        return [f"its next instruction, at {at:#x}, cannot be read: {why}"]
    code = read_virtual(memory, registers, at, 8)
    found = [f"its next instruction, at {at:#x}, is {code.hex(' ')}"]
    if code[:2] == b"\0\0":
        found = [f"its next instruction, at {at:#x}, is zeros: it ran into empty memory"]
    cr2 = registers.get("cr2", 0)
    if cr2 and cr2 != at:
        why = _mapped(memory, registers, cr2)
        if why:
            found.append(f"the last page fault was at {cr2:#x} (CR2): {why}")
    return found


def _stack(memory: GuestMemory, registers: dict[str, int]) -> list[str]:
    at = _linear(registers, "ss", registers["rsp"] - 8)
    found = walk(memory, registers, at)
    why = _mapped(memory, registers, at)
    if why:
        return [f"its stack, at {registers['rsp']:#x}, cannot take a fault's frame: {why}"]
    if not found.writable:
        return [f"its stack, at {registers['rsp']:#x}, is in a page that cannot be written"]
    return []


def _idt(memory: GuestMemory, registers: dict[str, int]) -> list[str]:
    base, limit = registers["idt.base"], registers["idt.limit"]
    if not registers["cr0"] & CR0_PE:
        if limit < 4 * 14 - 1:
            return [f"its interrupt table has a limit of {limit:#x}: no fault can be delivered"]
        return []
    size = 16 if registers["efer"] & EFER_LMA else 8
    if limit < 9 * size - 1:
        return [f"its IDT has a limit of {limit:#x}: not even #DF can be delivered"]
    found = []
    for vector in LOOKED_AT:
        why = _gate(memory, registers, base, limit, vector, size)
        if why:
            found.append(f"{VECTORS[vector]} (vector {vector}) cannot be delivered: {why}")
    return found


def _gate(
    memory: GuestMemory, registers: dict[str, int], base: int, limit: int, vector: int, size: int
) -> str:
    """Return what is wrong with an IDT entry of protected mode, "" if nothing is."""
    if (vector + 1) * size - 1 > limit:
        return f"it lies beyond the IDT's limit, {limit:#x}"
    at = base + vector * size
    gate = read_virtual(memory, registers, at, size)
    if len(gate) < size:
        why = _mapped(memory, registers, at)
        return f"its gate at {at:#x} cannot be read: {why}"
    if not gate[5] & GATE_PRESENT:
        return f"its gate at {at:#x} is not present"
    if gate[5] & 0xF not in GATES:
        return f"its gate at {at:#x} is of type {gate[5] & 0xF:#x}, which is none"
    if gate[5] & 0xF == 0x5:
        return ""  # a task gate has no handler of its own
    handler = gate[0:2] + gate[6:8] + (gate[8:12] if size == 16 else b"")
    target = int.from_bytes(handler, "little")
    why = _mapped(memory, registers, target)
    return f"its handler, at {target:#x}, cannot be read: {why}" if why else ""
