"""Fixtures of the bus tests: images, and simulated guests that must come down clean."""

from __future__ import annotations

import pytest
from guest_sim import Guest

from pyhv.disk import Disk
from pyhv.vmbus.device import Device
from pyhv.vmbus.storvsc import Scsi

SECTORS = 2048


def sector(n: int) -> bytes:
    """Sector *n* of the test image: its number, 128 times."""
    return n.to_bytes(4, "little") * 128


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


@pytest.fixture
def image(tmp_path):
    """An image whose sectors begin with their numbers."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(map(sector, range(SECTORS))))
    return path


@pytest.fixture
def make_guest():
    """Build guests around devices; at the end none may have left anything behind."""
    guests: list[Guest] = []

    def make(*devices, **options) -> Guest:
        guests.append(Guest(*devices, **options))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()


@pytest.fixture
def disk(image):
    disk = Disk(image)
    yield disk
    disk.close()


@pytest.fixture
def stor(make_guest, disk):
    """A storage driver, initialized, on one disk."""
    import stor_sim

    return stor_sim.start(make_guest(Scsi([disk])))
