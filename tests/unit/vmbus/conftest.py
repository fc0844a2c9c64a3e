"""Fixtures of the bus tests: images, and simulated guests that must come down clean."""

from __future__ import annotations

import net_sim
import pytest
import stor_sim
from bus_helpers import SECTORS, sector
from guest_sim import Guest
from net_sim import MAC, Cable, NetGuest

from pyhv.disk import Disk
from pyhv.vmbus.netvsc import Netvsc
from pyhv.vmbus.storvsc import Scsi


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
    return stor_sim.start(make_guest(Scsi([disk])))


@pytest.fixture
def readonly(make_guest, image, tmp_path):
    """The same on a read-only copy of the image."""
    path = tmp_path / "readonly.img"
    path.write_bytes(image.read_bytes())
    disk = Disk(path, readonly=True)
    yield stor_sim.start(make_guest(Scsi([disk])))
    disk.close()


@pytest.fixture
def cable() -> Cable:
    """The other end of :func:`net`'s card."""
    return Cable()


@pytest.fixture
def net(make_guest, cable) -> NetGuest:
    """A network driver, started, on a card."""
    return net_sim.start(make_guest(Netvsc(cable, MAC)))
