"""A channel at work: batches, masks, a guest that does not read, and one that writes nonsense."""

from __future__ import annotations

import os
import struct

import pytest
from bus_helpers import Recorder
from guest_sim import Guest, GuestChannel, packet

from pyhv.vmbus import channel as channel_module


class Bench:
    def __init__(self, make_guest, pages: tuple[int, int] = (8, 8), **options) -> None:
        self.device = Recorder(**options)
        self.guest: Guest = make_guest(self.device)
        self.guest.connect()
        self.channel: GuestChannel = self.guest.open(1, pages)
        self.host = self.guest.server.channels[1]

    def rule(self) -> str:
        return self.guest.server.violations[-1].rule


@pytest.fixture
def bench(make_guest) -> Bench:
    return Bench(make_guest)


def test_a_batch_is_one_wake_and_one_interrupt(bench: Bench) -> None:
    for number in range(32):
        bench.channel.put(packet(6, struct.pack("<Q", number), number))
    bench.channel.signal()
    assert bench.host.wakes == 1
    assert len(bench.guest.synic.signals) == 1
    assert [p.transaction for p in bench.channel.receive()] == list(range(32))


def test_interrupts_are_masked_while_the_host_works(bench: Bench) -> None:
    """What the guest adds meanwhile is served in the same wake, without its signal."""
    channel, masks = bench.channel, []
    serve = bench.host.packet

    def served(*arguments) -> None:
        masks.append(channel.word(channel.out_pages, 8))
        if len(masks) < 5:
            assert not channel.put(packet(6, b"another.", len(masks)))
        serve(*arguments)

    bench.host.packet = served
    channel.send(packet(6, b"first..."))
    assert masks == [1] * 5
    assert bench.host.wakes == 1
    assert channel.word(channel.out_pages, 8) == 0
    assert len(channel.receive()) == 5


def test_the_ring_is_given_back_even_to_a_waiting_guest(bench: Bench) -> None:
    channel = bench.channel
    while channel.room() > 1016:
        channel.put(packet(6, bytes(976)))
    channel.set_word(channel.out_pages, 12, channel.room() + 2000)
    channel.signal()
    assert channel.room() == channel.out_size
    assert len(bench.guest.synic.signals) == 2  # its completions, and the room


def test_full_guest_ring_stops_the_host_without_a_loop(make_guest) -> None:
    """The guest sends and does not read: bounded memory, rest; then it reads, and all comes."""
    bench = Bench(make_guest, (32, 2))
    sent = 0
    for _ in range(40):
        while bench.channel.room() > 300:
            bench.channel.put(packet(6, struct.pack("<Q", sent) + bytes(192), sent))
            sent += 1
        bench.channel.signal()
    waiting = len(bench.host._waiting)
    assert 0 < waiting <= channel_module.MAX_WAITING
    assert bench.channel.word(bench.channel.out_pages, 8) == 1
    got: list[int] = []
    for _ in range(3000):
        got += [one.transaction for one in bench.channel.receive(limit=3)]
        if len(got) == sent:
            break
    assert got == list(range(sent))
    assert not bench.guest.server.violations
    bench.channel.send(packet(6, b"and now.", 9999))
    assert [one.transaction for one in bench.channel.receive()] == [9999]
    assert bench.channel.word(bench.channel.in_pages, 12) == 0


def test_a_device_that_sends_by_itself_is_bounded(make_guest) -> None:
    bench = Bench(make_guest, (2, 2))
    results = [bench.host.send_inband(bytes(64)) for _ in range(3 * channel_module.MAX_WAITING)]
    assert results.count(True) < 2 * channel_module.MAX_WAITING
    assert not results[-1]
    assert not bench.host.send_inband(bytes(5000))  # more than the ring
    total = 0
    while got := bench.channel.receive():
        total += len(got)
    assert total == results.count(True)


def test_a_wake_serves_a_bounded_number_of_packets(make_guest, monkeypatch) -> None:
    """Other descriptors get their turn: a second callback of the loop does the rest."""
    monkeypatch.setattr(channel_module, "PACKETS_PER_WAKE", 100)
    bench = Bench(make_guest, (32, 32))
    for number in range(300):
        bench.channel.put(packet(6, bytes(8), number))
    bench.channel.signal()
    assert bench.host.wakes > 1
    assert len(bench.channel.receive()) == 300


