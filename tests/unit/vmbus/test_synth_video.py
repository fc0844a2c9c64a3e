"""The synthetic video device against a simulated hyperv_drm: start, pictures, nonsense."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS
from guest_sim import Guest, GuestChannel, packet
from test_snapshot_bus import carry

from pyhv.errors import HostError
from pyhv.vmbus.rules import RULES
from pyhv.vmbus.video import RESOLUTIONS, VERSIONS, VRAM_MEGABYTES, Situation, SynthVideo

GPA, SIZE = 0xF8000000, VRAM_MEGABYTES << 20
FEATURES = struct.pack("<4B", 1, 0, 0, 1)


class FakeVram:
    """Can be placed at GPA, and 8 MiB above."""

    def __init__(self) -> None:
        self.gpa: int | None = None
        self.log: list[int | None] = []
        self.filled = b""

    def place(self, gpa: int) -> bool:
        self.gpa = gpa if gpa in (GPA, GPA + SIZE) else None
        self.log.append(self.gpa)
        return self.gpa is not None

    def remove(self) -> None:
        self.gpa = None
        self.log.append(None)

    def copy(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= SIZE
        assert self.gpa is not None
        return (self.filled or bytes((offset & 0xFF,)) * SIZE)[:length]

    def fill(self, data: bytes) -> None:
        assert self.gpa is not None
        self.filled = data


def message(kind: int, body: bytes, pipe: int = 1) -> bytes:
    return packet(6, struct.pack("<IIII", pipe, 8 + len(body), kind, 8 + len(body)) + body)


def location(gpa: int, specified: int = 1, context: int = 7) -> bytes:
    return message(3, struct.pack("<QBQ", context, specified, gpa))


def situation(
    width: int = 1024, height: int = 768, pitch: int = 4096, offset: int = 0, depth: int = 32,
    active: int = 1, outputs: int = 1,
) -> bytes:  # fmt: skip
    output = struct.pack("<BIBIII", active, offset, depth, width, height, pitch)
    return message(5, struct.pack("<QB", 9, outputs) + output)


class Driver:
    """A guest with the screen's channel open, which does what hyperv_drm does."""

    def __init__(self, make_guest) -> None:
        self.vram = FakeVram()
        self.video = SynthVideo(self.vram)
        self.guest: Guest = make_guest(self.video)
        self.offer = self.guest.connect()[0]
        self.channel: GuestChannel = self.guest.open(self.offer.relid, (6, 6))

    def ask(self, sent: bytes) -> list[tuple[int, bytes]]:
        """Return the answers: message, body."""
        self.channel.send(sent)
        found = []
        for one in self.channel.receive():
            pipe, size, kind, same = struct.unpack_from("<IIII", one.data)
            assert (pipe, size) == (1, same)
            found.append((kind, one.data[16 : 8 + size]))
        return found

    def begin(self, version: int = VERSIONS[0]) -> None:
        (answer,) = self.ask(message(1, struct.pack("<I", version)))
        assert answer == (2, struct.pack("<IBB", version, 1, 1))
        placed, features = self.ask(location(GPA))
        assert placed == (4, struct.pack("<Q", 7))
        assert features == (9, FEATURES)

    def reopen(self) -> None:
        self.channel = self.channel.reopen()

    def rule(self) -> str:
        return self.guest.server.violations[-1].rule


@pytest.fixture
def driver(make_guest) -> Driver:
    return Driver(make_guest)


def test_offer_asks_for_room(driver) -> None:
    assert driver.offer.class_guid == bytes.fromhex("02780ada77e3ac4a8e770558eb1073f8")
    assert driver.offer.mmio_megabytes == 8
    assert driver.offer.user_data[:4] == b"\4\0\0\0"


@pytest.mark.parametrize("version", [0, 3, 4 << 16 | 3, 3 << 16 | 5, 0xFFFFFFFF])
def test_another_version_is_refused(driver, version: int) -> None:
    assert driver.ask(message(1, struct.pack("<I", version))) == [
        (2, struct.pack("<IBB", version, 0, 1))
    ]
    driver.begin()


