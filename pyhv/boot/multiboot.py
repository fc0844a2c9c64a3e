"""Multiboot 1 kernels: flat binaries with the address override, and ELF32 (kvm-unit-tests' .flat).

Source: the Multiboot specification 0.6.96. The machine is as QEMU's ``-kernel`` makes
it: the command line's first word is the file's path, ``-initrd`` is a comma-separated
list of "file arguments" that become modules.
"""

from __future__ import annotations

import os
import struct

from . import e820, elf, entry
from .image import Image, command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memory import GuestMemory

MAGIC = 0x1BADB002
LOADED_MAGIC = 0x2BADB002  # EAX at entry
SEARCH_BYTES = 8192  # the header is in there, on 4 bytes
REQUIRED = 0xFFFF  # flags the loader must understand
ALIGN_MODULES, MEMORY_INFO, VIDEO_MODE = 1, 2, 4  # we have no video: the guest sees no mode set
ADDRESS_OVERRIDE = 1 << 16
KNOWN = ALIGN_MODULES | MEMORY_INFO | VIDEO_MODE

INFO_MEMORY, INFO_CMDLINE, INFO_MODULES, INFO_MMAP, INFO_LOADER_NAME = (
    1 << bit for bit in (0, 2, 3, 6, 9)
)
INFO_BYTES = 120
LOADER_NAME = b"pyhv\0"
INFO_PLACES = range(entry.BOOT_PARAMS, e820.EBDA - 4095, 4096)  # not page 0: AP code goes there
MAX_MODULES = 64
STRINGS_BYTES = 2048  # of the information page
Override = tuple[int, int, int, int, int]


def find_header(head: bytes) -> int | None:
    """Return where the multiboot header is in a file's first SEARCH_BYTES, None without one."""
    at = head.find(MAGIC.to_bytes(4, "little"), 0, SEARCH_BYTES)
    while at >= 0:
        if (
            at % 4 == 0
            and at + 12 <= len(head)
            and not sum(struct.unpack_from("<3I", head, at)) & 0xFFFFFFFF
        ):
            return at
        at = head.find(MAGIC.to_bytes(4, "little"), at + 1, SEARCH_BYTES)
    return None


def matches(head: bytes) -> bool:
    """Tell whether *head*, a file's beginning, has a multiboot header."""
    return find_header(head) is not None


def _flat(memory: GuestMemory, image: Image, at: int) -> tuple[int, list[tuple[int, int]]]:
    """Load by the address override; return the entry point and the range that was filled."""
    fields: Override = struct.unpack("<5I", image.read(at + 12, 20, "the multiboot header"))
    header_gpa, load, load_end, bss_end, start = fields
    if load > header_gpa or header_gpa - load > at:
        raise image.error(
            f"multiboot: load address {load:#x} does not match header {header_gpa:#x}"
        )
    offset = at - (header_gpa - load)
    length = load_end - load if load_end else image.size - offset
    end = max(bss_end, load + length)
    if length <= 0:
        raise image.error(f"multiboot: load end {load_end:#x} below load address {load:#x}")
    image.check_has(offset, length, "the image")
    image.check_ram(memory, load, end - load, "the image", ((0, 4096),))
    image.load(memory, load, offset, length, "the image")
    memory.zero(load + length, end - load - length)
    return start, [(load, end)]


def _modules(
    memory: GuestMemory, initrd: str | None, floor: int, kernel: Image
) -> list[tuple[int, int, bytes]]:
    """Load the modules page-aligned from *floor* on; return (start, end, string) of each."""
    loaded: list[tuple[int, int, bytes]] = []
    for text in initrd.split(",") if initrd else ():
        if len(loaded) == MAX_MODULES:
            raise kernel.error(f"-initrd: more than {MAX_MODULES} modules")
        with Image(text.split(" ", 1)[0], "module") as module:
            start = floor + 4095 & ~4095
            module.load(memory, start, 0, module.size, "the file")
            floor = start + module.size
        loaded.append((start, floor, command_line(text, STRINGS_BYTES, module)))
    return loaded


def _information(
    memory: GuestMemory,
    at: int,
    cmdline: bytes,
    modules: list[tuple[int, int, bytes]],
    image: Image,
) -> None:
    """Write the information structure, memory map, modules and strings into the page *at*."""
    ranges = e820.build(memory)
    mmap = b"".join(struct.pack("<I", 20) + r.pack() for r in ranges)
    mmap_at = at + INFO_BYTES
    modules_at = mmap_at + len(mmap)
    strings_at = modules_at + 16 * len(modules)
    strings = cmdline + LOADER_NAME
    table = b""
    for start, end, text in modules:
        table += struct.pack("<4I", start, end, strings_at + len(strings), 0)
        strings += text
    if strings_at + len(strings) > at + 4096:
        raise image.error("multiboot: command line and module strings need more than a page")
    flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME
    upper = next((r.size >> 10 for r in ranges if r.base == e820.EXTENDED), 0)
    info = bytearray(INFO_BYTES)
    struct.pack_into(
        "<8I", info, 0, flags, e820.EBDA >> 10, upper, 0, strings_at, len(modules), modules_at, 0
    )
    struct.pack_into("<II", info, 44, len(mmap), mmap_at)
    struct.pack_into("<I", info, 64, strings_at + len(cmdline))
    memory.write(at, bytes(info) + mmap + table + strings)


def load(
    memory: GuestMemory,
    image: Image,
    cmdline: str = "",
    initrd: str | None = None,
    rsdp_gpa: int = 0,
) -> entry.EntryState:
    """Load a multiboot kernel and its modules.

    :param initrd: ``file arguments,file arguments``.
    :param rsdp_gpa: not handed over; multiboot guests search for it.
    :raises ConfigError: a broken header, an ELF64 image, something that does not fit.
    """
    at = find_header(image.head(SEARCH_BYTES))
    if at is None:
        raise image.error("no multiboot header in the first 8192 bytes")
    (flags,) = struct.unpack("<I", image.read(at + 4, 4, "the multiboot header"))
    if flags & REQUIRED & ~KNOWN:
        raise image.error(
            f"multiboot: asks for features {flags & REQUIRED:#x}, pyhv has {KNOWN:#x}"
        )
    if flags & ADDRESS_OVERRIDE:
        start, used = _flat(memory, image, at)
    else:
        parsed = elf.parse(image)
        if parsed.bits64:
            raise image.error("multiboot takes ELF32: objcopy -O elf32-i386 makes one of it")
        elf.load_segments(memory, image, parsed, ((0, 4096),))
        start = parsed.entry
        used = [(s.paddr, s.paddr + s.memsz) for s in parsed.segments if s.type == elf.PT_LOAD]
    if not any(low <= start < high for low, high in used):
        raise image.error(f"entry point {start:#x} is in nothing that was loaded")
    place = next((p for p in INFO_PLACES if not any(p < b and p + 4096 > a for a, b in used)), None)
    if place is None:
        raise image.error("multiboot: no page below 640 KiB is left for the information structure")
    floor = max(e820.EXTENDED, *(high for _, high in used))
    modules = _modules(memory, initrd, floor, image)
    text = f"{os.fspath(image.path)} {cmdline}" if cmdline else os.fspath(image.path)
    _information(memory, place, command_line(text, STRINGS_BYTES, image), modules, image)
    return entry.protected(None, start, {"rax": LOADED_MAGIC, "rbx": place})
