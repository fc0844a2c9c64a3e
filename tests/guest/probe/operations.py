"""What the probe does, in order: the reference dumps were made with these operations.

Each scenario is a list of rows for the guest's table; a handler and its operands are explained
in probe.S.
"""

from __future__ import annotations

HYPERCALL, TSC, SIM, SIEF, ASSIST, INPUT, OUTPUT = range(0x300000, 0x307000, 0x1000)
NO_RAM = 0x7FFFFFF000
LINUX_OS_ID = 0x8100060C00000000

CPUID_LEAVES = (
    *range(0x40000000, 0x40000011),
    *range(0x40000080, 0x40000083),
    0x40000100, 0x40000101, 0x40000110, 0x80000007,
)  # fmt: skip
MSRS = (
    0x40000000, 0x40000001, 0x40000002, 0x40000003, 0x40000010,
    *range(0x40000020, 0x40000024), *range(0x40000070, 0x40000074),
    *range(0x40000080, 0x40000085), *range(0x40000090, 0x400000A0),
    *range(0x400000B0, 0x400000B8), *range(0x400000F0, 0x400000F6), 0x400000FF,
    *range(0x40000100, 0x40000109), 0x40000118,
    # nobody has these
    0x40000004, 0x40000085, 0x400000A0, 0x400000B8, 0x40000109, 0x40001080, 0x40001090,
)  # fmt: skip
CODES = (
    0, 1, 2, 3, 8, 0xB, 0x13, 0x14, 0x15, 0x40, 0x44, 0x46, 0x4E, 0x50, 0x51, 0x5C, 0x5D, 0x69,
    0x6A, 0x6B, 0x7B, 0x86, 0xAF, 0xB0, 0x8001, 0x8002, 0xBEEF,
)  # fmt: skip
FAST = 1 << 16


def reps(count: int, start: int = 0) -> int:
    """Return the rep fields of a hypercall input value."""
    return count << 32 | start << 48


#: input values with RDX, R8: fast and rep forms, reserved bits, parameters that do not fit
CALLS = (
    (2 | FAST, 0, 0),  # the processor mask is in XMM0
    (2 | reps(1), INPUT, OUTPUT),
    (3 | reps(1), INPUT, OUTPUT),
    (3 | reps(1, 1), INPUT, OUTPUT),
    (0x13 | FAST | 1 << 17, 0, 0),
    (0x14 | reps(1), INPUT, OUTPUT),
    (0xB | FAST, 0x40, 1),
    (0xB | FAST, 0x40, 0),
    (0xB | FAST, 0x0F, 1),
    (0xB | FAST, 0x100, 1),
    (0xB | FAST | reps(1), 0x40, 0),
    (0xB | FAST, 0x41 | 1 << 32, 1),
)
MORE_CALLS = (
    (8 | FAST, 1, 0),
    (8 | FAST | reps(1), 1, 0),
    (0x5D | FAST, 0x1234, 0),
    (0x5D | FAST, 0x1234 | 1 << 24, 0),
    (0x5D | FAST, 0x1234 | 1 << 47, 0),
    (0x5D | FAST | reps(1), 0x1234, 0),
    (0x5C | FAST, 1, 0),
    (0x5C, INPUT + 4, 0),
    (0x5C, INPUT + 8, 0),
    (0x5C, 0xFFFFFFF000, 0),
    (0x5C | reps(1), INPUT, 0),
    (2 | 1 << 27, INPUT, OUTPUT),
    (2 | 1 << 60, INPUT, OUTPUT),
)


