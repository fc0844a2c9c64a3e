"""Seeded fuzzers of messages, rings and storage packets: nothing raises, nothing grows, all rests.

A few seconds in all; tests/fuzzing.py says how to have more.
"""

from __future__ import annotations

import random
import struct

import pytest
import stor_sim
from bus_helpers import Recorder
from fuzzing import SEEDS
from guest_sim import MEMORY, PAGE, Guest, gpa_ranges, packet
from stor_sim import srb

from pyhv.disk import Disk
from pyhv.vmbus import channel as channel_module
from pyhv.vmbus import gpadl as gpadl_module
from pyhv.vmbus import protocol as p
from pyhv.vmbus import scsi_cdrom
from pyhv.vmbus.messages import GUEST_MESSAGES
from pyhv.vmbus.rules import RULES
from pyhv.vmbus.scsi_disk import COMMANDS
from pyhv.vmbus.server import INBOX_LIMIT, VIOLATIONS_KEPT
from pyhv.vmbus.storvsc import Scsi

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 16, 31, 255, 4095, 4096, 4097, 65535, 1 << 31, (1 << 32) - 1)


def number(rng: random.Random, most: int = 1 << 32) -> int:
    return rng.choice((rng.choice(INTERESTING), rng.randrange(40), rng.randrange(most))) % most


def bounded(server) -> None:
    """What a guest makes us keep has a limit."""
    assert len(server.violations) <= VIOLATIONS_KEPT
    assert all(one.rule in RULES for one in server.violations)
    assert len(server._inbox) <= INBOX_LIMIT
    assert len(server.gpadls) <= gpadl_module.MAX_GPADLS
    assert sum(server.gpadls._pages.values()) <= gpadl_module.MAX_PAGES
    assert len(server.channels) <= p.MAX_RELID
    for channel in server.channels.values():
        assert len(channel._waiting) <= channel_module.MAX_WAITING
        assert (channel._fd >= 0) == (channel.state == channel_module.OPEN)


def random_message(rng: random.Random, relids: list[int]) -> bytes:
    kind = rng.choice(sorted(GUEST_MESSAGES)) if rng.random() < 0.97 else number(rng)
    if kind in (14, 16) and rng.random() < 0.95:
        return b""  # they end everything: now and then is enough
    relid = rng.choice(relids) if rng.random() < 0.9 else rng.randrange(50)
    gpadl = relid * 4 + rng.randrange(4)
    if kind == 14:
        version = rng.choice([*p.VERSIONS.values(), number(rng)])
        return struct.pack("<IIIIQQQ", 14, 0, version, rng.randrange(3), rng.randrange(4), 0, 0)
    if kind == 8:
        pages = [rng.randrange(16, 4000) for _ in range(rng.randrange(2, 27))]
        size = rng.choice((len(pages) * PAGE, len(pages) * PAGE, number(rng)))
        data = struct.pack(f"<II{len(pages)}Q", size, rng.choice((0, 0, 0, number(rng))), *pages)
        length = rng.choice((len(data), len(data), number(rng, 1 << 16)))
        count = rng.choice((1, 1, 1, 2, number(rng, 1 << 16)))
        return struct.pack("<IIIIHH", 8, 0, relid, gpadl, length, count) + data[:220]
    if kind == 5:
        page, vp = rng.choice((2, 2, 3, number(rng))), rng.choice((0, 1, 1, number(rng)))
        return struct.pack("<IIIIIII", 5, 0, relid, 1, gpadl, vp, page) + bytes(120)
    words = [rng.choice((relid, gpadl, number(rng))) for _ in range(rng.randrange(58))]
    return struct.pack(f"<{2 + len(words)}I", kind, 0, *words)


