"""Rules that spoil channel messages; how rules are made, counted, told apart, and taken away."""

from __future__ import annotations

import pathlib
import struct

import pytest
import stor_sim
from bus_helpers import Recorder, message
from fault_helpers import Rules
from guest_sim import packet

from pyhv.errors import ConfigError
from pyhv.faults.rule import ACTIONS, Fault
from pyhv.vmbus import protocol as p
from pyhv.vmbus.storvsc import Scsi

READ = stor_sim.cdb_10(0x28, 3, 1)
NO_RESOURCES = p.STATUS_INSUFFICIENT_RESOURCES


# messages


def test_a_gpadl_is_refused(make_guest, disk) -> None:
    """The guest is told so, the host keeps none, and the next attempt does."""
    guest = make_guest(Scsi([disk]), Recorder())
    relid = guest.connect()[0].relid
    rule = Rules(guest)("status", on="GPADL_CREATED", device="scsi", status=NO_RESOURCES, count=1)
    pages = guest.pages(64)
    gpadl, messages = guest.gpadl_messages(relid, [(len(pages) * 4096, 0, pages)])
    answers = [answer for one in messages for answer in guest.ask(one)]
    assert answers == [message(10, relid, gpadl, NO_RESOURCES)]
    assert len(guest.server.gpadls) == 0
    assert guest.server.violation_count == 0
    guest.open(relid)
    guest.open(guest.connect()[1].relid)
    assert rule.done == 1


def test_a_channel_is_not_opened(make_guest) -> None:
    """OPENCHANNEL_RESULT says no: the device hears of no opening, and the guest may try again."""
    device = Recorder()
    guest = make_guest(device)
    relid = guest.connect()[0].relid
    Rules(guest)("status", on="OPENCHANNEL_RESULT", status=NO_RESOURCES, count=1)
    ring = guest.pages(64)
    opening = guest.open_message(relid, guest.lend(relid, ring), 32)
    (answer,) = guest.ask(opening)
    assert struct.unpack_from("<I", answer, 16)[0] == NO_RESOURCES
    assert ("opened", relid) not in device.events
    assert struct.unpack_from("<I", guest.ask(opening)[0], 16)[0] == 0
    assert device.events[-1] == ("opened", relid)


def test_a_channel_is_not_moved(make_guest) -> None:
    """MODIFYCHANNEL_RESPONSE says no: events go where they went."""
    guest = make_guest(Recorder())
    channel = guest.open(guest.connect()[0].relid)
    Rules(guest)("status", on="MODIFYCHANNEL_RESPONSE", status=NO_RESOURCES)
    (answer,) = guest.ask(message(22, channel.relid, 1))
    assert answer == message(24, channel.relid, NO_RESOURCES)
    assert guest.server.channels[channel.relid].target_vp == 0


def test_a_version_is_capped(make_guest) -> None:
    """While the rule is there, and on this bus for good no longer than that."""
    guest = make_guest()
    with Rules(guest)("version", version="4.0") as rule:
        assert [guest.contact(v) for v in (p.VERSION_WIN10_V5_3, p.VERSION_WIN10)] == [False, True]
    assert guest.contact(p.VERSION_WIN10_V5_3)
    assert [hit.fields["version"] for hit in rule.hits] == ["5.3", "4.0"]


def test_a_message_is_dropped_or_late(make_guest) -> None:
    guest = make_guest(Recorder())
    fault = Rules(guest)
    with fault("drop", on="ALLOFFERS_DELIVERED"):
        guest.contact()
        assert [one[0] for one in guest.ask(message(3))] == [1]
    fault("delay", on="REQUESTOFFERS", seconds=3)
    assert guest.ask(message(3)) == []
    guest.events.expire()
    assert [one[0] for one in guest.received()] == [1, 4]


def test_a_message_is_changed(make_guest) -> None:
    """An offer of a class that no driver has."""
    guest = make_guest(Recorder())
    Rules(guest)("change", on="OFFERCHANNEL", change=lambda data: data[:8] + bytes(16) + data[24:])
    assert guest.connect()[0].class_guid == bytes(16)


def test_rescind_instead_of_an_opening(make_guest) -> None:
    """The device goes while the guest opens it."""
    device = Recorder()
    guest = make_guest(device)
    relid = guest.connect()[0].relid
    Rules(guest)("rescind", on="OPENCHANNEL_RESULT", device=device, seconds=1)
    opening = guest.open_message(relid, guest.lend(relid, guest.pages(64)), 32)
    assert [one[0] for one in guest.ask(opening)] == [2]
    assert ("opened", relid) not in device.events


