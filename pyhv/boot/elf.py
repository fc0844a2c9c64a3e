"""ELF kernels: the program headers of a file nobody vouches for, and the two ways to enter one.

With a Xen PVH note: 32-bit protected mode, EBX = hvm_start_info (any Linux vmlinux
built with CONFIG_PVH has it, FreeBSD too). Without: at e_entry, ELF64 in long mode with
Linux' boot_params in RSI, ELF32 in protected mode with them in ESI. Sources: the ELF-64
object file format; Xen, docs/misc/pvh.pandoc and include/public/arch-x86/hvm/start_info.h.
"""

from __future__ import annotations

import struct

from ..record import Record
from . import e820, entry, linux
from .image import Image, command_line, load_initrd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memory import GuestMemory

MAGIC = b"\x7fELF"
CLASS_32, CLASS_64, LITTLE_ENDIAN = 1, 2, 1
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
MAX_SEGMENTS = 128  # a kernel has about 5
MAX_NOTES_BYTES = 65536
XEN_ELFNOTE_PHYS32_ENTRY = 18

# Where the header has e_phoff, e_phentsize and e_phnum, and a program header's fields
_HEADERS = {
    CLASS_32: struct.Struct("<16sHHIIIIIHHHHHH"),
    CLASS_64: struct.Struct("<16sHHIQQQIHHHHHH"),
}
_SEGMENTS = {CLASS_32: struct.Struct("<8I"), CLASS_64: struct.Struct("<IIQQQQQQ")}
_HEADER_OF = {EM_386: CLASS_32, EM_X86_64: CLASS_64}

HVM_START_MAGIC = 0x336EC578
_START_INFO = struct.Struct("<IIIIQQQQII")  # version 1
_MODULE, _MEMMAP = struct.Struct("<QQQQ"), struct.Struct("<QQII")
HVM_MEMMAP_TYPE = {e820.RAM: 1, e820.RESERVED: 2}

# What is ours while a kernel starts; ACPI and BIOS areas are checked for every load
LOW_TABLES = (
    (0, entry.GDT + 32),
    (entry.PVH_INFO, entry.PAGE_TABLES_END),
    (entry.COMMAND_LINE, entry.COMMAND_LINE_END),
)


class Segment(Record):
    """A program header, in bytes: file offset, addresses, size in the file and in memory."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


class Elf(Record):
    """What the loaders need of an ELF file; nothing in it is checked against RAM."""

    bits64: bool
    entry: int
    segments: list[Segment]


def matches(head: bytes) -> bool:
    """Tell whether *head*, a file's beginning, is ELF."""
    return head.startswith(MAGIC)


def parse(image: Image) -> Elf:
    """Read the headers.

    :raises ConfigError: not ELF, for another machine, or headers that are not in the file.
    """
    ident = image.head(16)
    if len(ident) < 16 or not matches(ident):
        raise image.error("not an ELF file")
    header = _HEADERS.get(ident[4])
    if header is None or ident[5] != LITTLE_ENDIAN:
        raise image.error("not a little-endian ELF32 or ELF64 file")
    fields = header.unpack(image.read(0, header.size, "the ELF header"))
    _, _, machine, _, start, table, _, _, _, entry_size, count = fields[:11]
    if machine not in _HEADER_OF:
        raise image.error(f"ELF for machine {machine}, not x86 (3 or 62)")
    form = _SEGMENTS[ident[4]]
    if not 0 < count <= MAX_SEGMENTS or entry_size != form.size:
        raise image.error(f"{count} program headers of {entry_size} bytes: not an ELF kernel")
    data = image.read(table, count * form.size, "the program headers")
    segments = []
    for item in form.iter_unpack(data):
        if ident[4] == CLASS_32:
            kind, offset, vaddr, paddr, filesz, memsz, _, _ = item
        else:
            kind, _, offset, vaddr, paddr, filesz, memsz, _ = item
        segments.append(Segment(kind, offset, vaddr, paddr, filesz, memsz))
    return Elf(ident[4] == CLASS_64, start, segments)


def load_segments(
    memory: GuestMemory, image: Image, elf: Elf, taken: tuple[tuple[int, int], ...]
) -> int:
    """Load every PT_LOAD at its physical address and return the end of the highest.

    All are checked before the first is loaded, so a refused file has changed nothing.

    :param taken: (start, end) ranges that no segment may touch.
    """
    loads = [s for s in elf.segments if s.type == PT_LOAD and s.memsz]
    if not loads:
        raise image.error("nothing to load: no PT_LOAD program header")
    for number, segment in enumerate(loads):
        part = f"segment {number}"
        if segment.filesz > segment.memsz:
            raise image.error(f"{part}: more bytes in the file than in memory")
        image.check_has(segment.offset, segment.filesz, part)
        image.check_ram(memory, segment.paddr, segment.memsz, part, taken)
    for number, segment in enumerate(loads):
        if segment.filesz:
            image.load(memory, segment.paddr, segment.offset, segment.filesz, f"segment {number}")
        # RAM is not zero after a reset
        memory.zero(segment.paddr + segment.filesz, segment.memsz - segment.filesz)
    return max(s.paddr + s.memsz for s in loads)


