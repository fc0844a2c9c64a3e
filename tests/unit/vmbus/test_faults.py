"""Rules that spoil packets, answers and devices: each kind against the simulated drivers."""

from __future__ import annotations

import struct

import pytest
import stor_sim
from bus_helpers import Recorder, message, sector
from fault_helpers import Rules
from guest_sim import Guest, packet
from net_sim import Cable, NetGuest, watch_ranges

from pyhv.vmbus.netvsc import Netvsc
from pyhv.vmbus.storvsc import Scsi

READ = stor_sim.cdb_10(0x28, 3, 1)


def rescinded(guest: Guest) -> list[int]:
    return [struct.unpack_from("<I", one, 8)[0] for one in guest.received() if one[0] == 2]


# packets and answers


def test_a_wrong_srb_status(stor) -> None:
    """The second READ(10) alone fails; the data were moved, and the next is as always."""
    fault = Rules(stor.guest)
    with fault("status", device="scsi", cdb="READ_10", status=0x04, after=1, count=1) as rule:
        found = [stor.run(READ, 512).srb for _ in range(3)]
        assert stor.run(stor_sim.cdb_6(0, 0, 0)).srb == 1
    assert found == [1, 4, 1]
    assert [(hit.fields["cdb"], hit.fields["lba"]) for hit in rule.hits] == [("READ_10", 3)]


def test_a_wrong_scsi_status(stor) -> None:
    """BUSY, in place of GOOD."""
    with Rules(stor.guest)("status", cdb=("READ_10", "WRITE_10"), scsi_status=8):
        assert stor.run(READ, 512).scsi == 8


def test_a_wrong_status_of_the_protocol(make_guest, disk) -> None:
    """What is no SRB has a status of its own."""
    guest = make_guest(Scsi([disk]))
    fault = Rules(guest)
    driver = stor_sim.StorGuest(guest, guest.open(guest.connect()[0].relid))
    fault("status", message="QUERY_PROTOCOL_VERSION", status=0xC00000BB, count=1)
    assert driver.control(9, struct.pack("<HH", 0x0602, 0))[0] == 0xC00000BB
    assert driver.control(9, struct.pack("<HH", 0x0600, 0))[0] == 0


@pytest.mark.parametrize("on", ["packet", "answer"])
def test_drop(stor, on) -> None:
    """No answer comes, neither way; the driver goes on without."""
    with Rules(stor.guest)("drop", on=on, cdb="READ_10", count=1):
        stor.channel.send(stor.submit(READ, 512))
        assert stor.channel.receive() == []
        assert stor.run(READ, 512).data == sector(3)


@pytest.mark.parametrize("on", ["packet", "answer"])
def test_delay(stor, on) -> None:
    """It comes late, behind what was asked after it."""
    Rules(stor.guest)("delay", on=on, cdb="READ_10", seconds=2.5, count=1)
    stor.channel.send(stor.submit(READ, 512))
    late = stor.transaction
    assert stor.run(stor_sim.cdb_6(0, 0, 0)).srb == 1
    assert [seconds for seconds, _ in stor.guest.events.timers] == [2.5]
    stor.guest.events.expire()
    (answer,) = stor.channel.receive()
    assert answer.transaction == late
    assert stor.result(answer).data == sector(3)


@pytest.mark.parametrize("on", ["packet", "answer"])
def test_what_is_late_is_not_for_the_next_driver(stor, on) -> None:
    Rules(stor.guest)("delay", on=on, seconds=1, count=1)
    stor.channel.send(stor.submit(READ, 512))
    stor.guest.ask(stor.channel.close_message())
    again = stor.guest.open(stor.channel.relid)
    stor.guest.events.expire()
    assert again.receive() == []


def test_a_delayed_packet_that_breaks_a_rule(stor) -> None:
    """It closes the channel, as it would have in time."""
    Rules(stor.guest)("delay", on="packet", seconds=1, count=1)
    stor.channel.send(packet(6, b"short"))
    stor.guest.events.expire()
    assert [one.rule for one in stor.guest.server.violations] == ["packet-short"]
    assert stor.guest.server.channels[stor.channel.relid].state == "broken"


def test_change(stor) -> None:
    """Any bytes of an answer; another length is the test's mistake."""
    fault = Rules(stor.guest)
    with fault("change", cdb="READ_10", change=lambda data: data[:14] + b"\x09" + data[15:]):
        assert stor.run(READ, 512).srb == 9
    with fault("change", change=lambda data: b""), pytest.raises(ValueError, match="0 bytes"):
        stor.run(READ, 512)


