"""The probe as a multiboot kernel, built with as, ld and objcopy once for each source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import operations

HERE = Path(__file__).parent
SOURCES = ("probe.S", "others.S", "text.S")
TOOLS = ("as", "ld", "objcopy")
LOG, LOG_TEXT = 0x380000, 0x380004  # length, u32; then the characters


def missing() -> list[str]:
    """Return the binutils that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def kernel() -> Path:
    """Return the image, from the cache in the temporary folder if it is there."""
    tables = operations.source()
    state = hashlib.sha256(tables.encode())
    for name in SOURCES:
        state.update((HERE / name).read_bytes())
    cached = Path(tempfile.gettempdir()) / f"pyhv-probe-{os.getuid()}-{state.hexdigest()[:16]}.bin"
    if not cached.exists():
        with tempfile.TemporaryDirectory(prefix="pyhv-probe-") as folder:
            build(Path(folder), tables)
            # two test runs may both build it: the last one counts, and it is the same
            new = cached.with_suffix(f".{os.getpid()}")
            shutil.copy(Path(folder) / "probe.bin", new)
            new.replace(cached)
    return cached


def build(folder: Path, tables: str) -> None:
    """Make probe.bin in *folder*."""
    (folder / "tables.inc").write_text(tables)
    for command in (
        ("as", "--64", "-I", HERE, "-I", folder, "-o", "probe.o", HERE / "probe.S"),
        ("ld", "-m", "elf_x86_64", "-N", "--no-warn-rwx-segments", "-Ttext=0x100000", "-e",
         "_start", "-o", "probe.elf", "probe.o"),
        ("objcopy", "-O", "binary", "probe.elf", "probe.bin"),
    ):  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
