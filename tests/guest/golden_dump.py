"""The reference dumps and how a dump of ours is held against one: line by line, bit by bit.

The format is explained in tests/baseline/golden/INDEX.md. A dump is also the script, so line N of
the one answers line N of the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

GOLDEN = Path(__file__).parents[1] / "baseline" / "golden"
REGISTERS = ("eax", "ebx", "ecx", "edx")
CPUID = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{8}( [0-9a-f]{8}){4}")
NUMBER = re.compile(r"[0-9a-f]+")
FILLS = re.compile(r"(00|aa)+")
CALLS = ("0f01d9", "0f01c1")  # vmmcall, vmcall
HYPERCALL_PAGE = "mem 00300000"


class Dump(NamedTuple):
    """A reference dump: its name, ``-cpu``, ``-smp``, exit status, and (section, line) of each.

    ``machine``: QEMU's ``-M``, None for the newest type.
    """

    name: str
    cpu: str
    smp: int
    status: int
    lines: list[tuple[str, str]]
    machine: str | None = None


def read(name: str) -> Dump:
    """Return the dump of the set *name*."""
    text = (GOLDEN / f"{name}.txt").read_text()
    head = dict(re.findall(r"^# ([\w-]+): (.*)$", text, re.MULTILINE))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    cpu = head["cpu"].removeprefix("-cpu ")
    machine = head.get("machine")
    return Dump(name, cpu, int(head["smp"]), int(head["exit-status"]), parse(body), machine)


def parse(text: str) -> list[tuple[str, str]]:
    """Return (section, line) of each line of a dump's body."""
    found, section = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        found.append((section, line))
    return found


def key(line: str) -> str:
    """Return what a line is about, without what was seen there."""
    if CPUID.fullmatch(line):
        return line[:17]
    if line.startswith("hcall "):
        return line.partition(" -> ")[0]
    if line.startswith("wrmsr "):
        return line.rpartition(" ")[0]
    if line.startswith(("irr", "cr8")):
        return line.split()[0]
    return " ".join(line.split()[:2])


def value(line: str) -> str:
    """Return the last word, which is what was seen everywhere but in CPUID."""
    return line.rpartition(" ")[2]


def cpuid_bits(line: str) -> dict[str, int]:
    """Return register -> value of a CPUID line."""
    return dict(zip(REGISTERS, (int(word, 16) for word in line.split()[1:]), strict=True))


# Lines that depend on the host, by name, and what must hold all the same (INDEX.md)


def _same_bit(register: str, bit: int) -> Callable[[str, str], bool]:
    def same(want: str, got: str) -> bool:
        return not (cpuid_bits(want)[register] ^ cpuid_bits(got)[register]) >> bit & 1

    return same


def _both_there(want: str, got: str) -> bool:
    return any(cpuid_bits(want).values()) == any(cpuid_bits(got).values())


def _both_numbers(want: str, got: str) -> bool:
    """A number is a number, a fault is a fault."""
    seen = value(want), value(got)
    if seen[0] == "*" or NUMBER.fullmatch(seen[0]):
        return bool(NUMBER.fullmatch(seen[1]))
    return seen[0] == seen[1]


def _both_written(want: str, got: str) -> bool:
    """Memory that nobody wrote to is as the probe filled it; else anything but that."""
    seen = value(want), value(got)
    if FILLS.fullmatch(seen[0]):
        return seen[0] == seen[1]
    return bool(NUMBER.fullmatch(seen[1])) and not FILLS.fullmatch(seen[1])


def _both_calls(want: str, got: str) -> bool:
    """VMMCALL on AMD, VMCALL on Intel, both if there is a page at all; the rest is the same."""
    return value(got) in {value(want).replace(CALLS[0], call) for call in CALLS}


HOST: dict[str, Callable[[str, str], bool]] = {
    "00000001.00000000": _same_bit("ecx", 31),  # the rest is the CPU's own
    "80000007.00000000": _same_bit("edx", 8),  # invariant TSC
    "40000101.00000000": _both_there,  # what this kernel's KVM offers
    "msr 40000010": _both_numbers,  # counters
    "msr 40000020": _both_numbers,
    "msr 40000022": _both_numbers,  # TSC Hz; test_golden compares it with KVM's word
    "mem 00301008": _both_written,  # scale and offset of the reference TSC page
    "mem 00301010": _both_written,
    "mem 00302220": _both_written,  # a message's time
    HYPERCALL_PAGE: _both_calls,
}


def accepted(want: str, got: str) -> bool:
    """Tell whether *got* answers *want*: equal, a ``*``, or a line of HOST that holds."""
    if want == got:
        return True
    if key(want) != key(got):
        return False
    if key(want) in HOST:
        return HOST[key(want)](want, got)
    return value(want) == "*" and bool(NUMBER.fullmatch(value(got)))


def told(want: str, got: str) -> str:
    """Return the difference in words that name leaf, register and bits, or the whole lines."""
    if key(want) != key(got) or not CPUID.fullmatch(want):
        return f"want {want!r}, got {got!r}"
    wanted, seen = cpuid_bits(want), cpuid_bits(got)
    parts = []
    for register in REGISTERS:
        changed = wanted[register] ^ seen[register]
        if changed:
            bits = ", ".join(str(bit) for bit in range(32) if changed >> bit & 1)
            parts.append(
                f"{register} want {wanted[register]:08x}, got {seen[register]:08x}: bits {bits}"
            )
    return f"leaf {want[:8]}: {'; '.join(parts)}"


def differences(
    name: str,
    want: list[tuple[str, str]],
    got: list[tuple[str, str]],
    deviations: dict[str, Callable[[str, str], bool]] | None = None,
) -> list[str]:
    """Return a text for each line of *got* that does not answer its line of *want*.

    :param deviations: key of a line -> test of (want, got); such a line must differ as it says.
    """
    found = []
    allowed = deviations or {}
    for (section, line), (_, mine) in zip(want, got, strict=False):
        known = allowed.get(key(line))
        same = accepted(line, mine)
        if same or (known is not None and key(line) == key(mine) and known(line, mine)):
            continue
        found.append(f"{name} {section}: {told(line, mine)}")
        if key(line) != key(mine):
            break  # from here on nothing fits
    if len(want) != len(got):
        found.append(f"{name}: {len(want)} lines wanted, {len(got)} came; the last: {got[-1:]}")
    return found
