"""Linux' own x86 boot protocol: bzImage, entered at its 64-bit or 32-bit entry point.

Also fills ``boot_params`` for an ELF vmlinux. Source: Linux,
Documentation/arch/x86/boot.rst and zero-page.rst; field names are theirs.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory
from . import e820, entry
from .image import Image, command_line, load_initrd

SETUP_SECTS, SYSSIZE, BOOT_FLAG = 0x1F1, 0x1F4, 0x1FE
JUMP, HEADER, VERSION = 0x200, 0x202, 0x206
TYPE_OF_LOADER, LOADFLAGS, CODE32_START = 0x210, 0x211, 0x214
RAMDISK_IMAGE, RAMDISK_SIZE, CMD_LINE_PTR, INITRD_ADDR_MAX = 0x218, 0x21C, 0x228, 0x22C
XLOADFLAGS, CMDLINE_SIZE = 0x236, 0x238
PREF_ADDRESS, INIT_SIZE, HEADER_END = 0x258, 0x260, 0x290
ACPI_RSDP_ADDR, E820_ENTRIES, E820_TABLE = 0x070, 0x1E8, 0x2D0

MAGIC = b"HdrS"
LOADED_HIGH = 1
XLF_KERNEL_64 = 1
LOADER_UNDEFINED = 0xFF
OLDEST = 0x20C  # Linux 3.8, the first with a 64-bit entry point
ENTRY_64 = 0x200
BOOT_PARAMS_BYTES = 4096


def matches(head: bytes) -> bool:
    """Tell whether *head*, a file's beginning, is a bzImage."""
    return head[HEADER : HEADER + 4] == MAGIC


def boot_params(
    memory: GuestMemory,
    header: bytes,
    arguments: bytes,
    initrd: tuple[int, int],
    rsdp_gpa: int,
) -> None:
    """Write ``boot_params`` and the command line to where entry.py says.

    :param header: the setup header, from SETUP_SECTS on; at most HEADER_END.
    :param arguments: the command line with its NUL.
    :param initrd: guest address and bytes; (0, 0) is none.
    :param rsdp_gpa: ACPI's root pointer; 0 lets the guest search.
    """
    params = bytearray(BOOT_PARAMS_BYTES)
    params[SETUP_SECTS : SETUP_SECTS + len(header)] = header
    struct.pack_into("<Q", params, ACPI_RSDP_ADDR, rsdp_gpa)
    params[TYPE_OF_LOADER] = LOADER_UNDEFINED
    params[LOADFLAGS] |= LOADED_HIGH
    struct.pack_into("<II", params, RAMDISK_IMAGE, *initrd)
    struct.pack_into("<I", params, CMD_LINE_PTR, entry.COMMAND_LINE)
    entries = e820.build(memory)
    params[E820_ENTRIES] = len(entries)
    table = b"".join(e.pack() for e in entries)
    params[E820_TABLE : E820_TABLE + len(table)] = table
    memory.write(entry.BOOT_PARAMS, bytes(params))
    memory.write(entry.COMMAND_LINE, arguments)


def load(
    memory: GuestMemory,
    image: Image,
    cmdline: str = "",
    initrd: str | None = None,
    rsdp_gpa: int = 0,
) -> entry.EntryState:
    """Load a bzImage where it prefers to be, and its initrd high.

    :param initrd: a path.
    :raises ConfigError: not a kernel, truncated, too old, too little memory, a command line
        longer than this kernel takes.
    """
    if not matches(image.head(JUMP + 6)):
        raise image.error("not a Linux kernel: no HdrS at 0x202")
    setup = image.read(0, min(image.size, 0x1000), "the setup header")
    setup = setup.ljust(HEADER_END, b"\0")
    if setup[BOOT_FLAG : BOOT_FLAG + 2] != b"\x55\xaa":
        raise image.error("not a Linux kernel: boot_flag is not 0xaa55")
    (version,) = struct.unpack_from("<H", setup, VERSION)
    if version < OLDEST:
        raise image.error(
            f"boot protocol {version >> 8}.{version & 0xFF:02}: pyhv needs "
            f"{OLDEST >> 8}.{OLDEST & 0xFF} (Linux 3.8) or newer"
        )
    if not setup[LOADFLAGS] & LOADED_HIGH:
        raise image.error("a zImage, which is loaded low; build a bzImage")
    setup_bytes = ((setup[SETUP_SECTS] or 4) + 1) * 512
    (paragraphs,) = struct.unpack_from("<I", setup, SYSSIZE)
    # The last paragraph may be short: syssize is rounded up.
    payload = min(paragraphs * 16, max(image.size - setup_bytes, paragraphs * 16 - 15))
    (initrd_max,) = struct.unpack_from("<I", setup, INITRD_ADDR_MAX)
    (xloadflags, limit) = struct.unpack_from("<HI", setup, XLOADFLAGS)
    (preferred, init_size) = struct.unpack_from("<QI", setup, PREF_ADDRESS)
    arguments = command_line(
        cmdline, min(limit, entry.COMMAND_LINE_END - entry.COMMAND_LINE - 1), image
    )
    long_mode = bool(xloadflags & XLF_KERNEL_64)
    needed = max(init_size, payload)
    if payload <= (ENTRY_64 if long_mode else 0):
        raise image.error(f"truncated: {payload} bytes of kernel after the setup part")
    image.check_has(setup_bytes, payload, "the kernel")
    image.check_ram(memory, preferred, needed, "the kernel", ((0, e820.EBDA),))
    if preferred + needed > memory.regions[0].size:
        raise image.error(f"wants to run at {preferred:#x}, above 4 GiB")
    image.load(memory, preferred, setup_bytes, payload, "the kernel")

    ramdisk = (0, 0)
    if initrd is not None:
        ramdisk = load_initrd(memory, initrd, preferred + needed, initrd_max + 1, image)
    # The header ends where the short jump at its start leads to; OLDEST has INIT_SIZE.
    header_end = max(INIT_SIZE + 4, min(JUMP + 2 + setup[JUMP + 1], HEADER_END))
    header = bytearray(setup[SETUP_SECTS:header_end])
    struct.pack_into("<I", header, CODE32_START - SETUP_SECTS, preferred)
    boot_params(memory, bytes(header), arguments, ramdisk, rsdp_gpa)
    registers = {"rsi": entry.BOOT_PARAMS}
    if long_mode:
        return entry.long(memory, preferred + ENTRY_64, registers)
    return entry.protected(memory, preferred, registers)
