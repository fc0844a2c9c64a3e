"""The guests that do nothing but leave, built with as and ld, and the C loop, built with cc."""

from __future__ import annotations

import pathlib
import re
import statistics
import subprocess
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS, CHUNKS = 1000, 7  # exits.S
PROGRAM_LIMIT = 4096  # rom.S copies so much


class Operation(NamedTuple):
    """One thing the guest repeats.

    :param setup: instructions before the loop (AT&T syntax, 32-bit protected mode).
    :param body: the instructions of one round; they keep EDI.
    """

    setup: str
    body: str


#: 0x1e0 and 0xfe000000 are nobody's: in pyhv, in the C loop, in QEMU's machines.
#: The hypercall is HvNotifyLongSpinWait (8), fast: it does nothing anywhere.
OPERATIONS = {
    "out": Operation("mov $0x1e0, %edx", "out %al, %dx"),
    "in": Operation("mov $0x1e0, %edx", "in %dx, %al"),
    "mmio": Operation("mov $0xfe000000, %ebx", "mov %eax, (%ebx)"),
    "byte": Operation("mov $0x3f8, %edx; mov $0x2e, %al", "out %al, %dx"),
    # HV_X64_MSR_CRASH_P0, which keeps what it is given, and HV_X64_MSR_VP_INDEX
    "wrmsr": Operation("mov $0x40000100, %ecx; mov $1, %eax; xor %edx, %edx", "wrmsr"),
    "rdmsr": Operation("mov $0x40000002, %ecx", "rdmsr"),
    # MSR_CORE_THREAD_COUNT: the one MSR that QEMU 10 filters by itself
    "rdmsr35": Operation("mov $0x35, %ecx", "rdmsr"),
    "hypercall": Operation(
        # HV_X64_MSR_GUEST_OS_ID, then HV_X64_MSR_HYPERCALL: page 9, enabled
        "mov $0x40000000, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr; "
        "inc %ecx; mov $0x9001, %eax; wrmsr; mov $0x9000, %ebp",
        # control in EDX:EAX, input in EBX:ECX, output in EDI:ESI
        "mov $0x10008, %eax; xor %edx, %edx; xor %ebx, %ebx; xor %ecx, %ecx; xor %esi, %esi; "
        "push %edi; xor %edi, %edi; call *%ebp; pop %edi",
    ),
}


def assemble(folder: pathlib.Path, operations: tuple[str, ...]) -> pathlib.Path:
    """Build the boot program that runs *operations*, and beside it the ROM with it.

    :returns: the program's path; the ROM has the suffix ``.rom``.
    """
    macros = "".join(
        f".macro SETUP_{name}\n{OPERATIONS[name].setup}\n.endm\n"
        f".macro BODY_{name}\n{OPERATIONS[name].body}\n.endm\n"
        for name in operations
    )
    runs = "".join(f"RUN {name}\n" for name in operations)
    source = macros + (HERE / "exits.S").read_text() + runs + "FINISH\n"
    return _program(folder, "-".join(operations), source)


def assemble_end(folder: pathlib.Path) -> pathlib.Path:
    """Build, like :func:`assemble`, a program whose first act is to end the machine."""
    return _program(folder, "end", _sector("mov $0x10, %al; out %al, $0xf4"))


def assemble_idle(folder: pathlib.Path) -> pathlib.Path:
    """Build, like :func:`assemble`, a program that prints "idle" and halts for ever.

    Its interrupts stay enabled, so that it looks asleep and not dead.
    """
    text = "".join(f"mov ${ord(letter)}, %al; out %al, %dx; " for letter in "idle")
    # int 8 is where the PIC's timer would arrive, unprogrammed as it is
    vectors = "xor %ax, %ax; mov %ax, %ds; movw $back, 32; movw %ax, 34; "
    return _program(folder, "idle", _sector(f"cli; {vectors} mov $0x3f8, %dx; {text} sti"))


def _sector(code: str) -> str:
    return (
        f".code16\n.globl _start\n_start: {code}\n"
        "stop: hlt\njmp stop\nback: iret\n.org 510\n.byte 0x55, 0xaa\n"
    )


def _program(folder: pathlib.Path, name: str, source: str) -> pathlib.Path:
    made = folder / f"{name}.bin"
    _link(folder, source, 0x7C00, made)
    if made.stat().st_size > PROGRAM_LIMIT:
        raise ValueError(f"{made}: larger than rom.S copies")
    (folder / "program.bin").write_bytes(made.read_bytes())
    _link(folder, (HERE / "rom.S").read_text(), 0, made.with_suffix(".rom"))
    return made


def _link(folder: pathlib.Path, source: str, address: int, target: pathlib.Path) -> None:
    thing = folder / "guest.o"
    subprocess.run(["as", "--32", "-o", thing, "-"], input=source.encode(), cwd=folder, check=True)
    layout = ["-m", "elf_i386", "--oformat", "binary", "-Ttext", hex(address)]
    subprocess.run(["ld", *layout, "-o", target, thing], check=True)


def compile_c(folder: pathlib.Path, name: str, *options: str) -> pathlib.Path:
    """Build the C program *name*."""
    made = folder / name
    warnings = ("-Wall", "-Wextra", "-Werror")
    source = HERE / f"{name}.c"
    subprocess.run(["cc", "-O2", *warnings, *options, "-o", made, source], check=True)
    return made


def parse(output: bytes, operations: tuple[str, ...]) -> dict[str, float]:
    """Return operation -> TSC ticks per round, the median chunk, from what the program printed.

    :raises ValueError: the output is not whole.
    """
    lines = re.findall(rb"^((?:[0-9a-f]{8} ){%d})$" % CHUNKS, output, re.MULTILINE)
    if len(lines) != len(operations):
        raise ValueError(f"{len(lines)} results of {len(operations)} operations")
    found = {}
    for name, line in zip(operations, lines, strict=True):
        ticks = [int(word, 16) for word in line.split()][1:]
        found[name] = statistics.median(ticks) / ROUNDS
    return found
