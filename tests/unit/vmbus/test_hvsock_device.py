"""hv_sock by its channels: who may call whom, streams, ends, and guests that break the rules."""

from __future__ import annotations

import random
import struct

import pytest
from bus_helpers import Recorder
from fuzzing import SEEDS
from guest_sim import FakeEvents, FakeSynic, Guest, packet
from sock_sim import GUEST_PORT, Note, SockGuest, offered, payload, pipe

from pyhv.vmbus import hvsock
from pyhv.vmbus import protocol as p
from pyhv.vmbus.server import VmbusServer, guid_bytes


@pytest.fixture
def sock(make_guest) -> SockGuest:
    return SockGuest(make_guest())


def connected(sock: SockGuest, port: int = 9, own: int = GUEST_PORT):
    channel = sock.call(port, own)
    return channel, sock.ends[-1]


def rule(sock: SockGuest) -> str:
    return sock.guest.server.violations[-1].rule


def test_guids() -> None:
    text = hvsock.service_guid(0x01020304)
    assert text == "01020304-facb-11e6-bd58-64006a7986d3"
    assert hvsock.port_of(guid_bytes(text)) == 0x01020304
    assert hvsock.guid_text(guid_bytes(text)) == text
    assert hvsock.port_of(guid_bytes(p.GUID_NET)) is None


def test_the_guest_calls_and_both_send(sock: SockGuest) -> None:
    channel, end = connected(sock)
    channel.send(pipe(b"hello"))
    assert end.data == b"hello"
    assert end.connection.send(b"x" * 20000)
    assert payload(channel) == (b"x" * 20000, False)
    assert not sock.guest.server.violation_count


@pytest.mark.parametrize("status", [p.STATUS_CONNECTION_REFUSED])
def test_a_port_nobody_serves_is_refused(sock: SockGuest, status: int) -> None:
    (answer,) = sock.request(100)
    assert answer[:8] == struct.pack("<II", 23, 0)
    assert answer[8:40] == guid_bytes(hvsock.service_guid(GUEST_PORT)) + guid_bytes(
        hvsock.service_guid(100)
    )
    assert answer[40:44] == struct.pack("<I", status)
    assert not sock.sockets.connections


def test_a_service_that_is_no_port_is_refused(sock: SockGuest) -> None:
    message = struct.pack("<II", 21, 0) + bytes(16) + guid_bytes(p.GUID_NET)
    (answer,) = sock.guest.ask(message)
    assert answer[40:44] == struct.pack("<I", p.STATUS_CONNECTION_REFUSED)


def test_the_same_call_twice_is_refused(sock: SockGuest) -> None:
    sock.call(9)
    (answer,) = sock.request(9)
    assert answer[40:44] == struct.pack("<I", p.STATUS_INVALID_PARAMETER)
    sock.call(9, GUEST_PORT + 1)  # another end may


def test_without_offers_asked_for_nothing_is_offered(make_guest) -> None:
    guest = make_guest()
    sockets = hvsock.HvSockets(guest.server, lambda port: Note())
    guest.contact()
    message = struct.pack("<II", 21, 0) + bytes(16) + guid_bytes(hvsock.service_guid(9))
    (answer,) = guest.ask(message)
    assert answer[:4] == b"\x17\0\0\0"
    assert not sockets.connections


def test_the_host_calls(sock: SockGuest) -> None:
    end = Note()
    connection = sock.sockets.connect(22, end)
    (offer,) = offered(sock.guest)
    assert offer.class_guid == guid_bytes(hvsock.service_guid(22))
    assert hvsock.port_of(offer.instance_guid) >= hvsock.FIRST_PORT
    assert offer.user_data[4] == 1
    channel = sock.guest.open(offer.relid, (7, 7))
    assert end.told == ["opened"]
    assert end.connection is connection
    connection.send(b"hi")
    assert payload(channel) == (b"hi", False)


def test_a_call_that_nobody_takes_is_taken_back(sock: SockGuest) -> None:
    end = Note()
    sock.sockets.connect(22, end).hang_up()
    (offer,) = offered(sock.guest)
    assert end.told == ["closed"]
    assert not sock.sockets.connections
    sock.guest.ask(struct.pack("<III", 13, 0, offer.relid))
    assert not sock.guest.server.channels


