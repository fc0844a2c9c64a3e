#!/usr/bin/env python3
"""Makes a file that gives gdb a running kernel's symbols, out of its /proc/kallsyms.

    tools/kallsyms_elf.py kallsyms.txt kernel.syms
    gdb -ex "file kernel.syms" -ex "target remote :1234"

Debian's kernels come without symbols, and with other addresses at each boot (KASLR): the
running kernel itself knows best. In the guest, as root: ``cat /proc/kallsyms``. Functions and
data within 2 GiB of the lowest are taken, so modules' too. Needs binutils (as, ld). The file
has names and addresses, no types and no lines of source.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

LINE = re.compile(r"([0-9a-f]{16}) ([tTwWdDrRbB]) ([A-Za-z_][\w.$]*)")
SPAN = 1 << 31
PAGE = 4096


def symbols(text: str) -> dict[str, tuple[int, str]]:
    """Return name -> (address, kind) of what is in a /proc/kallsyms; other lines are passed over.

    :raises ValueError: none, or all at 0, as an unprivileged reader sees them.
    """
    found = {
        name: (int(address, 16), "function" if kind in "tTwW" else "object")
        for address, kind, name in LINE.findall(text)
        if int(address, 16)
    }
    if not found:
        raise ValueError("no symbol with an address; /proc/kallsyms shows them to root only")
    return found


def source(found: dict[str, tuple[int, str]]) -> tuple[int, str]:
    """Return (address of the section, assembly): one section without contents, labels in it."""
    base = min(found.values())[0] & -PAGE
    lines = ['.section .kernel,"ax",@nobits']
    for name, (at, kind) in sorted(found.items(), key=lambda item: item[1]):
        if at - base < SPAN:
            lines += [f".org {at - base:#x}", f".globl {name}", f".type {name}, @{kind}"]
            lines.append(f"{name}:")
    return base, "\n".join([*lines, ".skip 16", ""])


def make(text: str, output: pathlib.Path) -> int:
    """Write the ELF file; return how many symbols it names."""
    base, assembly = source(symbols(text))
    with tempfile.TemporaryDirectory() as folder:
        part = pathlib.Path(folder) / "part.o"
        subprocess.run(["as", "-o", part, "-"], input=assembly, text=True, check=True)
        command = ["ld", f"--section-start=.kernel={base:#x}", "-e", "0", "-o", output, part]
        subprocess.run(command, check=True)
    return assembly.count(".globl")


def main(argv: list[str]) -> int:
    """Run the command line."""
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        count = make(pathlib.Path(argv[0]).read_text(), pathlib.Path(argv[1]))
    except (OSError, ValueError) as error:
        print(f"{argv[0]}: {error}", file=sys.stderr)
        return 2
    print(f"{argv[1]}: {count} symbols")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
