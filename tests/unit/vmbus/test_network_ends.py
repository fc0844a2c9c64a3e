"""Simulated guests on real backends: two on one socket, one on passt with a host behind it."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import struct
import time

import net_sim
import pytest
from guest_sim import Guest
from net_sim import MAC, NetGuest, ethernet, ipv4, ipv6, ppi, right_sums, tcp, udp

from pyhv.errors import HostError
from pyhv.net.config import HostForward
from pyhv.net.passt import GUEST, HOST, User
from pyhv.net.stream import SocketPath
from pyhv.vmbus.netvsc import Netvsc

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