@pytest.mark.parametrize("scattered", [False, True])
def test_packets_of_all_sizes_around_the_ring(make_guest, scattered: bool) -> None:
    device = Recorder()
    guest = make_guest(device)
    guest.connect()
    channel = guest.open(1, (3, 3), scattered)
    for number in range(200):
        data = bytes([number & 0xFF]) * (number * 37 % 3000 & ~7)
        channel.send(packet(6, data, number))
        assert [tuple(p) for p in channel.receive()] == [(11, 0, number, data)]
    assert not guest.server.violations


def raw(kind: int = 6, offset8: int = 2, length8: int = 3, flags: int = 1) -> bytes:
    return struct.pack("<HHHHQQ", kind, offset8, length8, flags, 5, 0)


@pytest.mark.parametrize(
    "bad",
    [raw(length8=0), raw(length8=1), raw(offset8=0), raw(offset8=1), raw(offset8=4),
     raw(length8=4), raw(length8=0xFFFF), raw(offset8=0xFFFF, length8=0xFFFF)],
)  # fmt: skip
def test_a_packet_of_nonsense_closes_the_channel(bench: Bench, bad: bytes) -> None:
    """What came before it is answered."""
    bench.channel.put(packet(6, b"is good."))
    bench.channel.put(bad)
    bench.channel.signal()
    assert bench.rule() == "ring-packet"
    assert len(bench.device.packets) == 1
    assert bench.device.events[-1] == ("closed", 1)
    assert not bench.guest.synic.bound
    # the guest closes and begins anew
    assert bench.guest.ask(bench.channel.close_message()) == []
    bench.guest.open(1)
    assert bench.guest.server.violation_count == 1


def test_half_a_packet_closes_the_channel(bench: Bench) -> None:
    bench.channel.set_word(bench.channel.out_pages, 0, 8)
    bench.channel.signal()
    assert bench.rule() == "ring-packet"


@pytest.mark.parametrize("index", [0xFFFFFFFF, 7 * 4096, 3])
@pytest.mark.parametrize("ring", ["out", "in"])
def test_an_index_of_nonsense_closes_the_channel(bench: Bench, ring: str, index: int) -> None:
    pages = bench.channel.out_pages if ring == "out" else bench.channel.in_pages
    if ring == "in":
        for _ in range(100):  # until the host must look at the read index
            bench.channel.set_word(pages, 4, index)
            bench.channel.put(packet(6, bytes(1000)))
            bench.channel.signal()
            if bench.guest.server.violations:
                break
    else:
        bench.channel.set_word(pages, 0, index)
        bench.channel.signal()
    assert bench.rule() == "ring-index"
    assert bench.device.events[-1] == ("closed", 1)


def test_open_is_refused_until_a_broken_channel_is_closed(bench: Bench) -> None:
    bench.channel.put(raw(length8=0))
    bench.channel.signal()
    (answer,) = bench.guest.ask(bench.guest.open_message(1, bench.channel.gpadl, 8))
    assert answer[16:] != bytes(4)
    assert bench.rule() == "relid-state"


def test_a_device_may_lose_its_channel_in_the_middle(bench: Bench) -> None:
    """Rescinded by a packet of its own batch: nothing of the rings is touched after that."""
    server = bench.guest.server

    def packet_rescinds(*arguments) -> None:
        bench.device.packets.append(())
        server.rescind(bench.device)

    bench.host.packet = packet_rescinds
    for _ in range(3):
        bench.channel.put(packet(6, b"12345678"))
    before = bench.channel.word(bench.channel.out_pages, 4)
    bench.channel.signal()
    assert len(bench.device.packets) == 1
    assert bench.channel.word(bench.channel.out_pages, 4) == before
    assert not bench.host.send_inband(b"12345678")


def test_a_doorbell_for_nothing(bench: Bench) -> None:
    for _ in range(3):
        bench.channel.signal()
    bench.host.drain()  # a callback that was on its way
    assert bench.host.wakes == 3
    assert not bench.guest.synic.signals


def test_a_doorbell_of_a_closed_channel(bench: Bench) -> None:
    drain = bench.host.drain
    bench.guest.post(bench.channel.close_message())
    drain()
    assert not bench.device.packets


def test_no_descriptor_is_left(make_guest) -> None:
    before = len(os.listdir("/proc/self/fd"))
    guest = make_guest(Recorder())
    for _ in range(50):
        guest.connect()
        guest.open(1, (2, 2))
        guest.next_page = 16
    guest.server.reset()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the fake loop's poll has none
