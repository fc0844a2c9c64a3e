"""The bus by its messages: contact, versions, offers, open, close, rescind, unload."""

from __future__ import annotations

import struct

import pytest
from bus_helpers import Recorder, message
from guest_sim import PAGE, Guest, packet

from pyhv.vmbus import protocol as p
from pyhv.vmbus.messages import GUEST_MESSAGES
from pyhv.vmbus.rules import RULES
from pyhv.vmbus.server import INBOX_LIMIT, VIOLATIONS_KEPT, guid_bytes

VERSIONS = list(p.VERSIONS.items())
LINUX_ORDER = [p.VERSIONS[v] for v in ("5.3", "5.2", "5.1", "5.0", "4.1", "4.0", "3.0", "2.4")]


def rule(guest: Guest) -> str:
    return guest.server.violations[-1].rule


@pytest.fixture
def device() -> Recorder:
    return Recorder()


@pytest.fixture
def guest(make_guest, device) -> Guest:
    return make_guest(device, Recorder(1))


# contact


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_version_is_accepted(guest: Guest, name: str, version: int) -> None:
    assert guest.contact(version)
    assert guest.server.version == version


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_the_cap_makes_an_older_host(make_guest, name: str, version: int) -> None:
    """Attempts, newest first: all above the cap are declined, 5.x ones by hypercall."""
    guest = make_guest(max_version=name)
    tried = []
    for wanted in (*LINUX_ORDER, p.VERSION_WIN7, p.VERSION_WS2008):
        tried.append(wanted)
        if guest.contact(wanted):
            break
    assert tried[-1] == version
    assert (4 in guest.synic.handlers) is (version >= p.VERSION_WIN10_V5)


@pytest.mark.parametrize("version", [0, 0xC, 0x10000, 0x20003, 0x50004, 0x60000, 0xFFFFFFFF])
def test_other_versions_are_declined(guest: Guest, version: int) -> None:
    assert not guest.contact(version)
    assert guest.server.version is None


def test_contact_says_where_messages_go(guest: Guest) -> None:
    guest.post(struct.pack("<IIIIQQQ", 14, 0, p.VERSION_WIN10_V5_3, 1, 5, 0, 0), 4)
    assert guest.synic.messages[0][:3] == (1, 5, 1)
    assert guest.synic.messages[0][3] == struct.pack("<IIBBHI", 15, 0, 1, 0, 0, 1)


def test_before_5_0_the_sint_field_is_the_interrupt_page(guest: Guest) -> None:
    guest.post(struct.pack("<IIIIQQQ", 14, 0, p.VERSION_WIN10, 0, 0x123405, 0, 0))
    assert guest.synic.messages[0][:3] == (0, 2, 1)


@pytest.mark.parametrize(("vp", "sint"), [(2, 2), (0xFFFFFFFF, 2), (0, 16), (0, 255)])
def test_contact_to_nowhere_is_ignored(guest: Guest, vp: int, sint: int) -> None:
    assert guest.post(struct.pack("<IIIIQQQ", 14, 0, p.VERSION_WIN10_V5, vp, sint, 0, 0), 4) == 0
    assert not guest.synic.messages
    assert rule(guest) == "contact-target"


# messages in general


@pytest.mark.parametrize("number", sorted(set(range(32)) - set(GUEST_MESSAGES)) + [0xFFFFFFFF])
def test_messages_that_guests_do_not_send(guest: Guest, number: int) -> None:
    guest.connect()
    assert guest.ask(message(number, size=240)) == []
    assert rule(guest) == "message-unknown"


@pytest.mark.parametrize("number", sorted(GUEST_MESSAGES))
def test_a_short_message_is_ignored(guest: Guest, number: int) -> None:
    guest.connect()
    for length in range(8, GUEST_MESSAGES[number][1]):
        assert guest.ask(message(number, size=length)[:length]) == []
        assert rule(guest) == "message-short"


@pytest.mark.parametrize("number", sorted(GUEST_MESSAGES))
def test_before_contact_only_contact_and_unload_count(guest: Guest, number: int) -> None:
    answers = guest.ask(message(number, size=240))
    if GUEST_MESSAGES[number][2]:
        assert len(answers) == 1
    else:
        assert answers == []
        assert rule(guest) == "message-unexpected"


@pytest.mark.parametrize(
    ("message_type", "payload", "status"),
    [(1, bytes(8), 0), (1, bytes(7), 3), (1, b"", 3), (0, bytes(8), 3), (2, bytes(8), 3),
     (0x80000010, bytes(8), 3)],
)  # fmt: skip
def test_statuses_of_post_message(guest: Guest, message_type, payload, status) -> None:
    assert guest.post(payload, message_type=message_type) == status


