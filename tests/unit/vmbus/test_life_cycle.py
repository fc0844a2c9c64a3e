"""How channels come and go: unload, a new contact, reset, rescind, sub-channels."""

from __future__ import annotations

import pytest
from bus_helpers import Recorder, message
from guest_sim import PAGE, Guest, packet

from pyhv.vmbus import protocol as p
from pyhv.vmbus.server import VmbusServer


def rule(guest: Guest) -> str:
    return guest.server.violations[-1].rule


@pytest.fixture
def device() -> Recorder:
    return Recorder()


@pytest.fixture
def guest(make_guest, device) -> Guest:
    return make_guest(device, Recorder(1))


def ends() -> dict:
    return {
        "unload": lambda guest: guest.ask(message(16)),
        "contact": lambda guest: guest.contact(p.VERSION_WIN10),
        "declined contact": lambda guest: guest.contact(p.VERSION_WIN10_V5_3 + 1),
        "reset": lambda guest: guest.server.reset(),
    }


@pytest.mark.parametrize("end", list(ends()))
def test_everything_ends(guest: Guest, device: Recorder, end: str) -> None:
    """Channels, lent pages, sub-channels and half GPADLs are gone; a new life works."""
    guest.connect()
    channel = guest.open(1)
    guest.server.offer_subchannels(guest.server.channels[1], 2)
    guest.received()
    guest.open(3)
    guest.post(guest.gpadl_messages(2, [(60 * PAGE, 0, [16] * 60)])[1][0])
    ends()[end](guest)
    assert sorted(device.events[2:]) == [("closed", 1), ("closed", 3)]
    assert not guest.synic.bound
    assert len(guest.server.gpadls) == 0
    assert sorted(guest.server.channels) == [1, 2]
    channel.signal()
    assert len(guest.connect()) == 2
    guest.open(1)


def test_unload_is_answered_even_without_contact(guest: Guest) -> None:
    assert guest.ask(message(16)) == [message(17)]
    guest.connect()
    assert guest.ask(message(16)) == [message(17)]
    assert guest.server.version is None


def test_close_gives_everything_back(guest: Guest, device: Recorder) -> None:
    guest.connect()
    guest.open(1)
    guest.server.close()
    assert device.events[-1] == ("closed", 1)
    assert not guest.synic.bound
    assert guest.post(message(3)) == 18
    guest.server.close()
    VmbusServer(guest.memory, guest.synic, guest.events, 1).offer(device)  # may be used again


# rescind and sub-channels


def test_rescind_release_and_offer_again(guest: Guest, device: Recorder) -> None:
    guest.connect()
    channel = guest.open(1)
    guest.server.rescind(device)
    assert guest.received() == [message(2, 1)]
    assert device.events[-1] == ("closed", 1)
    channel.signal()
    guest.server.offer(device)
    guest.received()
    assert guest.offers[3].instance_guid == guest.offers[1].instance_guid
    assert guest.ask(guest.open_message(1, channel.gpadl, 32))[0][16:] != bytes(4)
    assert guest.ask(channel.close_message()) == []  # Linux closes also after a rescind
    assert guest.ask(message(13, 1)) == []
    assert 1 not in guest.server.channels
    assert len(guest.server.gpadls) == 0
    guest.open(3)


def test_rescind_before_the_guest_knows(guest: Guest, device: Recorder) -> None:
    guest.contact()
    guest.server.rescind(device)
    assert guest.received() == []
    assert len(guest.request_offers()) == 1


def test_release_of_what_was_not_rescinded(guest: Guest) -> None:
    guest.connect()
    guest.ask(message(13, 1))
    assert rule(guest) == "relid-state"
    guest.ask(message(13, 99))
    assert rule(guest) == "relid-unknown"
    guest.open(1)


def test_subchannels(guest: Guest, device: Recorder) -> None:
    guest.connect()
    guest.open(1)
    primary = guest.server.channels[1]
    assert guest.server.offer_subchannels(primary, 2)
    guest.received()
    for relid, index in ((3, 1), (4, 2)):
        assert guest.offers[relid].sub_index == index
        assert guest.offers[relid].instance_guid == guest.offers[1].instance_guid
    sub = guest.open(3, vp=1)
    sub.send(packet(6, b"to a sub"))
    assert device.packets[-1][4] == b"to a sub"
    assert guest.synic.signals[-1] == (1, 2, 3)
    assert not guest.server.offer_subchannels(primary, 1)  # it has some


def test_closing_the_primary_takes_its_subchannels_back(guest: Guest, device: Recorder) -> None:
    guest.connect()
    primary = guest.open(1)
    guest.server.offer_subchannels(guest.server.channels[1], 2)
    guest.received()
    guest.open(3)
    assert guest.ask(primary.close_message()) == [message(2, 4), message(2, 3)]
    for relid in (3, 4):
        guest.ask(message(13, relid))
    guest.open(1)
    assert guest.server.offer_subchannels(guest.server.channels[1], 2)


def test_relids_kept_by_the_guest_run_out_without_harm(guest: Guest) -> None:
    """It never releases the sub-channels that were taken back."""
    guest.connect()
    ring = guest.lend(1, guest.pages(4))
    refused = 0
    for _ in range(40):
        guest.post(guest.open_message(1, ring, 2))
        refused += not guest.server.offer_subchannels(guest.server.channels[1], 40)
        guest.post(message(7, 1))
    assert refused
    assert len(guest.server.channels) <= p.MAX_RELID // 2 + 40
    assert max(guest.server.channels) <= p.MAX_RELID


@pytest.mark.parametrize("last", ["unload", "contact"])
def test_what_waits_for_the_old_kernel_does_not_reach_the_next(guest: Guest, last: str) -> None:
    """Offers that were never read are gone with UNLOAD or a new contact; the answer comes alone."""
    assert guest.contact()
    guest.post(message(3))
    assert len(guest.synic.messages) == 3
    if last == "unload":
        guest.post(message(16))
        assert guest.received() == [message(17)]
    else:
        assert guest.contact(p.VERSION_WIN10)


@pytest.mark.parametrize("name", p.VERSIONS)
def test_the_version_is_capped(make_guest, name: str) -> None:
    """A guest that goes down from the highest agrees on the cap."""
    guest = make_guest(Recorder(), max_version=name)
    versions = sorted(p.VERSIONS.values(), reverse=True)
    taken = next(version for version in versions if guest.contact(version))
    assert taken == p.VERSIONS[name]
