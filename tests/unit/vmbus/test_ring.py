"""Ring ends against a model: wrap, signalling, pending size, contiguous and scattered pages."""

from __future__ import annotations

import random
import struct

import pytest

from pyhv.memory import GuestMemory
from pyhv.vmbus.ring import InRing, OutRing
from pyhv.vmbus.rules import BrokenRule

PAGE = 4096
CONTIGUOUS = [0x10000 + i * PAGE for i in range(3)]
SCATTERED = [0x10000, 0x30000, 0x20000]
LAYOUTS = pytest.mark.parametrize("pages", [CONTIGUOUS, SCATTERED], ids=["contiguous", "scattered"])


@pytest.fixture
def memory():
    memory = GuestMemory(1 << 20)
    yield memory
    memory.close()


class Peer:
    """The guest's view of the ring: indexes and data by page list."""

    def __init__(self, memory: GuestMemory, pages: list[int]) -> None:
        self.memory, self.pages, self.size = memory, pages, (len(pages) - 1) * PAGE

    def word(self, offset: int, value: int | None = None) -> int:
        if value is not None:
            self.memory.write_u32(self.pages[0] + offset, value)
        return self.memory.read_u32(self.pages[0] + offset)

    def byte(self, at: int) -> int:
        at %= self.size
        return self.pages[1 + at // PAGE] + at % PAGE

    def read(self, at: int, length: int) -> bytes:
        return b"".join(self.memory.read(self.byte(at + i), 8) for i in range(0, length, 8))

    def write(self, data: bytes) -> None:
        at = self.word(0)
        for i in range(0, len(data), 8):
            self.memory.write(self.byte(at + i), data[i : i + 8])
        self.word(0, (at + len(data)) % self.size)


@LAYOUTS
def test_in_ring_returns_what_was_written_around_the_end(memory, pages) -> None:
    peer, ring, rng = Peer(memory, pages), InRing(memory, pages), random.Random(1)
    for _ in range(60):
        data = rng.randbytes(rng.randrange(8, 3000) & ~7)
        peer.write(data)
        batch = ring.take()
        assert batch == data
        assert ring.take() == data  # it stays until advance
        ring.advance(len(data))
        assert peer.word(4) == peer.word(0)
    assert ring.take() == b""


@LAYOUTS
def test_what_was_taken_does_not_change_under_us(memory, pages) -> None:
    """The guest rewrites a packet after the host looked: the copy is what counts."""
    peer, ring = Peer(memory, pages), InRing(memory, pages)
    peer.write(b"old data")
    batch = ring.take()
    memory.write(peer.byte(0), b"new data")
    assert batch == b"old data"


@LAYOUTS
def test_out_ring_packets_trailers_and_wrap(memory, pages) -> None:
    peer, ring, rng = Peer(memory, pages), OutRing(memory, pages), random.Random(2)
    for _ in range(80):
        packet = rng.randbytes(rng.randrange(16, 2000) & ~7)
        before = peer.word(0)
        assert ring.append(packet)
        assert peer.word(0) == before  # not visible yet
        ring.publish()
        assert peer.read(before, len(packet)) == packet
        assert peer.read(before + len(packet), 8) == struct.pack("<Q", before << 32)
        peer.word(4, peer.word(0))


@LAYOUTS
def test_a_packet_ending_exactly_at_the_end(memory, pages) -> None:
    peer, ring = Peer(memory, pages), OutRing(memory, pages)
    for _ in range(4):
        assert ring.append(bytes(PAGE - 8))
        ring.publish()
        peer.word(4, peer.word(0))
    assert peer.word(0) == 0


def test_a_full_ring_never_looks_empty(memory) -> None:
    ring = OutRing(memory, CONTIGUOUS)
    assert not ring.append(bytes(2 * PAGE - 8))
    assert ring.append(bytes(2 * PAGE - 16))
    assert not ring.append(b"")


@pytest.mark.parametrize(
    ("mask", "read_it", "expected"), [(0, True, True), (1, True, False), (0, False, False)],
    ids=["empty before", "masked", "not empty before"],
)  # fmt: skip
def test_producer_interrupts_only_an_empty_unmasked_ring(memory, mask, read_it, expected) -> None:
    peer, ring = Peer(memory, CONTIGUOUS), OutRing(memory, CONTIGUOUS)
    ring.append(bytes(16))
    assert ring.publish()
    assert not ring.publish()  # nothing new
    if read_it:
        peer.word(4, peer.word(0))
    peer.word(8, mask)
    ring.append(bytes(16))
    ring.append(bytes(16))
    assert ring.publish() is expected


def test_unmask_sees_what_came_meanwhile(memory) -> None:
    peer, ring = Peer(memory, CONTIGUOUS), InRing(memory, CONTIGUOUS)
    ring.mask()
    assert peer.word(8) == 1
    assert not ring.unmask()
    assert peer.word(8) == 0
    peer.write(bytes(8))
    assert ring.unmask()


@pytest.mark.parametrize(
    ("feature", "pending", "expected"),
    [(1, 0, False), (1, 2 * PAGE - 1000, True), (0, 2 * PAGE - 1000, False),
     (1, 100, False), (1, 2 * PAGE, False), (1, 0xFFFFFFFF, False)],
    ids=["none", "crossed", "no feature bit", "had room before", "still too little", "absurd"],
)  # fmt: skip
def test_consumer_signals_when_free_space_crosses_the_pending_size(
    memory, feature, pending, expected
) -> None:
    peer, ring = Peer(memory, CONTIGUOUS), InRing(memory, CONTIGUOUS)
    peer.word(64, feature)
    peer.word(12, pending)
    peer.write(bytes(4000))
    ring.take()
    assert ring.advance(4000) is expected


def test_out_ring_honours_pending_and_asks_for_room(memory) -> None:
    peer, ring = Peer(memory, CONTIGUOUS), OutRing(memory, CONTIGUOUS)
    assert peer.word(64) == 1
    assert ring.append(bytes(8000))
    ring.publish()
    assert not ring.append(bytes(1000))
    assert not ring.wait_for(bytes(1000))
    assert peer.word(12) == 1008
    peer.word(4, peer.word(0))
    assert ring.wait_for(bytes(1000))
    ring.waits_no_more()
    assert peer.word(12) == 0


@LAYOUTS
@pytest.mark.parametrize("index", [2 * PAGE, 2 * PAGE + 8, 4, 1, 0xFFFFFFFF])
def test_a_wrong_index_breaks_a_rule(memory, pages, index) -> None:
    peer = Peer(memory, pages)
    ring_in, ring_out = InRing(memory, pages), OutRing(memory, pages)
    peer.word(0, index)
    with pytest.raises(BrokenRule, match="ring-index"):
        ring_in.take()
    with pytest.raises(BrokenRule, match="ring-index"):
        InRing(memory, pages)
    peer.word(0, 0)
    ring_out.append(bytes(8000))
    peer.word(4, index)
    with pytest.raises(BrokenRule, match="ring-index"):
        ring_out.append(bytes(8000))


def test_a_ring_begins_where_its_indexes_say(memory) -> None:
    peer = Peer(memory, CONTIGUOUS)
    peer.word(0, 64)
    peer.word(4, 64)
    ring_in = InRing(memory, CONTIGUOUS)
    assert ring_in.take() == b""
    peer.write(b"8 bytes.")
    assert ring_in.take() == b"8 bytes."
