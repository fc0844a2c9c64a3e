"""The synthetic mouse against a simulated hid-hyperv: descriptor, reports, nonsense."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS
from guest_sim import Guest, GuestChannel, packet
from test_snapshot_bus import carry

from pyhv.vmbus.mouse import REPORT_DESCRIPTOR, Motion, SynthMouse
from pyhv.vmbus.rules import RULES

VERSION = 2 << 16


def message(kind: int, body: bytes, pipe: int = 1) -> bytes:
    data = struct.pack("<IIII", pipe, 8 + len(body), kind, len(body)) + body
    return packet(6, data)


ACK = message(3, bytes(1))


class Driver:
    """A guest with the mouse's channel open."""

    def __init__(self, make_guest) -> None:
        self.mouse = SynthMouse()
        self.guest: Guest = make_guest(self.mouse)
        self.offer = self.guest.connect()[0]
        self.channel: GuestChannel = self.guest.open(self.offer.relid, (10, 10))
        self.taken = 0

    def ask(self, sent: bytes | None = None) -> list[tuple[int, bytes]]:
        """Return what came: message, body."""
        if sent is not None:
            self.channel.send(sent)
        found = []
        for one in self.channel.receive():
            pipe, size, kind, length = struct.unpack_from("<IIII", one.data)
            assert (pipe, size) == (1, 8 + length)
            found.append((kind, one.data[16 : 16 + length]))
        return found

    def begin(self) -> bytes:
        """Agree; return the device information."""
        response, info = self.ask(message(0, struct.pack("<I", VERSION)))
        assert response == (1, struct.pack("<IB", VERSION, 1))
        assert info[0] == 2
        assert self.ask(ACK) == []
        return info[1]

    def move(self, *motions: Motion) -> bool:
        def taken() -> None:
            self.taken += 1

        return self.mouse.move(motions, taken)

    def reports(self) -> list[tuple[int, ...]]:
        found = self.ask()
        assert all(kind == 4 for kind, _ in found)
        return [struct.unpack("<BHHb", body) for _, body in found]

    def reopen(self) -> None:
        self.channel = self.channel.reopen()


@pytest.fixture
def driver(make_guest) -> Driver:
    return Driver(make_guest)


def items(descriptor: bytes) -> list[tuple[int, int]]:
    """Return the short items of a HID report descriptor: tag with type, value."""
    found, at = [], 0
    while at < len(descriptor):
        size = (0, 1, 2, 4)[descriptor[at] & 3]
        value = int.from_bytes(descriptor[at + 1 : at + 1 + size], "little")
        found.append((descriptor[at] & 0xFC, value))
        at += 1 + size
    assert at == len(descriptor)
    return found


def test_the_descriptor_is_as_long_as_a_report() -> None:
    bits = size = count = depth = 0
    for tag, value in items(REPORT_DESCRIPTOR):
        size = value if tag == 0x74 else size
        count = value if tag == 0x94 else count
        bits += size * count if tag == 0x80 else 0
        depth += (tag == 0xA0) - (tag == 0xC0)
    assert bits == 8 * 6
    assert depth == 0
    assert REPORT_DESCRIPTOR[14] != 0x25  # Linux would change it


def test_the_driver_gets_what_it_parses(driver) -> None:
    info = driver.begin()
    size, vendor, product, version = struct.unpack_from("<IHHH", info)
    assert (size, vendor, product, version) == (32, 0x045E, 0x0621, 0)
    length, kind, _, _, descriptors, report, report_length = struct.unpack_from(
        "<BBHBBBH", info, 32
    )
    assert (length, kind, descriptors, report) == (9, 0x21, 1, 0x22)
    assert info[41:] == REPORT_DESCRIPTOR
    assert report_length == len(REPORT_DESCRIPTOR)


