"""The cases of the differential suite: read from data, made for each MSR, encoded for the guest.

The language of tests/baseline/differential.cases is explained at its top. A case is a name and a
list of operations; an operation here knows its text, its 32 bytes, and how to read its record.
"""

from __future__ import annotations

import csv
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

BASELINE = Path(__file__).parents[2] / "baseline"
SOURCE = BASELINE / "differential.cases"
MSR_TABLE = BASELINE / "hyperv_msrs.csv"
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
SILENT, SECOND = 1 << 31, 1 << 30
PATIENCE_MS, SETTLE_MS = 4000, 1
FAULTS = {7: "UD", 14: "GP", 15: "PF"}  # vector + 1
WORD = struct.Struct("<Q")
Words = Callable[[int], bytes]


class Op(NamedTuple):
    """An operation: its text, its record for the guest, and what reads the guest's record.

    ``seen`` takes the log and a place in it, and returns the text and the place behind; None if
    the operation tells nothing.
    """

    text: str
    code: bytes
    seen: Callable[[bytes, int], tuple[str, int]] | None


class Case(NamedTuple):
    """A case: group and name, what puts the guest into order before it, what is looked at."""

    name: str
    before: tuple[Op, ...]
    ops: tuple[Op, ...]
    after: tuple[Op, ...]


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


def _bytes(length: int) -> Callable[[bytes, int], tuple[str, int]]:
    return lambda log, at: (log[at : at + length].hex(), at + (length + 7 & ~7))


def _registers(log: bytes, at: int) -> tuple[str, int]:
    return " ".join(f"{word:08x}" for word in struct.unpack_from("<4I", log, at)), at + 16


def _interrupts(log: bytes, at: int) -> tuple[str, int]:
    """Vectors in the order they came; ``!``: without an ISR bit (auto-EOI)."""
    count = _status(log, at)
    came = struct.unpack_from(f"<{count}I", log, at + 8)
    text = " ".join(f"{one & 0xFF:x}" + ("" if one & 0x100 else "!") for one in came)
    return text or "-", at + 8 + (count * 4 + 7 & ~7)


def _excluded(
    seen: Callable[[bytes, int], tuple[str, int]],
) -> Callable[[bytes, int], tuple[str, int]]:
    """Return a reader that tells 0, ``*`` for any other number, or the fault."""

    def masked(log: bytes, at: int) -> tuple[str, int]:
        text, end = seen(log, at)
        if re.fullmatch(r"[0-9a-f]+", text):
            text = "*" if text.strip("0") else "0"
        return text, end

    return masked


# From text to operations


def parse(text: str, symbols: dict[str, int]) -> Iterator[Op]:
    """Yield the operations of ``word args; word args; ...``."""
    for part in text.split(";"):
        words = part.split()
        if words:
            yield from _op(" ".join(words), words, symbols)


def _op(text: str, words: list[str], symbols: dict[str, int]) -> Iterator[Op]:
    flags, mask = 0, False
    if words[0] == "@1":
        flags, words = SECOND, words[1:]
    if words[-1].startswith("*"):
        mask, words = True, words[:-1]
    word, *rest = words
    args = [number(arg, symbols) for arg in (rest[1:] if word == "host" else rest)]

    def op(code: int, *fields: int, seen: object = None) -> Op:
        reader = _excluded(seen) if mask and seen else seen  # type: ignore[arg-type]
        return Op(text, record(code | flags, *fields), reader)  # type: ignore[arg-type]

    if word == "wm":
        yield op(W, *args, seen=_written)
    elif word in ("r", "w", "wt"):
        code, seen = {"r": (R, _read), "w": (W, _written), "wt": (WT, _written)}[word]
        yield op(code, MSR_BASE + args[0], *args[1:], seen=seen)
    elif word in ("h", "h32"):
        halves = [*args[3:], *[0] * 12][:12]
        for i, half in enumerate(halves):
            yield op(PUT, 8, symbols["XMM"] + i * 8, half)
        yield op(H if word == "h" else H32, 0, *[*args, 0, 0][:3], seen=_called)
    elif word == "h3":
        yield op(H3, args[0], *[*args[1:], 0, 0][:3], seen=_called)
    elif word in ("q", "d"):
        size = 8 if word == "q" else 4
        for i, value in enumerate(args[1:]):
            yield op(PUT, size, args[0] + i * size, value)
    elif word == "fill":
        yield op(FILL, args[2], args[0], args[1])
    elif word == "stub":
        yield op(COPY, 8, symbols["STUB"], symbols["HYP"])
    elif word == "mem":
        yield op(MEM, 0, args[0], args[1], seen=_bytes(args[1]))
    elif word == "ge":
        yield op(GE, 0, *args, seen=_value)
    elif word == "irq":
        patience = args[1] if len(args) > 1 else PATIENCE_MS if args[0] else SETTLE_MS
        yield op(IRQ, args[0], patience, seen=_interrupts)
    elif word == "hlt":
        yield op(HLT, args[0], seen=_interrupts)
    elif word == "poll":
        yield op(POLL, 0, PATIENCE_MS, args[0], seen=_value)
    elif word == "cpuid":
        yield op(CPUID, args[0], seen=_registers)
    elif word == "apic":
        yield op(APIC, args[0], seen=_value)
    elif word == "apicw":
        yield op(APICW, *args)
    elif word == "start":
        yield op(START, 0, PATIENCE_MS, seen=_value)
    elif word == "host":
        numbers = sum(arg << 16 * i for i, arg in enumerate(args[1:4]))
        yield op(HOST, HOST_COMMANDS.index(rest[0]), args[0], numbers)
    else:
        raise ValueError(f"no such operation: {text}")


