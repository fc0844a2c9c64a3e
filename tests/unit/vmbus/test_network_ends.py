"""Simulated guests on real backends: two on one socket, one on passt with a host behind it."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import struct
import time
from collections.abc import Iterator

import net_sim
import pytest
from guest_sim import Guest
from net_sim import MAC, NetGuest, ethernet, ipv4, ipv6, ppi, right_sums, tcp, udp

from pyhv.errors import HostError
from pyhv.net import peer
from pyhv.net.config import HostForward
from pyhv.net.passt import GUEST, HOST, User
from pyhv.net.socketpath import SocketPath
from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.netvsc import Netvsc

FRAME = ethernet(ipv4(udp(b"over the cable"), 17))
OTHER = bytes.fromhex("525400aabbcc")
PATIENCE_S = 10.0


class End:
    """A guest with its driver on a backend of the host."""

    def __init__(self, make_guest, backend, mac: bytes = MAC) -> None:
        self.guest: Guest = make_guest(Netvsc(backend, mac))
        self.backend = backend
        backend.open(self.guest.events)
        self.driver: NetGuest | None = None

    def start(self) -> NetGuest:
        self.driver = net_sim.start(self.guest)
        return self.driver

    def turn(self) -> None:
        self.guest.events.run()
        if self.driver is not None:
            self.driver.poll()


def until(condition, *ends: End) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        for end in ends:
            end.turn()
        time.sleep(0.002)


def test_two_guests_on_a_socket(make_guest, tmp_path: pathlib.Path) -> None:
    """Frames both ways, a large send that arrives in standard frames, the cable pulled."""
    path = str(tmp_path / "cable")
    one, two = End(make_guest, SocketPath(path)), End(make_guest, SocketPath(path), OTHER)
    first, second = one.start(), two.start()
    until(lambda: one.backend.link and two.backend.link, one, two)
    frame = ethernet(ipv4(udp(b"over the cable"), 17))
    first.transmit(frame, section=0)
    until(lambda: second.frames, one, two)
    second.transmit(frame[::-1], section=0)
    until(lambda: first.frames, one, two)
    assert (first.frames[0].frame, second.frames.pop().frame) == (frame[::-1], frame)
    data = bytes(i * 31 & 0xFF for i in range(60000))
    large = ethernet(ipv6(tcp(data), 6), 0x86DD)
    first.transmit(large, ppi(2, 1440 | 54 << 20 | 1 << 30 | 1 << 31))
    until(lambda: len(second.frames) == 42, one, two)
    assert b"".join(got.frame[74:] for got in second.frames) == data
    assert all(right_sums(got.frame) for got in second.frames)
    two.backend.close()
    until(lambda: first.indications, one)
    assert first.indications[-1] == 0x4001000C
    assert not one.guest.server.violations
    assert not two.guest.server.violations
    one.backend.close()


RSC = {True: 2, False: 1}


def coalesce(driver: NetGuest, on: bool) -> None:
    """Linux's message when RSC is switched."""
    data = struct.pack("<BBH5B13x2B4x", 0x80, 3, 28, *bytes(5), RSC[on], RSC[on])
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, data) == 0


@pytest.fixture
def peers(make_guest, tmp_path: pathlib.Path) -> Iterator[tuple[End, End]]:
    path = str(tmp_path / "cable")
    one, two = End(make_guest, SocketPath(path)), End(make_guest, SocketPath(path), OTHER)
    one.start()
    two.start()
    until(lambda: one.backend.link and two.backend.link, one, two)
    yield one, two
    for end in (one, two):
        end.backend.close()
        assert not end.guest.server.violations


@pytest.mark.parametrize("version", [4, 6])
def test_large_frames_between_two(peers, version: int) -> None:
    """Whole while the guest they are for takes them so, with what came before and after."""
    one, two = peers
    data = bytes(i * 31 + (i >> 8) & 0xFF for i in range(60000))
    make, head = {
        4: (lambda data: ethernet(ipv4(tcp(data), 6)), 54),
        6: (lambda data: ethernet(ipv6(tcp(data), 6), 0x86DD), 74),
    }[version]
    small = ethernet(ipv4(udp(b"before and after"), 17))
    for on in (True, False, True):
        coalesce(two.driver, on)
        until(lambda on=on, end=one.backend: end.takes_large == on, one, two)
        two.driver.frames.clear()
        one.driver.transmit(small, section=0)
        one.driver.transmit(make(data), ppi(2, 1400 | 54 << 20 | 1 << 30 | (version == 6) << 31))
        one.driver.transmit(make(b"short"), ppi(0, 1 | 4 | 16))
        one.driver.transmit(small, ppi(0, 1 | 8 | 16), section=0)
        got = two.driver.frames
        until(lambda on=on, got=got: len(got) == (4 if on else 46), one, two)
        assert got[0].frame == small
        assert b"".join(one.frame[head:] for one in got[1:-1]) == data + b"short"
        assert [one.sums for one in got] == ([None, 0x28, 0x28, None] if on else [None] * 46)
        assert got[1].parts == (15 if on else 1)
        if not on:
            assert all(right_sums(one.frame) for one in got[1:])
        assert right_sums(got[-1].frame), "a datagram has its sum in any case"
    assert not one.driver.frames, "what the two VMMs say to each other is not for guests"


def test_the_next_other_end_knows_nothing(peers) -> None:
    """Who comes to the socket later says for himself what he takes."""
    one, two = peers
    coalesce(two.driver, True)
    until(lambda: one.backend.takes_large, one, two)
    for on in (True, False):
        coalesce(two.driver, on)
        two.backend.lost("pulled")
        until(lambda: not one.backend.link, one)
        two.guest.events.expire()  # it connects again
        until(lambda: one.backend.link and two.backend.link, one, two)
        two.driver.transmit(FRAME, section=0)
        until(lambda: one.driver.frames, one, two)
        assert one.backend.takes_large == on
        one.driver.frames.clear()