def test_netvsc_without_a_receive_buffer(make_guest) -> None:
    """NVSP's completions have their status in the first word, INIT's in the third."""
    guest = make_guest(Netvsc(Cable(), bytes(6)))
    fault = Rules(guest)
    net = NetGuest(guest, guest.open(guest.connect()[0].relid))
    fault("status", device="net0", message="NVSP_MSG_TYPE_INIT", status=4, count=1)
    assert struct.unpack_from("<IIII", net.nvsp(1, 0x60001, 0x60001))[3] == 4
    fault("status", device="network", message="NVSP_MSG1_TYPE_SEND_RECV_BUF", status=2)
    assert struct.unpack_from("<II", net.nvsp(1, 0x60001, 0x60001))[0] == 2
    assert struct.unpack_from("<II", net.nvsp(101, 0xE1E10, 0xCAFE)) == (102, 2)


# devices


def test_rescind_in_the_middle_of_a_request(stor) -> None:
    """The request goes unanswered; a while later the controller comes again, and works."""
    guest = stor.guest
    Rules(guest)("rescind", on="packet", device="scsi", cdb="READ_10", seconds=5, count=1)
    stor.channel.send(stor.submit(READ, 512))
    assert stor.channel.receive() == []
    assert rescinded(guest) == [stor.channel.relid]
    guest.ask(message(13, stor.channel.relid))
    guest.events.expire()
    guest.received()
    (relid,) = [one for one in guest.offers if one != stor.channel.relid]
    again = stor_sim.StorGuest(guest, guest.open(relid))
    again.initialize()
    assert again.run(READ, 512).data == sector(3)


def test_rescind_for_a_while(make_guest) -> None:
    """Now, and back at the end of the rule."""
    device = Recorder()
    guest = make_guest(device)
    guest.connect()
    with Rules(guest)("rescind", device=device) as rule:
        assert rescinded(guest) == [1]
        assert device.server is None
    assert rule.done == 1
    assert device.server is guest.server


def test_fill(make_guest) -> None:
    """The packets lie in the ring until the rule ends; then all are served, in order."""
    device = Recorder()
    guest = make_guest(device)
    channel = guest.open(guest.connect()[0].relid, pages=(2, 2))
    with Rules(guest)("fill", device=Recorder):
        sent = 0
        while channel.room() > 40:
            channel.put(packet(6, sent.to_bytes(8, "little")))
            channel.signal()
            sent += 1
        assert device.packets == []
    guest.events.run()
    assert [int.from_bytes(one[4], "little") for one in device.packets] == list(range(sent))
    assert channel.room() == channel.out_size
    assert len(channel.receive()) == sent


def test_fill_from_a_packet_on(make_guest) -> None:
    """That packet is served, what lies behind it in the same batch is not, for a second."""
    device = Recorder()
    guest = make_guest(device)
    channel = guest.open(guest.connect()[0].relid)
    Rules(guest)("fill", on="packet", device=device, seconds=1, after=1, count=1)
    for number in range(5):
        channel.put(packet(6, bytes(8), transaction=number))
    channel.signal()
    assert len(device.packets) == 2
    guest.events.expire()
    assert len(device.packets) == 5


def test_fill_keeps_what_the_device_wants(make_guest) -> None:
    """A device that holds its channel meanwhile still does afterwards."""
    device = Recorder()
    guest = make_guest(device)
    channel = guest.open(guest.connect()[0].relid)
    ours = guest.server.channels[channel.relid]
    with Rules(guest)("fill", device=device):
        ours.hold(False)
        channel.send(packet(6, bytes(8)))
        ours.hold(True)
    guest.events.run()
    assert device.packets == []
    ours.hold(False)
    guest.events.run()
    assert len(device.packets) == 1


def test_link(make_guest) -> None:
    """Down and up again, three times; with the driver told each time."""
    cable = Cable()
    guest = make_guest(Netvsc(cable, bytes(6)))
    net = NetGuest(guest, guest.open(guest.connect()[0].relid))
    watch_ranges(net)
    net.initialize()
    net.poll()
    net.indications.clear()
    rule = Rules(guest)("link", device="net", seconds=1, count=3)
    for _ in range(6):
        guest.events.expire()
        net.poll()
    down, up = 0x4001000C, 0x4001000B
    assert net.indications == [down, up] * 3
    assert rule.done == 3
    assert cable.link


def test_link_until_the_end_of_the_rule(make_guest) -> None:
    cable = Cable()
    guest = make_guest(Netvsc(cable, bytes(6)), Recorder())
    with Rules(guest)("link", device="net"):
        assert not cable.link
    assert cable.link
    Rules(guest)("link", device=Recorder)  # has none
    assert cable.link
