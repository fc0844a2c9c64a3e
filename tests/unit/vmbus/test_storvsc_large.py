"""Requests of many pages in one range: what Linux sends for 128 KiB, and what no driver would."""

from __future__ import annotations

import struct

import pytest
import stor_sim
from bus_helpers import sector
from guest_sim import MEMORY, PAGE, packet
from stor_sim import StorGuest, srb

OK, INVALID_REQUEST = 0x01, 0x06
LARGE = 16 * PAGE


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def large_range(stor: StorGuest, offset: int) -> tuple[int, int, list[int]]:
    """A range of LARGE bytes over pages in runs, here and there."""
    base = stor.buffer[0]
    frames = [base + at for at in (9, 10, 11, 3, 2, 1, 40, 41, 200, 60, 61, 62, 63, 7, 8, 255, 30)]
    return LARGE, offset, frames if offset else frames[:-1]


@pytest.mark.parametrize("offset", [0, 512, 4092])
def test_one_range_of_many_pages(stor: StorGuest, offset: int) -> None:
    """Read, changed, written elsewhere and read again; nothing beside it is touched."""
    memory, (_, _, frames) = stor.guest.memory, large_range(stor, offset)
    stor_range = [large_range(stor, offset)]
    memory.write(stor.buffer[0] * PAGE, b"\xaa" * (256 * PAGE))
    result = stor.run(read_10(3, LARGE // 512), LARGE, ranges=stor_range)
    assert (result.srb, result.moved) == (OK, LARGE)
    found = b"".join(memory.read(frame * PAGE, PAGE) for frame in frames)
    data = b"".join(map(sector, range(3, 3 + LARGE // 512)))
    assert found == b"\xaa" * offset + data + b"\xaa" * (len(found) - offset - LARGE)
    for frame in set(stor.buffer) - set(frames):
        assert memory.read(frame * PAGE, PAGE) == b"\xaa" * PAGE
    write = bytes((0x2A,)) + read_10(500, LARGE // 512)[1:]
    assert stor.run(write, LARGE, direction=stor_sim.WRITE, ranges=stor_range).moved == LARGE
    assert stor.run(read_10(500, LARGE // 512), LARGE).data == data


@pytest.mark.parametrize(
    "spoil",
    [
        lambda size, offset, frames: (size, offset, frames[:-1]),
        lambda size, offset, frames: (size - 1, offset, frames),
        lambda size, offset, frames: (size, PAGE, [*frames, frames[0]]),
        lambda size, offset, frames: (size, offset, [*frames[:5], MEMORY // PAGE, *frames[6:]]),
        lambda size, offset, frames: (size, offset, [*frames[:-1], 0xC0000]),
        lambda size, offset, frames: (size, offset, [(1 << 64) - 1, *frames[1:]]),
        lambda size, offset, frames: (size, offset, [*frames[:2], 1 << 52, *frames[3:]]),
        lambda size, offset, frames: (0xFFFFFFFF, offset, frames),
    ],
    ids=["short", "fewer bytes", "offset", "end of RAM", "hole", "-1", "2**52", "4 GiB"],
)  # fmt: skip
@pytest.mark.parametrize("opcode", [0x28, 0x2A])
def test_many_pages_of_nonsense(stor: StorGuest, opcode: int, spoil) -> None:
    ranges = [spoil(*large_range(stor, 0))]
    stor.guest.memory.write(stor.buffer[0] * PAGE, b"\xaa" * (256 * PAGE))
    cdb = bytes((opcode,)) + read_10(3, LARGE // 512)[1:]
    direction = stor_sim.READ if opcode == 0x28 else stor_sim.WRITE
    result = stor.run(cdb, LARGE, direction=direction, ranges=ranges)
    assert (result.srb, result.moved) == (INVALID_REQUEST, 0)
    assert stor.guest.server.violations[-1].rule == "packet-ranges"
    assert stor.guest.memory.read(stor.buffer[0] * PAGE, 256 * PAGE) == b"\xaa" * (256 * PAGE)
    assert stor.run(read_10(3, 1), 512).data == sector(3)


@pytest.mark.parametrize("count", [0, 1, 2, 0xFFFFFFFF])
def test_range_counts_of_a_large_request(stor: StorGuest, count: int) -> None:
    """Ranges behind what the request needs are not looked at."""
    size, offset, frames = large_range(stor, 0)
    extra = struct.pack("<IIII", 0, count, size, offset) + struct.pack(f"<{len(frames)}Q", *frames)
    stor.channel.send(packet(9, srb(read_10(3, LARGE // 512), size, 1), 5, extra=extra))
    (answer,) = stor.channel.receive()
    assert stor.result(answer).srb == (OK if count else INVALID_REQUEST)


def test_a_list_longer_than_the_request(stor: StorGuest) -> None:
    size, offset, frames = large_range(stor, 0)
    result = stor.run(read_10(3, 24), size, ranges=[(size, offset, frames)])
    assert (result.srb, result.moved) == (OK, 24 * 512)
    found = b"".join(stor.guest.memory.read(frame * PAGE, PAGE) for frame in frames[:3])
    assert found == b"".join(map(sector, range(3, 27)))


def test_a_range_of_more_pages_than_an_iovec_has_room_for(stor: StorGuest) -> None:
    frames = [*range(stor.buffer[0] - 1, stor.buffer[-1] + 1)][::-1]
    ranges = [(256 * PAGE, 512, frames)]
    result = stor.run(read_10(0, 2048), 256 * PAGE, ranges=ranges)
    assert (result.srb, result.moved) == (OK, 256 * PAGE)
    last = stor.guest.memory.read(frames[-1] * PAGE, PAGE)
    assert last[:512] == sector(2047)
