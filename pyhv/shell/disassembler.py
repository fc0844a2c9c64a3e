"""Machine code in words: by objdump or by the capstone module, whichever this host has.

Both are asked for AT&T syntax, as GNU as reads it. Neither is pyhv's: without them the shell
shows bytes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 15  # bytes of an instruction
OBJDUMP_S = 10.0
#: bits of the code segment -> objdump's name
OBJDUMP_MODES = {16: "i8086", 32: "i386", 64: "i386:x86-64"}
LINE = re.compile(r"^\s*([0-9a-f]+):\t([0-9a-f ]+?)\s*(?:\t(.*))?$", re.MULTILINE)


class Instruction(Record):
    """One instruction; ``text`` "(bad)" where there is none."""

    address: int
    code: bytes
    text: str


def by_objdump(code: bytes, address: int, bits: int) -> list[Instruction]:
    """Disassemble with binutils' objdump. :raises OSError: it cannot be run, or fails."""
    program = shutil.which("objdump")
    if program is None:
        raise FileNotFoundError("objdump")
    with tempfile.NamedTemporaryFile(prefix="pyhv-", suffix=".bin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run(
            [program, "-D", "-b", "binary", "-m", OBJDUMP_MODES[bits], "-w",
             "--insn-width=15", f"--adjust-vma={address:#x}", file.name],
            capture_output=True, text=True, timeout=OBJDUMP_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    if done.returncode:
        raise OSError(done.stderr.strip())
    found: list[Instruction] = []
    for place, raw, text in LINE.findall(done.stdout):
        at = int(place, 16)
        words = " ".join(text.partition("#")[0].split()) if "<" not in text else text.strip()
        found.append(Instruction(at, bytes.fromhex(raw), words or "(bad)"))
    return found


def by_capstone(code: bytes, address: int, bits: int) -> list[Instruction]:
    """Disassemble with the capstone module. :raises ImportError: there is none."""
    import capstone  # type: ignore[import-not-found]

    engine = capstone.Cs(capstone.CS_ARCH_X86, getattr(capstone, f"CS_MODE_{bits}"))
    engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    found, at = [], 0
    while at < len(code):
        for place, size, name, operands in engine.disasm_lite(code[at:], address + at):
            text = f"{name} {operands}".strip()
            found.append(Instruction(place, code[place - address :][:size], text))
            at += size
        if at < len(code):  # it stops at what it does not know
            found.append(Instruction(address + at, code[at : at + 1], "(bad)"))
            at += 1
    return found


WAYS: dict[str, Callable[[bytes, int, int], list[Instruction]]] = {
    "objdump": by_objdump,  # first: it writes what as reads
    "capstone": by_capstone,
}


def disassemble(code: bytes, address: int, bits: int, count: int) -> list[Instruction] | None:
    """Return the first *count* instructions of *code*, which lies at *address*.

    :param code: LONGEST bytes an instruction are enough, fewer where memory ends.
    :param bits: 16, 32 or 64, of the code segment.

    None: this host has no disassembler.
    """
    for way in WAYS.values():
        try:
            return way(code, address, bits)[:count]
        except (ImportError, OSError, subprocess.SubprocessError):
            continue
    return None
