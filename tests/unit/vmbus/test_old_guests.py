"""Guests older than 2.4, as iPXE is: one event connection for all channels, polled rings."""

from __future__ import annotations

import os
import struct

import net_sim
import pytest
from bus_helpers import Recorder
from guest_sim import Guest, GuestChannel, packet
from net_sim import MAC, Cable, ethernet, ipv4, udp

from pyhv.errors import HostError
from pyhv.vmbus import protocol as p
from pyhv.vmbus.netvsc import Netvsc

OLD = [("0.13", p.VERSION_WS2008), ("1.1", p.VERSION_WIN7)]


def ring_all(guest: Guest) -> None:
    """HvCallSignalEvent on connection 2."""
    os.eventfd_write(guest.synic.bound[2], 1)
    guest.events.run()


def contact(guest: Guest, version: int) -> bytes:
    message = struct.pack("<IIIIQQQ", 14, 0, version, 0, 0x5000, 0x6000, 0x7000)
    (answer,) = guest.ask(message)
    return answer


@pytest.mark.parametrize(("name", "version"), [*OLD, ("3.0", p.VERSION_WIN8_1)])
def test_the_response_repeats_the_version(make_guest, name: str, version: int) -> None:
    """iPXE compares."""
    guest = make_guest(Recorder())
    assert contact(guest, version) == struct.pack("<IIBBHI", 15, 0, 1, 0, 0, version)
    assert (2 in guest.synic.bound) is (version < p.VERSION_WIN8)


@pytest.mark.parametrize(("name", "version"), OLD)
def test_the_shared_doorbell_reaches_every_channel(make_guest, name: str, version: int) -> None:
    devices = [Recorder(0), Recorder(1), Recorder(2)]
    guest = make_guest(*devices)
    contact(guest, version)
    relids = [offer.relid for offer in guest.request_offers()]
    channels = [guest.open(relid) for relid in relids[:2]]
    for channel in channels:
        assert channel.put(packet(6, b"old news"))
    ring_all(guest)
    assert [len(device.packets) for device in devices] == [1, 1, 0]
    for channel in channels:
        assert channel.receive()[0].data == b"old news"
    ring_all(guest)  # nothing there: harmless
    guest.ask(struct.pack("<II", 16, 0))
    assert 2 not in guest.synic.bound


def test_contact_again_binds_once(make_guest) -> None:
    """iPXE's way: 3.0, UNLOAD, 0.13; then Linux."""
    guest = make_guest(Recorder())
    for version in (p.VERSION_WIN8_1, p.VERSION_WS2008, p.VERSION_WS2008, p.VERSION_WIN10_V5_3):
        assert guest.contact(version)
        guest.request_offers()
    assert 2 not in guest.synic.bound


@pytest.mark.parametrize("error", [HostError("full"), OSError(24, "no descriptor")])
def test_without_a_doorbell_the_version_is_declined(make_guest, monkeypatch, error) -> None:
    guest = make_guest(Recorder())

    def fails(connection_id: int, eventfd: int) -> None:
        raise error

    monkeypatch.setattr(guest.synic, "bind_event", fails)
    assert not guest.contact(p.VERSION_WS2008)
    monkeypatch.undo()
    assert guest.contact(p.VERSION_WS2008)


def test_a_full_ring_is_looked_at_again(make_guest) -> None:
    """Such a guest does not say when it made room; nobody may wait for it."""
    device = Recorder()
    guest = make_guest(device)
    contact(guest, p.VERSION_WS2008)
    channel = guest.open(guest.request_offers()[0].relid, (2, 2))
    server = guest.server.channels[channel.relid]
    sent = 0
    while sent < 60:
        assert server.send_inband(bytes(200))
        sent += 1
    channel.put(packet(6, b"question"))
    ring_all(guest)
    assert not device.packets
    got = len(take(channel))
    guest.events.expire()
    got += len(take(channel))
    guest.events.expire()
    got += len(take(channel))
    guest.events.expire()
    got += len(take(channel))
    assert device.packets[0][4] == b"question"
    assert got == sent + 1


def take(channel: GuestChannel) -> list:
    """Read without a signal for the room made: no pending send size is looked at."""
    channel.set_word(channel.in_pages, 12, 0)
    return channel.receive()


def test_a_card_as_ipxe_drives_it(make_guest) -> None:
    """NVSP 2, a small receive buffer, no send buffer, rings of a page, everything completed."""
    cable = Cable()
    guest = make_guest(Netvsc(cable, MAC))
    contact(guest, p.VERSION_WS2008)
    offer = guest.request_offers()[0]
    guest.received()
    driver = net_sim.NetGuest(guest, guest.open(offer.relid, (2, 2)), receive_pages=16)
    driver.channel.signal = lambda: ring_all(guest)
    net_sim.watch_ranges(driver)
    assert struct.unpack_from("<IIII", driver.nvsp(1, 2, 2)) == (2, 2, 34, 1)
    assert driver.nvsp(100, 6, 1) == bytes(40)
    gpadl = guest.lend(offer.relid, driver.receive_pages)
    answer = driver.nvsp(101, gpadl, net_sim.RECEIVE_ID)
    assert struct.unpack_from("<III", answer) == (102, 1, 1)
    driver.start()
    assert driver.query(0x01010101) == MAC
    frame = ethernet(ipv4(udp(b"boot"), 17))
    driver.transmit(frame)
    assert cable.sent_frames() == [frame]
    cable.sink.receive([frame] * 3)
    driver.poll()
    assert [one.frame for one in driver.frames] == [frame] * 3
    assert driver.nvsp(103, net_sim.RECEIVE_ID) == bytes(40)
    driver.channel.send(packet(10, b"", 7, flags=0))  # what it still had to send is cancelled
    assert not guest.server.violations
