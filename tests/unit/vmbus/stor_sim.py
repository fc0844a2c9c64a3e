"""The storage driver of the simulated guest: initialization and SCSI requests, as storvsc."""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

from guest_sim import PAGE, Guest, GuestChannel, Packet, gpa_ranges, packet

READ, WRITE, NONE = 1, 0, 2


def cdb_6(opcode: int, lba: int, blocks: int) -> bytes:
    return bytes((opcode,)) + lba.to_bytes(3, "big") + bytes((blocks & 0xFF, 0))


def cdb_10(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", opcode, flags, lba, 0, blocks, 0)


def cdb_12(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIIBB", opcode, flags, lba, blocks, 0, 0)


def cdb_16(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIBB", opcode, flags, lba, blocks, 0, 0)


class Result(NamedTuple):
    """What the guest learns of a request."""

    srb: int
    scsi: int
    moved: int
    sense: tuple[int, int, int] | None
    data: bytes


def vstor(operation: int, payload: bytes = b"") -> bytes:
    return struct.pack("<III", operation, 1, 0) + payload.ljust(52, b"\0")


def srb(
    cdb: bytes, length: int, direction: int, lun: int = 0, target: int = 0, path: int = 0,
    cdb_length: int | None = None,
) -> bytes:  # fmt: skip
    size = len(cdb) if cdb_length is None else cdb_length
    return vstor(
        3,
        struct.pack("<HBBBBBBBBBBI", 52, 0, 0, 0, path, target, lun, size, 20, direction, 0, length)
        + cdb.ljust(16, b"\0"),
    )


class StorGuest:
    """A driver on one primary channel. ``buffer`` is 1 MiB of guest pages for its data."""

    def __init__(self, guest: Guest, channel: GuestChannel) -> None:
        self.guest, self.channel = guest, channel
        self.buffer = guest.pages(256)
        self.transaction = 0

    def control(self, operation: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Send a control packet; return status and payload of the answer."""
        self.channel.send(packet(6, vstor(operation, payload), 0x5000 + operation))
        (answer,) = self.channel.receive()
        assert (answer.kind, answer.transaction) == (11, 0x5000 + operation)
        assert len(answer.data) == 64
        completed, _, status = struct.unpack_from("<III", answer.data)
        assert completed == 1
        return status, answer.data[12:]

    def initialize(self) -> tuple[int, int, int]:
        """Steps 1 to 4; return sub-channels, flags and the largest transfer."""
        assert self.control(7)[0] == 0
        assert self.control(9, struct.pack("<HH", 0x0602, 0))[0] == 0
        status, properties = self.control(10)
        assert status == 0
        assert self.control(8)[0] == 0
        return struct.unpack_from("<4xH2xII", properties)

    def ranges(self, length: int, offset: int = 0) -> list[tuple[int, int, list[int]]]:
        count = (offset + length + PAGE - 1) // PAGE
        return [(length, offset, self.buffer[:count])] if length else []

    def submit(self, cdb: bytes, length: int = 0, direction: int = READ, **options) -> bytes:
        """Return the ring packet of a request on the buffer."""
        self.transaction += 1
        ranges = options.pop("ranges", None)
        if ranges is None:
            ranges = self.ranges(length)
        body = srb(cdb, length, direction, **options)
        if ranges:
            return packet(9, body, self.transaction, extra=gpa_ranges(ranges))
        return packet(6, body, self.transaction)

    def run(self, cdb: bytes, length: int = 0, data: bytes = b"", **options) -> Result:
        """One request and its completion; *data* is written, else *length* bytes are read."""
        options.setdefault("direction", WRITE if data else READ if length else NONE)
        if data:
            at = 0
            for page in self.buffer[: (len(data) + PAGE - 1) // PAGE]:
                self.guest.memory.write(page * PAGE, data[at : at + PAGE])
                at += PAGE
            length = length or len(data)
        self.channel.send(self.submit(cdb, length, **options))
        answers = self.channel.receive() or self.later()
        assert len(answers) == 1, self.guest.server.violations
        return self.result(answers[0])

    def later(self, count: int = 1, seconds: float = 10.0) -> list[Packet]:
        """Return *count* packets that a flush on the disk's own thread holds up."""
        found: list[Packet] = []
        end = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < end:
            time.sleep(0.0005)
            self.guest.events.run()
            found += self.channel.receive()
        return found

    def result(self, answer: Packet) -> Result:
        assert answer.kind == 11
        operation, _, status, size, srb_status, scsi = struct.unpack_from("<IIIHBB", answer.data)
        assert (operation, status, size) == (1, 0, 52)
        sense_length, moved = answer.data[21], struct.unpack_from("<I", answer.data, 24)[0]
        sense = None
        if srb_status & 0x80:
            fixed = answer.data[28 : 28 + sense_length]
            assert fixed[0] == 0x70
            assert sense_length == 18
            sense = (fixed[2], fixed[12], fixed[13])
        pages = self.buffer[: (moved + PAGE - 1) // PAGE]
        data = b"".join(self.guest.memory.read(page * PAGE, PAGE) for page in pages)[:moved]
        return Result(srb_status, scsi, moved, sense, data)


def start(guest: Guest, **options) -> StorGuest:
    """Connect, open the first offer, initialize; return the driver."""
    offer = guest.connect()[0]
    driver = StorGuest(guest, guest.open(offer.relid, **options))
    driver.initialize()
    return driver
