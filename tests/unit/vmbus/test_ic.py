"""Integration components against a simulated hv_utils: negotiation, exchange, nonsense."""

from __future__ import annotations

import struct

import pytest
from guest_sim import packet
from ic_sim import HEAD, Utils

from pyhv.vmbus.ic import EPOCH_1601, Heartbeat, Shutdown, Timesync
from pyhv.vmbus.kvp import Kvp

COMPONENTS = [Heartbeat, Shutdown, Timesync, Kvp]


@pytest.mark.parametrize("component", COMPONENTS)
def test_offers_are_pipes(make_guest, component) -> None:
    utils = Utils(make_guest, component())
    assert utils.offer.flags == 0x10
    assert utils.offer.user_data[:4] == b"\4\0\0\0"


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_version_is_agreed(make_guest, component) -> None:
    for version in component.versions:
        utils = Utils(make_guest, component())
        utils.negotiate(version)
        assert utils.service.version == version
        assert not utils.guest.server.violations


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "body",
    [struct.pack("<HHIHHHH", 0, 0, 0, 3, 0, 3, 0), struct.pack("<HHIHHHH", 1, 0, 0, 3, 0, 3, 0),
     struct.pack("<HHIHHHH", 1, 1, 0, 9, 9, 3, 0), struct.pack("<HHIHHHH", 1, 1, 0, 3, 0, 9, 9)],
)  # fmt: skip
def test_a_driver_that_knows_nothing_of_ours(make_guest, component, body: bytes) -> None:
    utils = Utils(make_guest, component())
    head, _ = utils.take()
    utils.answer(head, body)
    assert utils.service.version is None
    assert not utils.service.ask(b"")
    assert utils.channel.receive() == []


def test_heartbeat(make_guest) -> None:
    utils = Utils(make_guest, Heartbeat())
    utils.negotiate()
    for beat in range(1, 4):
        head, body = utils.take()
        assert head[4] == 1
        assert len(body) == 40
        sequence = int.from_bytes(body[:8], "little")
        assert sequence == beat
        utils.answer(head, (sequence + 1).to_bytes(8, "little") + bytes(32))
        assert utils.service.answers == beat
        assert utils.service.last_answer is not None
        utils.guest.events.expire()
    utils.guest.post(utils.channel.close_message())
    assert utils.service.last_answer is None
    utils.guest.events.expire()
    assert not utils.guest.events.timers  # the clockwork ends with the driver


def test_a_dead_guest_gets_no_more_beats(make_guest) -> None:
    """It does not answer: one request is enough."""
    utils = Utils(make_guest, Heartbeat())
    utils.negotiate()
    for _ in range(20):
        utils.guest.events.expire()
    assert len(utils.channel.receive()) == 1
    assert utils.service.last_answer is None


def test_reopened_there_is_one_clockwork(make_guest) -> None:
    utils = Utils(make_guest, Heartbeat())
    utils.negotiate()
    utils.guest.post(utils.channel.close_message())
    utils.channel = utils.guest.open(utils.offer.relid, (4, 4))
    utils.negotiate()
    utils.guest.events.expire()
    assert len(utils.guest.events.timers) == 1


@pytest.mark.parametrize("component", [Heartbeat, Timesync])
def test_reopened_at_will_there_is_one_clockwork(make_guest, component) -> None:
    """Before its next tick, too: each driver that came added one."""
    utils = Utils(make_guest, component())
    for _ in range(20):
        utils.negotiate()
        head, body = utils.take()
        utils.answer(head, body)
        utils.guest.post(utils.channel.close_message())
        utils.channel = utils.guest.open(utils.offer.relid, (4, 4))
    assert len(utils.guest.events.timers) == 1
    utils.negotiate()
    utils.take()
    assert len(utils.guest.events.timers) == 1


