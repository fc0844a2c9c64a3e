"""Likely causes of a triple fault, from tables and registers that are wrong in one way each."""

from __future__ import annotations

import struct

import pytest

from pyhv import causes
from pyhv.memory import GuestMemory
from pyhv.report import report
from pyhv.stop import Stop

IDT, CODE, STACK, HANDLER = 0x2000, 0x8000, 0x9000, 0xA000
PE, PG, PAE, LMA = 1, 1 << 31, 1 << 5, 1 << 10


@pytest.fixture
def memory():
    """Protected mode without paging; everything is in order."""
    made = GuestMemory(1 << 20)
    made.write(CODE, b"\x0f\x0b\x90\x90\x90\x90\x90\x90")
    for vector in range(32):
        gate32(made, vector, HANDLER)
    yield made
    made.close()


def gate32(memory: GuestMemory, vector: int, handler: int, attributes: int = 0x8E) -> None:
    low, high = handler & 0xFFFF, handler >> 16
    memory.write(IDT + vector * 8, struct.pack("<HHBBH", low, 8, 0, attributes, high))


def registers(**changes: int) -> dict[str, int]:
    return {
        "rip": CODE, "rsp": STACK, "cr0": PE, "cr2": 0, "cr3": 0x1000, "cr4": 0, "efer": 0,
        "cs.base": 0, "ss.base": 0, "idt.base": IDT, "idt.limit": 0x7FF,
    } | {name.replace("_", "."): value for name, value in changes.items()}  # fmt: skip


def test_nothing_wrong(memory: GuestMemory) -> None:
    assert causes.triple_fault(memory, registers()) == [
        "its next instruction, at 0x8000, is 0f 0b 90 90 90 90 90 90"
    ]


def broken_gate(memory: GuestMemory) -> None:
    gate32(memory, 13, HANDLER, 0x0E)


CASES = {
    "no idt": ({"idt_limit": 0}, None, "its IDT has a limit of 0x0: not even #DF"),
    "real mode": ({"cr0": 0, "idt_limit": 0}, None, "its interrupt table has a limit of 0x0"),
    "short idt": ({"idt_limit": 9 * 8 - 1}, None, "#GP (vector 13) cannot be delivered: it lies"),
    "idt nowhere": ({"idt_base": 1 << 30}, None, "#DF (vector 8) cannot be delivered: its gate at"),
    "absent": ({}, broken_gate, "#GP (vector 13) cannot be delivered: its gate at 0x2068 is not "),
    "type": ({}, lambda m: gate32(m, 14, 0, 0x80), "#PF (vector 14) cannot be delivered: its gate "
             "at 0x2070 is of type 0x0"),
    "handler": ({}, lambda m: gate32(m, 6, 0xF0000000), "#UD (vector 6) cannot be delivered: its "
                "handler, at 0xf0000000, cannot be read: gpa 0xf0000000 is not RAM"),
    "stack": ({"rsp": 0x40000000}, None, "its stack, at 0x40000000, cannot take a fault's frame"),
    "empty": ({"rip": 0x70000}, None, "is zeros: it ran into empty memory"),
    "code": ({"rip": 0xE0000000}, None, "its next instruction, at 0xe0000000, cannot be read"),
    "paging": ({"cr0": PE | PG, "cr4": PAE, "efer": LMA, "cr3": 0xFF000}, None,
               "cannot be read: the PML4E at 0xff000 is not present"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_thing_wrong(memory: GuestMemory, name: str) -> None:
    changes, spoil, sentence = CASES[name]
    if spoil is not None:
        spoil(memory)
    found = causes.triple_fault(memory, registers(**changes))
    assert any(sentence in text for text in found), found


def test_long_mode_gates_and_page_rights(memory: GuestMemory) -> None:
    """16-byte gates; a stack in a read-only page; CR2 that is not mapped."""
    for at, value in ((0x1000, 0x3003), (0x3000, 0x4003), (0x4000, 0x83 & ~2), (0x4008, 0)):
        memory.write(at, value.to_bytes(8, "little"))
    memory.write(IDT, bytes(0x1000))
    found = causes.triple_fault(
        memory, registers(cr0=PE | PG, cr4=PAE, efer=LMA, idt_limit=0xFFF, cr2=0x200000)
    )
    assert found[1] == (
        "the last page fault was at 0x200000 (CR2): the PDE at 0x4008 is not present"
    )
    assert found[2] == "its stack, at 0x9000, is in a page that cannot be written"
    assert "#GP (vector 13) cannot be delivered: its gate at 0x20d0 is not present" in found


def test_refused_msr_in_the_report(memory: GuestMemory) -> None:
    """By its name; what the report shows under its headline."""
    exits = ["out port 0x80, 1 bytes", "wrmsr 0x40000090 = 0x1: #GP"]
    cause = causes.triple_fault(memory, registers(idt_limit=0), exits)
    assert cause[-1] == "it got #GP for wrmsr HV_X64_MSR_SINT0 = 0x1, shortly before"
    text = report(Stop("triple-fault", 3, "vcpu 0: triple fault", {"cause": cause}))
    assert text.splitlines()[1].startswith("  its next instruction")
    assert causes.refused_msr(exits[:1]) == []
    assert causes.refused_msr(["rdmsr: #GP"]) == ["it got #GP for rdmsr, shortly before"]
