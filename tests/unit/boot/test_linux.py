"""bzImage loading: the fields Linux reads, and every way a file can be wrong."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pyhv.boot import entry, linux
from pyhv.boot.image import Image
from pyhv.errors import ConfigError
from pyhv.memory import GuestMemory

PREFERRED = 0x1000000
PAYLOAD = bytes(range(256)) * 40


def bzimage(payload: bytes = PAYLOAD, sects: int = 3, **fields: int) -> bytes:
    """Return a kernel in its file form; *fields* override header fields by name."""
    values = {
        "version": 0x20F,
        "boot_flag": 0xAA55,
        "loadflags": 1,
        "xloadflags": 1,
        "pref_address": PREFERRED,
        "init_size": 0x100000,
        "initrd_addr_max": 0x7FFFFFFF,
        "cmdline_size": 2047,
        "syssize": -(-len(payload) // 16),
        "jump": 0x66,
    } | fields
    setup = bytearray(((sects or 4) + 1) * 512)
    setup[linux.SETUP_SECTS] = sects
    setup[linux.HEADER : linux.HEADER + 4] = linux.MAGIC
    setup[linux.JUMP : linux.JUMP + 2] = bytes((0xEB, values["jump"]))
    for form, offset, name in (
        ("<I", linux.SYSSIZE, "syssize"),
        ("<H", linux.BOOT_FLAG, "boot_flag"),
        ("<H", linux.VERSION, "version"),
        ("<B", linux.LOADFLAGS, "loadflags"),
        ("<I", linux.INITRD_ADDR_MAX, "initrd_addr_max"),
        ("<H", linux.XLOADFLAGS, "xloadflags"),
        ("<I", linux.CMDLINE_SIZE, "cmdline_size"),
        ("<Q", linux.PREF_ADDRESS, "pref_address"),
        ("<I", linux.INIT_SIZE, "init_size"),
    ):
        struct.pack_into(form, setup, offset, values[name])
    return bytes(setup) + payload


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(32 << 20)


def boot(
    memory: GuestMemory, tmp_path: Path, data: bytes, cmdline: str = "", initrd: bytes | None = None
) -> entry.EntryState:
    (tmp_path / "bzImage").write_bytes(data)
    path = None
    if initrd is not None:
        path = str(tmp_path / "initrd")
        (tmp_path / "initrd").write_bytes(initrd)
    with Image(str(tmp_path / "bzImage")) as image:
        return linux.load(memory, image, cmdline, path, rsdp_gpa=0xE0000)


def field(memory: GuestMemory, form: str, offset: int) -> int:
    value: int = struct.unpack(
        form, memory.read(entry.BOOT_PARAMS + offset, struct.calcsize(form))
    )[0]
    return value


def test_64_bit_entry(memory: GuestMemory, tmp_path: Path) -> None:
    state = boot(memory, tmp_path, bzimage(), "console=ttyS0 quiet")
    assert (state.mode, state.rip) == ("long", PREFERRED + 0x200)
    assert state.registers == {"rsi": entry.BOOT_PARAMS}
    assert memory.read(PREFERRED, len(PAYLOAD)) == PAYLOAD
    at = field(memory, "<I", linux.CMD_LINE_PTR)
    assert memory.read(at, 20) == b"console=ttyS0 quiet\0"


@pytest.mark.parametrize(
    ("form", "offset", "value"),
    [
        ("<B", linux.TYPE_OF_LOADER, 0xFF),
        ("<B", linux.LOADFLAGS, 1),
        ("<H", linux.BOOT_FLAG, 0xAA55),
        ("<I", linux.HEADER, 0x53726448),
        ("<I", linux.CODE32_START, PREFERRED),
        ("<Q", linux.ACPI_RSDP_ADDR, 0xE0000),
        ("<B", linux.E820_ENTRIES, 4),
        ("<I", linux.RAMDISK_IMAGE, 0),
        ("<I", linux.RAMDISK_SIZE, 0),
        ("<I", linux.INIT_SIZE, 0x100000),
    ],
)
def test_boot_params(
    memory: GuestMemory, tmp_path: Path, form: str, offset: int, value: int
) -> None:
    boot(memory, tmp_path, bzimage())
    assert field(memory, form, offset) == value


def test_boot_params_hold_the_header_and_nothing_else_of_the_file(
    memory: GuestMemory, tmp_path: Path
) -> None:
    """The rule of boot.rst: zeros, then the header up to 0x202 + the byte at 0x201."""
    data = bytearray(bzimage())
    data[0:0x1F1] = b"\xee" * 0x1F1
    data[0x268:0x400] = b"\xee" * (0x400 - 0x268)
    memory.write(entry.BOOT_PARAMS, b"\xee" * 4096)
    boot(memory, tmp_path, bytes(data))
    params = memory.read(entry.BOOT_PARAMS, 4096)
    assert b"\xee" not in params


def test_e820_has_the_high_part_too(tmp_path: Path) -> None:
    memory = GuestMemory(5 << 30)
    boot(memory, tmp_path, bzimage(), initrd=b"i" * 5000)
    count = field(memory, "<B", linux.E820_ENTRIES)
    assert count == 5
    last = memory.read(entry.BOOT_PARAMS + linux.E820_TABLE + 4 * 20, 20)
    assert struct.unpack("<QQI", last) == (4 << 30, 2 << 30, 1)
    # below the kernel's own limit, not at the top of RAM
    assert field(memory, "<I", linux.RAMDISK_IMAGE) == (0x80000000 - 5000) & ~0xFFF
    memory.close()


def test_32_bit_kernel_enters_in_protected_mode(memory: GuestMemory, tmp_path: Path) -> None:
    state = boot(memory, tmp_path, bzimage(xloadflags=0))
    assert (state.mode, state.rip) == ("protected", PREFERRED)


def test_old_default_of_four_setup_sectors(memory: GuestMemory, tmp_path: Path) -> None:
    boot(memory, tmp_path, bzimage(sects=0))
    assert memory.read(PREFERRED, 256) == PAYLOAD[:256]


def test_a_signature_behind_the_kernel_is_not_loaded(memory: GuestMemory, tmp_path: Path) -> None:
    boot(memory, tmp_path, bzimage() + b"S" * 3000)
    assert memory.read(PREFERRED + len(PAYLOAD), 16) == bytes(16)


def test_the_last_paragraph_may_be_short(memory: GuestMemory, tmp_path: Path) -> None:
    boot(memory, tmp_path, bzimage(PAYLOAD[:-15]))
    assert memory.read(PREFERRED, len(PAYLOAD) - 15) == PAYLOAD[:-15]


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 1 << 20])
def test_initrd_lies_at_the_top(memory: GuestMemory, tmp_path: Path, length: int) -> None:
    data = os.urandom(length)
    boot(memory, tmp_path, bzimage(), initrd=data)
    at = field(memory, "<I", linux.RAMDISK_IMAGE)
    assert field(memory, "<I", linux.RAMDISK_SIZE) == length
    assert at % 4096 == 0
    assert 0 <= (32 << 20) - at - length < 4096
    assert memory.read(at, length) == data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boot_flag": 0}, "boot_flag"),
        ({"version": 0x20B}, r"boot protocol 2\.11"),
        ({"version": 0}, r"boot protocol 0\.00"),
        ({"loadflags": 0}, "zImage"),
        ({"syssize": 0}, "truncated"),
        ({"syssize": 0x20}, "truncated"),  # no room for the 64-bit entry
        ({"syssize": 0xFFFFFFFF}, "truncated"),
        ({"init_size": 0xFFFFFFFF}, "give more with -m"),
        ({"init_size": 0x1000001}, "give more with -m"),
        ({"pref_address": (1 << 64) - 1}, "give more with -m"),
        ({"pref_address": 0x8000}, "overlaps"),
        ({"pref_address": 0xA0000}, "overlaps"),
        ({"cmdline_size": 0}, "takes 0; shorten"),
    ],
)
def test_bad_headers_are_one_line(
    memory: GuestMemory, tmp_path: Path, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        boot(memory, tmp_path, bzimage(**fields), "quiet")
    assert "\n" not in str(caught.value)


def test_a_kernel_above_4_gib_is_refused(tmp_path: Path) -> None:
    memory = GuestMemory(5 << 30)
    with pytest.raises(ConfigError, match="above 4 GiB"):
        boot(memory, tmp_path, bzimage(pref_address=4 << 30))
    memory.close()


@pytest.mark.parametrize("jump", [0, 0xFF])
def test_a_wild_header_length_is_bounded(memory: GuestMemory, tmp_path: Path, jump: int) -> None:
    boot(memory, tmp_path, bzimage(jump=jump))
    assert field(memory, "<B", linux.E820_ENTRIES) == 4


def test_setup_sects_255_of_a_small_file(memory: GuestMemory, tmp_path: Path) -> None:
    data = bytearray(bzimage())
    data[linux.SETUP_SECTS] = 255
    with pytest.raises(ConfigError, match="truncated"):
        boot(memory, tmp_path, bytes(data))


@pytest.mark.parametrize("size", [*range(0, len(bzimage()), 512), len(bzimage()) - 16])
def test_every_truncation_is_one_line(memory: GuestMemory, tmp_path: Path, size: int) -> None:
    with pytest.raises(
        ConfigError, match="^kernel .*(empty|not a Linux kernel|truncated)"
    ) as caught:
        boot(memory, tmp_path, bzimage()[:size])
    assert "\n" not in str(caught.value)


def test_command_line_limit_is_the_kernels(memory: GuestMemory, tmp_path: Path) -> None:
    boot(memory, tmp_path, bzimage(), "x" * 2047)
    with pytest.raises(ConfigError, match=r"^-append: 2048 bytes, .* takes 2047; shorten it$"):
        boot(memory, tmp_path, bzimage(), "x" * 2048)
    with pytest.raises(ConfigError, match="takes 65535"):
        boot(memory, tmp_path, bzimage(cmdline_size=1 << 31), "x" * 65536)
    with pytest.raises(ConfigError, match="NUL"):
        boot(memory, tmp_path, bzimage(), "a\0b")


@pytest.mark.parametrize("initrd_addr_max", [0x7FFFFFFF, 0, 0x17FFFFF])
def test_initrd_without_room_is_one_line(
    memory: GuestMemory, tmp_path: Path, initrd_addr_max: int
) -> None:
    data = bzimage(initrd_addr_max=initrd_addr_max)
    with pytest.raises(ConfigError, match=r"^initrd .* do not fit .* give more with -m$"):
        boot(memory, tmp_path, data, initrd=bytes((15 << 20) + 1))


def test_initrd_errors_name_the_initrd(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^initrd .*: is empty$"):
        boot(memory, tmp_path, bzimage(), initrd=b"")
