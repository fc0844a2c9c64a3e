"""What the bus tests share: the test image's sectors, raw messages, a device that notes."""

from __future__ import annotations

import struct

from pyhv.vmbus.device import Device

SECTORS = 2048


def sector(n: int) -> bytes:
    """Sector *n* of the test image: its number, 128 times."""
    return n.to_bytes(4, "little") * 128


def message(number: int, *words: int, size: int = 0) -> bytes:
    """A channel message of words, padded to *size*."""
    return struct.pack(f"<{2 + len(words)}I", number, 0, *words).ljust(size, b"\0")


class Recorder(Device):
    """A device that notes what happens, and answers each packet with its own data."""

    class_guid = "11111111-2222-3333-4444-555555555555"

    def __init__(self, number: int = 0, answer: bool = True) -> None:
        self.instance_guid = f"aaaaaaaa-bbbb-cccc-dddd-{number:012x}"
        self.answer = answer
        self.events: list[tuple] = []
        self.packets: list[tuple] = []

    def opened(self, channel) -> None:
        self.events.append(("opened", channel.relid))

    def closed(self, channel) -> None:
        self.events.append(("closed", channel.relid))

    def packet(self, channel, kind, flags, transaction, batch, start, body, end) -> None:
        self.packets.append((kind, flags, transaction, batch[start:body], batch[body:end]))
        if self.answer:
            channel.complete(transaction, batch[body:end])
