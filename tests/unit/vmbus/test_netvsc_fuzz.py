"""Hostile network guests: each rule by a case, and a seeded fuzzer of NVSP, RNDIS and frames.

tests/fuzzing.py says how to have the fuzzer run longer.
"""

from __future__ import annotations

import random
import struct

import net_sim
import pytest
from fuzzing import SEEDS
from guest_sim import MEMORY, PAGE, gpa_ranges, packet
from net_sim import FRAME, MAC, Cable, NetGuest, ethernet, ipv4, ipv6, ppi, rndis_packet, tcp, udp

from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus import netvsc_receive, netvsc_sent
from pyhv.vmbus.netvsc import Netvsc
from pyhv.vmbus.rndis_oids import QUERY, SET
from pyhv.vmbus.rules import RULES

ENABLE_RSC = struct.pack("<BBH5B13x2B4x", 0x80, 3, 28, *[4] * 5, 2, 2)
NUMBERS = (0, 1, 2, 7, 8, 14, 43, 44, 60, 2048, 4096, 6144, 65535, 1 << 31, (1 << 32) - 1)


def message(*words: int, size: int = 40) -> bytes:
    return struct.pack(f"<{len(words)}I", *words).ljust(size, b"\0")


def rndis(length: int, offset: int, count: int, ppi_at: int = 0, ppi_size: int = 0) -> bytes:
    return struct.pack("<IIIIIIIIIII", 1, length, offset, count, 0, 0, 0, ppi_at, ppi_size, 0, 0)


