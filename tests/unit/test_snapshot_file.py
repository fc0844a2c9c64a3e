"""Snapshot files without KVM: whole ones come back, anything else is one line."""

from __future__ import annotations

import os
import pathlib
import random
import zlib

import pytest

from pyhv import saving, snapshotfile
from pyhv.errors import ConfigError, HostError
from pyhv.snapshot import Snapshot
from pyhv.snapshotfile import CRC, HEADER, MAGIC, PAGE

RAM = 1 << 20
EXTENTS = [(0, 4096), (0x40000, 0x3000), (RAM - 4096, 4096)]
STATE = {"text": "é", "bytes": b"\0\xff", "rows": [[1, b"x"], [2, None]], "big": 1 << 63}


@pytest.fixture
def whole(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good file."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, RAM)
    rng = random.Random(1)
    for offset, length in EXTENTS:
        os.pwrite(fd, rng.randbytes(length), offset)
    path = tmp_path / "guest.snap"
    snapshotfile.write(str(path), STATE, fd, 0, RAM, EXTENTS, [b"tail" * 9, b"end"])
    os.close(fd)
    return path


def refusal(path: pathlib.Path) -> str:
    """Return the one line that the file is refused with; no descriptor is left."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises((ConfigError, HostError)) as caught:
        Snapshot.load(path)
    assert os.listdir("/proc/self/fd") == before
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def change(path: pathlib.Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def test_whole(whole: pathlib.Path) -> None:
    found = snapshotfile.read(str(whole))
    try:
        assert found.ram_at % PAGE == 0
        assert found.ram_bytes == RAM
        rows = found.state.pop("extents")
        assert found.state.pop("tail")[0] == 39
        assert found.state == STATE
        assert os.pread(found.fd, 99, found.tail) == b"tail" * 9 + b"end"
        assert [(at, length) for at, length, _ in rows] == EXTENTS
        rng = random.Random(1)
        ram = bytearray(RAM)
        for offset, length in EXTENTS:
            ram[offset : offset + length] = rng.randbytes(length)
        assert os.pread(found.fd, RAM, found.ram_at) == ram
        assert os.fstat(found.fd).st_blocks * 512 < RAM // 2  # zeros take no room
    finally:
        os.close(found.fd)
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


@pytest.mark.parametrize("text", [b"", b"\x7fELF" + bytes(8192), b"QEVM\0\0\0\3" * 2000,
                                  MAGIC[:7] + b"X" + bytes(9000)])  # fmt: skip
def test_foreign(tmp_path: pathlib.Path, text: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(text)
    assert "not a snapshot of pyhv" in refusal(path)


@pytest.mark.parametrize("cut", [8, HEADER.size, PAGE, PAGE + 100, 3 * PAGE, RAM, -4096, -1])
def test_cut_short(whole: pathlib.Path, cut: int) -> None:
    size = whole.stat().st_size
    os.truncate(whole, cut if cut > 0 else size + cut)
    assert "cut short" in refusal(whole)


def test_something_added(whole: pathlib.Path) -> None:
    with open(whole, "ab") as file:
        file.write(b"x")
    assert "cut short" in refusal(whole)


def test_another_version(whole: pathlib.Path) -> None:
    change(whole, 8, (99).to_bytes(4, "little"))
    assert "version 99, this pyhv has 1" in refusal(whole)


def test_damaged(whole: pathlib.Path) -> None:
    """One bit anywhere that counts is found."""
    good = whole.read_bytes()
    ram_at = int.from_bytes(good[24:32], "little")
    state = range(PAGE, PAGE + int.from_bytes(good[16:24], "little"))
    places = [12, 17, 30, 41, *random.Random(2).sample(state, 20)]
    places += [ram_at, ram_at + 0x41234, ram_at + RAM - 1, len(good) - 1]
    for at in places:
        change(whole, at, bytes((good[at] ^ 4,)))
        assert "damaged" in refusal(whole), at
        change(whole, at, good[at : at + 1])
    snapshotfile.read(str(whole))


@pytest.mark.parametrize("text", [
    b"{}", b"[1", b'{"extents":[],"tail":[0,0]}',
    b'{"extents":[],"tail":[0,0],"overlays":[],"config":{"memory":1}}',
    b'{"extents":[],"tail":[0,0],"overlays":[],"config":{"speed":1},"driver":"x"}',
])  # fmt: skip
def test_of_another_pyhv(tmp_path: pathlib.Path, text: bytes) -> None:
    """Right in itself, but not what this pyhv writes."""
    path = tmp_path / "other.snap"
    head = HEADER.pack(MAGIC, 1, zlib.crc32(text), len(text), 2 * PAGE, RAM, 2 * PAGE + RAM)
    path.write_bytes(head + CRC.pack(zlib.crc32(head)))
    change(path, PAGE, text)
    os.truncate(path, 2 * PAGE + RAM)
    assert "of another pyhv" in refusal(path)


def test_cannot_be_read_or_written(tmp_path: pathlib.Path) -> None:
    assert "No such file" in refusal(tmp_path / "none")
    assert "Is a directory" in refusal(tmp_path)
    fd = os.memfd_create("ram")
    with pytest.raises(HostError, match="No such file"):
        snapshotfile.write(str(tmp_path / "no" / "x"), {}, fd, 0, RAM, [])
    with pytest.raises(HostError, match="shorter than it was"):
        snapshotfile.write(str(tmp_path / "x"), {}, fd, 0, RAM, [(0, PAGE)])
    os.close(fd)
    assert not list(tmp_path.iterdir())


def test_state_is_what_json_takes() -> None:
    assert saving.from_json(saving.to_json(STATE)) == STATE
    with pytest.raises(TypeError, match="set in a snapshot"):
        saving.to_json({"x": {1}})


def test_fields_keep_their_types() -> None:
    from _collections import deque

    class Thing:
        def __init__(self) -> None:
            self._queue, self.pair, self._ram = deque([1, 2]), (3, 4), bytearray(b"ab")
            self.on = True

    names = ("_queue", "pair", "_ram", "on")
    one, two = Thing(), Thing()
    one._queue.append(5)
    one.on, one.pair = False, (9, 9)
    state = saving.from_json(saving.to_json(saving.fields(one, names)))
    assert state == {"queue": [1, 2, 5], "pair": [9, 9], "ram": b"ab", "on": False}
    saving.put(two, names, state)
    assert vars(two) == vars(one)
    assert [type(value) for value in vars(two).values()] == [deque, tuple, bytearray, bool]
