"""The cases of the differential suite: read from data, and made for each MSR.

The language of tests/baseline/differential.cases is explained at its top.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .operations import MSR_BASE, NAMES, OS_ID, Op, parse, silent

BASELINE = Path(__file__).parents[2] / "baseline"
SOURCE = BASELINE / "differential.cases"
MSR_TABLE = BASELINE / "hyperv_msrs.csv"


class Case(NamedTuple):
    """A case: group and name, what puts the guest into order before it, what is looked at."""

    name: str
    before: tuple[Op, ...]
    ops: tuple[Op, ...]
    after: tuple[Op, ...]


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