@pytest.mark.parametrize("version", [p.VERSION_WIN8_1, None])
def test_the_host_cannot_call_an_old_bus(make_guest, version: int | None) -> None:
    guest = make_guest()
    sockets = hvsock.HvSockets(guest.server, lambda port: None)
    if version is not None:
        guest.contact(version)
    assert sockets.connect(22, Note()) is None


def test_the_guest_ends_first(sock: SockGuest) -> None:
    channel, end = connected(sock)
    channel.send(pipe(b"last"))
    channel.send(pipe(b""))
    assert end.data == b"last"
    assert end.told == ["opened", "finished"]
    end.connection.send(b"answer")
    end.connection.finish()
    sock.guest.events.run()
    assert sock.rescinded() == [channel.relid]
    assert payload(channel) == (b"answer", True)
    assert end.told[-1] == "closed"
    sock.let_go(channel)
    assert not sock.guest.server.channels
    assert not sock.guest.server.violation_count


def test_the_host_ends_in_the_middle_of_a_batch(sock: SockGuest) -> None:
    channel, end = connected(sock)
    end.received = lambda data: (end.connection.send(b"answer"), end.connection.finish())
    channel.send(pipe(b"question"))
    assert payload(channel) == (b"answer", True)
    assert sock.rescinded() == [channel.relid]


def test_a_full_ring_is_waited_for(sock: SockGuest) -> None:
    channel, end = connected(sock)
    data = random.Random(1).randbytes(60000)
    assert not end.connection.send(data)
    found = bytearray()
    while "writable" not in end.told:
        more, _ = payload(channel, 1)
        assert more
        found += more
    found += payload(channel)[0]
    assert found == data


def test_the_end_waits_for_what_was_sent(sock: SockGuest) -> None:
    channel, end = connected(sock)
    end.connection.send(b"d" * 60000)
    end.connection.finish()
    sock.guest.events.run()
    assert not sock.rescinded()
    found, ended = payload(channel)
    while not ended:
        more, ended = payload(channel)
        found += more
    assert found == b"d" * 60000
    assert sock.rescinded() == [channel.relid]


def test_a_guest_that_does_not_read_is_not_waited_for_long(sock: SockGuest) -> None:
    channel, end = connected(sock)
    end.connection.send(b"d" * 60000)
    end.connection.finish()
    assert [seconds for seconds, _ in sock.guest.events.timers] == [hvsock.LINGER_S]
    sock.guest.events.expire()
    assert sock.rescinded() == [channel.relid]


def test_held_data_stays_in_the_ring(sock: SockGuest) -> None:
    channel, end = connected(sock)
    end.received = lambda data: (end.data.extend(data), end.connection.hold(True))
    for number in range(5):
        channel.send(pipe(b"%d" % number))
    assert end.data == b"0"
    filled = 0
    while channel.room() > 4200:
        channel.send(pipe(b"x" * 4000))
        filled += 1
    channel.signal()
    assert end.data == b"0"
    end.received = end.data.extend
    end.connection.hold(False)
    sock.guest.events.run()
    assert end.data == b"01234" + b"x" * 4000 * filled
    channel.send(pipe(b"more"))
    assert end.data.endswith(b"more")


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (packet(9, b"", extra=bytes(8)), "packet-type"),
        (packet(6, b""), "packet-short"),
        (pipe(b"abc", size=9), "packet-short"),
        (pipe(b"abc", size=0xFFFFFFFF), "packet-short"),
        (pipe(b"abc", kind=2), "packet-short"),
    ],
)
def test_broken_packets_end_the_connection(sock: SockGuest, broken: bytes, name: str) -> None:
    channel, end = connected(sock)
    channel.send(broken)
    assert rule(sock) == name
    assert end.told[-1] == "closed"
    assert sock.rescinded() == [channel.relid]
    sock.let_go(channel)


def test_data_after_the_end_breaks_a_rule(sock: SockGuest) -> None:
    channel, end = connected(sock)
    channel.send(pipe(b""))
    channel.send(pipe(b"more"))
    assert rule(sock) == "device-state"
    assert end.told == ["opened", "finished", "closed"]


def test_a_guest_that_closes_is_told_to_forget(sock: SockGuest) -> None:
    channel, end = connected(sock)
    sock.guest.post(channel.close_message())
    assert end.told == ["opened", "closed"]
    assert sock.rescinded() == [channel.relid]


