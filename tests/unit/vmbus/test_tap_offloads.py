"""A simulated guest on a tap: what the host's kernel leaves undone, and when it must not."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import net_sim
import pytest
from net_sim import MAC, NetGuest, ethernet, ipv4, ipv6, ppi, right_sums, tcp, udp

from pyhv.errors import HostError
from pyhv.net import frames, vnet
from pyhv.net.tap import Tap
from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.netvsc import Netvsc

SOL_PACKET, PACKET_VNET_HDR = 263, 15
NAME = f"pyhv{os.getpid()}"  # other tests run at the same time
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and /dev/net/tun"
)


class Wire:
    """A guest on the tap, and a socket whose frames the host's kernel sends to it."""

    def __init__(self, guest, backend: Tap, raw: socket.socket) -> None:
        self.guest, self.backend, self.raw = guest, backend, raw
        self.driver: NetGuest = net_sim.start(guest)

    def coalesce(self, value: int) -> None:
        """Linux's message when a user switches RSC: 2 on, 1 off."""
        data = struct.pack("<BBH5B13x2B4x", 0x80, 3, 28, *bytes(5), value, value)
        assert self.driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, data) == 0

    def send(self, frame: bytes, mss: int = 0, partial: bool = True) -> None:
        at = frames.layout(frame)
        head = vnet.PLAIN
        if partial:
            done = bytearray(frame)
            frames.put_ip_checksum(done, at)
            frames.put_pseudo(done, at, len(frame) - at.transport)
            frame, payload = bytes(done), frames.tcp_headers_end(frame, at)
            head = vnet.header(frame, at, payload, mss)
        self.raw.send(head + frame)

    def until(self, count: int) -> list[net_sim.Received]:
        """Return what came when it is *count* of our frames: the host's kernel sends others."""
        end = time.monotonic() + 10
        while True:
            self.guest.events.run()
            self.driver.poll()
            ours = [one for one in self.driver.frames if one.frame[6:12] == OTHER]
            if len(ours) >= count:
                return ours
            assert time.monotonic() < end, f"{len(ours)} of {count} frames"
            time.sleep(0.002)


OTHER = ethernet(b"")[:6]


def from_host(frame: bytes) -> bytes:
    return MAC + OTHER + frame[12:]


@pytest.fixture
def wire(make_guest) -> Iterator[Wire]:
    backend = Tap(NAME)
    guest = make_guest(Netvsc(backend, MAC), memory=32 << 20)
    try:
        backend.open(guest.events)
    except HostError as error:
        pytest.skip(f"no tap here: {error}")
    assert os.system(f"ip link set {NAME} up") == 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind((NAME, 0))
        yield Wire(guest, backend, raw)
    backend.close()
    assert not guest.server.violations


def bulk(make: Callable[[bytes], bytes], size: int) -> bytes:
    return from_host(make(bytes(i * 5 + (i >> 8) & 0xFF for i in range(size))))


MAKE = {
    4: lambda data: ethernet(ipv4(tcp(data), 6)),
    6: lambda data: ethernet(ipv6(tcp(data), 6), 0x86DD),
}