#: host post SINT TYPE COUNT SIZE of messages to VP 0, post1 to VP 1; event SINT FLAG; raise SINT
HOST_COMMANDS = ("post", "post1", "event", "event1", "raise")


def silent(ops: Iterator[Op] | tuple[Op, ...]) -> tuple[Op, ...]:
    """Return the operations, done without telling."""
    return tuple(
        Op(op.text, bytes((*op.code[:3], op.code[3] | 0x80)) + op.code[4:], None) for op in ops
    )


class Suite:
    """All cases, by set: what one boot of the guest does."""

    def __init__(self, symbols: dict[str, int]) -> None:
        self.symbols = NAMES | symbols
        self.cpus: dict[str, tuple[str, int]] = {}  # set -> -cpu, -smp
        self.cases: dict[str, list[Case]] = {}
        self._cleans: dict[str, str] = {}
        self._read_source()

    def _read_source(self) -> None:
        group, sets, before = "", [], ""
        for line in SOURCE.read_text().splitlines():
            if match := re.fullmatch(r"\[(.+)\] sets=(\S+)(?: before=(\S+))?", line):
                group, sets = match[1], match[2].split(",")
                before = self._cleans[match[3]] if match[3] else ""
            elif match := re.fullmatch(r"set (\S+) smp=(\d) (.+)", line):
                self.cpus[match[1]] = match[3], int(match[2])
                self.cases[match[1]] = []
            elif match := re.fullmatch(r"before (\S+): (.+)", line):
                known = self._cleans.get(match[1], "")
                self._cleans[match[1]] = f"{known}; {self._nested(match[2])}"
            elif line == "@msrs":
                for name in sets:
                    self.cases[name] += self._msr_cases()
            elif line and not line.startswith("#"):
                name, _, ops = line.partition(": ")
                case = self._case(f"{group}: {name}", before, ops)
                for one in sets:
                    self.cases[one].append(case)

    def _nested(self, ops: str) -> str:
        return re.sub(r"<(\S+)>", lambda match: self._cleans[match[1]], ops)

    def _case(self, name: str, before: str, ops: str, after: str = "") -> Case:
        return Case(
            name,
            silent(parse(before, self.symbols)),
            tuple(parse(ops, self.symbols)),
            silent(parse(after, self.symbols)),
        )

    def _msr_cases(self) -> Iterator[Case]:
        """Yield each MSR x {read, 0, 1, ones, random}; a write is read back, then undone."""
        for msr, name, initial in msrs():
            mark = EXCLUDED.get(msr, "")
            yield self._case(f"{name} read", f"w 0 {OS_ID:x}", f"r {msr:x} {mark}")
            draw = random.Random(msr).getrandbits(64)
            for word, value in (("0", 0), ("1", 1), ("ones", NAMES["ALL"]), ("random", draw)):
                if (msr, word) in ENDING:
                    continue
                if msr == 0x105:
                    value &= ~(1 << 63)  # that one ends the machine
                undo = f"w {msr:x} {initial}" if initial else ""
                ops = f"w {msr:x} {value:x}; r {msr:x} {mark}"
                yield self._case(f"{name} = {word}", "", ops, undo)


#: values that differ from run to run: reads of these tell only that they are numbers
EXCLUDED = {0x10: "*time", 0x20: "*time", 0x22: "*hz"}
#: writes that end the machine; sets of their own have them
ENDING = {(0x3, "1"), (0x105, "ones")}


def msrs() -> Iterator[tuple[int, str, str]]:
    """Yield (number - 0x40000000, name, value to put back or "") of each MSR, and of some holes.

    The order is that of the numbers, but TSC_INVARIANT_CONTROL, which has no way back, is last.
    """
    with MSR_TABLE.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    known = {int(row["number"], 16) - MSR_BASE: row for row in rows}
    fill = {**{0x90 + i: f"SINT{i}" for i in (1, 2, 15)},
            **{0xB2 + i: f"STIMER{1 + i // 2}_{('CONFIG', 'COUNT')[i % 2]}" for i in range(6)},
            **{0x101 + i: f"CRASH_P{1 + i}" for i in range(3)}}  # fmt: skip
    absent = {0x4: "", 0x24: "", 0x74: "", 0x85: "", 0xA0: "", 0xB8: "", 0xF0: "GUEST_IDLE",
              0x109: "", 0x114: "", 0x1080: ""}  # fmt: skip
    for msr in sorted({*known, *fill, *absent}, key=lambda msr: (msr == 0x118, msr)):
        if msr in known:
            name = known[msr]["name"].removeprefix("HV_X64_MSR_")
            initial = {0: f"{OS_ID:x}"}.get(msr, known[msr]["initial"])
        else:
            name = fill.get(msr) or f"no MSR {MSR_BASE + msr:x} {absent[msr]}".strip()
            initial = "10000" if name.startswith("SINT") else "0"
        yield msr, name, "" if initial in ("-", "*") or msr == 0x105 else initial
