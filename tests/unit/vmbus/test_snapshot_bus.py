"""A bus in a snapshot: its guest goes on with a new server, as if nothing had been."""

from __future__ import annotations

import struct

import net_sim
import pytest
import stor_sim
from bus_helpers import Recorder, sector
from guest_sim import FakeEvents, FakeSynic, Guest, GuestChannel, packet
from ic_sim import Utils
from net_sim import Cable

from pyhv.errors import ConfigError
from pyhv.saving import from_json, to_json
from pyhv.vmbus.channel import BROKEN, OPEN
from pyhv.vmbus.ic import Heartbeat, Timesync
from pyhv.vmbus.netvsc import Netvsc
from pyhv.vmbus.server import VmbusServer
from pyhv.vmbus.storvsc import Scsi

FRAME = bytes.fromhex("525400123456 525400123457 0800") + bytes(50)


class Number(Recorder):
    """A device that can be saved."""

    kept = True

    def save(self) -> int:
        return len(self.packets)

    def load(self, state: int, channels: dict) -> None:
        self.packets = [None] * state
        self.channels = channels


def carry(guest: Guest, *devices, run: bool = True, same: bool = True) -> None:
    """Give the guest a new server with *devices*, and the old one's state by way of JSON."""
    state = from_json(to_json(guest.server.save()))
    messages = guest.synic.messages
    guest.server.close()
    guest.synic, guest.events = FakeSynic(), FakeEvents()
    guest.synic.messages = messages
    guest.server = VmbusServer(guest.memory, guest.synic, guest.events, guest.server.vp_count)
    for device in devices:
        guest.server.offer(device)
    guest.server.load(state)
    assert (from_json(to_json(guest.server.save())) == state) == same
    if run:
        guest.events.run()


def test_a_disk_goes_on(stor, disk) -> None:
    guest = stor.guest
    assert stor.run(stor_sim.cdb_10(0x28, 5, 2), 1024).data == sector(5) + sector(6)
    carry(guest, Scsi([disk]))
    assert stor.run(stor_sim.cdb_10(0x28, 7, 2), 1024).data == sector(7) + sector(8)
    assert stor.control(13, struct.pack("<H", 1))[0] == 0  # a sub-channel
    guest.received()
    relid = next(offer.relid for offer in guest.offers.values() if offer.sub_index == 1)
    sub = stor_sim.StorGuest(guest, guest.open(relid, vp=1))
    carry(guest, Scsi([disk]))
    for driver, lba in ((sub, 9), (stor, 10)):
        assert driver.run(stor_sim.cdb_10(0x28, lba, 1), 512).data == sector(lba)
    assert guest.server.channels[relid].primary is guest.server.channels[stor.channel.relid]
    assert guest.server.channels[relid].target_vp == 1


def test_a_request_whose_doorbell_is_lost(stor, disk) -> None:
    """It lay in the ring when the snapshot was taken: the new server looks."""
    stor.channel.put(stor.submit(stor_sim.cdb_10(0x28, 3, 1), 512))
    carry(stor.guest, Scsi([disk]))
    (answer,) = stor.channel.receive()
    assert stor.result(answer).data == sector(3)


def test_answers_that_wait_for_room(make_guest) -> None:
    """The guest's ring is full, more waits behind it, in order; then the guest reads."""
    device = Number()
    guest = make_guest(device)
    channel = guest.open(guest.connect()[0].relid, (32, 2))
    for number in range(60):
        channel.send(packet(6, struct.pack("<II", number, 0) + bytes(80), number))
    before = guest.server.channels[channel.relid]
    assert before.save()["waiting"]
    device = Number()
    carry(guest, device)
    assert len(device.packets) >= 30
    seen: list[int] = []
    while True:
        found = channel.receive(5)
        if not found:
            break
        seen += [one.transaction for one in found]
    assert seen == list(range(60))
    assert device.channels == {0: guest.server.channels[channel.relid]}


