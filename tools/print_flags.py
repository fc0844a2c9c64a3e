"""Prints docs/flags.md from the flag table: ``python tools/print_flags.py > docs/flags.md``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyhv.cpu_options import DEFAULT_CPU
from pyhv.hyperv.flags import LATER, ROWS, Bits, Flag

HEAD = """\
# Hyper-V flags

Each flag of QEMU 10's `-cpu` that makes up the Hyper-V interface, what it shows the guest and
what it needs. Printed by `python tools/print_flags.py` from `pyhv/hyperv/flags.py`; a test
compares. How flags are written:

- `hv_time` and `hv-time` are the same flag; no value means `on`; the last one wins.
- `+hv-time` and `-hv-time` win over all of these, and take hyphens only.
- Numbers are written as in C: `0x1fff`, `8191`, and with a leading 0 octal.
- Any flag with a bit below, and `hv-spinlocks` below 0xffffffff, switches the interface on; the
  leaves 0x40000000 to 0x40000005, the hypercall MSRs (0x40000003.EAX[5]) and CPU hot-add
  (0x40000003.EDX[3]) then come by themselves. `hv-no-nonarch-coresharing` is the exception.

Without `-cpu` the guest gets this one, good for both drivers:

    -cpu {default}

Drivers: *in kernel* is KVM's own Hyper-V (`--hyperv kernel`), *in user* is pyhv's
(`--hyperv user`); a driver that is not named takes the flag.
Bits are of CPUID leaves 3 (0x40000003), 4 (0x40000004) and A (0x4000000A).
"""


def bits(field: Bits) -> str:
    """Return ``3.EAX[1,9]``."""
    numbers = ",".join(str(bit) for bit in range(32) if field.mask >> bit & 1)
    text = f"{field.leaf & 0xF:X}.{field.register.upper()}[{numbers}]"
    return text + (f" unless {field.unless}" if field.unless else "")


def numbers(values: tuple[int, ...]) -> str:
    """Return ``40000080-40000084, 400000FF``: runs of numbers in hexadecimal."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a:02X}" if a == b else f"{a:02X}-{b:02X}" for a, b in runs)


def default(row: Flag) -> str:
    """Return the default in the form in which a user writes it."""
    if row.kind == "bool":
        return "off"
    if isinstance(row.default, int) and row.default > 9:
        return f"{row.default:#x}"
    return str(row.default)


def section(row: Flag) -> str:
    """Return the part of the page that describes one flag."""
    lines = [f"## {row.name}", "", row.meaning, ""]
    facts = [
        ("kind", f"{row.kind}, default {default(row)}"),
        ("also written", ", ".join(row.aliases)),
        ("CPUID", "; ".join(bits(field) for field in row.bits)),
        ("MSRs", numbers(row.msrs)),
        ("hypercalls", numbers(row.hypercalls)),
        ("requires", ", ".join(row.requires)),
        ("goes well with", ", ".join(row.recommended)),
        ("in kernel", row.in_kernel and f"refused: {row.in_kernel}"),
        ("in user", row.in_user and f"refused: {row.in_user}"),
        ("libvirt", row.libvirt),
    ]
    lines += [f"- {name}: {text}" for name, text in facts if text]
    if row.notes:
        lines += ["", row.notes]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole of docs/flags.md."""
    later = "\n".join(f"- {name}: {text}" for name, text in LATER.items())
    parts = [HEAD.format(default=DEFAULT_CPU), *(section(row) for row in ROWS)]
    parts.append("## Seen in patches for QEMUs after 10\n\nRefused by name.\n\n" + later + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