def test_every_resolution_fits_into_vram(driver) -> None:
    ((kind, body),) = driver.ask(message(13, b"\x40"))
    assert kind == 14
    assert len(body) == 128 + 3 + 64 * 4
    count, default, _ = body[128:131]
    sizes = [struct.unpack_from("<HH", body, 131 + 4 * n) for n in range(count)]
    assert sizes == list(RESOLUTIONS)
    assert sizes[default] == (1024, 768)
    assert all(4 * width * height <= SIZE for width, height in sizes)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_picture_is_what_the_guest_says(driver, version: int) -> None:
    driver.begin(version)
    assert driver.video.picture() is None
    assert driver.ask(situation()) == [(6, struct.pack("<Q", 9))]
    assert driver.video.picture() == (Situation(0, 1024, 768, 4096), bytes(4096 * 768))
    driver.ask(situation(800, 600, 3328, 64))
    assert driver.video.picture() == (Situation(64, 800, 600, 3328), b"\x40" * 3328 * 600)


@pytest.mark.parametrize("off", [situation(active=0), situation(outputs=0)])
def test_a_screen_that_is_switched_off_shows_nothing(driver, off: bytes) -> None:
    driver.begin()
    driver.ask(situation())
    assert driver.ask(off) == [(6, struct.pack("<Q", 9))]
    assert driver.video.picture() is None


def test_updates_are_counted_and_the_pointer_is_not_ours(driver) -> None:
    driver.begin()
    for count in (1, 2, 0):
        body = struct.pack("<BB", 0, count) + struct.pack("<4i", 0, 0, 8, 16) * count
        assert driver.ask(message(10, body)) == []
    driver.ask(message(7, struct.pack("<BBii", 1, 0, 0, 0)))
    driver.ask(message(8, bytes(22)))
    assert driver.video.dirts == 3
    assert not driver.guest.server.violations


def test_vram_moves_and_goes(driver) -> None:
    driver.begin()
    driver.ask(situation())
    driver.ask(location(GPA + SIZE))
    assert driver.vram.gpa == GPA + SIZE
    assert driver.video.picture() is None  # until it says again what is there
    assert driver.ask(location(0, specified=0))[0] == (4, struct.pack("<Q", 7))
    assert driver.vram.gpa is None
    driver.channel.send(situation())
    assert driver.rule() == "video-situation"


def test_with_the_channel_goes_everything(driver) -> None:
    driver.begin()
    driver.ask(situation())
    driver.reopen()
    assert driver.vram.log[-1] is None
    assert driver.video.picture() is None
    assert driver.video.version is None
    driver.begin()


def test_with_the_machine_goes_everything(driver) -> None:
    driver.begin()
    driver.guest.server.reset()
    assert driver.vram.gpa is None


@pytest.mark.parametrize("shown", [None, situation(800, 600, 3328, 64)])
def test_a_snapshot_has_the_picture(driver, shown: bytes | None) -> None:
    driver.begin()
    if shown:
        driver.ask(shown)
    driver.vram.filled = bytes(64) + b"\x17" * (SIZE - 64)
    before = driver.video.picture()
    again = SynthVideo(FakeVram())
    carry(driver.guest, again)
    assert again.vram.gpa == GPA
    assert again.vram.filled == driver.vram.filled
    assert again.picture() == before
    assert driver.vram.gpa is None
    driver.video = again
    assert driver.ask(situation()) == [(6, struct.pack("<Q", 9))]


def test_a_snapshot_before_the_driver_has_none(driver) -> None:
    again = SynthVideo(FakeVram())
    carry(driver.guest, again)
    assert again.vram.gpa is None
    driver.video, driver.vram = again, again.vram
    driver.begin()


def test_a_host_without_memory_for_the_snapshot(driver) -> None:
    driver.begin()
    state = driver.video.save()
    with pytest.raises(HostError, match="restore: VRAM cannot be at 0x1000"):
        SynthVideo(FakeVram()).load({**state, "gpa": 0x1000}, {})