# the rules themselves


def test_the_first_rule_counts(stor) -> None:
    """Others that fit are passed over, and count it all the same."""
    fault = Rules(stor.guest)
    first = fault("status", cdb="READ_10", status=4, count=1)
    second = fault("status", cdb="READ_10", status=9, after=1)
    assert [stor.run(READ, 512).srb for _ in range(3)] == [4, 9, 9]
    assert (first.done, second.done, second.seen) == (1, 2, 3)


def test_of_one_device_alone(make_guest, disk) -> None:
    devices = [Recorder(0), Recorder(1)]
    guest = make_guest(*devices)
    channels = [guest.open(offer.relid) for offer in guest.connect()]
    Rules(guest)("drop", device=devices[1].instance_guid, on="packet")
    for channel in channels:
        channel.send(packet(6, bytes(8)))
    assert [len(one.packets) for one in devices] == [1, 0]


def test_nothing_is_there_without_a_rule(make_guest) -> None:
    """Before the first and after the last rule a bus and its channels are as they were."""
    guest = make_guest(Recorder())
    server, (channel,) = guest.server, guest.server.channels.values()

    def plain() -> bool:
        return (
            not {"send", "_message"} & vars(server).keys() and not server.new_channel
            and channel.packet == channel.device.packet
            and not {"send", "hold"} & vars(channel).keys()
        )  # fmt: skip

    assert plain()
    fault = Rules(guest)
    assert plain()
    with fault("drop", on="packet"), fault("fill", device=Recorder):
        assert not plain()
    assert plain()


def test_another_instrument_stays(make_guest) -> None:
    """What wrapped a channel before and after the rules is still there when they have gone."""
    guest, seen = make_guest(Recorder()), []
    (channel,) = guest.server.channels.values()

    def wrap(name: str) -> None:
        inner = channel.packet
        channel.packet = lambda *rest: seen.append(name) or inner(*rest)

    wrap("inner")
    with Rules(guest)("delay", on="answer", seconds=1):
        wrap("outer")
    opened = guest.open(guest.connect()[0].relid)
    opened.send(packet(6, bytes(8)))
    assert seen == ["outer", "inner"]
    assert len(opened.receive()) == 1


def test_wait(stor) -> None:
    rule = Rules(stor.guest)("drop", on="packet", count=1)
    with pytest.raises(TimeoutError, match="done 0 times"):
        rule.wait(timeout=0.01)
    stor.channel.send(stor.submit(READ, 512))
    rule.wait(timeout=0.01)


@pytest.mark.parametrize(
    ("do", "options", "says"),
    [
        ("explode", {}, "pyhv has drop, delay"),
        ("drop", {"on": "GPADL"}, "it can be on packet, answer"),
        ("delay", {}, "seconds is missing"),
        ("drop", {"seconds": 1}, "it has no seconds"),
        ("status", {}, "status or scsi_status is missing"),
        ("status", {"on": "packet", "status": 1}, "it can be on answer, OPENCHANNEL_RESULT"),
        ("version", {"version": "7"}, "VMBus has 0.13"),
        ("drop", {"count": 0}, "count is 1 or more"),
        ("rescind", {}, "it needs a device"),
        ("link", {"device": "net", "cdb": "READ_10"}, "nothing that it waits for"),
        ("drop", {"on": "UNLOAD", "device": "net"}, "of no device"),
        ("drop", {"device": "scis"}, "pyhv has storage, network, scsi"),
        ("drop", {"device": int}, "not a Device"),
    ],
)
def test_a_rule_that_cannot_be(do, options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        Fault(do, **options)


def test_every_action_has_a_test() -> None:
    folder = pathlib.Path(__file__).parent
    text = "".join(path.read_text() for path in folder.glob("test_fault*.py"))
    assert [name for name in ACTIONS if f'("{name}"' not in text] == []


def test_the_actions_are_in_the_docs() -> None:
    text = (pathlib.Path(__file__).parents[3] / "docs" / "bus.md").read_text()
    rows = [line for line in text.partition("<!-- actions -->")[2].splitlines() if "`" in line]
    named = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert named == list(ACTIONS)
