"""Boot sectors, and the table that picks a loader."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from elf_files import elf as make_elf

from pyhv.boot import detect, sector
from pyhv.errors import ConfigError
from pyhv.memory import GuestMemory

SECTOR = b"\xf4".ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(1 << 20)


def write(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "kernel").write_bytes(data)
    return str(tmp_path / "kernel")


@pytest.mark.parametrize("extra", [0, 1, 512, 0x9FC00 - 0x7C00 - 512])
def test_boot_sector_is_loaded_whole(memory: GuestMemory, tmp_path: Path, extra: int) -> None:
    data = SECTOR + b"\xab" * extra
    state = detect.load(memory, write(tmp_path, data), None)
    assert memory.read(0x7C00, len(data)) == data
    assert (state.mode, state.rip, state.rsp) == ("real", 0x7C00, 0x7C00)
    assert state.segments["cs"].base == 0
    assert state.registers == {"rdx": 0x80}


def test_a_disk_image_as_kernel_is_told_so(memory: GuestMemory, tmp_path: Path) -> None:
    path = write(tmp_path, SECTOR + bytes(0x9FC00 - 0x7C00 - 511))
    with pytest.raises(ConfigError, match="a disk image goes without -kernel"):
        detect.load(memory, path)


def test_boot_sector_takes_no_arguments(memory: GuestMemory, tmp_path: Path) -> None:
    path = write(tmp_path, SECTOR)
    for arguments in (("quiet",), ("", path)):
        with pytest.raises(ConfigError, match="takes no -append and no -initrd"):
            detect.load(memory, path, *arguments)


def example(kind: str) -> bytes:
    """Return a file of the *kind*, good enough for its row."""
    linux = bytearray(2048)
    linux[510:512] = b"\x55\xaa"
    linux[0x202:0x206] = b"HdrS"
    header = (
        (0x1BADB002).to_bytes(4, "little")
        + bytes(4)
        + (-0x1BADB002 & 0xFFFFFFFF).to_bytes(4, "little")
    )
    return {
        "bzImage": bytes(linux),
        "multiboot": make_elf([{"data": header, "paddr": 0x100000}], bits=32),
        "elf": make_elf([{"data": b"\xf4", "paddr": 0x100000}]),
        "sector": SECTOR,
    }[kind]


@pytest.mark.parametrize("kind", detect.KINDS, ids=lambda kind: kind.name)
def test_each_row_takes_its_kind(tmp_path: Path, kind: detect.Kind) -> None:
    assert detect.detect(write(tmp_path, example(kind.name))) == kind


@pytest.mark.parametrize(("offset", "magic", "text"), detect.HINTS)
def test_each_hint_is_given(tmp_path: Path, offset: int, magic: bytes, text: str) -> None:
    data = bytes(offset) + magic + bytes(600)
    with pytest.raises(ConfigError) as caught:
        detect.detect(write(tmp_path, data))
    said = str(caught.value)
    assert "is not a kernel I know: " in said
    assert text in said
    assert "\n" not in said


def test_noise_is_no_kernel(memory: GuestMemory, tmp_path: Path) -> None:
    noise = random.Random(1)
    for _ in range(50):
        data = bytes(noise.randrange(256) for _ in range(noise.choice((1, 100, 511, 700))))
        with pytest.raises(ConfigError, match="is not a kernel I know: known are Linux"):
            detect.load(memory, write(tmp_path, data))


@pytest.mark.parametrize("kind", detect.KINDS, ids=lambda kind: kind.name)
def test_flipped_bits_never_end_in_a_traceback(
    memory: GuestMemory, tmp_path: Path, kind: detect.Kind
) -> None:
    """Two hundred files with a few bytes of their first kilobyte changed: loaded or one line."""
    noise = random.Random(kind.name)
    whole = example(kind.name)
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(noise.randrange(1, 5)):
            data[noise.randrange(min(len(data), 1024))] = noise.choice((0, 1, 0x7F, 0x80, 0xFF))
        try:
            detect.load(memory, write(tmp_path, bytes(data)))
        except ConfigError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_sector_signature_place() -> None:
    assert sector.matches(SECTOR)
    assert not sector.matches(SECTOR[1:])
    assert not sector.matches(b"\x55\xaa")
