"""The synthetic keyboard against a simulated driver: protocol, order, full rings, nonsense."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS
from guest_sim import Guest, GuestChannel, packet
from test_snapshot_bus import carry

from pyhv.vmbus.channel import MAX_WAITING
from pyhv.vmbus.keyboard import SynthKeyboard
from pyhv.vmbus.rules import RULES

REQUEST = struct.pack("<II", 1, 1 << 16)


class Driver:
    """A guest with the keyboard's channel open."""

    def __init__(self, make_guest, pages: tuple[int, int] = (10, 10)) -> None:
        self.keyboard = SynthKeyboard()
        self.guest: Guest = make_guest(self.keyboard)
        self.offer = self.guest.connect()[0]
        self.channel: GuestChannel = self.guest.open(self.offer.relid, pages)
        self.sent = 0

    def negotiate(self, version: int = 1 << 16) -> bytes:
        self.channel.send(packet(6, struct.pack("<II", 1, version), transaction=77))
        (answer,) = self.channel.receive()
        assert answer.kind == 6
        return answer.data

    def strike(self, *events: tuple[int, int]) -> bool:
        def sent() -> None:
            self.sent += 1

        return self.keyboard.strike(events, sent)


@pytest.fixture
def driver(make_guest) -> Driver:
    return Driver(make_guest)


def test_offer_is_a_message_pipe(driver) -> None:
    assert driver.offer.class_guid == bytes.fromhex("6dad12f9172bea48bd65f927a61c7684")
    assert driver.offer.flags == 0x10
    assert driver.offer.user_data[:4] == b"\4\0\0\0"


def test_nothing_is_typed_before_the_driver_agreed(driver) -> None:
    assert not driver.strike((30, 0))
    assert driver.channel.receive() == []
    assert driver.negotiate() == struct.pack("<II", 2, 1)
    assert driver.strike((30, 0))


@pytest.mark.parametrize("version", [0, 1, 2 << 16, 0xFFFFFFFF])
def test_another_version_is_refused(driver, version: int) -> None:
    assert driver.negotiate(version) == struct.pack("<II", 2, 0)
    assert not driver.strike((30, 0))
    assert driver.negotiate() == struct.pack("<II", 2, 1)
    assert driver.strike((30, 0))


def test_leds_are_taken_and_change_nothing(driver) -> None:
    driver.negotiate()
    driver.channel.send(packet(6, struct.pack("<II", 4, 7)))
    assert not driver.guest.server.violations
    assert driver.strike((30, 0))
    assert len(driver.channel.receive()) == 1


def test_events_keep_their_order_and_bits(driver) -> None:
    driver.negotiate()
    assert driver.strike((0x2A, 0), (0x1E, 0), (0x1E, 2), (0x2A, 2), (0x53, 4 | 2))
    got = [struct.unpack("<IHHI", one.data[:12]) for one in driver.channel.receive()]
    assert got == [
        (3, 0x2A, 0, 0), (3, 0x1E, 0, 0), (3, 0x1E, 0, 2), (3, 0x2A, 0, 2), (3, 0x53, 0, 6),
    ]  # fmt: skip
    assert driver.sent == 1


def test_a_guest_that_reads_late_gets_all(make_guest) -> None:
    driver = Driver(make_guest, pages=(2, 2))
    driver.negotiate()
    events = [(number & 0x7F, 0) for number in range(MAX_WAITING + 500)]
    assert driver.strike(*events)
    assert driver.sent == 0
    assert not driver.strike((1, 0))
    got: list[int] = []
    for _ in range(100):
        got += [struct.unpack_from("<H", one.data, 4)[0] for one in driver.channel.receive()]
        driver.guest.events.expire()
    assert got == [code for code, _ in events]
    assert driver.sent == 1


def test_a_snapshot_has_what_waits(make_guest) -> None:
    driver = Driver(make_guest, pages=(2, 2))
    driver.negotiate()
    events = [(number & 0x7F, 0) for number in range(MAX_WAITING + 500)]
    driver.strike(*events)
    driver.keyboard = SynthKeyboard()
    carry(driver.guest, driver.keyboard)
    assert not driver.strike((1, 0))
    got: list[int] = []
    for _ in range(100):
        got += [struct.unpack_from("<H", one.data, 4)[0] for one in driver.channel.receive()]
        driver.guest.events.expire()
    assert got == [code for code, _ in events]
    assert driver.strike((1, 0))
    assert driver.sent == 1  # who typed before the snapshot is not told


def test_a_closed_channel_forgets_what_waits(make_guest) -> None:
    driver = Driver(make_guest, pages=(2, 2))
    driver.negotiate()
    driver.strike(*[(1, 0)] * (MAX_WAITING + 500))
    driver.guest.post(driver.channel.close_message())
    driver.guest.events.expire()
    assert not driver.keyboard.ready
    assert not driver.guest.events.timers
    driver.channel = driver.guest.open(driver.offer.relid, (10, 10))
    driver.negotiate()
    assert driver.strike((2, 0))
    assert len(driver.channel.receive()) == 1


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (packet(9, REQUEST, extra=bytes(8)), "packet-type"),
        (packet(11, REQUEST), "packet-type"),
        (packet(6, b""), "packet-short"),
        (packet(6, struct.pack("<II", 0, 1 << 16)), "packet-type"),
        (packet(6, struct.pack("<II", 3, 0)), "packet-type"),
    ],
)
def test_a_broken_rule_closes_the_channel(driver, bad: bytes, rule: str) -> None:
    driver.negotiate()
    driver.channel.send(bad)
    assert driver.guest.server.violations[-1].rule == rule
    assert not driver.keyboard.ready
    assert not driver.strike((30, 0))


@pytest.mark.fuzz("SynthKeyboard")
@SEEDS
def test_whatever_a_guest_sends_it_comes_to_rest(make_guest, fuzz, seed: int) -> None:
    rng = random.Random(seed)
    driver = Driver(make_guest, pages=(2, 2))
    server = driver.guest.server
    moved = False  # the simulated driver could not read a ring whose indexes it moved itself
    for _ in fuzz.rounds(60):
        action = rng.randrange(5)
        if action == 0:
            driver.strike(*[(rng.randrange(1 << 16), rng.randrange(16))] * rng.randrange(400))
        elif action == 1:
            if not moved:
                driver.channel.receive(rng.randrange(1, 200))
        elif action == 2 and rng.random() < 0.1:
            ring = rng.choice((driver.channel.out_pages, driver.channel.in_pages))
            driver.channel.set_word(ring, rng.choice((0, 4, 8, 12)), rng.choice((1, 8, 1 << 31)))
            driver.channel.signal()
            moved = True
        elif driver.keyboard._channel is None or (moved and rng.random() < 0.1):
            driver.channel = driver.channel.reopen()
            moved = False
        else:
            good = struct.pack("<II", 1, rng.choice((1 << 16, 0)))
            data = good if rng.random() < 0.7 else rng.randbytes(rng.randrange(40))
            if driver.channel.room() > 100:
                driver.channel.send(packet(rng.choice((6, 6, 6, 6, 7, 9, 11)), data))
        driver.guest.events.expire()
        assert len(driver.guest.events.timers) <= 2
        assert all(one.rule in RULES for one in server.violations)