def test_a_flood_is_pushed_back(guest: Guest) -> None:
    """No event loop runs: the VP gets 'insufficient buffers' instead of our memory."""
    handler = guest.synic.handlers[1]
    statuses = [handler(1, message(3)) for _ in range(3 * INBOX_LIMIT)]
    assert statuses == [0] * INBOX_LIMIT + [19] * 2 * INBOX_LIMIT
    guest.events.run()
    assert handler(1, message(3)) == 0


def test_a_guest_that_does_not_read_its_answers_is_pushed_back(guest: Guest) -> None:
    guest.connect()
    guest.synic.full = True
    assert guest.post(message(3)) == 19
    guest.synic.full = False
    assert guest.post(message(3)) == 0


def test_violations_are_bounded_and_counted(guest: Guest) -> None:
    for _ in range(VIOLATIONS_KEPT + 100):
        guest.post(message(3))
    assert len(guest.server.violations) == VIOLATIONS_KEPT
    assert guest.server.violation_count == VIOLATIONS_KEPT + 100
    assert guest.server.violations[0] == ("message-unexpected", 0, "REQUESTOFFERS without contact")


# offers


def test_an_offer_field_by_field(make_guest) -> None:
    device = Recorder()
    device.offer_flags, device.mmio_megabytes, device.user_data = 0x10, 8, b"\4\0\0\0"
    (offer,) = make_guest(device).connect()
    assert offer.class_guid.hex() == "11111111222233334444555555555555"
    assert offer.instance_guid == guid_bytes(device.instance_guid)
    assert (offer.flags, offer.mmio_megabytes, offer.sub_index) == (0x10, 8, 0)
    assert offer.user_data == b"\4" + bytes(119)
    assert (offer.monitor_id, offer.monitor_allocated, offer.dedicated) == (0, 0, 1)
    assert 0 < offer.relid < 2048
    assert 4 < offer.connection_id < 1 << 24


def test_guids_lie_mixed_endian() -> None:
    expected = "d10461baa104294db60572e2ffb1dc7f"
    assert guid_bytes("ba6104d1-04a1-4d29-b605-72e2ffb1dc7f").hex() == expected


def test_relids_and_connections_are_unique(make_guest) -> None:
    offers = make_guest(*[Recorder(i) for i in range(40)]).connect()
    assert len({offer.relid for offer in offers}) == 40
    assert len({offer.connection_id for offer in offers}) == 40


def test_hot_add(guest: Guest) -> None:
    """Offered at once, but not before the guest asked."""
    guest.contact()
    guest.server.offer(Recorder(2))
    assert guest.received() == []
    assert len(guest.request_offers()) == 3
    guest.server.offer(Recorder(3))
    (offer,) = guest.received()
    assert offer[:4] == b"\1\0\0\0"


def test_a_bus_refuses_a_device_twice(guest: Guest, device: Recorder) -> None:
    with pytest.raises(ValueError, match="once"):
        guest.server.offer(device)


# open, close, modify


@pytest.mark.parametrize("scattered", [False, True], ids=["contiguous", "scattered"])
def test_open_send_close(guest: Guest, device: Recorder, scattered: bool) -> None:
    guest.connect()
    channel = guest.open(1, (2, 2), scattered)
    assert device.events == [("opened", 1)]
    channel.send(packet(6, b"hello...", 77))
    assert device.packets == [(6, 1, 77, b"", b"hello...")]
    assert [tuple(one) for one in channel.receive()] == [(11, 0, 77, b"hello...")]
    assert guest.ask(channel.close_message()) == []
    assert device.events[1:] == [("closed", 1)]
    assert not guest.synic.bound
    guest.open(1)
    assert not guest.server.violations


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"relid": 99}, "relid-unknown"),
        ({"relid": 0}, "relid-unknown"),
        ({"relid": 0xFFFFFFFF}, "relid-unknown"),
        ({"gpadl": 0x77}, "open-gpadl"),
        ({"gpadl": "other"}, "open-gpadl"),
        ({"gpadl": "half"}, "open-gpadl"),
        ({"gpadl": "odd"}, "open-gpadl"),
        ({"out_page": 0}, "open-ring"),
        ({"out_page": 1}, "open-ring"),
        ({"out_page": 7}, "open-ring"),
        ({"out_page": 8}, "open-ring"),
        ({"out_page": 0xFFFFFFFF}, "open-ring"),
        ({"vp": 2}, "open-vp"),
        ({"vp": 0xFFFFFFFF}, "open-vp"),
    ],
)
def test_open_refused(guest: Guest, device: Recorder, change: dict, expected: str) -> None:
    guest.connect()
    pages = guest.pages(8)
    good = {"relid": 1, "gpadl": guest.lend(1, pages), "out_page": 4, "vp": 1}
    special = {
        "other": guest.lend(2, pages),
        "odd": guest.gpadl_messages(1, [(8 * PAGE - 8, 0, pages)]),
        "half": guest.gpadl_messages(1, [(60 * PAGE, 0, [16] * 60)]),
    }
    for name in ("odd", "half"):
        special[name], messages = special[name]
        guest.ask(messages[0])
    arguments = {**good, **change}
    arguments["gpadl"] = special.get(arguments["gpadl"], arguments["gpadl"])
    (answer,) = guest.ask(guest.open_message(**arguments))
    relid = arguments["relid"]
    number, zero, of, open_id, status = struct.unpack("<IIIII", answer)
    assert (number, zero, of, open_id) == (6, 0, relid, relid + 100 & 0xFFFFFFFF)
    assert status != 0
    assert rule(guest) == expected
    assert not device.events
    assert not guest.synic.bound
    guest.ask(guest.open_message(**good))
    assert device.events == [("opened", 1)]