@pytest.mark.fuzz("VmbusServer", share=0.5)
@SEEDS
def test_messages(make_guest, fuzz, seed: int) -> None:
    rng = random.Random(seed)
    devices = [Recorder(i) for i in range(4)]
    guest = make_guest(*devices)
    guest.connect()
    opened = 0
    for turn in fuzz.rounds(3000):
        message = random_message(rng, [*guest.server.channels, 1])
        assert guest.post(message, rng.choice((1, 1, 1, 4))) in (0, 3, 18, 19)
        guest.synic.messages.clear()
        if turn % 20 == 0:
            if guest.server.version is None:
                guest.connect()
            device = rng.choice(devices)
            if device.server and rng.random() < 0.1:
                guest.server.rescind(device)
            elif not device.server:
                guest.server.offer(device)
            for channel in list(guest.server.channels.values()):
                if channel.state == "open":
                    guest.server.offer_subchannels(channel, 2)
            bounded(guest.server)
        for device in devices:
            opened += sum(one[0] == "opened" for one in device.events)
            device.events.clear()
            device.packets.clear()
    bounded(guest.server)
    assert opened, "the fuzzer reaches open channels"
    # and after all that an honest guest is served
    guest.server.reset()
    for device in devices:
        if not device.server:
            guest.server.offer(device)
    guest.next_page = 16
    guest.open(guest.connect()[0].relid).send(packet(6, b"alive..."))
    assert any(device.packets for device in devices)


@pytest.mark.fuzz("VmbusServer", share=0.5)
@SEEDS
@pytest.mark.parametrize("scattered", [False, True], ids=["contiguous", "scattered"])
def test_rings(make_guest, fuzz, seed: int, scattered: bool) -> None:
    """Random bytes, random indexes, now and then an honest packet."""
    rng = random.Random(seed)
    device = Recorder()
    guest = make_guest(device)
    guest.connect()
    channel = guest.open(1, (3, 3), scattered)
    rings = (channel.out_pages, channel.in_pages)
    for _ in fuzz.rounds(800):
        if guest.server.channels[1].state != "open":
            bounded(guest.server)
            guest.ask(channel.close_message())
            guest.ask(struct.pack("<IIII", 11, 0, 1, channel.gpadl))
            guest.next_page = 16
            channel = guest.open(1, (3, 3), scattered)
            rings = (channel.out_pages, channel.in_pages)
        action = rng.random()
        if action < 0.05:
            channel.set_word(rng.choice(rings), rng.choice((0, 4, 8, 12, 64)), number(rng))
        elif action < 0.15:
            page = rng.choice(rng.choice(rings)[1:])
            guest.memory.write(page * PAGE + rng.randrange(4000), rng.randbytes(90))
            channel.set_word(channel.out_pages, 0, rng.randrange(1024) * 8)
        elif action < 0.3:
            try:
                channel.receive()
            except (AssertionError, struct.error):
                pass  # we made nonsense of our own ring
        else:
            data = rng.randbytes(rng.randrange(0, 600) & ~7)
            if channel.room() > len(data) + 24 and channel.word(channel.out_pages, 0) < 8192:
                channel.put(packet(6, data, rng.getrandbits(64)))
        channel.signal()
        device.packets.clear()
        device.events.clear()
    bounded(guest.server)
    assert guest.server.violation_count