def test_a_channel_is_opened_once(sock: SockGuest) -> None:
    channel, end = connected(sock)
    sock.guest.server.events.call = sock.guest.events.calls.append
    guest = sock.guest
    guest.synic.handlers[1](1, channel.close_message())
    guest.synic.handlers[1](1, guest.open_message(channel.relid, channel.gpadl, 7))
    guest.events.run()
    assert end.told == ["opened", "closed"]
    assert not sock.sockets.connections


@pytest.mark.parametrize("leave", ["contact", "unload", "close"])
def test_a_guest_that_goes_takes_its_connections_along(sock: SockGuest, leave: str) -> None:
    _, end = connected(sock)
    waiting = Note()
    sock.sockets.connect(22, waiting)
    guest = sock.guest
    guest.received()
    if leave == "contact":
        guest.contact()
        assert guest.request_offers() == []
    elif leave == "unload":
        guest.ask(struct.pack("<II", 16, 0))
    else:
        guest.server.close()
    assert end.told[-1] == "closed"
    assert waiting.told == ["closed"]
    assert not sock.sockets.connections
    assert not guest.server.channels


def test_a_guest_that_calls_and_calls(make_guest) -> None:
    """Neither connections nor relids that it does not give back grow without bound."""
    sock = SockGuest(make_guest(Recorder()))
    server = sock.guest.server
    for number in range(1000):
        sock.request(9, number)
    assert len(sock.sockets.connections) == hvsock.MAX_CONNECTIONS
    for connection in [*sock.sockets.connections]:
        connection.hang_up()
    for number in range(1000):
        answers = sock.request(9, number)
        assert answers[-1][40:44] == struct.pack("<I", p.STATUS_INSUFFICIENT_RESOURCES)
    assert len(server.channels) <= hvsock.MAX_CONNECTIONS + 1
    assert sock.sockets.connect(22, Note()) is None


@pytest.mark.fuzz("HvSocket")
@SEEDS
def test_random_guests(seed: int, make_guest, fuzz) -> None:
    """Nothing is raised, whatever is in the ring and in whatever order things end."""
    rng = random.Random(seed)
    sock = SockGuest(make_guest())
    for _ in fuzz.rounds(60):
        sock.guest.next_page = 16  # the last round's are given back
        sock.ends.clear()
        channel, end = connected(sock, rng.randrange(100), rng.getrandbits(32))
        for _ in range(rng.randrange(12)):
            act = rng.randrange(7)
            if act == 0 and channel.room() > 5000:
                channel.send(pipe(rng.randbytes(rng.randrange(4000)), rng.choice((1, 1, 1, 2))))
            elif act == 1:
                channel.send(packet(rng.choice((6, 6, 7, 11)), rng.randbytes(rng.randrange(40))))
            elif act == 2:
                end.connection.send(rng.randbytes(rng.randrange(70000)))
            elif act == 3:
                channel.receive(rng.randrange(4))
            elif act == 4:
                end.connection.hold(rng.random() < 0.5)
            elif act == 5:
                rng.choice((end.connection.shutdown, end.connection.finish))()
            else:
                sock.guest.events.run()
            if "closed" in end.told or channel.room() < 6000:
                break
        sock.guest.events.run()
        sock.guest.events.expire()
        if end.connection in sock.sockets.connections:
            end.connection.hang_up()
        assert end.told[-1] == "closed"
        sock.let_go(channel)
    assert not sock.sockets.connections
    assert not sock.guest.server.channels


def test_other_devices_do_not_mind(make_guest) -> None:
    device = Recorder()
    guest: Guest = make_guest(device)
    sock = SockGuest(guest)
    (first,) = guest.request_offers()
    assert first.class_guid == guid_bytes(device.class_guid)
    guest.offers[first.relid] = first
    channel = guest.open(first.relid)
    sock.call(9)
    channel.send(packet(6, b"12345678"))
    assert channel.receive()[0].data == b"12345678"


def test_connections_leave_with_a_snapshot(sock: SockGuest) -> None:
    """The host's end of a connection is not in it: the guest is told that it is over."""
    channel, _ = connected(sock)
    guest = sock.guest
    state = guest.server.save()
    guest.server.close()
    guest.synic, guest.events = FakeSynic(), FakeEvents()
    guest.server = VmbusServer(guest.memory, guest.synic, guest.events, guest.server.vp_count)
    sock.sockets = hvsock.HvSockets(guest.server, sock._accept)
    guest.server.load(state)
    guest.events.run()
    assert sock.rescinded() == [channel.relid]
    sock.let_go(channel)
    assert not sock.guest.server.channels
