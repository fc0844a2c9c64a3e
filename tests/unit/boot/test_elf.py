"""ELF kernels: both entries, the PVH structures, and files made to hurt."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from elf_files import elf as make
from elf_files import note

from pyhv.boot import detect, elf, entry, linux
from pyhv.boot.image import Image
from pyhv.errors import ConfigError
from pyhv.memory import GuestMemory

CODE = b"\x90" * 300 + b"\xf4"


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 << 20)


def boot(
    memory: GuestMemory, tmp_path: Path, data: bytes, cmdline: str = "", initrd: bytes | None = None
) -> entry.EntryState:
    (tmp_path / "vmlinux").write_bytes(data)
    path = None
    if initrd is not None:
        path = str(tmp_path / "initrd")
        (tmp_path / "initrd").write_bytes(initrd)
    return detect.load(memory, str(tmp_path / "vmlinux"), cmdline, path, 0xE0000)


def pvh_file(**fields: object) -> bytes:
    return make([{"data": CODE, "paddr": 0x200000} | fields, {"data": note(), "type": 4}])


def test_pvh_entry_and_start_info(memory: GuestMemory, tmp_path: Path) -> None:
    state = boot(memory, tmp_path, pvh_file(), "quiet", b"initrd!")
    assert (state.mode, state.rip, state.registers) == ("protected", 0x200000, {"rbx": 0x6000})
    assert memory.read(0x200000, len(CODE)) == CODE
    info = struct.unpack("<IIIIQQQQII", memory.read(entry.PVH_INFO, 56))
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, entries, _ = info
    assert (magic, version, flags, modules, rsdp, entries) == (0x336EC578, 1, 0, 1, 0xE0000, 4)
    assert memory.read(cmdline, 6) == b"quiet\0"
    at, size, _, _ = struct.unpack("<4Q", memory.read(modlist, 32))
    assert memory.read(at, size) == b"initrd!"
    ranges = [struct.unpack("<QQII", memory.read(memmap + i * 24, 24)) for i in range(entries)]
    assert ranges[0] == (0, 0x9FC00, 1, 0)
    assert ranges[1][2] == 2
    assert ranges[-1] == (0x100000, 15 << 20, 1, 0)


def test_pvh_without_initrd_has_no_module(memory: GuestMemory, tmp_path: Path) -> None:
    boot(memory, tmp_path, pvh_file())
    info = struct.unpack("<IIIIQQQQII", memory.read(entry.PVH_INFO, 56))
    assert (info[3], info[4]) == (0, 0)


@pytest.mark.parametrize(
    "notes",
    [
        note(),
        note(value=(0x200000).to_bytes(8, "little")),
        note(kind=6, value=b"linux\0") + note(kind=1, name=b"GNU\0", value=bytes(5)) + note(),
        note(name=b"Xen\0\0\0\0\0") + note(),  # a longer name is another name
    ],
)
def test_pvh_notes_in_all_forms(memory: GuestMemory, tmp_path: Path, notes: bytes) -> None:
    data = make([{"data": CODE, "paddr": 0x200000}, {"data": notes, "type": 4}], entry=1)
    assert boot(memory, tmp_path, data).rip == 0x200000


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        b"\0" * 11,
        struct.pack("<III", 0xFFFFFFFF, 4, 18) + bytes(40),
        struct.pack("<III", 4, 0xFFFFFFFF, 18) + b"Xen\0" + bytes(40),
        struct.pack("<III", 4, 4, 18) + b"Xen\0",
        note(value=b"\0\0"),
        note(kind=17),
    ],
)
def test_broken_notes_are_no_notes(memory: GuestMemory, tmp_path: Path, notes: bytes) -> None:
    data = make([{"data": CODE, "paddr": 0x200000}, {"data": notes, "type": 4}])
    assert boot(memory, tmp_path, data).mode == "long"


def test_elf64_entry_has_boot_params(memory: GuestMemory, tmp_path: Path) -> None:
    data = make([{"data": CODE, "paddr": 0x200000}], entry=0x200040)
    state = boot(memory, tmp_path, data, "quiet", b"initrd")
    assert (state.mode, state.rip) == ("long", 0x200040)
    assert state.registers == {"rsi": entry.BOOT_PARAMS}
    params = memory.read(entry.BOOT_PARAMS, 4096)
    assert params[linux.HEADER : linux.HEADER + 4] == b"HdrS"
    ramdisk, size = struct.unpack_from("<II", params, linux.RAMDISK_IMAGE)
    assert memory.read(ramdisk, size) == b"initrd"
    assert params[linux.E820_ENTRIES] == 4
    assert memory.read(struct.unpack_from("<I", params, linux.CMD_LINE_PTR)[0], 6) == b"quiet\0"


def test_a_virtual_entry_becomes_physical(memory: GuestMemory, tmp_path: Path) -> None:
    high = 0xFFFFFFFF80200000
    data = make([{"data": CODE, "paddr": 0x200000, "vaddr": high}], entry=high + 0x10)
    assert boot(memory, tmp_path, data).rip == 0x200010


def test_elf32_enters_in_protected_mode(memory: GuestMemory, tmp_path: Path) -> None:
    data = make([{"data": CODE, "paddr": 0x200000}], bits=32)
    state = boot(memory, tmp_path, data)
    assert (state.mode, state.rip, state.registers) == ("protected", 0x200000, {"rsi": 0x7000})


def test_bss_is_zeroed_and_the_rest_left(memory: GuestMemory, tmp_path: Path) -> None:
    memory.write(0x200000, b"\xff" * 0x3000)
    boot(memory, tmp_path, pvh_file(memsz=0x2000))
    assert memory.read(0x200000 + len(CODE), 0x2000 - len(CODE)) == bytes(0x2000 - len(CODE))
    assert memory.read(0x202000, 1) == b"\xff"


HOSTILE = [
    ({"memsz": 1 << 63}, "give more with -m"),
    ({"memsz": (1 << 64) - 1}, "give more with -m"),
    ({"paddr": (1 << 64) - 4096}, "give more with -m|no segment"),
    ({"paddr": 0xFFFFFFFF80000000}, "give more with -m|no segment"),
    ({"memsz": 15 << 20}, "give more with -m"),
    ({"filesz": 1 << 40, "memsz": 1 << 40}, "truncated"),
    ({"offset": 1 << 62}, "truncated"),
    ({"offset": (1 << 64) - 1}, "truncated"),
    ({"memsz": 3}, "more bytes in the file than in memory"),
    ({"memsz": 0}, "entry point"),
    ({"type": 2}, "entry point"),
]


@pytest.mark.parametrize(("fields", "message"), HOSTILE)
def test_hostile_segments_are_one_line(
    memory: GuestMemory, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        boot(memory, tmp_path, pvh_file(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "paddr",
    [0, entry.GDT, entry.PVH_INFO, entry.BOOT_PARAMS, 0xE000, entry.COMMAND_LINE, 0x2FFFF, 0xE0000]
    + [0xFFFFF],
)
def test_segments_over_our_tables_are_refused(
    memory: GuestMemory, tmp_path: Path, paddr: int
) -> None:
    data = make([{"data": CODE, "paddr": paddr}, {"data": CODE, "paddr": 0x200000}])
    with pytest.raises(ConfigError, match="overlaps .* its own tables"):
        boot(memory, tmp_path, data)
    assert memory.read(0x200000, len(CODE)) == bytes(len(CODE))  # nothing was loaded


def test_segments_between_our_tables_are_fine(memory: GuestMemory, tmp_path: Path) -> None:
    for paddr in (0x10000, 0x30000, 0x9FC00 - len(CODE), 0x100000, (16 << 20) - len(CODE)):
        data = make([{"data": CODE, "paddr": paddr}], entry=paddr)
        assert boot(memory, tmp_path, data).rip == paddr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phnum": 0}, "0 program headers"),
        ({"phnum": 65535}, "65535 program headers"),
        ({"phnum": 100}, "truncated"),
        ({"phentsize": 0}, "of 0 bytes"),
        ({"phentsize": 57}, "of 57 bytes"),
        ({"phoff": (1 << 64) - 1}, "truncated"),
        ({"phoff": 1 << 20}, "truncated"),
        ({"machine": 183}, "machine 183"),
        ({"machine": 0}, "machine 0"),
        ({"entry": 0x100000}, "entry point 0x100000"),
        ({"entry": (1 << 64) - 1}, "entry point"),
    ],
)
def test_hostile_headers_are_one_line(
    memory: GuestMemory, tmp_path: Path, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        boot(memory, tmp_path, make([{"data": CODE, "paddr": 0x200000}], **fields))


@pytest.mark.parametrize("ident", [b"\x7fELF\3\1", b"\x7fELF\2\2", b"\x7fELF\0\0"])
def test_other_elf_classes_are_one_line(memory: GuestMemory, tmp_path: Path, ident: bytes) -> None:
    data = bytearray(pvh_file())
    data[: len(ident)] = ident
    with pytest.raises(ConfigError, match="not a little-endian ELF32 or ELF64"):
        boot(memory, tmp_path, bytes(data))


@pytest.mark.parametrize("bits", [32, 64])
def test_every_truncation_is_one_line(memory: GuestMemory, tmp_path: Path, bits: int) -> None:
    whole = make([{"data": CODE, "paddr": 0x200000}, {"data": note(), "type": 4}], bits=bits)
    for size in range(0, len(whole), 7):
        with pytest.raises(
            ConfigError, match=r"empty|truncated|not a kernel|not an ELF|little-end"
        ):
            boot(memory, tmp_path, whole[:size])


def test_initrd_and_command_line_limits(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^initrd .* do not fit"):
        boot(memory, tmp_path, pvh_file(), initrd=bytes(14 << 20))
    with pytest.raises(ConfigError, match="takes 65535"):
        boot(memory, tmp_path, pvh_file(), "x" * 65536)


SOURCE = """
        .section .note, "a", @note
        .long 4, 4, 18
        .asciz "Xen"
        .long start
        .text
        .globl start
