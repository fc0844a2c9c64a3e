"""The words of the differential cases: what each tells the guest, and how its record is read.

The guest's side is operations.S and calls.S.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

MSR_BASE = 0x40000000
RAM_MIB = 16
OS_ID = 0x8100060C00000000
NAMES = {
    "ID": OS_ID, "HYP": 0x201000, "TSC": 0x202000, "SIM": 0x203000, "SIEF": 0x204000,
    "ASSIST": 0x205000, "SIM2": 0x206000, "IN": 0x210000, "IN2": 0x211000,
    "RAM_END": RAM_MIB << 20, "HOLE": 0xC0000000, "APIC": 0xFEE00000, "NO_RAM": 0x8000000000,
    "ALL": 0xFFFFFFFFFFFFFFFF,
}  # fmt: skip
(END, R, W, WT, FILL, PUT, MEM, GE, IRQ, HLT, POLL, CPUID, APIC, APICW, HOST, H, H32, H3, START,
 COPY) = range(20)  # fmt: skip
SECOND, SILENT = 1 << 30, 0x80  # bit 31: in the last byte of the number
PATIENCE_MS, SETTLE_MS = 4000, 1
FAULTS = {7: "UD", 14: "GP", 15: "PF"}  # vector + 1
WORD = struct.Struct("<Q")
#: host post SINT TYPE COUNT SIZE of messages to VP 0, post1 to VP 1; event SINT FLAG; raise SINT
HOST_COMMANDS = ("post", "post1", "event", "event1", "raise")
Seen = Callable[[bytes, int], tuple[str, int]]
Row = tuple[tuple[int, ...], Seen | None]  # number, a, b, c, d; reader


class Op(NamedTuple):
    """An operation: its text, its record for the guest, and what reads the guest's record.

    ``seen`` takes the log and a place in it, and returns the text and the place behind; None if
    the operation tells nothing.
    """

    text: str
    code: bytes
    seen: Seen | None


def number(text: str, symbols: dict[str, int]) -> int:
    """Return the value of ``HEX``, ``NAME``, ``A|B``, ``A+B`` or ``A-B``."""
    total, sign = 0, "+"
    for part in re.split(r"([|+-])", text):
        if part in "|+-":
            sign = part
            continue
        value = symbols[part] if part in symbols else int(part, 16)
        total = {"|": total | value, "+": total + value, "-": total - value}[sign]
    return total & NAMES["ALL"]


def record(op: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> bytes:
    """Return the 32 bytes of an operation."""
    return struct.pack("<IIQQQ", op, a & 0xFFFFFFFF, b, c, d)


# What the guest's records say


def _status(log: bytes, at: int) -> int:
    return WORD.unpack_from(log, at)[0]


def _written(log: bytes, at: int) -> tuple[str, int]:
    fault = _status(log, at)
    return FAULTS.get(fault, f"vector {fault - 1}") if fault else "ok", at + 8


def _read(log: bytes, at: int) -> tuple[str, int]:
    if _status(log, at):
        return _written(log, at)[0], at + 16
    return f"{_status(log, at + 8):x}", at + 16


def _called(log: bytes, at: int) -> tuple[str, int]:
    if _status(log, at):
        return _written(log, at)[0], at + 24
    changed = _status(log, at + 16)
    text = f"{_status(log, at + 8):x}"
    return text + (f" changed {changed:x}" if changed else ""), at + 24


def _value(log: bytes, at: int) -> tuple[str, int]:
    return f"{_status(log, at):x}", at + 8


def _bytes(length: int) -> Seen:
    return lambda log, at: (log[at : at + length].hex(), at + (length + 7 & ~7))


def _registers(log: bytes, at: int) -> tuple[str, int]:
    return " ".join(f"{word:08x}" for word in struct.unpack_from("<4I", log, at)), at + 16


def _interrupts(log: bytes, at: int) -> tuple[str, int]:
    """Vectors in the order they came; ``!``: without an ISR bit (auto-EOI)."""
    count = _status(log, at)
    came = struct.unpack_from(f"<{count}I", log, at + 8)
    text = " ".join(f"{one & 0xFF:x}" + ("" if one & 0x100 else "!") for one in came)
    return text or "-", at + 8 + (count * 4 + 7 & ~7)


def _excluded(seen: Seen) -> Seen:
    """Return a reader that tells 0, ``*`` for any other number, or the fault."""

    def masked(log: bytes, at: int) -> tuple[str, int]:
        text, end = seen(log, at)
        if re.fullmatch(r"[0-9a-f]+", text):
            text = "*" if text.strip("0") else "0"
        return text, end

    return masked


# The words: (numbers, address of the XMM area, of the stub) -> rows


def _msr(code: int, seen: Seen, base: int = MSR_BASE) -> Callable[..., list[Row]]:
    return lambda args, names: [((code, base + args[0], *args[1:]), seen)]


def _call(code: int) -> Callable[..., list[Row]]:
    """RCX, RDX, R8, then what goes into XMM0-5."""

    def rows(args: list[int], names: dict[str, int]) -> list[Row]:
        halves, at = [*args[3:], *[0] * 12][:12], names["XMM"]
        puts: list[Row] = [((PUT, 8, at + i * 8, half), None) for i, half in enumerate(halves)]
        return [*puts, ((code, 0, *args[:3]), _called)]

    return rows


def _puts(size: int) -> Callable[..., list[Row]]:
    return lambda args, names: [
        ((PUT, size, args[0] + i * size, value), None) for i, value in enumerate(args[1:])
    ]


def _irq(args: list[int], names: dict[str, int]) -> list[Row]:
    patience = args[1] if len(args) > 1 else PATIENCE_MS if args[0] else SETTLE_MS
    return [((IRQ, args[0], patience), _interrupts)]


def _host(args: list[int], names: dict[str, int]) -> list[Row]:
    command, sint, *rest = args
    return [((HOST, command, sint, sum(arg << 16 * i for i, arg in enumerate(rest))), None)]


WORDS: dict[str, Callable[[list[int], dict[str, int]], list[Row]]] = {
    "r": _msr(R, _read),
    "w": _msr(W, _written),
    "wt": _msr(WT, _written),
    "wm": _msr(W, _written, base=0),
    "h": _call(H),
    "h32": _call(H32),
    "h3": lambda args, names: [((H3, *args), _called)],
    "q": _puts(8),
    "d": _puts(4),
    "fill": lambda args, names: [((FILL, args[2], *args[:2]), None)],
    "stub": lambda args, names: [((COPY, 8, names["STUB"], names["HYP"]), None)],
    "mem": lambda args, names: [((MEM, 0, *args), _bytes(args[1]))],
    "ge": lambda args, names: [((GE, 0, *args), _value)],
    "irq": _irq,
    "drain": lambda args, names: [((SILENT << 24 | IRQ, 0, *args), None)],
    "hlt": lambda args, names: [((HLT, args[0]), _interrupts)],
    "poll": lambda args, names: [((POLL, 0, PATIENCE_MS, args[0]), _value)],
    "cpuid": lambda args, names: [((CPUID, args[0]), _registers)],
    "apic": lambda args, names: [((APIC, args[0]), _value)],
    "apicw": lambda args, names: [((APICW, *args), None)],
    "start": lambda args, names: [((START, 0, PATIENCE_MS), _value)],
    "host": _host,
}


def parse(text: str, names: dict[str, int]) -> Iterator[Op]:
    """Yield the operations of ``word args; word args; ...``.

    :raises KeyError, ValueError: no such word or name.
    """
    names = names | {command: i for i, command in enumerate(HOST_COMMANDS)}
    for part in text.split(";"):
        words = part.split()
        if not words:
            continue
        text, second, mask = " ".join(words), words[0] == "@1", words[-1].startswith("*")
        word, *rest = words[second : len(words) - mask]
        for (code, *fields), seen in WORDS[word]([number(arg, names) for arg in rest], names):
            if seen is not None and mask:
                seen = _excluded(seen)
            yield Op(text, record(code | SECOND * second, *fields), seen)


def silent(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Return the operations, done without telling."""
    return tuple(
        Op(op.text, op.code[:3] + bytes((op.code[3] | SILENT,)) + op.code[4:], None) for op in ops
    )
