"""The storage controller as a guest's driver meets it: initialization, LUNs, every command."""

from __future__ import annotations

import pytest
import stor_sim
from guest_sim import Guest

from pyhv.disk import Disk
from pyhv.vmbus.storvsc import Scsi

SECTORS = 8192


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(n.to_bytes(4, "little") * 128 for n in range(SECTORS)))
    return path


@pytest.fixture
def guest(image):
    disk = Disk(image)
    guest = Guest(Scsi([disk]))
    yield guest
    guest.close()
    disk.close()


def sector(n: int) -> bytes:
    return n.to_bytes(4, "little") * 128


def test_read(guest: Guest) -> None:
    driver = stor_sim.start(guest)
    result = driver.run(bytes.fromhex("28 00 00000005 00 0010 00"), 8192)
    assert (result.srb, result.scsi, result.moved) == (1, 0, 8192)
    assert result.data == b"".join(sector(n) for n in range(5, 21))
    assert not guest.server.violations
