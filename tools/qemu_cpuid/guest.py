"""The guest that dumps CPUID, and the command lines that start it under QEMU."""

from __future__ import annotations

import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
DEBUG_EXIT = "isa-debug-exit,iobase=0xf4,iosize=0x4"
Rows = dict[tuple[int, int], tuple[int, int, int, int]]  # (leaf, index) -> eax ebx ecx edx


def build(folder: pathlib.Path) -> pathlib.Path:
    """Return the guest, made in *folder* with binutils: a multiboot image."""
    for command in (
        ("as", "--32", "-o", "dump.o", HERE / "dump.S"),
        ("ld", "-m", "elf_i386", "-N", "--no-warn-rwx-segments", "-Ttext=0x100000", "-e", "_start",
         "-o", "dump.elf", "dump.o"),
        ("objcopy", "-O", "binary", "dump.elf", "dump.bin"),
    ):  # fmt: skip
        subprocess.run([str(word) for word in command], cwd=folder, check=True)
    return folder / "dump.bin"


def qemu(program: list[str], accel: str, cpu: str, *options: str) -> list[str]:
    """Return QEMU's command line, without what it boots."""
    return [
        *program, "-accel", accel, "-cpu", cpu, "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-device", DEBUG_EXIT, *options,
    ]  # fmt: skip


def parse(text: str) -> Rows:
    """Return the leaves in the guest's output; leaves that are all zero are left out.

    :raises ValueError: the output does not end as the guest ends it.
    """
    found: Rows = {}
    lines = text.replace("\r", "").splitlines()
    if not lines or lines[-1] != ".":
        raise ValueError(f"the guest did not come to its end: {text[-200:]!r}")
    for line in lines[:-1]:
        where, *words = line.split()
        leaf, index = (int(part, 16) for part in where.split("."))
        registers = tuple(int(word, 16) for word in words)
        if any(registers):
            found[leaf, index] = registers  # type: ignore[assignment]
    return found


def dump(program: list[str], accel: str, cpu: str, image: pathlib.Path, *options: str) -> Rows:
    """Run QEMU and return what its guest read.

    :raises ValueError: it ended otherwise; with what QEMU said.
    """
    command = [*qemu(program, accel, cpu, *options), "-serial", "stdio", "-kernel", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    try:
        return parse(done.stdout)
    except ValueError as error:
        raise ValueError(f"{' '.join(command)}: {error}; {done.stderr.strip()}") from error


def lines(rows: Rows) -> list[str]:
    """Return the text form: ``00000001.00000000 eax ebx ecx edx``."""
    return [
        f"{leaf:08x}.{index:08x} " + " ".join(f"{word:08x}" for word in registers)
        for (leaf, index), registers in sorted(rows.items())
    ]