CASES = {
    "a packet of no message": (packet(6, b""), "packet-short"),
    "a cut NVSP message": (packet(6, message(101, size=8)), "packet-short"),
    "a cut RNDIS_PKT": (packet(6, message(107, 0, 0, size=8)), "packet-short"),
    "a message of hosts": (packet(6, message(102)), "packet-type"),
    "control by guest pages": (
        packet(9, message(101, 1), extra=gpa_ranges([(8, 0, [20])])), "packet-type",
    ),
    "a packet by GPADL": (packet(8, message(107, 0, 0xFFFFFFFF, 0)), "packet-type"),
    "nothing to send": (packet(6, message(107, 0, 0xFFFFFFFF, 0)), "packet-short"),
    "a section beyond the buffer": (packet(6, message(107, 0, 4, 60)), "packet-ranges"),
    "a section far beyond": (packet(6, message(107, 0, 0xFFFFFFFE, 60)), "packet-ranges"),
    "more than a section": (packet(6, message(107, 0, 0, 6145)), "packet-ranges"),
    "a completion of nothing": (packet(11, bytes(8), 0x77, flags=0), "device-state"),
    "no page list": (packet(9, message(107, 0, 0xFFFFFFFF, 0)), "packet-ranges"),
    "a page that is not RAM": (
        packet(9, message(107, 0, 0xFFFFFFFF, 0), extra=gpa_ranges([(60, 0, [MEMORY // PAGE])])),
        "packet-ranges",
    ),
    "more than a packet may have": (
        packet(9, message(107, 0, 0xFFFFFFFF, 0),
               extra=gpa_ranges([(33 * PAGE, 0, list(range(20, 53)))])),
        "packet-ranges",
    ),
    "ranges that are not there": (
        packet(9, message(107, 0, 0xFFFFFFFF, 0), extra=struct.pack("<IIII", 0, 1 << 31, 8, 0)),
        "packet-ranges",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_broken_packets(net: NetGuest, cable, name: str) -> None:
    """Each closes the channel by its rule; nothing is sent; a new driver is served."""
    bad, rule = CASES[name]
    net.channel.send(bad)
    assert [one.rule for one in net.guest.server.violations] == [rule]
    assert cable.sink is None
    assert not cable.wire
    reopen(net)
    net.transmit(FRAME, section=0)
    assert cable.sent_frames() == [FRAME]


RNDIS_CASES = {
    "cut": (FRAME[:43], "packet-short"),
    "longer than it is": (rndis(200, 36, 60) + bytes(60), "packet-ranges"),
    "shorter than its header": (rndis(43, 36, 60) + bytes(60), "packet-ranges"),
    "data beyond": (rndis(104, 37, 60) + bytes(60), "packet-ranges"),
    "an offset that wraps": (rndis(104, 0xFFFFFFFF, 60) + bytes(60), "packet-ranges"),
    "no Ethernet header": (rndis(57, 36, 13) + bytes(13), "packet-ranges"),
    "an empty frame": (rndis(44, 36, 0), "packet-ranges"),
    "PPI beyond": (rndis(104, 36, 60, 90, 16) + bytes(60), "packet-ranges"),
    "PPI of no size": (rndis(104, 36, 60, 36, 16) + bytes(60), "packet-ranges"),
    "another message": (b"\x02" + rndis(104, 36, 60)[1:] + bytes(60), "packet-type"),
}


@pytest.mark.parametrize("name", RNDIS_CASES)
def test_broken_frames(net: NetGuest, cable, name: str) -> None:
    data, rule = RNDIS_CASES[name]
    net.send_messages(data)
    assert [one.rule for one in net.guest.server.violations] == [rule]
    assert not cable.wire


CONTROL_CASES = {
    "cut": (b"\x02\0\0\0", "packet-short"),
    "unknown": (struct.pack("<II", 9, 8), "packet-type"),
    "a completion": (struct.pack("<III", 0x80000002, 12, 1), "packet-type"),
    "longer than it is": (struct.pack("<III", 8, 13, 1), "packet-short"),
    "a cut INITIALIZE": (struct.pack("<III", 2, 12, 1), "packet-short"),
    "a cut QUERY": (struct.pack("<IIII", 4, 16, 1, 0x10101), "packet-short"),
    "a cut KEEPALIVE": (struct.pack("<II", 8, 8), "packet-short"),
}


@pytest.mark.parametrize("name", CONTROL_CASES)
def test_broken_control(net: NetGuest, name: str) -> None:
    data, rule = CONTROL_CASES[name]
    net.send_messages(data, channel_type=1)
    assert [one.rule for one in net.guest.server.violations] == [rule]


@pytest.mark.parametrize("which", ["receive", "send"])
def test_a_buffer_torn_down_is_not_touched(net: NetGuest, cable, which: str) -> None:
    gpadl = net.receive_gpadl if which == "receive" else net.send_gpadl
    net.guest.ask(struct.pack("<IIII", 11, 0, net.channel.relid, gpadl))
    pages = net.receive_pages if which == "receive" else net.send_pages
    before = [net.guest.memory.read(page * PAGE, PAGE) for page in pages]
    if which == "receive":
        cable.sink.receive([FRAME])
    else:
        net.put(rndis_packet(FRAME), section=0)
        before = [net.guest.memory.read(page * PAGE, PAGE) for page in pages]
        net.channel.signal()
    assert [one.rule for one in net.guest.server.violations] == ["gpadl-unknown"]
    assert before == [net.guest.memory.read(page * PAGE, PAGE) for page in pages]
    assert not cable.wire


def test_requests_without_room_for_replies(net: NetGuest, cable) -> None:
    net.hold = True
    cable.sink.receive([FRAME] * net.sections)
    query = struct.pack("<7I", 4, 28, 77, 0x00010107, 0, 20, 0)
    for _ in range(netvsc_receive.MOST_REPLIES + 1):
        net.send_messages(query, channel_type=1)
    assert [one.rule for one in net.guest.server.violations] == ["device-state"]


def test_completions_are_not_held_without_limit(net: NetGuest, cable, monkeypatch) -> None:
    monkeypatch.setattr(netvsc_sent, "MOST_HELD", 10)
    cable.busy = True
    for _ in range(30):
        net.transmit(FRAME, section=0)
    assert len(net.completions) >= 19


def test_sub_channels_have_no_control(make_guest, cable) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)))
    net_sim.add_queues(driver, 1)
    driver.channels[1].send(packet(6, message(1, 2, 2), 9))
    assert [one.rule for one in driver.guest.server.violations] == ["device-state"]
    driver.transmit(FRAME, section=0)  # the primary lives
    assert cable.sent_frames() == [FRAME]


def reopen(driver: NetGuest) -> None:
    """Close everything and begin again, as a new driver would."""
    guest = driver.guest
    relid = driver.channel.relid
    if guest.server.channels[relid].state != "offered":
        guest.ask(driver.channel.close_message())
    for number in [k for k, c in guest.server.channels.items() if c.primary]:
        guest.post(struct.pack("<III", 13, 0, number))
    guest.offers = {k: v for k, v in guest.offers.items() if not v.sub_index}
    for gpadl in list(guest.server.gpadls._table):
        guest.ask(struct.pack("<IIII", 11, 0, relid, gpadl))
    guest.next_page = 16
    again = NetGuest(guest, guest.open(relid))
    net_sim.watch_ranges(again)
    driver.__dict__.update(again.__dict__)
    driver.initialize()


def watch_server(guest) -> list[Exception]:
    """Return where all that the server lets out is kept."""
    crashes: list[Exception] = []
    run = guest.events.run

    def guarded() -> None:
        try:
            run()
        except Exception as error:
            crashes.append(error)

    guest.events.run = guarded
    return crashes


def number(rng: random.Random, most: int = 1 << 32) -> int:
    return rng.choice((rng.choice(NUMBERS), rng.randrange(100), rng.randrange(most))) % most


def random_frame(rng: random.Random) -> bytes:
    payload = rng.randbytes(rng.randrange(3000))
    frame = rng.choice((
        lambda: ethernet(ipv4(tcp(payload), 6)), lambda: ethernet(ipv4(udp(payload), 17)),
        lambda: ethernet(ipv6(tcp(payload), 6), 0x86DD), lambda: ethernet(payload, 0x0806),
        lambda: rng.randbytes(14) + payload,
    ))()  # fmt: skip
    if rng.random() < 0.3:
        broken = bytearray(frame)
        for _ in range(rng.randrange(1, 5)):
            broken[rng.randrange(12, len(broken))] = rng.randrange(256)
        frame = bytes(broken)
    return frame


def random_data(rng: random.Random) -> bytes:
    messages = b""
    for _ in range(rng.choice((1, 1, 2, 9))):
        information = [
            rng.choice((
                ppi(0, rng.getrandbits(32)), ppi(2, number(rng)), ppi(6, rng.getrandbits(32)),
                ppi(number(rng), number(rng)),
            ))
            for _ in range(rng.randrange(3))
        ]  # fmt: skip
        frame = random_frame(rng)[: rng.choice((60, 1514, 9000))]
        one = bytearray(rndis_packet(frame, *information))
        if rng.random() < 0.1:
            struct.pack_into("<I", one, rng.randrange(0, 11) * 4, number(rng))
        messages += one
    return messages


def random_control(rng: random.Random) -> bytes:
    kind = rng.choice((2, 4, 4, 5, 5, 5, 6, 8, 3)) if rng.random() < 0.95 else number(rng)
    oid = rng.choice([*QUERY, *SET]) if rng.random() < 0.9 else number(rng)
    rss = (number(rng, 65536), 0, number(rng), number(rng, 65536), 0, number(rng), 0, 0, 0)
    value = rng.choice((
        rng.randbytes(rng.randrange(700)), struct.pack("<I", rng.choice((0, 13))),
        struct.pack("<BBHHHIHHIHHIIII", 0x89, 2, 40, rng.randrange(32), 0, 0x1701, *rss)
        + rng.randbytes(600),
        struct.pack("<BBH5B", 0x80, 3, 32, *rng.choices(range(6), k=5)) + bytes(13)
        + bytes(rng.choices(range(4), k=2)) + bytes(4),
    ))  # fmt: skip
    length = rng.choice((len(value), len(value), number(rng)))
    body = struct.pack("<5I", 7, oid, length, rng.choice((20, 20, number(rng))), 0) + value
    total = rng.choice((8 + len(body), 8 + len(body), 8 + len(body), number(rng)))
    return struct.pack("<II", kind, total) + body


def bounded(device: Netvsc, guest) -> None:
    assert all(one.rule in RULES for one in guest.server.violations)
    assert len(device._held) <= netvsc_sent.MOST_HELD + 64
    assert not device._frames
    assert not device._sends
    receive, landing = device._receive, device._landing
    assert landing is None or (landing.receive is receive and not landing._landed)
    if receive is not None:
        lent = sum(len(sections) for sections in receive._lent.values())
        assert lent + len(receive.free) == receive.count
        assert len(set(receive.free)) == len(receive.free)
        assert len(receive._replies) <= netvsc_receive.MOST_REPLIES
    assert len(device.rss._flows) <= 4096


@pytest.mark.fuzz("Netvsc")
@SEEDS
def test_fuzz(make_guest, fuzz, seed: int) -> None:
    """Nothing raises, nothing grows, no byte outside the lent pages changes, honest guests live."""
    rng = random.Random(seed)
    cable = Cable(checked=bool(seed & 1), coalesces=bool(seed & 2))
    device = Netvsc(cable, MAC)
    guest = make_guest(device, vp_count=3)
    driver = net_sim.start(guest)
    crashes = watch_server(guest)
    outside = [(page, guest.memory.read(page * PAGE, PAGE)) for page in (1, 2, MEMORY // PAGE - 1)]
    frames_out = reopened = landed = 0

    def land(several: list[bytes]) -> None:
        nonlocal landed
        if cable.sink is not None:
            landed += cable.land(*several, checked=rng.random() < 0.5)

    for _ in fuzz.rounds(400):
        if guest.server.channels[driver.channel.relid].state != "open":
            reopen(driver)
            reopened += 1
            driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, ENABLE_RSC)
        if guest.next_page > 2500:
            guest.next_page = 1200
        action = rng.random()
        cable.busy = rng.random() < 0.1
        try:
            if action < 0.45:
                data = random_data(rng)
                section = rng.choice((None, 0, 1, 3, 3, number(rng)))
                if section is not None and (section > 3 or len(data) > 6000):
                    driver.channel.put(packet(6, message(107, 0, section, number(rng))))
                elif section is None:
                    driver.put(data, inside=rng.choice((0, 44, 60, rng.randrange(len(data)))))
                else:
                    driver.put(data, section)
            elif action < 0.65:
                driver.put(random_control(rng), channel_type=1)
            elif action < 0.75:
                kind = rng.choice((1, 100, 101, 103, 104, 106, 125, 129, 133, number(rng, 200)))
                words = [rng.choice((number(rng), driver.receive_gpadl, driver.send_gpadl, 1))
                         for _ in range(3)]  # fmt: skip
                driver.channel.put(packet(6, message(kind, *words), number(rng)))
            elif action < 0.8:
                kind = rng.choice((6, 7, 8, 9, 10, 11))
                driver.channel.put(packet(kind, rng.randbytes(rng.randrange(80) & ~7), number(rng)))
            elif action < 0.9:
                some = [(random_frame(rng) * 40)[: rng.choice((60, 1514, 65549))]
                        for _ in range(rng.randrange(5))]  # fmt: skip
                guest.events.call(lambda some=some: land(some))
            elif cable.sink is not None:
                some = [random_frame(rng) for _ in range(min(rng.randrange(40), cable.sink.room()))]
                guest.events.call(lambda some=some: cable.sink and cable.sink.receive(some))
            if rng.random() < 0.2 and cable.sink is not None:
                guest.events.call(lambda: cable.sink and cable.sink.writable())
            if rng.random() < 0.05:
                guest.events.call(lambda: cable.set_link(not cable.link))
            guest.events.run()
            driver.channel.signal()
            driver.hold = rng.random() < 0.2
            driver.poll()
        except (AssertionError, struct.error, KeyError):
            pass  # the simulated driver trips over its own nonsense; the server's are in crashes
        assert not crashes
        if not driver.hold:
            held, driver.held = driver.held, []
            for one in held:
                if guest.server.channels[driver.channel.relid].state == "open":
                    driver.give_back(*one)
        for kept in (driver.frames, driver.replies, driver.completions, driver.indications):
            kept.clear()
        frames_out += len(cable.sent_frames())
        guest.received()
        bounded(device, guest)
    assert frames_out > 50
    assert reopened > 10
    assert bool(landed > 10) == cable.coalesces
    for page, data in outside:
        assert guest.memory.read(page * PAGE, PAGE) == data
    reopen(driver)
    cable.busy, cable.link = False, True
    cable.sent_frames()
    driver.transmit(FRAME, section=0)
    assert cable.sent_frames() == [FRAME]
    cable.sink.receive([FRAME])
    driver.poll()
    assert driver.frames[-1].frame == FRAME