def test_open_twice_is_refused_and_harmless(guest: Guest, device: Recorder) -> None:
    guest.connect()
    channel = guest.open(1)
    (answer,) = guest.ask(guest.open_message(1, channel.gpadl, 32))
    assert answer[16:] != bytes(4)
    channel.send(packet(6, b"alive..."))
    assert len(channel.receive()) == 1


def test_open_with_bad_ring_indexes(guest: Guest) -> None:
    guest.connect()
    pages = guest.pages(4)
    gpadl = guest.lend(1, pages)
    guest.memory.write_u32(pages[2] * PAGE, 4096)
    (answer,) = guest.ask(guest.open_message(1, gpadl, 2))
    assert answer[16:] != bytes(4)
    assert rule(guest) == "ring-index"


def test_open_without_a_doorbell_left_is_refused(guest: Guest, monkeypatch) -> None:
    """RLIMIT_NOFILE reached: the guest hears no, and nothing leaks."""
    guest.connect()
    gpadl = guest.lend(1, guest.pages(8))

    def no_eventfd(*arguments):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("pyhv.vmbus.channel.os.eventfd", no_eventfd)
        (answer,) = guest.ask(guest.open_message(1, gpadl, 4))
    assert answer[16:] == struct.pack("<I", p.STATUS_INSUFFICIENT_RESOURCES)
    guest.open(1)


@pytest.mark.parametrize("relid", [1, 99])
def test_close_of_what_is_not_open(guest: Guest, relid: int) -> None:
    guest.connect()
    assert guest.ask(message(7, relid)) == []
    assert rule(guest) in ("relid-state", "relid-unknown")


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_modify_channel_moves_events(guest: Guest, name: str, version: int) -> None:
    guest.connect(version)
    channel = guest.open(1)
    answers = guest.ask(message(22, 1, 1))
    assert answers == ([message(24, 1, 0)] if name == "5.3" else [])
    channel.send(packet(6, b"8 bytes."))
    assert guest.synic.signals == [(1, 2, 1)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [((1, 2), "open-vp"), ((99, 0), "relid-unknown"), ((2, 0), "relid-state")],
)
def test_modify_channel_refused(guest: Guest, words, expected: str) -> None:
    guest.connect()
    guest.open(1)
    (answer,) = guest.ask(message(22, *words))
    assert struct.unpack("<IIII", answer)[2] == words[0]
    assert answer[12:] != bytes(4)
    assert rule(guest) == expected


# the rest


def test_nobody_listens_on_hv_sock(guest: Guest) -> None:
    guest.connect()
    guids = bytes(range(32))
    (answer,) = guest.ask(struct.pack("<II", 21, 0) + guids)
    assert answer[:40] == struct.pack("<II", 23, 0) + guids
    assert answer[40:] != bytes(4)


def test_trace_sees_both_directions(make_guest) -> None:
    seen = []
    guest = make_guest(Recorder(), trace=lambda way, text: seen.append((way, text[0])))
    guest.connect()
    assert seen == [("in", 14), ("out", 15), ("in", 3), ("out", 1), ("out", 4)]


def test_rules_have_a_text() -> None:
    assert all(text and not text.endswith(".") for text in RULES.values())