@pytest.mark.parametrize("version", [4, 6])
def test_a_train_is_one_frame(wire: Wire, version: int) -> None:
    """The first lands beside the sections, for nobody knew its size; its fellows in them."""
    wire.coalesce(2)
    several = [bulk(MAKE[version], size) for size in (20000, 40000, 1000, 30000, 100, 64)]
    for frame in several:
        wire.send(frame, mss=1400 if len(frame) > 1500 else 0)
    got = wire.until(len(several))
    skip = 54 if version == 4 else 74
    assert [one.frame[skip:] for one in got] == [frame[skip:] for frame in several]
    assert [one.sums for one in got] == [0x28] * 6
    assert [one.parts for one in got] == [-(-len(one.frame) // 4020) for one in got]


def test_one_by_one_and_then_many(wire: Wire, monkeypatch) -> None:
    """After a few lone frames none is followed by a read for another; many at once still come."""
    wire.coalesce(2)
    reads = []
    readv = os.readv
    monkeypatch.setattr(os, "readv", lambda *words: (reads.append(1), readv(*words))[1])
    sent = 0
    for count in [1] * 30 + [30, 1, 2]:
        for number in range(count):
            wire.send(bulk(MAKE[4], 100 + (sent + number) % 7))
        sent += count
        wire.until(sent)
        if sent == 30:
            assert len(reads) < 45, "two for each of them would be 60"
    got = [len(one.frame) for one in wire.until(sent)]
    assert got == [154 + number % 7 for number in range(sent)]


def test_cut_by_the_kernel_for_others(wire: Wire) -> None:
    frame = bulk(MAKE[4], 14000)
    for on in (False, True, False):
        if on:
            wire.coalesce(2)
        elif wire.backend.coalesces:
            wire.coalesce(1)
        wire.driver.frames.clear()
        wire.send(frame, mss=1400)
        got = wire.until(1 if on else 10)
        assert b"".join(one.frame[54:] for one in got) == frame[54:]
        if not on:
            assert all(right_sums(one.frame) for one in got)
            assert all(one.sums is None for one in got), "the guest sees for itself"


def test_switched_off_with_large_frames_on_the_way(wire: Wire) -> None:
    """What the kernel had given before is cut here."""
    wire.coalesce(2)
    frame = bulk(MAKE[4], 14000)
    wire.send(frame, mss=1400)
    wire.send(bulk(lambda data: ethernet(ipv4(udp(data), 17)), 100))
    device = wire.backend.sink
    device.coalesced = False
    device.land()
    got = wire.until(11)
    assert b"".join(one.frame[54:] for one in got[:10]) == frame[54:]
    assert all(right_sums(one.frame) for one in got)


def test_datagrams_have_their_sum(wire: Wire) -> None:
    """A DHCP client looks at it itself, whatever its kernel was told."""
    wire.coalesce(2)
    four = bulk(lambda data: ethernet(ipv4(udp(data), 17)), 301)
    six = bulk(lambda data: ethernet(ipv6(udp(data), 17), 0x86DD), 300)
    tagged = frames.tagged(bulk(MAKE[4], 100), 5)
    several = [four, six, tagged, frames.tagged(bulk(MAKE[4], 2800), 5)]
    for frame in several:
        wire.send(frame, mss=1400 if len(frame) > 1600 else 0)
    got = wire.until(5)
    assert [len(one.frame) for one in got] == [len(four), len(six), len(tagged), 1458, 1458]
    assert all(right_sums(one.frame) for one in got)


def test_a_full_sum_is_not_vouched_for(wire: Wire) -> None:
    wire.coalesce(2)
    frame = bulk(MAKE[4], 100)
    wire.send(frame, partial=False)
    wire.send(from_host(ethernet(bytes(46), 0x88B5)), partial=False)
    assert [one.sums for one in wire.until(2)] == [None, None]


def test_the_guest_gives_nothing_back(wire: Wire) -> None:
    """The tap is read again when it does."""
    wire.coalesce(2)
    wire.driver.hold = True
    frame = bulk(MAKE[4], 40000)
    for _ in range(8):
        wire.send(frame, mss=1400)
    assert len(wire.until(4)) < 8
    assert wire.backend.sink.room() == 0
    wire.driver.hold = False
    for one in wire.driver.held:
        wire.driver.give_back(*one)
    assert [one.frame[54:] for one in wire.until(8)] == [frame[54:]] * 8


@pytest.mark.parametrize("version", [4, 6])
def test_what_the_guest_sends_is_cut_by_the_kernel(wire: Wire, version: int) -> None:
    """Headers in a section and the data in pages, as Linux has it, or all of it in pages."""
    frame = MAKE[version](bytes(i * 5 + (i >> 8) & 0xFF for i in range(40000)))
    data = net_sim.rndis_packet(frame, ppi(2, 1400 | 54 << 20 | 1 << 30 | (version == 6) << 31))
    driver = wire.driver
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind((NAME, 0))
        raw.settimeout(10)
        for inside in (0, 60, 130):
            driver.put(data, offset=100, inside=inside)
            driver.channel.signal()
            driver.poll()
            skip, payload = 54 if version == 4 else 74, b""
            while len(payload) < 40000:
                got = raw.recv(70000)
                if got[:12] == frame[:12]:
                    at = frames.layout(got)
                    assert at is not None
                    payload += got[skip : at.end]
            assert payload == frame[skip:]
    assert wire.backend.sent == 3


HEADS = {
    "cut by an mss of nothing": vnet.HEADER.pack(1, 1, 54, 0, 34, 16),
    "a kind that was not asked for": vnet.HEADER.pack(1, 3, 42, 1400, 34, 6),
    "a sum from the Ethernet header on": vnet.HEADER.pack(1, 0, 0, 0, 2, 6),
    "a sum behind the end": vnet.HEADER.pack(1, 0, 0, 0, 34, 65535),
    "a sum half behind the end": vnet.HEADER.pack(1, 0, 0, 0, 34, 65),
}


@pytest.mark.parametrize("name", HEADS)
def test_headers_that_do_not_add_up(name: str) -> None:
    """The host is believed as little: no frame comes of it."""
    assert vnet.finished(HEADS[name], ethernet(ipv4(udp(bytes(58)), 17))) == []