def pvh_entry(image: Image, elf: Elf) -> int | None:
    """Return the entry point of the XEN_ELFNOTE_PHYS32_ENTRY note, None without one."""
    for segment in elf.segments:
        if segment.type != PT_NOTE or segment.filesz > MAX_NOTES_BYTES:
            continue
        notes = image.read(segment.offset, segment.filesz, "the notes")
        at = 0
        while at + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            name_at = at + 12
            at = name_at + (name_size + 3 & ~3)
            value = notes[at : at + size]
            name = notes[name_at : name_at + name_size]
            if name == b"Xen\0" and kind == XEN_ELFNOTE_PHYS32_ENTRY and len(value) in (4, 8):
                return int.from_bytes(value, "little")
            at += size + 3 & ~3
    return None


def _start_info(
    memory: GuestMemory, arguments: bytes, initrd: tuple[int, int], rsdp_gpa: int
) -> None:
    """Write hvm_start_info, its one module and its memory map to entry.PVH_INFO."""
    modules_at = entry.PVH_INFO + _START_INFO.size
    map_at = modules_at + _MODULE.size
    ranges = e820.build(memory)
    info = _START_INFO.pack(
        HVM_START_MAGIC,
        1,
        0,
        1 if initrd[1] else 0,
        modules_at if initrd[1] else 0,
        entry.COMMAND_LINE,
        rsdp_gpa,
        map_at,
        len(ranges),
        0,
    )
    memmap = [_MEMMAP.pack(r.base, r.size, HVM_MEMMAP_TYPE[r.kind], 0) for r in ranges]
    memory.write(entry.PVH_INFO, info + _MODULE.pack(*initrd, 0, 0) + b"".join(memmap))
    memory.write(entry.COMMAND_LINE, arguments)


def _physical(elf: Elf) -> int:
    """Return e_entry as a physical address: Linux' is one, others link it at the virtual one."""
    loads = [s for s in elf.segments if s.type == PT_LOAD]
    if any(s.paddr <= elf.entry < s.paddr + s.memsz for s in loads):
        return elf.entry
    for segment in loads:
        if segment.vaddr <= elf.entry < segment.vaddr + segment.memsz:
            return elf.entry - segment.vaddr + segment.paddr
    return elf.entry


def load(
    memory: GuestMemory,
    image: Image,
    cmdline: str = "",
    initrd: str | None = None,
    rsdp_gpa: int = 0,
) -> entry.EntryState:
    """Load an ELF kernel and its initrd; see the module's text for how it is entered.

    :raises ConfigError: a file that is broken, does not fit, or has no entry point in what it
        loads.
    """
    elf = parse(image)
    start = pvh_entry(image, elf)
    arguments = command_line(cmdline, entry.COMMAND_LINE_END - entry.COMMAND_LINE - 1, image)
    pvh = start is not None
    if start is None:
        start = _physical(elf)
    inside = [s for s in elf.segments if s.type == PT_LOAD and s.paddr <= start < s.paddr + s.memsz]
    if not inside or start >= 1 << 32:
        raise image.error(f"entry point {start:#x} is in no segment below 4 GiB")
    end = load_segments(memory, image, elf, LOW_TABLES)
    ramdisk = (0, 0)
    if initrd is not None:
        # where 32-bit code reaches it; Linux' own limit is the same
        ramdisk = load_initrd(memory, initrd, max(end, e820.EXTENDED), 1 << 31, image)
    if pvh:
        _start_info(memory, arguments, ramdisk, rsdp_gpa)
        return entry.protected(memory, start, {"rbx": entry.PVH_INFO})
    header = bytearray(linux.HEADER_END - linux.SETUP_SECTS)
    for form, offset, value in (
        ("<H", linux.BOOT_FLAG, 0xAA55),
        ("<4s", linux.HEADER, linux.MAGIC),
        ("<H", linux.VERSION, linux.OLDEST),
        ("<I", linux.CMDLINE_SIZE, len(arguments)),
    ):
        struct.pack_into(form, header, offset - linux.SETUP_SECTS, value)
    linux.boot_params(memory, bytes(header), arguments, ramdisk, rsdp_gpa)
    registers = {"rsi": entry.BOOT_PARAMS}
    if elf.bits64:
        return entry.long(memory, start, registers)
    return entry.protected(memory, start, registers)