class Table:
    """Collects the rows of one table and the texts of all."""

    def __init__(self, name: str, texts: list[str]) -> None:
        self.name, self._texts = name, texts
        self.rows: list[str] = []

    def add(self, handler: str, a: int | str = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
        """Append a row."""
        self.rows.append(f".long op_{handler}, {a}\n.quad {b:#x}, {c:#x}, {d:#x}")

    def text(self, line: str) -> None:
        """Print a line."""
        self._texts.append(line)
        self.add("text", f"table_text{len(self._texts) - 1}")

    def read(self, *msrs: int) -> None:
        """RDMSR each."""
        for msr in msrs:
            self.add("rdmsr", msr)

    def write(self, msr: int, value: int, *, back: bool = True) -> None:
        """WRMSR, and RDMSR unless *back* is false."""
        self.add("wrmsr", msr, value & (1 << 64) - 1)
        if back:
            self.add("rdmsr", msr)

    def dump(self, address: int, *sizes: int) -> None:
        """Print memory, one line for each of *sizes* bytes."""
        for size in sizes:
            self.add("dump", size, address)
            address += size


def _cpuid_and_msrs(t: Table) -> None:
    t.text("[cpuid]")
    for leaf in (1, *CPUID_LEAVES):
        t.add("cpuid", leaf)
    t.text("[msr-at-boot]")
    t.read(*MSRS)


def _hypercalls(t: Table) -> None:
    t.text("[hypercall-page]")
    t.write(0x40000001, HYPERCALL | 1)  # before the OS has a name
    t.write(0x40000000, LINUX_OS_ID)
    t.add("fill", 0xC3, HYPERCALL)
    t.write(0x40000001, HYPERCALL | 1)
    t.dump(HYPERCALL, 16)
    t.text("[hypercalls]")
    t.add("fill", 0, INPUT)
    t.add("fill", 0xAA, OUTPUT)
    for code in CODES:
        t.add("hypercall", 0, code, INPUT, OUTPUT)
    t.add("hypercall", 0, 0x8001 | FAST)
    t.dump(OUTPUT, 16)
    for call in CALLS:
        t.add("hypercall", 0, *call)
    t.add("irr")
    for call in MORE_CALLS:
        t.add("hypercall", 0, *call)
    t.text("[guest-os-id]")
    t.write(0x40000000, 0)
    t.read(0x40000001)
    t.write(0x40000000, LINUX_OS_ID)
    t.read(0x40000001)
    for value in (HYPERCALL | 3, NO_RAM | 1, HYPERCALL, HYPERCALL | 1):  # 2: the lock bit
        t.write(0x40000001, value)


def _reference_time(t: Table) -> None:
    t.text("[reference-tsc]")
    t.add("fill", 0, TSC)
    t.write(0x40000021, TSC | 1)
    t.dump(TSC, 4, 4, 8, 8, 8)
    t.write(0x40000021, 0)
    t.add("fill", 0xAA, TSC)
    t.write(0x40000021, TSC)
    t.dump(TSC, 4)
    t.write(0x40000021, TSC | 1)
    t.dump(TSC, 4, 4, 8, 8, 8)
    t.write(0x40000021, 0)
    t.dump(TSC, 4)
    for msr in (0x40000020, 0x40000022, 0x40000023, 0x40000010, 0x40000002):
        t.write(msr, 1, back=False)
    t.write(0x40000003, 0)


def _apic(t: Table) -> None:
    t.text("[vapic]")
    t.write(0x40000072, 0x50)
    t.add("cr8")
    t.write(0x40000072, 0)
    t.write(0x40000070, 0, back=False)
    t.write(0x40000071, 0x000C4642)  # to itself, fixed, vector 0x42
    t.add("irr")
    t.add("fill", 0xAA, ASSIST)
    t.write(0x40000073, ASSIST)
    t.write(0x40000073, ASSIST | 1)
    t.dump(ASSIST, 16)
    t.write(0x40000073, NO_RAM | 1)
    t.write(0x40000073, 0)


def _synic(t: Table) -> None:
    t.text("[synic]")
    t.write(0x40000081, 2, back=False)
    t.add("fill", 0xAA, SIM)
    t.add("fill", 0xAA, SIEF)
    t.write(0x40000083, SIM)
    t.add("nonzero", 0, SIM)
    t.write(0x40000083, SIM | 1)
    t.add("nonzero", 0, SIM)
    t.write(0x40000082, SIEF | 1)
    t.add("nonzero", 0, SIEF)
    t.write(0x40000083, NO_RAM | 1)
    t.write(0x40000083, SIM | 1)
    for value in (1, 0xFF, 1):
        t.write(0x40000080, value)
    t.write(0x40000084, 0)
    t.write(0x40000084, 1, back=False)
    for value in (0x10000, 0x0F, 0x1000F, 0x1FF):  # 0x0f: unmasked, a vector below 16
        t.write(0x40000090, value)
    t.write(0x40000092, 0x40)
    t.write(0x40000093, 0x20043)  # auto EOI
    t.write(0x40000094, 0x10044)  # masked
    t.write(0x40000095, 0x40045)  # polling
    t.write(0x4000009F, 0x4F)


def _timers(t: Table) -> None:
    t.text("[stimer]")
    t.write(0x400000B1, 0)
    for value in (0, 1, 0x20000, 0x20001, 0, ~0x1000, 0):  # 1: enabled, SINT 0
        t.write(0x400000B0, value)
    t.write(0x400000B0, 0x20008)  # one shot, auto-enable, SINT 2
    t.add("fill", 0, SIM)
    t.write(0x400000B1, 1, back=False)  # long past
    t.add("poll", 0, SIM + 0x200)
    t.read(0x400000B0, 0x400000B1)
    t.dump(SIM + 0x200, 16, 8, 8, 8, 8)
    t.add("irr")
    t.write(0x400000B2, 0x1418)  # direct, vector 0x41, auto-enable
    t.write(0x400000B3, 1, back=False)
    t.add("poll", 0, SIM + 0x200)
    t.read(0x400000B2)
    t.add("irr")
    t.write(0x400000B2, 0)
    t.write(0x400000B4, 0x3000A)  # periodic, auto-enable, SINT 3
    t.write(0x400000B5, 10000, back=False)  # 1 ms
    t.add("poll", 0, SIM + 0x300)
    t.read(0x400000B4, 0x400000B5)
    t.dump(SIM + 0x300, 16, 8)
    t.write(0x400000B4, 0)
    t.write(0x40000083, 0)
    t.add("nonzero", 0, SIM)
    t.write(0x40000082, 0)
    t.add("nonzero", 0, SIEF)
    t.write(0x40000080, 0)


def _rest(t: Table) -> None:
    t.text("[crash]")
    for i in range(5):
        t.write(0x40000100 + i, 0x1111111111111111 * (i + 1))
    t.write(0x40000105, 1)
    t.text("[reenlightenment]")
    for msr, value in (
        (0x40000106, 1 << 16 | 0xEE), (0x40000107, 1), (0x40000107, 2), (0x40000108, 0),
        (0x40000108, 1), (0x40000107, 0), (0x40000106, 0),
    ):  # fmt: skip
        t.write(msr, value)
    t.text("[invtsc]")
    for value in (0, 2, 1):
        t.write(0x40000118, value)
    t.add("cpuid", 0x80000007)
    t.text("[syndbg]")
    t.write(0x400000F2, 0)
    t.write(0x400000FF, 0)
    t.text("[cpuid-after]")
    t.add("cpuid", 0x40000003)
    t.add("cpuid", 0x40000004)
    t.text("[ap]")
    t.add("processors")
    t.text("[end]")


def _before_reset(t: Table) -> None:
    t.text("[before-reset]")
    for msr, value in (
        (0x40000000, LINUX_OS_ID), (0x40000001, HYPERCALL | 1), (0x40000021, TSC | 1),
        (0x40000073, ASSIST | 1), (0x40000083, SIM | 1), (0x40000082, SIEF | 1), (0x40000080, 1),
        (0x40000092, 0x40), (0x40000093, 0x20043),
    ):  # fmt: skip
        t.write(msr, value)
    t.read(0x40000020)
    for msr, value in (
        (0x400000B0, 0x20000), (0x400000B1, 0x7000000000000000), (0x40000100, 0x1234),
        (0x40000106, 1 << 16 | 0xEE), (0x40000107, 1), (0x40000118, 1),
    ):  # fmt: skip
        t.write(msr, value)
    t.add("reset")


def _after_reset(t: Table) -> None:
    t.text("[msr-after-reset]")
    t.read(*MSRS)
    t.add("cpuid", 0x80000007)
    t.text("[end]")


TABLES = {
    "table": (_cpuid_and_msrs, _hypercalls, _reference_time, _apic, _synic, _timers, _rest),
    "table_before": (_before_reset,),
    "table_after": (_after_reset,),
}


def source() -> str:
    """Return tables.inc, assembler."""
    texts: list[str] = []
    lines = [f".set HYPERCALL_PAGE, {HYPERCALL:#x}", ".data", ".balign 16"]
    for name, parts in TABLES.items():
        table = Table(name, texts)
        for part in parts:
            part(table)
        table.add("end")
        lines += [f"{name}:", *table.rows]
    lines += [f'table_text{i}: .asciz "{text}\\n"' for i, text in enumerate(texts)]
    return "\n".join(lines) + "\n"