def test_messages_in_between(make_guest) -> None:
    """A GPADL half lent, and a message that nobody has looked at."""
    guest = make_guest(Number())
    relid = guest.connect()[0].relid
    ring = guest.pages(64)
    gpadl, messages = guest.gpadl_messages(relid, [(64 * 4096, 0, ring)])
    assert len(messages) == 3
    assert guest.post(messages[0]) == 0
    assert guest.synic.handlers[1](1, messages[1]) == 0  # posted, and the loop did not run
    assert guest.server.save()["inbox"] == [messages[1]]
    carry(guest, Number())
    assert guest.ask(messages[2]) == [struct.pack("<IIIII", 10, 0, relid, gpadl, 0)]
    assert guest.post(guest.open_message(relid, gpadl, 32)) == 0
    channel = GuestChannel(guest, relid, ring[:32], ring[32:], gpadl, 0)
    channel.send(packet(6, b"12345678", 9))
    assert channel.receive()[0].data == b"12345678"


def test_an_old_guest(make_guest) -> None:
    """Its doorbell is one for all channels."""
    guest = make_guest(Number())
    channel = guest.open(guest.connect(0x10001)[0].relid)
    carry(guest, Number())
    assert 2 in guest.synic.bound
    channel.connection_id = 2
    channel.send(packet(6, b"12345678", 9))
    assert channel.receive()[0].data == b"12345678"


@pytest.mark.parametrize("service", [Heartbeat, Timesync])
def test_integration_components(make_guest, service) -> None:
    """They ask again by themselves; time is set at once, as after a start of the driver."""
    utils = Utils(make_guest, service())
    utils.negotiate()
    head, body = utils.take()
    utils.answer(head, body)
    assert utils.service.answers == 1
    utils.service = service()
    carry(utils.guest, utils.service)
    head, body = utils.take()
    if service is Timesync:
        assert body[16] == 1  # ICTIMESYNCFLAG_SYNC
    utils.answer(head, body)
    assert utils.service.answers == 2
    assert not utils.guest.server.violations


def test_an_answer_that_is_due(make_guest) -> None:
    """Asked before, answered after."""
    utils = Utils(make_guest, Heartbeat())
    utils.negotiate()
    head, body = utils.take()
    utils.service = Heartbeat()
    carry(utils.guest, utils.service)
    utils.answer(head, struct.pack("<Q", 2) + body[8:])
    assert utils.service.answers == 1
    assert not utils.guest.server.violations


def test_a_network_card(make_guest) -> None:
    """Frames in both directions, sections that the guest had not given back, another cable."""
    cable = Cable()
    driver = net_sim.start(make_guest(Netvsc(cable, bytes(range(6)))))
    driver.transmit(FRAME)
    assert cable.sent_frames() == [FRAME]
    cable.sink.receive([FRAME])
    new = Cable()
    card = Netvsc(new, bytes(range(6)))
    carry(driver.guest, card)
    assert cable.sink is None
    driver.poll()  # takes the frame of before, gives its section back
    assert [one.frame for one in driver.frames] == [FRAME]
    driver.transmit(FRAME[::-1])
    assert new.sent_frames() == [FRAME[::-1]]
    new.sink.receive([FRAME, FRAME])
    driver.poll()
    assert [one.frame for one in driver.frames] == [FRAME] * 3
    assert not driver.guest.server.violations


@pytest.mark.parametrize("able", [True, False])
def test_large_frames_to_a_network_card(make_guest, able: bool) -> None:
    """They go on coming if the cable of now has them."""
    cable, new = Cable(coalesces=True), Cable(coalesces=able)
    driver = net_sim.start(make_guest(Netvsc(cable, bytes(range(6)))))
    rsc = struct.pack("<BBH5B13x2B4x", 0x80, 3, 28, *bytes(5), 2, 2)
    assert driver.set(0xFC01020C, rsc) == 0
    carry(driver.guest, Netvsc(new, bytes(range(6))), same=able)
    assert new.coalescing == able
    large = FRAME * 500
    assert new.land(large) == able
    new.sink.receive([FRAME])
    driver.poll()
    assert [one.frame for one in driver.frames] == [large, FRAME][not able :]
    assert not driver.guest.server.violations