start:  hlt
        .bss
        .skip 5000
"""
TOOLS = all(shutil.which(tool) for tool in ("as", "ld"))


@pytest.mark.skipif(not TOOLS, reason="as and ld (binutils) are not installed")
def test_a_linked_file_reads_as_pyelftools_reads_it(memory: GuestMemory, tmp_path: Path) -> None:
    """Oracle: pyelftools on what GNU as and ld make."""
    elffile = pytest.importorskip("elftools.elf.elffile")
    (tmp_path / "k.S").write_text(SOURCE)
    for command in (
        ["as", "--64", "-o", "k.o", "k.S"],
        ["ld", "-e", "start", "-Ttext=0x400000", "-o", "vmlinux", "k.o"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    with Image(str(tmp_path / "vmlinux")) as image, (tmp_path / "vmlinux").open("rb") as file:
        ours, theirs = elf.parse(image), elffile.ELFFile(file)
        assert ours.entry == theirs["e_entry"] == 0x400000
        assert [tuple(s)[1:] for s in ours.segments if s.type == elf.PT_LOAD] == [
            (s["p_offset"], s["p_vaddr"], s["p_paddr"], s["p_filesz"], s["p_memsz"])
            for s in theirs.iter_segments("PT_LOAD")
        ]
        assert elf.pvh_entry(image, ours) == 0x400000
    assert detect.load(memory, str(tmp_path / "vmlinux")).mode == "protected"
    assert memory.read(0x400000, 1) == b"\xf4"
