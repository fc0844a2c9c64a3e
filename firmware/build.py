"""Build bios.bin and demo.img from their sources with GNU as and ld.

``python3 firmware/build.py`` writes both beside the sources; ``--check`` compares
with what is there and writes nothing (status 1: they differ).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(FOLDER))

from pyhv.boot import bios_layout  # noqa: E402

SECTOR = 512
LINKER = {32: "elf_i386", 64: "elf_x86_64"}


class Image(NamedTuple):
    """One image. The first source is assembled, it includes the rest."""

    name: str
    sources: tuple[str, ...]
    bits: int  # of the widest code in it
    address: int
    symbols: dict[str, int]  # name -> address that other files rely on
    size: int | None  # bytes; None: padded to whole sectors


IMAGES = (
    Image("bios.bin", ("bios.S",), 32, 0, bios_layout.SYMBOLS, bios_layout.BIOS_SIZE),
    Image(
        "demo.img",
        tuple(
            f"demo/{name}.S" for name in ("demo", "boot", "hyperv", "timer", "user", "print")
        ),
        64,
        0x7C00,
        {"boot": 0x7C00, "signature": 0x7DFE},
        None,
    ),
)


class BuildError(Exception):
    """A tool refused, or the result is not what others rely on."""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")


def build(image: Image) -> bytes:
    """Return the bytes of *image*.

    :raises BuildError: as or ld failed; a symbol, the entry or the size is not where it must be.
    """
    source = os.path.join(FOLDER, image.sources[0])
    with tempfile.TemporaryDirectory() as folder:
        object_file, elf_file = os.path.join(folder, "a.o"), os.path.join(folder, "a.elf")
        include = os.path.dirname(source)
        _run("as", f"--{image.bits}", "--fatal-warnings", "-I", include, "-o", object_file, source)
        _run(
            "ld", "-m", LINKER[image.bits], "-N", "--build-id=none", f"-Ttext={image.address:#x}",
            "-e", f"{image.address:#x}", "-o", elf_file, object_file,
        )  # fmt: skip
        with open(elf_file, "rb") as stream:
            return _flat(image, ELFFile(stream))


def _flat(image: Image, elf: ELFFile) -> bytes:
    """Return the one text section, checked; everything must be in it."""
    for section in elf.iter_sections():
        if section["sh_flags"] & 2 and section["sh_size"] and section.name != ".text":
            raise BuildError(f"{image.name}: section {section.name} would be lost; use .text")
    text = elf.get_section_by_name(".text")
    if text["sh_addr"] != image.address:
        raise BuildError(f"{image.name}: linked at {text['sh_addr']:#x}, not {image.address:#x}")
    table = elf.get_section_by_name(".symtab")
    for name, wanted in image.symbols.items():
        found = [symbol["st_value"] for symbol in table.get_symbol_by_name(name) or ()]
        if found != [wanted]:
            raise BuildError(f"{image.name}: {name} is at {found}, others rely on {wanted:#x}")
    data = text.data()
    if image.size is None:
        return data + bytes(-len(data) % SECTOR)
    if len(data) != image.size:
        raise BuildError(f"{image.name}: {len(data)} bytes, not {image.size}")
    return data


def main(arguments: list[str]) -> int:
    """Build all; return the exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: build.py [--check]", file=sys.stderr)
        return 2
    status = 0
    for image in IMAGES:
        path = os.path.join(FOLDER, image.name)
        try:
            data = build(image)
        except (BuildError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        if not arguments:
            with open(path, "wb") as stream:
                stream.write(data)
        else:
            with open(path, "rb") as stream:
                same = stream.read() == data
            print(f"{image.name}: {'as built' if same else 'differs from what its source gives'}")
            status |= not same
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
