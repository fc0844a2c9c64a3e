"""GPADLs: several ranges and bodies, what does not add up, ids, quotas (H-VB 1)."""

from __future__ import annotations

import struct

import pytest
from bus_helpers import Recorder
from guest_sim import MEMORY, PAGE, Guest

from pyhv.vmbus import gpadl as gpadl_module
from pyhv.vmbus.protocol import STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER


@pytest.fixture
def guest(make_guest) -> Guest:
    guest = make_guest(Recorder(0), Recorder(1))
    guest.connect()
    return guest


def created(relid: int, gpadl: int, status: int = 0) -> bytes:
    return struct.pack("<IIIII", 10, 0, relid, gpadl, status)


def header(relid: int, gpadl: int, length: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IIIIHH", 8, 0, relid, gpadl, length, count) + data


def rule(guest: Guest) -> str:
    return guest.server.violations[-1].rule


@pytest.mark.parametrize("count", [1, 26, 27, 28, 54, 55, 200, 4096, 8190])
def test_one_range_of_every_length_that_fits(guest: Guest, count: int) -> None:
    pages = [16 + i % 1000 for i in range(count)]  # pages may repeat
    gpadl = guest.lend(1, pages)
    found = guest.server.gpadls.get(1, gpadl)
    assert found is not None
    assert list(found.pages) == [page * PAGE for page in pages]
    assert found.ranges == [(count * PAGE, 0, 0)]


def test_several_ranges_with_offsets(guest: Guest) -> None:
    ranges = [(100, 4000, [20, 30]), (4096, 0, [40]), (1, 4095, [50])]
    ranges.append((40000, 1, list(range(60, 70))))
    gpadl, messages = guest.gpadl_messages(2, ranges)
    assert [a for m in messages for a in guest.ask(m)] == [created(2, gpadl)]
    found = guest.server.gpadls.get(2, gpadl)
    assert found is not None
    assert found.ranges == [(100, 4000, 0), (4096, 0, 2), (1, 4095, 3), (40000, 1, 4)]
    assert not found.whole_pages()
    assert guest.server.gpadls.get(1, gpadl) is None  # another channel's


def test_bodies_of_several_gpadls_come_mixed(guest: Guest) -> None:
    first, one = guest.gpadl_messages(1, [(100 * PAGE, 0, list(range(16, 116)))])
    second, two = guest.gpadl_messages(2, [(90 * PAGE, 0, list(range(200, 290)))])
    answers = [guest.ask(m) for pair in zip(one, two, strict=True) for m in pair]
    assert sum(answers, []) == [created(1, first), created(2, second)]


@pytest.mark.parametrize(
    ("length", "count", "data"),
    [
        (0, 0, b""),
        (16, 0, struct.pack("<IIQ", PAGE, 0, 20)),
        (8, 1, struct.pack("<II", PAGE, 0)),  # a range without a page
        (4, 1, b"1234"),
        (17, 1, struct.pack("<IIQ", PAGE, 0, 20)),
        (16, 2, struct.pack("<IIQ", PAGE, 0, 20)),  # two ranges need 32 bytes
        (16, 65535, struct.pack("<IIQ", PAGE, 0, 20)),
        (16, 1, struct.pack("<IIQ", PAGE + 1, 0, 20)),  # two pages' worth in one
        (24, 1, struct.pack("<IIQQ", PAGE, 0, 20, 21)),  # one page's worth in two
        (16, 1, struct.pack("<IIQ", PAGE, 1, 20)),
        (16, 1, struct.pack("<IIQ", 0, 0, 20)),
        (16, 1, struct.pack("<IIQ", 0xFFFFFFFF, 0xFFF, 20)),  # 32-bit sums must not wrap
        (16, 1, struct.pack("<IIQ", 1, 0xFFFFFFFF, 20)),
        (16, 1, struct.pack("<IIQ", 8, 4096, 20)),
        (16, 1, struct.pack("<II", 8, 0)),  # shorter than announced, and no body can fix it
        (32, 2, struct.pack("<IIQQQ", PAGE * 3, 0, 20, 21, 22)),  # the first takes all
    ],
)
def test_ranges_that_do_not_add_up_are_refused(guest, length, count, data) -> None:
    answers = guest.ask(header(1, 7, length, count, data))
    if not answers:  # it waits for a body: one of nonsense ends it
        answers = guest.ask(struct.pack("<IIII", 9, 0, 0, 7) + b"odd")
    assert answers == [created(1, 7, STATUS_INVALID_PARAMETER)]
    assert rule(guest) == "gpadl-ranges"
    assert len(guest.server.gpadls) == 0


@pytest.mark.parametrize("page", [MEMORY // PAGE, 0xC0000, 1 << 40, (1 << 52) - 1, (1 << 64) - 1])
def test_a_page_that_is_not_ram_is_refused(guest: Guest, page: int) -> None:
    answers = guest.ask(header(1, 7, 24, 1, struct.pack("<IIQQ", 2 * PAGE, 0, 20, page)))
    assert answers == [created(1, 7, STATUS_INVALID_PARAMETER)]
    assert rule(guest) == "gpadl-page"


def test_a_duplicate_id_leaves_the_first(guest: Guest) -> None:
    gpadl = guest.lend(1, [20])
    answers = guest.ask(header(2, gpadl, 16, 1, struct.pack("<IIQ", PAGE, 0, 21)))
    assert answers == [created(2, gpadl, STATUS_INVALID_PARAMETER)]
    assert rule(guest) == "gpadl-duplicate"
    assert guest.server.gpadls.get(1, gpadl) is not None


def test_an_unknown_channel_lends_nothing(guest: Guest) -> None:
    answers = guest.ask(header(99, 7, 16, 1, struct.pack("<IIQ", PAGE, 0, 20)))
    assert answers == [created(99, 7, STATUS_INVALID_PARAMETER)]
    assert rule(guest) == "relid-unknown"


def test_bodies_of_nothing(guest: Guest) -> None:
    """Without a header, and after the last: nothing to answer."""
    gpadl = guest.lend(1, [20])
    for number in (gpadl, 0x999):
        assert guest.ask(struct.pack("<IIIIQ", 9, 0, 0, number, 30)) == []
        assert rule(guest) == "gpadl-unknown"
    assert guest.server.gpadls.get(1, gpadl) is not None


def test_more_than_announced_is_padding(guest: Guest) -> None:
    data = struct.pack("<IIQ", PAGE, 0, 20)
    assert guest.ask(header(1, 7, 16, 1, data + bytes(100))) == [created(1, 7)]


def test_quota_of_one_channel_leaves_room_for_the_next(guest: Guest, monkeypatch) -> None:
    monkeypatch.setattr(gpadl_module, "MAX_PAGES_PER_CHANNEL", 100)
    guest.lend(1, [20] * 60)
    # announced pages count, before their bodies come
    announced = header(1, 7, 8 + 41 * 8, 1, struct.pack("<II26Q", 41 * PAGE, 0, *[20] * 26))
    assert guest.ask(announced) == [created(1, 7, STATUS_INSUFFICIENT_RESOURCES)]
    assert rule(guest) == "gpadl-quota"
    guest.lend(1, [20] * 40)
    guest.lend(2, [20] * 100)


@pytest.mark.parametrize("limit", ["MAX_PAGES", "MAX_GPADLS"])
def test_quota_of_the_whole_guest(guest: Guest, monkeypatch, limit: str) -> None:
    monkeypatch.setattr(gpadl_module, limit, 20)
    statuses = []
    for number in range(300):
        answer = guest.ask(header(1 + number % 2, number, 16, 1, struct.pack("<IIQ", PAGE, 0, 20)))
        statuses.append(answer[0][16:])
    assert statuses[:20] == [bytes(4)] * 20
    assert len(guest.server.gpadls) == 20
    assert set(statuses[20:]) == {STATUS_INSUFFICIENT_RESOURCES.to_bytes(4, "little")}
    guest.ask(struct.pack("<IIII", 11, 0, 1, 0))
    guest.lend(1, [20])


def test_many_gpadls_stop_at_the_real_quota(guest: Guest) -> None:
    message = struct.pack("<IIQ", PAGE, 0, 20)
    for number in range(gpadl_module.MAX_GPADLS + 100):
        guest.post(header(1, number, 16, 1, message))
    assert len(guest.server.gpadls) == gpadl_module.MAX_GPADLS


def teardown(relid: int, gpadl: int) -> bytes:
    return struct.pack("<IIII", 11, 0, relid, gpadl)


def test_teardown(guest: Guest) -> None:
    gpadl = guest.lend(1, [20])
    assert guest.ask(teardown(1, gpadl)) == [struct.pack("<III", 12, 0, gpadl)]
    assert len(guest.server.gpadls) == 0
    assert not guest.server.violations
    assert guest.lend(1, [20])


def test_teardown_of_the_unknown_is_answered(guest: Guest) -> None:
    assert guest.ask(teardown(1, 5)) == [struct.pack("<III", 12, 0, 5)]
    assert rule(guest) == "gpadl-unknown"


def test_teardown_by_another_channel_is_ignored(guest: Guest) -> None:
    gpadl = guest.lend(1, [20])
    assert guest.ask(teardown(2, gpadl)) == []
    assert guest.server.gpadls.get(1, gpadl) is not None


def test_teardown_half_way(guest: Guest) -> None:
    gpadl, messages = guest.gpadl_messages(1, [(100 * PAGE, 0, [20] * 100)])
    assert guest.ask(messages[0]) == []
    assert guest.ask(teardown(1, gpadl)) == [struct.pack("<III", 12, 0, gpadl)]
    assert guest.ask(messages[1]) == []
    assert rule(guest) == "gpadl-unknown"


def test_teardown_of_open_rings_closes_the_channel(guest: Guest) -> None:
    channel = guest.open(1)
    assert guest.ask(teardown(1, channel.gpadl)) == [struct.pack("<III", 12, 0, channel.gpadl)]
    assert rule(guest) == "relid-state"
    assert guest.server.channels[1].device.events[-1] == ("closed", 1)
    assert not guest.synic.bound
