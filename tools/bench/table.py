"""The rows: what is measured, in which unit, against what target; and how they are printed."""

from __future__ import annotations

from typing import NamedTuple

#: column -> heading; a row has those that it was measured for
COLUMNS = {"pyhv": "pyhv", "qemu": "QEMU 10", "c": "C loop"}


class Row(NamedTuple):
    """One line of the table.

    :param factor: the target: pyhv at most ``factor`` times QEMU; 0 if there is none of this kind.
    :param limit: the target: pyhv at most so much; None if there is none of this kind.
    """

    key: str
    title: str
    unit: str
    factor: float = 0.0
    limit: float | None = None


class Result(NamedTuple):
    """What was measured for a row, by column."""

    row: Row
    values: dict[str, float]

    @property
    def target(self) -> float | None:
        """What pyhv may cost; None without a target or without QEMU's value."""
        if self.row.limit is not None:
            return self.row.limit
        qemu = self.values.get("qemu")
        return qemu * self.row.factor if self.row.factor and qemu is not None else None

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` with how far, or nothing."""
        pyhv, target = self.values.get("pyhv"), self.target
        if pyhv is None or target is None:
            return ""
        if pyhv <= target:
            return "met"
        return f"missed, {pyhv / target:.2f} x" if target else "missed"


ROWS = (
    Row("out", "PIO out, a port that is nobody's", "kI", factor=1.0),
    Row("in", "PIO in", "kI", factor=1.0),
    Row("mmio", "MMIO store", "kI", factor=1.0),
    Row("rdmsr", "rdmsr through the MSR filter", "kI", factor=1.1),
    Row("wrmsr", "wrmsr through the MSR filter (QEMU: its rdmsr)", "kI", factor=1.1),
    Row("byte", "console byte (pyhv, C: coalesced ring)", "kI", limit=1.5),
    Row("hypercall", "hypercall, in_user (QEMU: in KVM)", "kI"),
    Row("kernel_hypercall", "hypercall, in_kernel", "kI"),
    Row("kernel_rdmsr", "rdmsr VP_INDEX, in_kernel", "kI"),
    Row("user_out", "PIO out under in_user (registers synchronised)", "kI"),
    Row("start", "process start to end at the first instruction (microvm)", "MI", factor=0.4),
    Row("start_plain", "the same by python3 -m pyhv, site included", "MI"),
    Row("memory", "peak memory less guest RAM, idle guest (microvm)", "MiB", factor=0.4),
    Row("debian_memory", "the same, Debian in user space (microvm)", "MiB", factor=0.4),
    Row("debian_microvm", "Debian kernel, initramfs, user space, off (microvm)", "MI", factor=0.75),
    Row("debian_microvm_guest", "of that in guest code, by timer ticks", "MI"),
    Row("debian_pc", "the same (pc)", "MI", factor=0.75),
    Row("debian_pc_guest", "of that in guest code, by timer ticks", "MI"),
    Row("grub", "GRUB loads kernel and initrd (pc, SeaBIOS)", "MI", factor=0.35),
    Row("grub_guest", "of that in guest code, by timer ticks", "MI"),
    Row("direct", "disk read, 4 KiB direct (pc, virtio-blk)", "kI", factor=1.0),
    Row("direct_exits", "user-space exits for it", "exits", limit=0.02),
    Row("deep", "disk read, 4 KiB direct, 32 at a time", "kI", factor=1.5),
    Row("deep_exits", "user-space exits for it", "exits"),
    Row("large_read", "disk read, 128 KiB direct", "kI", factor=1.0),
    Row("large_read_exits", "user-space exits for it", "exits"),
    Row("large_write", "disk write, 128 KiB direct", "kI", factor=1.0),
    Row("large_write_exits", "user-space exits for it", "exits"),
    Row("buffered", "disk read, buffered, per MiB", "kI", factor=1.0),
    Row("buffered_exits", "user-space exits for it", "exits"),
)  # fmt: skip
BY_KEY = {row.key: row for row in ROWS}


def number(value: float | None) -> str:
    """Return *value* with three or four digits that count."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def ratio(values: dict[str, float], other: str) -> str:
    """Return pyhv's value divided by another column's."""
    if "pyhv" not in values or not values.get(other):
        return ""
    return f"{values['pyhv'] / values[other]:.2f}"


def render(results: list[Result]) -> str:
    """Return the table as Markdown, columns aligned so that a terminal shows it well."""
    head = ["", "unit", *COLUMNS.values(), "pyhv / QEMU", "target", ""]
    lines = [head]
    for result in results:
        cells = [number(result.values.get(column)) for column in COLUMNS]
        lines.append([
            result.row.title, result.row.unit, *cells, ratio(result.values, "qemu"),
            number(result.target), result.verdict,
        ])  # fmt: skip
    return aligned(lines, left=(0, 1, len(head) - 1))


def aligned(lines: list[list[str]], left: tuple[int, ...]) -> str:
    """Return *lines*, of which the first is the heading, as a table; columns *left* are words."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for index, line in enumerate(lines):
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("| " + " | ".join(cells) + " |")
        if index == 0:
            rule = [
                "-" * width if i in left else "-" * (width - 1) + ":"
                for i, width in enumerate(widths)
            ]
            text.append("| " + " | ".join(rule) + " |")
    return "\n".join(text) + "\n"
