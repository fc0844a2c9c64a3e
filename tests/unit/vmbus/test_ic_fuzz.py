"""Seeded fuzzers of the integration components: mad drivers, and a host that asks all the time."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS, Fuzz
from guest_sim import Guest, GuestChannel, packet
from ic_sim import HEAD, Utils

from pyhv.vmbus import kvp
from pyhv.vmbus.fcopy import DATA_FRAGMENT, Fcopy
from pyhv.vmbus.ic import FRAMEWORKS, Heartbeat, Service, Shutdown, Timesync
from pyhv.vmbus.kvp import Kvp
from pyhv.vmbus.rules import RULES
from pyhv.vmbus.server import VIOLATIONS_KEPT
from pyhv.vmbus.vss import Vss


class Waiting:
    """Who asks: each question that was taken is answered once, or ended once."""

    def __init__(self) -> None:
        self.taken = self.told = 0

    def __call__(self, status: int | None, data: bytes) -> None:
        assert status is None or 0 <= status < 1 << 32
        kvp.pair(data)  # what the host reads out of it
        self.told += 1


def asks(service: Service, rng: random.Random, told: Waiting) -> bool:
    """Ask what a host may ask of *service*; return whether it was taken."""
    text = "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(rng.randrange(200)))
    pool = rng.choice(list(kvp.POOLS.values()))
    some = rng.choice({
        Heartbeat: (lambda: service.ask(bytes(40), told),),
        Shutdown: (lambda: service.request(reboot=rng.random() < 0.5, text=text, told=told),),
        Timesync: (lambda: service.sync(told),),
        Kvp: (
            lambda: service.set(pool, text, text[::-1], told),
            lambda: service.delete(pool, text, told),
            lambda: service.enumerate(pool, rng.getrandbits(32), told),
        ),
        Vss: (
            lambda: service.check(told), lambda: service.freeze(told), lambda: service.thaw(told),
        ),
        Fcopy: (
            lambda: service.start("/tmp/", text, rng.getrandbits(40), 3, told),
            lambda: service.write(rng.getrandbits(40), rng.randbytes(DATA_FRAGMENT), told),
            lambda: service.complete(told), lambda: service.cancel(told),
        ),
    }[type(service)])  # fmt: skip
    return some()


class Mad:
    """A driver on one component's channel that answers well, badly, twice, unasked or not."""

    def __init__(self, guest: Guest, service: Service, offer: object, rng: random.Random) -> None:
        self.utils = Utils.__new__(Utils)
        self.utils.guest, self.utils.service, self.utils.offer = guest, service, offer
        self.service, self.rng, self.told = service, rng, Waiting()
        self.channel: GuestChannel | None = None
        self.last: bytes | None = None
        self.served = 0

    def open(self) -> None:
        """Begin, or begin again."""
        utils = self.utils
        if self.channel is None:
            utils.channel = utils.guest.open(utils.offer.relid, (4, 4))
        else:
            utils.channel = self.channel.reopen()
        self.channel = utils.channel

    def round(self) -> None:
        """Let the host ask, and the driver do something."""
        rng, channel = self.rng, self.channel
        if self.service.channel is None or channel is None or rng.random() < 0.01:
            self.open()
            return
        if rng.random() < 0.5 and asks(self.service, rng, self.told):
            self.told.taken += 1
        if rng.random() < 0.02 and isinstance(self.service, Vss):
            self.service.give_up()
        for request in channel.receive():
            self.last = request.data
            if rng.random() < 0.8:
                self.answer(request.data)
        if rng.random() < 0.05:
            self.answer(self.last or rng.randbytes(rng.randrange(60)))
        assert self.told.taken - self.told.told == (self.service._told is self.told)

    def answer(self, request: bytes) -> None:
        """Send back *request* with the flag of an answer, and often with damage."""
        rng = self.rng
        data = bytearray(request)
        if len(data) >= HEAD.size:
            data[25] |= 4  # ICMSGHDRFLAG_RESPONSE
            if data[12:14] == b"\0\0":
                version = rng.choice(self.service.versions)
                body = struct.pack("<HHIHHHH", 1, 1, 0, *rng.choice(FRAMEWORKS), *version)
                data[28:] = body
                struct.pack_into("<H", data, 18, len(body))
            elif rng.random() < 0.3:
                struct.pack_into("<I", data, 20, rng.choice((1, 0x80004005, rng.getrandbits(32))))
        if data and rng.random() < 0.2:
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(min(len(data), 60))
                data[at] = rng.choice((0, 1, 255, rng.randrange(256)))
        if rng.random() < 0.1:
            del data[rng.randrange(len(data) + 1) :]
        if rng.random() < 0.05:
            data += rng.randbytes(rng.randrange(2000))
        kind = 6 if rng.random() < 0.98 else rng.choice((7, 9, 11, rng.randrange(1 << 16)))
        if self.utils.channel.room() > len(data) + 100:
            before = self.service.answers
            self.utils.channel.send(packet(kind, bytes(data), rng.getrandbits(64), flags=0))
            self.served += self.service.answers > before


def storm(make_guest, fuzz: Fuzz, seed: int, *services: Service) -> None:
    rng = random.Random(seed)
    guest: Guest = make_guest(*services)
    offers = guest.connect()
    drivers = [Mad(guest, *pair, rng) for pair in zip(services, offers, strict=True)]
    for _ in fuzz.rounds(1500):
        for driver in drivers:
            driver.round()
        if rng.random() < 0.1:
            guest.events.expire()
        guest.received()
        assert len(guest.events.timers) <= len(services)
        assert len(guest.server.violations) <= VIOLATIONS_KEPT
    assert all(one.rule in RULES for one in guest.server.violations)
    for driver in drivers:
        assert driver.served > 100
        assert driver.service.answers >= driver.served
        driver.open()
        driver.utils.negotiate()  # an honest driver is served
        assert not driver.service.busy or isinstance(driver.service, Heartbeat | Timesync)
    guest.server.reset()
    for driver in drivers:
        assert driver.told.taken == driver.told.told


@pytest.mark.fuzz("Heartbeat", "Shutdown", "Timesync")
@SEEDS
def test_clockwork_and_end(make_guest, fuzz, seed: int) -> None:
    """Three devices at once: nothing raises, nothing grows, no question is lost or told twice."""
    storm(make_guest, fuzz, seed, Heartbeat(), Shutdown(), Timesync())


@pytest.mark.fuzz("Kvp")
@SEEDS
def test_pairs(make_guest, fuzz, seed: int) -> None:
    """Answers of all sizes are a pair, or None."""
    storm(make_guest, fuzz, seed, Kvp())


@pytest.mark.fuzz("Vss")
@SEEDS
def test_freezing(make_guest, fuzz, seed: int) -> None:
    """Frozen, thawed, given up, in any order."""
    storm(make_guest, fuzz, seed, Vss())


@pytest.mark.fuzz("Fcopy")
@SEEDS
def test_files(make_guest, fuzz, seed: int) -> None:
    """Starts, pieces, ends and cancels in any order."""
    storm(make_guest, fuzz, seed, Fcopy())
