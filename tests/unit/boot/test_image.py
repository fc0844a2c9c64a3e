"""Files that cannot be a kernel or initrd before anybody looks inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyhv.boot.image import Image
from pyhv.errors import ConfigError
from pyhv.memory import GuestMemory


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["missing", "directory", "empty", "pipe", "device", "loop"],
)
def test_unusable_files_are_one_line(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "file"
    make(path)  # type: ignore[operator]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError) as caught:
        Image(str(path))
    assert str(caught.value) == f"kernel {path}: {message}"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_nul_in_the_name() -> None:
    with pytest.raises(ConfigError, match="null"):
        Image("a\0b")


def test_ranges_are_checked_against_file_and_ram(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    memory = GuestMemory(2 << 20)
    with Image(str(path)) as image:
        image.load(memory, 0x100000, 16, 240, "part")
        assert memory.read(0x100000, 240) == bytes(range(16, 256))
        assert image.head(4096) == bytes(range(256))
        for offset, length in ((250, 7), (-1, 2), (0, -1), (1 << 63, 1)):
            with pytest.raises(ConfigError, match="truncated: part"):
                image.load(memory, 0x100000, offset, length, "part")
        for gpa, message in ((0x9FBFF, "overlaps"), (0x1FFFFF, "give more with -m")):
            with pytest.raises(ConfigError, match=message):
                image.load(memory, gpa, 0, 16, "part")
    assert memory.read(0x1FFFFF, 1) == b"\0"


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    memory = GuestMemory(2 << 20)
    with Image(str(path)) as image:
        os.truncate(path, 10)
        with pytest.raises(ConfigError, match="shrank"):
            image.load(memory, 0x100000, 0, 100, "part")
        with pytest.raises(ConfigError, match="shrank"):
            image.read(0, 100, "part")