def test_an_answer_after_the_next_beat_was_due(make_guest) -> None:
    utils = Utils(make_guest, Heartbeat())
    utils.negotiate()
    head, body = utils.take()
    utils.guest.events.expire()
    utils.answer(head, (2).to_bytes(8, "little") + body[8:])
    assert utils.service.last_answer is not None


def test_who_waits_is_told_that_the_driver_went(make_guest) -> None:
    utils, told = Utils(make_guest, Shutdown()), []
    utils.negotiate()
    assert utils.service.request(told=lambda *answer: told.append(answer))
    assert utils.service.busy
    utils.guest.post(utils.channel.close_message())
    assert told == [(None, b"")]
    assert not utils.service.busy


@pytest.mark.parametrize(
    ("options", "flags"),
    [({}, 0), ({"force": True}, 1), ({"reboot": True}, 2), ({"reboot": True, "force": True}, 3),
     ({"hibernate": True}, 4)],
)  # fmt: skip
def test_shutdown(make_guest, options: dict, flags: int) -> None:
    utils = Utils(make_guest, Shutdown())
    assert not utils.service.request()  # nobody there yet
    utils.negotiate()
    assert utils.service.request(text="good night", **options)
    head, body = utils.take()
    assert head[4] == 3
    assert struct.unpack_from("<III", body) == (0x80000000, 0, flags)
    assert len(body) == 12 + 2048
    assert body[12:32].decode("utf-16-le") == "good night"
    assert not utils.service.request()  # one at a time
    utils.answer(head, body, status=0x80004005)
    assert utils.service.status == 0x80004005


def test_a_long_text_is_cut(make_guest) -> None:
    utils = Utils(make_guest, Shutdown())
    utils.negotiate()
    assert utils.service.request(text="x" * 5000)
    assert utils.take()[1][-2:] == bytes(2)


@pytest.mark.parametrize("version", Timesync.versions)
def test_timesync(make_guest, version) -> None:
    utils = Utils(make_guest, Timesync(now_ns=lambda: 1_000_000_000 * 10**9))
    utils.negotiate(version)
    for expected in (1, 2):  # set, then sample
        head, body = utils.take()
        assert head[4] == 4
        assert tuple(head[5:7]) == version
        host, reference = struct.unpack_from("<QQ", body)
        assert host == 1_000_000_000 * 10**7 + EPOCH_1601
        assert reference == 12345
        assert body[16 if version == (4, 0) else 24] == expected
        assert len(body) == (22 if version == (4, 0) else 25)
        utils.answer(head, body)
        utils.guest.events.expire()
    utils.answer(*utils.take())
    assert utils.service.sync()
    assert utils.take()[1][16 if version == (4, 0) else 24] == 1


@pytest.mark.parametrize(
    ("kind", "data", "rule"),
    [
        (9, bytes(28), "packet-type"),
        (6, bytes(24), "packet-short"),
        (6, HEAD.pack(1, 20, 0, 0, 1, 0, 0, 0, 0, 1, 5, 0), "device-state"),  # not asked
        (6, HEAD.pack(1, 20, 0, 0, 0, 0, 0, 0, 0, 9, 5, 0), "device-state"),  # other transaction
        (6, HEAD.pack(1, 20, 0, 0, 0, 0, 0, 16, 0, 1, 3, 0), "device-state"),  # a request
        (6, HEAD.pack(1, 20, 0, 0, 0, 0, 0, 0xFFFF, 0, 1, 5, 0), "packet-short"),
        (6, HEAD.pack(1, 20, 0, 0, 0, 0, 0, 8, 0, 1, 5, 0) + bytes(8), "packet-short"),
    ],
)
@pytest.mark.parametrize("component", COMPONENTS)
def test_nonsense_closes_the_channel(make_guest, component, kind, data, rule) -> None:
    utils = Utils(make_guest, component())
    utils.take()
    utils.channel.send(packet(kind, data))
    assert utils.rule() == rule
    assert utils.service.channel is None