def moved(guest: Guest, *devices) -> list[bytes]:
    """Carry the guest over to a bus with *devices*; return what it is told."""
    state = from_json(to_json(guest.server.save()))
    guest.server.close()
    guest.synic, guest.events = FakeSynic(), FakeEvents()
    guest.server = VmbusServer(guest.memory, guest.synic, guest.events, 2)
    for device in devices:
        guest.server.offer(device)
    guest.server.load(state)
    guest.events.run()
    return guest.received()


def test_other_disks(make_guest, disk) -> None:
    guest = stor_sim.start(make_guest(Scsi([disk]))).guest
    new = make_guest(Scsi([]))
    with pytest.raises(ConfigError, match="disks were plugged"):
        new.server.load(from_json(to_json(guest.server.save())))


def test_a_device_that_is_not_kept(make_guest) -> None:
    """It leaves and comes again under another relid, once the guest has used it; others stay."""
    guest = make_guest(Recorder(0), Number(1), Recorder(2))
    lost, kept, unused = [offer.relid for offer in guest.connect()]
    guest.open(lost)
    channel = guest.open(kept)
    said = moved(guest, Recorder(0), Number(1), Recorder(2))
    new = max(guest.offers)
    assert new not in (lost, kept, unused)
    assert [message[:4] for message in said] == [b"\2\0\0\0", b"\1\0\0\0"]
    assert said[0] == struct.pack("<III", 2, 0, lost)
    assert guest.server.channels[unused].state == "offered"
    assert not guest.ask(struct.pack("<III", 13, 0, lost))  # RELID_RELEASED
    assert lost not in guest.server.channels
    again = guest.open(new)
    for one in (again, channel):
        one.send(packet(6, b"12345678", 9))
        assert one.receive()[0].data == b"12345678"
    assert not guest.server.violations


def test_devices_that_came_and_went(make_guest) -> None:
    """One was plugged in before the snapshot, one is here that was not there."""
    guest = make_guest(Number(0))
    guest.open(guest.connect()[0].relid)
    guest.server.offer(Number(7))
    plugged = max(guest.received() and guest.offers)
    guest.open(plugged)
    said = moved(guest, Number(0), Number(9))
    assert said[0] == struct.pack("<III", 2, 0, plugged)
    assert len(said) == 2
    assert guest.offers[max(guest.offers)].instance_guid[-1] == 9
    assert moved(guest, Number(0), Number(9)) == []  # not told again
    assert not guest.server.violations


def test_a_ring_that_the_guest_spoiled(make_guest) -> None:
    """Only that channel is closed, and the guest may open it again."""
    guest = make_guest(Number(0), Number(1))
    one, two = [guest.open(offer.relid) for offer in guest.connect()]
    one.set_word(one.out_pages, 4, 0x1001)  # the host's own index
    one.set_word(one.in_pages, 0, 0xFFFFFFF0)
    devices = Number(0), Number(1)
    state = from_json(to_json(guest.server.save()))
    guest.server.close()
    guest.synic, guest.events = FakeSynic(), FakeEvents()
    guest.server = VmbusServer(guest.memory, guest.synic, guest.events, 2)
    for device in devices:
        guest.server.offer(device)
    guest.server.load(state)
    guest.events.run()
    assert guest.server.violations[-1].rule == "ring-index"
    states = [guest.server.channels[relid].state for relid in (one.relid, two.relid)]
    assert states == [BROKEN, OPEN]
    two.send(packet(6, b"12345678", 9))
    assert two.receive()[0].data == b"12345678"