@pytest.mark.parametrize("gpa", [0, GPA + 1, 1 << 63, (1 << 64) - 1])
def test_vram_that_cannot_be_there(driver, gpa: int) -> None:
    driver.begin()
    driver.ask(situation())
    driver.channel.send(location(gpa))
    assert driver.rule() == "vram-place"
    assert driver.vram.gpa is None
    assert driver.video.picture() is None


@pytest.mark.parametrize(
    "bad",
    [
        situation(width=0), situation(height=0), situation(pitch=4095), situation(pitch=0),
        situation(depth=16), situation(depth=0), situation(height=2049),
        situation(offset=SIZE - 4096 * 768 + 1), situation(offset=0xFFFFFFFF),
        situation(width=0xFFFFFFFF, pitch=0xFFFFFFFF), situation(height=0xFFFFFFFF),
        situation(outputs=2), situation(outputs=255),
        message(5, struct.pack("<QB", 9, 1)),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be(driver, bad: bytes) -> None:
    driver.begin()
    driver.channel.send(bad)
    assert driver.rule() == "video-situation"
    assert driver.video.picture() is None
    assert driver.vram.gpa is None


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (packet(11, b""), "packet-type"),
        (packet(9, bytes(32), extra=bytes(8)), "packet-type"),
        (packet(6, b""), "packet-short"),
        (packet(6, bytes(8)), "packet-short"),
        (message(1, bytes(4), pipe=0), "packet-type"),
        (message(0, bytes(4)), "packet-type"),
        (message(2, bytes(8)), "packet-type"),
        (message(15, bytes(8)), "packet-type"),
        (message(0xFFFFFFFF, bytes(8)), "packet-type"),
        (message(1, b""), "packet-short"),
        (message(3, bytes(16)), "packet-short"),
        (message(5, bytes(8)), "packet-short"),
        (message(10, b""), "packet-short"),
        (message(10, struct.pack("<BB", 0, 255) + bytes(16)), "packet-short"),
        (message(13, b""), "packet-short"),
        (location(GPA), "device-state"),
        (situation(), "video-situation"),
    ],
)
def test_a_broken_rule_closes_the_channel(driver, bad: bytes, rule: str) -> None:
    driver.channel.send(bad)
    assert driver.rule() == rule
    assert driver.vram.gpa is None


@pytest.mark.fuzz("SynthVideo")
@SEEDS
def test_whatever_a_guest_sends_pictures_lie_in_vram(make_guest, fuzz, seed: int) -> None:
    rng = random.Random(seed)
    driver = Driver(make_guest)

    def number() -> int:
        return rng.choice((0, 1, 32, 600, 1024, 4096, SIZE, 0xFFFFFFFF, rng.randrange(1 << 32)))

    def some() -> bytes:
        return rng.choice((
            lambda: message(1, struct.pack("<I", rng.choice((*VERSIONS, number())))),
            lambda: location(rng.choice((GPA, GPA + SIZE, number())), rng.randrange(2)),
            situation,
            lambda: situation(number(), number(), number(), number(), rng.choice((32, 32, 16))),
            lambda: message(10, struct.pack("<BB", 0, rng.randrange(4)) + bytes(32)),
            lambda: message(rng.randrange(17), rng.randbytes(rng.randrange(60))),
            lambda: packet(rng.choice((6, 6, 7, 9, 11)), rng.randbytes(rng.randrange(60))),
        ))()  # fmt: skip

    for _ in fuzz.rounds(200):
        driver.vram.log.clear()
        driver.channel.send(some())
        driver.channel.receive()
        picture = driver.video.picture()
        if picture is not None:
            assert driver.vram.gpa is not None
            assert len(picture[1]) == picture[0].pitch * picture[0].height
        if driver.vram.gpa is None and rng.random() < 0.5:
            driver.reopen()
            driver.begin(rng.choice(VERSIONS))
    assert all(one.rule in RULES for one in driver.guest.server.violations)