@pytest.mark.parametrize("version", [0, 1, 2, 1 << 16, 3 << 16, 0xFFFFFFFF])
def test_another_version_is_refused(driver, version: int) -> None:
    assert driver.ask(message(0, struct.pack("<I", version))) == [
        (1, struct.pack("<IB", version, 0))
    ]
    driver.ask(ACK)
    assert not driver.move(Motion(1, 1))
    driver.begin()


def test_nothing_moves_before_the_driver_has_its_descriptor(driver) -> None:
    assert not driver.move(Motion(1, 1))
    driver.ask(ACK)
    assert not driver.move(Motion(1, 1))
    driver.ask(message(0, struct.pack("<I", VERSION)))
    assert not driver.move(Motion(1, 1))
    driver.ask(ACK)
    assert driver.move(Motion(1, 1))
    assert driver.taken == 1


def test_reports_keep_what_a_motion_leaves_out(driver) -> None:
    driver.begin()
    driver.move(Motion(100, 0x7FFF), Motion(press=1), Motion(5, press=4), Motion(release=1))
    driver.move(Motion(wheel=-127), Motion(wheel=127, release=4))
    assert driver.reports() == [
        (0, 100, 0x7FFF, 0), (1, 100, 0x7FFF, 0), (5, 5, 0x7FFF, 0), (4, 5, 0x7FFF, 0),
        (4, 5, 0x7FFF, -127), (0, 5, 0x7FFF, 127),
    ]  # fmt: skip


def test_the_next_driver_finds_no_button_down(driver) -> None:
    driver.begin()
    driver.move(Motion(press=3))
    driver.reopen()
    driver.begin()
    driver.move(Motion(7, 8))
    assert driver.reports() == [(0, 7, 8, 0)]


def test_a_snapshot_has_the_buttons(driver) -> None:
    driver.begin()
    driver.move(Motion(5, 6, press=2))
    driver.reports()
    driver.mouse = SynthMouse()
    carry(driver.guest, driver.mouse)
    driver.move(Motion(wheel=1))
    assert driver.reports() == [(2, 5, 6, 1)]


def test_a_refused_motion_leaves_no_trace(driver) -> None:
    assert not driver.move(Motion(press=1))
    driver.begin()
    driver.move(Motion())
    assert driver.reports() == [(0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (packet(7, bytes(24)), "packet-type"),
        (packet(6, b""), "packet-short"),
        (packet(6, bytes(16)), "packet-short"),
        (message(0, struct.pack("<I", VERSION), pipe=2), "packet-type"),
        (message(1, bytes(8)), "packet-type"),
        (message(4, bytes(8)), "packet-type"),
        (message(0xFFFFFFFF, bytes(8)), "packet-type"),
    ],
)
def test_a_broken_rule_closes_the_channel(driver, bad: bytes, rule: str) -> None:
    driver.begin()
    driver.channel.send(bad)
    assert driver.guest.server.violations[-1].rule == rule
    assert not driver.move(Motion(1, 1))


@pytest.mark.fuzz("SynthMouse")
@SEEDS
def test_whatever_a_guest_sends_it_comes_to_rest(make_guest, fuzz, seed: int) -> None:
    rng = random.Random(seed)
    driver = Driver(make_guest)
    for _ in fuzz.rounds(150):
        if driver.mouse._channel is None:
            driver.reopen()
        sent = rng.choice((
            lambda: message(0, struct.pack("<I", rng.choice((VERSION, VERSION, 1)))),
            lambda: ACK,
            lambda: message(rng.randrange(6), rng.randbytes(rng.randrange(12))),
            lambda: packet(rng.choice((6, 11, 11, 9)), rng.randbytes(rng.randrange(40))),
        ))()  # fmt: skip
        if driver.channel.room() > 100:
            driver.channel.send(sent)
        driver.move(*[Motion(rng.randrange(0x8000), press=rng.randrange(32))] * rng.randrange(300))
        driver.ask() if rng.random() < 0.5 else None
        driver.guest.events.expire()
        assert len(driver.guest.events.timers) <= 2
    assert all(one.rule in RULES for one in driver.guest.server.violations)