def test_a_guest_cannot_speak_for_its_vmm(peers) -> None:
    one, two = peers
    two.driver.transmit(peer.YES, section=0)
    two.driver.transmit(peer.NO[:60], section=0)
    two.driver.transmit(FRAME, section=0)
    until(lambda: one.driver.frames, one, two)
    assert [got.frame for got in one.driver.frames] == [FRAME]
    assert not one.backend.takes_large


HEADED = 1 << 31


@pytest.mark.parametrize("size", [0, 23, 65568, HEADED - 1])
def test_a_headed_frame_that_cannot_be(make_guest, tmp_path, size: int) -> None:
    """The other end is not believed: its length ends the connection, its header the frame."""
    path = str(tmp_path / "cable")
    end = End(make_guest, SocketPath(path))
    end.start()
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(path)
        until(lambda: end.backend.link, end)
        for on in (False, True):
            coalesce(end.driver, on)
            for head in (bytes(10), b"\1" + bytes(9), b"\1\1" + bytes(8), b"\xff" * 10):
                for frame in (bytes(14), FRAME, ethernet(ipv4(tcp(bytes(99)), 6))):
                    other.sendall(struct.pack(">I", HEADED | 10 + len(frame)) + head + frame)
        other.sendall(struct.pack(">I", len(FRAME)) + FRAME)
        until(lambda: end.driver.frames and end.driver.frames[-1].frame == FRAME, end)
        other.sendall(struct.pack(">I", HEADED | size))
        until(lambda: not end.backend.link, end)
    end.backend.close()
    assert not end.guest.server.violations


def test_a_large_mtu_and_many_frames(make_guest, tmp_path: pathlib.Path) -> None:
    """More than the sections can hold: the sender's completions wait, nothing is lost."""
    path = str(tmp_path / "cable")
    one, two = End(make_guest, SocketPath(path)), End(make_guest, SocketPath(path), OTHER)
    first, second = one.start(), two.start()
    until(lambda: one.backend.link and two.backend.link, one, two)
    second.hold = True
    sent = 0
    for number in range(300):
        first.transmit(ethernet(number.to_bytes(1400, "big"), 0x88B5), section=0)
        sent += 1
        if number % 20 == 0:
            one.turn()
            two.turn()
    assert len(second.frames) <= second.sections
    second.hold = False

    def give() -> bool:
        held, second.held = second.held, []
        for lent in held:
            second.give_back(*lent)
        return len(second.frames) == sent

    until(give, one, two)
    assert [int.from_bytes(got.frame[14:], "big") for got in second.frames] == list(range(300))
    for end in (one, two):
        end.backend.close()
        assert not end.guest.server.violations


def dhcp(kind: int, *options: bytes) -> bytes:
    """Return a DHCP message in a frame (RFC 2131)."""
    body = struct.pack(">BBBBIHH16x", 1, 1, 6, 0, 0x1234, 0, 0x8000) + MAC + bytes(10 + 192)
    body += bytes.fromhex("63825363") + bytes((53, 1, kind)) + b"".join(options) + b"\xff"
    datagram = struct.pack(">HHHH", 68, 67, 8 + len(body), 0) + body
    return b"\xff" * 6 + ethernet(ipv4(datagram, 17, "00000000", "ffffffff"))[6:]


@pytest.fixture
def passt(make_guest):
    """A guest on passt, and the port of this host that it forwards to the guest's port 7."""
    if shutil.which("passt") is None:
        pytest.skip("the program passt is not installed")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    end = End.__new__(End)
    try:
        end.__init__(make_guest, User((HostForward("tcp", "127.0.0.1", port, 7),)))
    except HostError as error:
        pytest.skip(f"passt does not run here: {error}")
    end.start()
    yield end, port
    end.backend.close()
    assert not end.guest.server.violations


def got(end: End, test) -> bytes:
    """Wait for a frame that *test* takes."""
    found = []

    def look() -> bool:
        found.extend(one.frame for one in end.driver.frames if test(one.frame))
        end.driver.frames.clear()
        return bool(found)

    until(look, end)
    return found[0]


def test_passt_serves_the_guest(passt) -> None:
    """An address by DHCP, the host by its loopback address, a forwarded connection."""
    end, port = passt
    driver = end.driver
    driver.transmit(dhcp(1), ppi(0, 1 | 8 | 16))
    offer = got(end, lambda frame: frame[34:38] == struct.pack(">HH", 67, 68))
    assert offer[42 + 16 : 42 + 20] == socket.inet_aton(GUEST)
    host_mac = offer[6:12]
    assert offer[40:42] == bytes(2)  # passt sends datagrams over IPv4 without a sum
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE_S)
        message = struct.pack(">HHHH", 4000, server.getsockname()[1], 13, 0) + b"hello"
        addresses = [socket.inet_aton(one).hex() for one in (GUEST, HOST)]
        frame = host_mac + MAC + b"\x08\x00" + ipv4(message, 17, *addresses)
        driver.transmit(frame, ppi(0, 1 | 8 | 16))
        end.turn()
        data, source = server.recvfrom(100)
        assert data == b"hello"
        server.sendto(b"world", source)
        answer = got(end, lambda frame: frame[42:47] == b"world")
        assert answer[26:30] == socket.inet_aton(HOST)
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        opening = got(end, lambda frame: frame[23:24] == b"\x06" and frame[36:38] == b"\x00\x07")
        assert opening[47] & 0x12 == 0x02  # SYN
        assert right_sums(opening)
    assert end.backend.checked
    assert os.path.exists(f"/proc/{end.backend._process.pid}")
