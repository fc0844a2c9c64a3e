"""Multiboot 1: flat and ELF32, the information structure as kvm-unit-tests read it, bad files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elf_files import elf as make

from pyhv.boot import detect, entry, multiboot
from pyhv.errors import ConfigError
from pyhv.memory import GuestMemory

LOAD = 0x200000


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 << 20)


def header(flags: int = 0, *fields: int) -> bytes:
    checksum = -(multiboot.MAGIC + flags) & 0xFFFFFFFF
    return struct.pack(f"<{3 + len(fields)}I", multiboot.MAGIC, flags, checksum, *fields)


def flat(offset: int = 16, code: bytes = b"\xf4" * 100, **overrides: int) -> bytes:
    """Return a flat kernel with its header at *offset*."""
    fields = {
        "header_addr": LOAD + offset,
        "load_addr": LOAD,
        "load_end": 0,
        "bss_end": 0,
        "entry": LOAD + offset + 32,
    } | overrides
    return bytes(offset) + header(multiboot.ADDRESS_OVERRIDE, *fields.values()) + code


def elf32(paddr: int = 0x4000B0, code: bytes = bytes(100), flags: int = 0, **fields: int) -> bytes:
    """Return what kvm-unit-tests build: ELF32 whose first segment begins with the header."""
    data = header(flags) + code
    return make([{"data": data, "paddr": paddr, **fields}], entry=paddr + 12, bits=32)


def boot(
    memory: GuestMemory, tmp_path: Path, data: bytes, cmdline: str = "", initrd: str | None = None
) -> entry.EntryState:
    (tmp_path / "x.flat").write_bytes(data)
    return detect.load(memory, str(tmp_path / "x.flat"), cmdline, initrd)


def string(memory: GuestMemory, gpa: int) -> bytes:
    return memory.read(gpa, 2048).split(b"\0")[0]


def test_elf32_state_and_information(memory: GuestMemory, tmp_path: Path) -> None:
    state = boot(memory, tmp_path, elf32(), "smp 2")
    assert (state.mode, state.rip) == ("protected", 0x4000BC)
    info = state.registers["rbx"]
    assert state.registers["rax"] == 0x2BADB002
    words = struct.unpack("<17I", memory.read(info, 68))
    assert words[0] & (1 << 0 | 1 << 2 | 1 << 3 | 1 << 6)
    assert words[1:3] == (639, 15 * 1024)
    assert string(memory, words[4]) == f"{tmp_path}/x.flat smp 2".encode()
    assert words[5] == 0
    assert string(memory, words[16]) == b"pyhv"
    length, at, ranges = words[11], words[12], []
    end = at + length
    while at < end:
        size, base, count, kind = struct.unpack("<IQQI", memory.read(at, 24))
        ranges.append((base, count, kind))
        at += size + 4
    assert ranges[0] == (0, 0x9FC00, 1)
    assert ranges[-1] == (0x100000, 15 << 20, 1)


def test_command_line_is_the_path_alone_without_append(memory: GuestMemory, tmp_path: Path) -> None:
    info = boot(memory, tmp_path, elf32()).registers["rbx"]
    assert string(memory, memory.read_u32(info + 16)) == f"{tmp_path}/x.flat".encode()


@pytest.mark.parametrize("offset", [0, 16, 8180])
def test_flat_header_anywhere_in_8_kib(memory: GuestMemory, tmp_path: Path, offset: int) -> None:
    data = flat(offset)
    state = boot(memory, tmp_path, data)
    assert state.rip == LOAD + offset + 32
    assert memory.read(LOAD, len(data)) == data


def test_flat_load_end_and_bss(memory: GuestMemory, tmp_path: Path) -> None:
    memory.write(LOAD, b"\xff" * 0x2000)
    data = flat(load_end=LOAD + 100, bss_end=LOAD + 0x1000)
    boot(memory, tmp_path, data)
    assert memory.read(LOAD, 100) == data[:100]
    assert memory.read(LOAD + 100, 0x1000 - 100) == bytes(0x1000 - 100)
    assert memory.read(LOAD + 0x1000, 1) == b"\xff"


def test_information_avoids_the_kernel(memory: GuestMemory, tmp_path: Path) -> None:
    """realmode.flat lies at 0x8000-0xda30; another one over 0x7000 moves the structure."""
    assert boot(memory, tmp_path, elf32(0x8000, bytes(0x5A30))).registers["rbx"] == 0x7000
    state = boot(memory, tmp_path, elf32(0x6000, bytes(0x5A30)))
    assert state.registers["rbx"] == 0xC000
    assert memory.read(0x6000, 4) == multiboot.MAGIC.to_bytes(4, "little")


def test_modules_are_loaded_and_listed(memory: GuestMemory, tmp_path: Path) -> None:
    """kvm-unit-tests take their environment from a single module."""
    (tmp_path / "env").write_bytes(b"NR_CPUS=2\n")
    (tmp_path / "b").write_bytes(b"second" * 1000)
    state = boot(memory, tmp_path, elf32(), "", f"{tmp_path}/env,{tmp_path}/b with args")
    info = state.registers["rbx"]
    count, table = memory.read_u32(info + 20), memory.read_u32(info + 24)
    assert count == 2
    expected = ((b"NR_CPUS=2\n", f"{tmp_path}/env"), (b"second" * 1000, f"{tmp_path}/b with args"))
    for index, (content, text) in enumerate(expected):
        start, end, name, _ = struct.unpack("<4I", memory.read(table + 16 * index, 16))
        assert start % 4096 == 0
        assert start >= 0x4000B0 + 112
        assert memory.read(start, end - start) == content
        assert string(memory, name) == text.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (flat(load_addr=LOAD + 17), "does not match header"),
        (flat(load_addr=LOAD - 1), "does not match header"),
        (flat(load_addr=0), "does not match header"),
        (flat(load_end=LOAD - 1), "below load address"),
        (flat(load_end=LOAD), "below load address"),
        (flat(load_end=LOAD + 1000), "truncated"),
        (flat(load_end=0xFFFFFFFF), "truncated"),
        (flat(bss_end=0xFFFFFFFF), "give more with -m"),
        (flat(entry=0), "entry point 0x0 is in nothing"),
        (flat(header_addr=0xFFFFFFF0, load_addr=0xFFFFFFE0), "give more with -m"),
        (flat(header_addr=0xE0010, load_addr=0xE0000), "overlaps"),
        (flat(header_addr=0x10, load_addr=0), "overlaps"),
        (bytes(16) + header(multiboot.ADDRESS_OVERRIDE), "truncated"),
        (elf32(flags=8), "asks for features 0x8"),
        (elf32(flags=0xFFF8), "asks for features"),
        (elf32(paddr=0x800), "overlaps"),
        (elf32(memsz=0x7FFFFFFF), "give more with -m"),
        (elf32(filesz=0x7FFFFFFF, memsz=0x7FFFFFFF), "truncated"),
        (header() + bytes(1000), "not an ELF file"),
        (make([{"data": header() + bytes(9), "paddr": LOAD}]), "takes ELF32"),
        (elf32(0x1000, bytes(0x9EBF0 - 12)), "no page below 640 KiB"),
    ],
)
def test_bad_files_are_one_line(
    memory: GuestMemory, tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        boot(memory, tmp_path, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whole", [flat(load_end=LOAD + 148), elf32()], ids=["flat", "elf32"])
def test_every_truncation_is_one_line(memory: GuestMemory, tmp_path: Path, whole: bytes) -> None:
    for size in range(0, len(whole), 5):
        with pytest.raises(
            ConfigError, match=r"empty|truncated|not a kernel|not an ELF|little-end"
        ):
            boot(memory, tmp_path, whole[:size])


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 7])
def test_harmless_wishes_are_accepted(memory: GuestMemory, tmp_path: Path, flags: int) -> None:
    assert boot(memory, tmp_path, elf32(flags=flags)).mode == "protected"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        multiboot.MAGIC.to_bytes(4, "little"),
        multiboot.MAGIC.to_bytes(4, "little") + bytes(8),
        b"\0" + header() + bytes(11),
        bytes(8192) + header(),
    ],
    ids=["empty", "cut", "bad checksum", "unaligned", "too deep"],
)
def test_no_header(head: bytes) -> None:
    assert multiboot.find_header(head) is None


def test_a_false_magic_before_the_header_is_passed_over() -> None:
    assert multiboot.find_header(multiboot.MAGIC.to_bytes(4, "little") * 2 + header()) == 8


def test_modules_that_cannot_be(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(13 << 20))
    with pytest.raises(ConfigError, match="^module .*give more with -m$"):
        boot(memory, tmp_path, elf32(), "", f"{tmp_path}/big")
    with pytest.raises(ConfigError, match="^module .*No such file"):
        boot(memory, tmp_path, elf32(), "", f"{tmp_path}/none")
    (tmp_path / "one").write_bytes(b"1")
    with pytest.raises(ConfigError, match="more than 64 modules"):
        boot(memory, tmp_path, elf32(), "", ",".join([f"{tmp_path}/one"] * 65))
    with pytest.raises(ConfigError, match="more than a page"):
        boot(memory, tmp_path, elf32(), "x" * 1500, ",".join([f"{tmp_path}/one"] * 60))
    with pytest.raises(ConfigError, match="takes 2048"):
        boot(memory, tmp_path, elf32(), "x" * 2048)
