"""Page numbers become addresses in machine code: what it takes, what it refuses, what disks see."""

from __future__ import annotations

import errno
import pathlib
import random
import re
import shutil
import struct
import subprocess
from array import array
from contextlib import closing

import pytest

from pyhv import iovec as iovec_module
from pyhv import memory as memory_module
from pyhv.disk import Disk
from pyhv.errors import BadGpa
from pyhv.iovec import MOST, IoVec
from pyhv.memory import BLOCK, HIGH, HOLE, GuestMemory

PAGE = 4096
LOW_PAGES = 512
HIGH_FRAME, HOLE_FRAME = HIGH // PAGE, HOLE // PAGE


@pytest.fixture
def memory():
    memory = GuestMemory(LOW_PAGES * PAGE)
    yield memory
    memory.close()


@pytest.fixture
def large():
    """RAM on both sides of the hole, and room for a block more."""
    memory = GuestMemory(HOLE + BLOCK, HOLE + 2 * BLOCK)
    yield memory
    memory.close()


def packed(*frames: int) -> bytes:
    return array("Q", frames).tobytes()


def wanted(memory: GuestMemory, frames: list[int], offset: int, length: int) -> list[int]:
    """Return where in RAM's mapping each byte should come from, page by page: (offset, bytes)."""
    found = []
    for frame in frames:
        size = min(PAGE - offset, length)
        found.append((memory.offset(frame * PAGE + offset, size), size))
        offset, length = 0, length - size
    assert not length
    return found


def pieces(memory: GuestMemory, iovec: IoVec) -> list[tuple[int, int]]:
    """Return (offset in RAM's mapping, bytes) of what the kernel is told."""
    words = iovec._words[iovec_module.FIRST :]
    return [(words[i] - memory.address, words[i + 1]) for i in range(0, 2 * len(iovec), 2)]


def merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at, size in parts:
        if found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((at, size))
    return found


@pytest.mark.parametrize("seed", range(200))
def test_any_list_is_what_a_slow_loop_makes_of_it(memory: GuestMemory, seed: int) -> None:
    rng = random.Random(seed)
    iovec = IoVec(memory)
    for _ in range(4):  # one object for many requests
        count = rng.choice((1, 2, 3, rng.randrange(4, 40), MOST))
        first = rng.randrange(LOW_PAGES)
        frames = [first]
        while len(frames) < count:
            follows = frames[-1] + 1 < LOW_PAGES and rng.random() < 0.6
            frames.append(frames[-1] + 1 if follows else rng.randrange(LOW_PAGES))
        offset = rng.choice((0, 0, 512, rng.randrange(PAGE)))
        length = (count - 1) * PAGE - offset + rng.choice((1, 512, rng.randrange(1, PAGE), PAGE))
        length = max(1, length)
        if count == 1:
            length = rng.randrange(1, PAGE - offset + 1)
        assert iovec.fill(packed(*frames), offset, length)
        assert pieces(memory, iovec) == merged(wanted(memory, frames, offset, length))
        assert [len(view) for view in iovec] == [size for _, size in pieces(memory, iovec)]


@pytest.mark.parametrize(
    "bad",
    [LOW_PAGES, LOW_PAGES + 1, HOLE_FRAME, HIGH_FRAME, 1 << 51, 1 << 52, (1 << 52) + 1, 1 << 63,
     (1 << 64) - 1, (1 << 64) - LOW_PAGES],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1, 7])
def test_a_page_that_is_not_ram_spoils_the_list(memory: GuestMemory, bad: int, place: int) -> None:
    iovec = IoVec(memory)
    frames = [0, LOW_PAGES - 1, 5, 6, 7, 100, 99, 3]
    assert iovec.fill(packed(*frames), 0, 8 * PAGE)
    frames[place] = bad
    assert not iovec.fill(packed(*frames), 0, 8 * PAGE)


def test_how_many(memory: GuestMemory) -> None:
    iovec = IoVec(memory)
    assert not iovec.fill(b"", 0, 0)
    assert iovec.fill(packed(*range(0, 2 * MOST, 2)), 0, MOST * PAGE)
    assert len(iovec) == MOST
    after = iovec._words[-2:]
    assert not iovec.fill(packed(*range(MOST + 1)), 0, (MOST + 1) * PAGE)
    assert iovec._words[-2:] == after


def test_both_sides_of_the_hole(large: GuestMemory) -> None:
    iovec = IoVec(large)
    end = HIGH_FRAME + BLOCK // PAGE
    for frames in ([0, HOLE_FRAME - 1], [end - 1, HIGH_FRAME], [3, 2], [HIGH_FRAME, end - 2]):
        assert iovec.fill(packed(*frames), 0, 2 * PAGE)
        assert pieces(large, iovec) == merged(wanted(large, frames, 0, 2 * PAGE))
    for frames in (
        [HOLE_FRAME - 1, HOLE_FRAME], [HIGH_FRAME - 1, HIGH_FRAME], [end - 1, end],
        [HOLE_FRAME, HOLE_FRAME],
        [0, HIGH_FRAME],  # RAM, but of two regions: by views
    ):  # fmt: skip
        assert not iovec.fill(packed(*frames), 0, 2 * PAGE)