def random_request(rng: random.Random, base: int, commands: dict) -> bytes:
    opcode = rng.choice([*commands, 0xA0]) if rng.random() < 0.95 else rng.randrange(256)
    cdb = bytearray(16)
    cdb[0] = opcode
    for _ in range(rng.randrange(6)):
        cdb[rng.randrange(1, 16)] = rng.choice((0, 1, 8, 0x10, 0x3F, 0xFF, rng.randrange(256)))
    if rng.random() < 0.5:
        struct.pack_into(">HHH", cdb, 4, rng.randrange(2048), 0, rng.randrange(64))
    ranges = []
    for _ in range(rng.choice((1, 1, 1, 0, 3))):
        pages = [base + rng.randrange(64) for _ in range(rng.randrange(1, 12))]
        if rng.random() < 0.05:
            pages[-1] = rng.choice((MEMORY // PAGE, 1 << 40, (1 << 64) - 1, number(rng)))
        size = len(pages) * PAGE
        if rng.random() < 0.1:
            size = number(rng)
        ranges.append((size, rng.choice((0, 0, 0, 512, number(rng))), pages))
    length = rng.choice((sum(one[0] for one in ranges) & 0xFFFFFFFF, number(rng)))
    body = srb(
        bytes(cdb), length, rng.randrange(4), lun=rng.choice((0, 0, 0, 1, 255)),
        target=rng.choice((0, 0, 0, 0, 1)), path=rng.choice((0, 0, 0, 0, 3)),
        cdb_length=rng.choice((6, 10, 12, 16, 16, 16, rng.randrange(256))),
    )  # fmt: skip
    if rng.random() < 0.05:
        body = struct.pack("<I", number(rng)) + body[4:]
    if rng.random() < 0.02:
        body = body[: rng.randrange(64) & ~7]
    extra = gpa_ranges(ranges)
    if rng.random() < 0.05:
        extra = extra[: rng.randrange(len(extra) + 1) & ~7]
    kind = 9 if rng.random() < 0.98 else number(rng, 1 << 16)
    return packet(kind, body, rng.getrandbits(64), extra=extra)


@pytest.mark.fuzz("Scsi")
@SEEDS
@pytest.mark.parametrize("options", [{}, {"snapshot": True}, {"readonly": True}], ids=str)
def test_storage(make_guest, image, fuzz, seed: int, options: dict) -> None:
    """Every completion is whole, comes once, and an error is never a success."""
    rng = random.Random(seed)
    disk, before = Disk(image, **options), image.read_bytes()
    guest = make_guest(Scsi([disk]))
    storm = Storm(guest, rng, COMMANDS)
    for _ in fuzz.rounds(500):
        storm.round()
    bounded(guest.server)
    storm.finish()
    disk.close()
    assert image.stat().st_size == len(before)
    if options:
        assert image.read_bytes() == before


@pytest.mark.fuzz("Scsi", "Cdrom")
@SEEDS
def test_dvd(make_guest, tmp_path, fuzz, seed: int) -> None:
    """The same for a drive whose medium comes and goes, by the guest and by the host."""
    rng = random.Random(seed)
    media = []
    for sectors in (1, 300, scsi_cdrom.MOST_CD_SECTORS + 1):
        path = tmp_path / f"{sectors}.iso"
        with open(path, "wb") as file:
            file.truncate(sectors * scsi_cdrom.SECTOR)
        media.append(Disk(path, readonly=True, sector_size=scsi_cdrom.SECTOR))
    device = Scsi([media[1]])
    guest = make_guest(device)
    storm = Storm(guest, rng, scsi_cdrom.COMMANDS)
    for _ in fuzz.rounds(500):
        storm.round()
        if rng.random() < 0.05:
            device.change_medium(0, rng.choice((None, *media)))
    bounded(guest.server)
    storm.finish()
    device.change_medium(0, media[1])
    for disk in media:
        disk.close()


class Storm:
    """A storage driver gone mad: requests of *commands*, and nonsense, on channel after channel."""

    def __init__(self, guest: Guest, rng: random.Random, commands: dict) -> None:
        self.guest, self.rng, self.commands = guest, rng, commands
        self.driver = stor_sim.start(guest)
        self.base = self.driver.buffer[0]
        self.asked: set[bytes] = set()
        self.done = 0
        # no INTERESTING number: those a request lends now and then
        pages = (self.base + 100, self.base + 200, MEMORY // PAGE - 2)
        self.outside = [(page, guest.memory.read(page * PAGE, PAGE)) for page in pages]

    def round(self) -> None:
        """A few requests, and what comes back."""
        guest, rng, channel = self.guest, self.rng, self.driver.channel
        if guest.server.channels[channel.relid].state != "open":
            self.asked.clear()  # what a flush held up is answered on no other channel
            guest.ask(channel.close_message())
            guest.ask(struct.pack("<IIII", 11, 0, channel.relid, channel.gpadl))
            guest.received()
            for relid in [n for n, c in guest.server.channels.items() if c.primary]:
                guest.post(struct.pack("<III", 13, 0, relid))
            guest.next_page = self.base + 300
            self.driver.channel = channel = guest.open(channel.relid)
            self.driver.initialize()
        sent = 0
        while sent < rng.randrange(1, 5) and channel.room() > 2000:
            request = random_request(rng, self.base, self.commands)
            self.asked.add(request[8:16])
            channel.put(request)
            sent += 1
        channel.signal()
        for answer in channel.receive():
            assert len(answer.data) == 64
            self.asked.remove(answer.transaction.to_bytes(8, "little"))
            self.done += answer.kind == 11
        guest.received()

    def finish(self) -> None:
        """Much was answered, and nothing but the lent pages was written."""
        assert self.done > 500
        for page, data in self.outside:
            assert self.guest.memory.read(page * PAGE, PAGE) == data
