"""Flushes that take their time: the bus goes on, the order is right, nothing is answered twice."""

from __future__ import annotations

import errno
import os
import struct
import threading

import pytest
import stor_sim
from bus_helpers import sector
from guest_sim import Packet
from stor_sim import StorGuest, cdb_10

from pyhv.disk import Disk
from pyhv.vmbus import scsi, storvsc_pending
from pyhv.vmbus.storvsc import Scsi

SYNC = cdb_10(scsi.SYNCHRONIZE_CACHE_10, 0, 0)
READ = cdb_10(scsi.READ_10, 5, 1)
WRITE = cdb_10(scsi.WRITE_10, 7, 1)
WRITE_FUA = cdb_10(scsi.WRITE_10, 7, 1, flags=8)
OK, ERROR_WITH_SENSE = 0x01, 0x84


class Medium:
    """fdatasync that waits until it is let go, and notes what the file held when it began."""

    def __init__(self, path) -> None:
        self.path, self.go, self.begun = path, threading.Event(), threading.Event()
        self.seen: list[bytes] = []
        self.code = 0

    def fdatasync(self, fd: int) -> None:
        self.seen.append(self.path.read_bytes())
        self.begun.set()
        assert self.go.wait(10)
        if self.code:
            raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def medium(image, monkeypatch, disk):
    medium = Medium(image)
    monkeypatch.setattr("pyhv.disk.os.fdatasync", medium.fdatasync)
    yield medium
    medium.go.set()


def send(stor: StorGuest, cdb: bytes, length: int = 0, direction: int = stor_sim.NONE) -> int:
    stor.channel.send(stor.submit(cdb, length, direction))
    return stor.transaction


def transactions(packets: list[Packet]) -> list[int]:
    return [packet.transaction for packet in packets]


def test_reads_go_on_while_the_medium_is_slow(stor: StorGuest, medium) -> None:
    flush = send(stor, SYNC)
    assert medium.begun.wait(10)
    assert stor.run(READ, 512).data == sector(5)
    assert stor.run(WRITE, data=b"w" * 512).srb == OK
    assert stor.channel.receive() == []
    medium.go.set()
    (answer,) = stor.later()
    assert (answer.transaction, stor.result(answer).srb) == (flush, OK)


def test_a_flush_covers_the_writes_before_it(stor: StorGuest, medium) -> None:
    """Also while another flush, begun before the write, has not ended."""
    send(stor, SYNC)
    assert medium.begun.wait(10)
    stor.run(WRITE, data=b"w" * 512)
    second = send(stor, SYNC)
    assert len(medium.seen) == 1
    medium.go.set()
    assert transactions(stor.later(2))[-1] == second
    assert [image[7 * 512 : 8 * 512] for image in medium.seen] == [sector(7), b"w" * 512]


@pytest.mark.parametrize(
    ("code", "sense"),
    [(errno.EIO, (3, 0x0C, 0)), (errno.ENOSPC, (7, 0x27, 7)), (errno.EROFS, (4, 0x44, 0))],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("cdb", [SYNC, WRITE_FUA], ids=["flush", "FUA"])
def test_what_the_medium_refuses_is_no_success(
    stor: StorGuest, medium, cdb: bytes, code: int, sense
) -> None:
    """And never becomes one: the kernel tells of a lost page once."""
    data = {"data": b"w" * 512} if cdb is WRITE_FUA else {}
    medium.code = code
    medium.go.set()
    for _ in range(2):
        result = stor.run(cdb, **data)
        assert (result.srb, result.scsi, result.sense) == (ERROR_WITH_SENSE, 2, sense)
        medium.code = 0
    assert stor.run(SYNC).sense == sense
    assert stor.run(READ, 512).data == sector(5)


def test_closed_and_opened_again_it_hears_nothing_of_before(stor: StorGuest, medium) -> None:
    send(stor, SYNC)
    assert medium.begun.wait(10)
    guest = stor.guest
    guest.post(stor.channel.close_message())
    stor.channel = guest.open(stor.channel.relid)
    stor.initialize()
    medium.go.set()
    assert stor.later(1, 0.1) == []
    assert stor.run(SYNC).srb == OK


def test_more_than_we_keep_are_told_to_wait(stor: StorGuest, medium, monkeypatch) -> None:
    monkeypatch.setattr("pyhv.vmbus.storvsc.MOST", 3)
    assert storvsc_pending.MOST <= 4096
    for _ in range(4):
        send(stor, SYNC)
    (answer,) = stor.channel.receive()
    result = stor.result(answer)
    assert (answer.transaction, result.srb, result.scsi) == (stor.transaction, OK, 0x28)
    medium.go.set()
    assert len(stor.later(3)) == 3
    assert stor.run(SYNC).scsi == 0


def test_nobody_waits_for_an_answer_nobody_wants(stor: StorGuest, medium) -> None:
    stor.channel.send(stor_sim.packet(6, stor_sim.srb(SYNC, 0, 2), 5, flags=0))
    assert not medium.seen


def test_unplugged_while_it_flushes(stor: StorGuest, medium, disk) -> None:
    """The request is answered, and the disk goes when that is done."""
    flush = send(stor, SYNC)
    controller = stor.guest.server.channels[stor.channel.relid].device
    threading.Timer(0.05, medium.go.set).start()
    controller.remove(0).close()
    packets = stor.later(2)
    assert flush in transactions(packets)


def test_saved_while_it_flushes(stor: StorGuest, medium, make_guest, tmp_path) -> None:
    """What waits in a snapshot is flushed and answered after it, by another controller too."""
    flush = send(stor, SYNC)
    controller = stor.guest.server.channels[stor.channel.relid].device
    state = controller.save()
    assert state["pending"] == [[0, flush, [0, 0, 0, 10, 2], 0]]
    medium.go.set()
    assert transactions(stor.later()) == [flush]
    path = tmp_path / "other.img"
    path.write_bytes(bytes(4096))
    disk = Disk(path)
    other = Scsi([disk])
    driver = stor_sim.start(make_guest(other))
    other.load(state, {0: driver.guest.server.channels[driver.channel.relid]})
    assert transactions(driver.later()) == [flush]
    disk.close()


def test_subchannels_get_their_own_answers(make_guest, disk, medium) -> None:
    guest = make_guest(Scsi([disk]), vp_count=2)
    driver = stor_sim.start(guest)
    assert driver.control(13, struct.pack("<H", 1))[0] == 0
    guest.received()
    (sub,) = [offer for offer in guest.offers.values() if offer.sub_index]
    primary, driver.channel = driver.channel, guest.open(sub.relid, vp=1)
    flush = send(driver, SYNC)
    medium.go.set()
    assert transactions(driver.later()) == [flush]
    assert primary.receive() == []