def test_added_memory_counts_at_once_and_no_longer_than_it_is_there(large: GuestMemory) -> None:
    iovec = IoVec(large)
    end = HIGH_FRAME + BLOCK // PAGE
    across = packed(end - 1, end)
    assert not iovec.fill(across, 0, 2 * PAGE)
    large.grow(BLOCK, lambda *_: None)
    assert iovec.fill(across, 0, 2 * PAGE)
    assert pieces(large, iovec) == [(large.offset((end - 1) * PAGE, 2 * PAGE), 2 * PAGE)]
    large.shrink()
    assert not iovec.fill(across, 0, 2 * PAGE)
    with pytest.raises(BadGpa):
        large.offset(end * PAGE, PAGE)


# disks


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


FRAMES = [7, 8, 300, 2, 1, 511]


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 6 * PAGE), (512, 5 * PAGE), (3584, 4 * PAGE + 512)]
)
def test_a_disk_reads_and_writes_it(
    memory: GuestMemory, image: pathlib.Path, snapshot: bool, offset: int, length: int
) -> None:
    iovec = IoVec(memory)
    frames = FRAMES[: (offset + length + PAGE - 1) // PAGE]
    memory.zero(0, LOW_PAGES * PAGE)
    assert iovec.fill(packed(*frames), offset, length)
    with closing(Disk(image, snapshot=snapshot)) as disk:
        disk.readv(1536, iovec)
        expected = bytearray(LOW_PAGES * PAGE)
        data, done = image.read_bytes()[1536 : 1536 + length], 0
        for at, size in wanted(memory, frames, offset, length):
            expected[at : at + size] = data[done : done + size]
            done += size
        assert memory.read(0, LOW_PAGES * PAGE) == expected
        disk.writev(65536 + 512, iovec)
        back = memoryview(bytearray(length + 2))
        disk.readv(65536 + 511, [back])
        assert bytes(back[1:-1]) == data
        around = image.read_bytes()[65536:]
        assert (back[0], back[-1]) == (around[511], around[512 + length])


@pytest.mark.parametrize("name", ["_preadv", "_pwritev"])
@pytest.mark.parametrize("result", ["error", "short"])
def test_what_fails_or_comes_short_is_done_again(
    memory: GuestMemory,
    image: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    result: str,
) -> None:
    iovec = IoVec(memory)
    real = getattr(iovec_module, name)

    def spoilt(fd: int, iovecs: object, count: int, offset: object) -> int:
        return -1 if result == "error" else real(fd, iovecs, count - 1, offset)

    monkeypatch.setattr(iovec_module, name, spoilt)
    data = random.Random(2).randbytes(6 * PAGE)
    with closing(Disk(image)) as disk:
        for i, frame in enumerate(FRAMES):
            memory.write(frame * PAGE, data[i * PAGE : (i + 1) * PAGE])
        assert iovec.fill(packed(*FRAMES), 0, 6 * PAGE)
        disk.writev(PAGE, iovec)
        memory.zero(0, LOW_PAGES * PAGE)
        disk.readv(PAGE, iovec)
        assert b"".join(memory.read(frame * PAGE, PAGE) for frame in FRAMES) == data
    assert image.read_bytes()[PAGE : 7 * PAGE] == data


def test_the_host_says_why(memory: GuestMemory, image: pathlib.Path) -> None:
    iovec = IoVec(memory)
    assert iovec.fill(packed(*FRAMES), 0, 6 * PAGE)
    with closing(Disk(image)) as disk:
        with open(image, "r+b") as file:
            file.truncate(2 * PAGE)
        with pytest.raises(OSError, match="shorter than it was") as caught:
            disk.readv(0, iovec)
        assert caught.value.errno == errno.EIO


# the machine code


def listing() -> list[tuple[str, str]]:
    """Return (bytes in hex, instruction) of the rows of "iovec" in memory.py."""
    source = pathlib.Path(memory_module.__file__).read_text()
    body = source.partition('"iovec": bytes.fromhex(')[2].partition("    ),\n")[0]
    return re.findall(r'^ +"([0-9a-f]+)"  # (.+)$', body, re.MULTILINE)


def test_the_code_fits_its_slots() -> None:
    assert max(map(len, memory_module._CODE.values())) <= memory_module._SLOT
    assert len(memory_module._CODE) * memory_module._SLOT <= PAGE
    assert "".join(row for row, _ in listing()) == memory_module._CODE["iovec"].hex()


@pytest.mark.skipif(not shutil.which("as"), reason="GNU as is not installed")
def test_the_comments_are_the_code(tmp_path: pathlib.Path) -> None:
    text = ".intel_syntax noprefix\n"
    for number, (_, comment) in enumerate(listing()):
        label, instruction = re.fullmatch(r"(?:(\w+): )?([^:]+?)(?:: .*)?", comment).groups()
        text += f"{label or f'at{number}'}: {instruction}\n"
    subprocess.run(["as", "--64", "-o", tmp_path / "code.o", "-"], input=text.encode(), check=True)
    made = (tmp_path / "code.o").read_bytes()
    # ELF64: e_shoff at 40, e_shnum at 60; a header has type at 4, flags at 8, place and size at 24
    (sections,), (count,) = struct.unpack_from("<Q", made, 40), struct.unpack_from("<H", made, 60)
    for at in range(sections, sections + 64 * count, 64):
        kind, flags, place, size = struct.unpack_from("<4xIQ8xQQ", made, at)
        if kind == 1 and flags & 4:  # SHT_PROGBITS, SHF_EXECINSTR
            assert made[place : place + size] == memory_module._CODE["iovec"]
            return
    raise AssertionError("no code")
