"""The DVD drive: what MMC makes it say, and media that come and go."""

from __future__ import annotations

import struct

import pytest
import stor_sim
from stor_sim import StorGuest, cdb_10, cdb_12

from pyhv.disk import Disk
from pyhv.vmbus import scsi
from pyhv.vmbus.scsi_cdrom import COMMANDS, MOST_CD_SECTORS, SECTOR
from pyhv.vmbus.storvsc import Scsi

OK, ERROR_WITH_SENSE = 0x01, 0x84
SECTORS = 300
NO_MEDIUM, CHANGED = (2, 0x3A, 0), (6, 0x28, 0)
TEST_UNIT_READY = bytes(6)
READ_CAPACITY = cdb_10(scsi.READ_CAPACITY_10, 0, 0)
EJECT, LOAD = bytes((0x1B, 0, 0, 0, 2, 0)), bytes((0x1B, 0, 0, 0, 3, 0))
EVENT = bytes((0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0))


def content(n: int) -> bytes:
    return n.to_bytes(4, "big") * (SECTOR // 4)


@pytest.fixture
def iso(tmp_path):
    path = tmp_path / "cd.iso"
    path.write_bytes(b"".join(map(content, range(SECTORS))))
    return path


@pytest.fixture
def drive(make_guest, iso):
    disk = Disk(iso, readonly=True, sector_size=SECTOR)
    yield stor_sim.start(make_guest(Scsi([disk])))
    disk.close()


def device(stor: StorGuest) -> Scsi:
    return stor.guest.server.channels[stor.channel.relid].device


def toc(stor: StorGuest, kind: int = 0, track: int = 0, msf: int = 0, length: int = 0xFFFF):
    cdb = struct.pack(">BBBBBBBHB", 0x43, msf << 1, kind, 0, 0, 0, track, length, 0)
    return stor.run(cdb, 4096)


def configuration(stor: StorGuest, kind: int = 0, first: int = 0) -> tuple[int, dict[int, int]]:
    """Return the profile, and feature -> its third byte."""
    data = stor.run(struct.pack(">BBHBBBHB", 0x46, kind, first, 0, 0, 0, 4096, 0), 4096).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    features, at = {}, 8
    while at < len(data):
        features[int.from_bytes(data[at : at + 2], "big")] = data[at + 2]
        at += 4 + data[at + 3]
    return int.from_bytes(data[6:8], "big"), features


def test_inquiry(drive: StorGuest) -> None:
    data = drive.run(bytes.fromhex("12 00 00 00 60 00"), 96).data
    assert (data[0], data[1]) == (5, 0x80)
    assert data[8:32] == b"Msft    Virtual DVD-ROM "
    pages = drive.run(bytes.fromhex("12 01 00 00 60 00"), 96).data
    assert pages == bytes((5, 0, 0, 3, 0, 0x80, 0x83))
    assert drive.run(bytes.fromhex("12 01 b0 00 60 00"), 96).sense == (5, 0x24, 0)
    assert drive.run(bytes.fromhex("12 01 83 00 60 00"), 96).srb == OK


def test_capacity_and_reads(drive: StorGuest) -> None:
    assert drive.run(READ_CAPACITY, 8).data == struct.pack(">II", SECTORS - 1, SECTOR)
    for cdb in (cdb_10(scsi.READ_10, 7, 2), cdb_12(scsi.READ_12, 7, 2)):
        assert drive.run(cdb, 2 * SECTOR).data == content(7) + content(8)
    assert drive.run(cdb_10(scsi.READ_10, SECTORS, 1), SECTOR).sense == (5, 0x21, 0)


@pytest.mark.parametrize("opcode", [0x2A, 0x35, 0x42, 0x93, 0x9E, 0xAA])
def test_it_writes_nothing(drive: StorGuest, opcode: int) -> None:
    assert drive.run(bytes((opcode,)).ljust(12, b"\0"), 512).sense == (5, 0x20, 0)


def test_toc(drive: StorGuest) -> None:
    track = struct.pack(">4BI", 0, 0x14, 1, 0, 0)
    lead_out = struct.pack(">4BI", 0, 0x14, 0xAA, 0, SECTORS)
    assert toc(drive).data == bytes((0, 18, 1, 1)) + track + lead_out
    assert toc(drive, track=0xAA).data == bytes((0, 10, 1, 1)) + lead_out
    assert toc(drive, kind=1).data == bytes((0, 10, 1, 1)) + track
    assert toc(drive, msf=1, track=0xAA).data[8:] == bytes((0, 0, 6, 0))  # 300 + 150 frames
    assert toc(drive, length=4).data == bytes((0, 18, 1, 1))
    assert toc(drive, track=2).sense == toc(drive, kind=2).sense == (5, 0x24, 0)


def test_configuration(drive: StorGuest) -> None:
    profile, features = configuration(drive)
    assert profile == 8
    assert list(features) == [0, 1, 3, 0x10, 0x1E, 0x1F]
    assert configuration(drive, first=0x10)[1].keys() == {0x10, 0x1E, 0x1F}
    assert configuration(drive, kind=1)[1].keys() == {0, 1, 3, 0x10, 0x1E}
    assert configuration(drive, kind=2, first=3)[1].keys() == {3}
    assert drive.run(bytes((0x46, 3)).ljust(10, b"\0"), 8).sense == (5, 0x24, 0)


def test_more_than_a_cd_is_a_dvd(make_guest, tmp_path) -> None:
    path = tmp_path / "dvd.iso"
    with path.open("wb") as file:
        file.truncate((MOST_CD_SECTORS + 1) * SECTOR)
    disk = Disk(path, readonly=True, sector_size=SECTOR)
    profile, features = configuration(stor_sim.start(make_guest(Scsi([disk]))))
    assert (profile, features[0x1F] & 1, features[0x1E] & 1) == (0x10, 1, 0)
    disk.close()


def test_mode_sense(drive: StorGuest) -> None:
    six = drive.run(bytes.fromhex("1a 08 2a 00 ff 00"), 255).data
    ten = drive.run(bytes.fromhex("5a 08 2a 00 00 00 00 00 ff 00"), 255).data
    assert six[4:] == ten[8:]
    assert six[4:6] == bytes((0x2A, 18))
    assert len(six) == 24
    assert drive.run(bytes.fromhex("1a 08 08 00 ff 00"), 255).sense == (5, 0x24, 0)


def test_disc_information_and_mechanism(drive: StorGuest) -> None:
    assert len(drive.run(bytes.fromhex("51 00 00 00 00 00 00 00 ff 00"), 255).data) == 34
    mechanism = bytes.fromhex("bd 00 00 00 00 00 00 00 00 ff 00 00")
    assert len(drive.run(mechanism, 255).data) == 8


def test_the_guest_ejects_and_loads(drive: StorGuest) -> None:
    assert drive.run(EVENT, 8).data == bytes((0, 6, 4, 0x10, 0, 2, 0, 0))
    assert drive.run(EJECT).srb == OK
    assert drive.run(TEST_UNIT_READY).sense == NO_MEDIUM
    assert drive.run(cdb_10(scsi.READ_10, 0, 1), SECTOR).sense == NO_MEDIUM
    assert configuration(drive)[0] == 0
    assert drive.run(EVENT, 8).data == bytes((0, 6, 4, 0x10, 3, 0, 0, 0))
    assert drive.run(EVENT, 8).data == bytes((0, 6, 4, 0x10, 0, 0, 0, 0))
    assert drive.run(LOAD).srb == OK
    assert drive.run(EVENT, 8).data == bytes((0, 6, 4, 0x10, 2, 2, 0, 0))
    assert drive.run(TEST_UNIT_READY).sense == CHANGED
    assert drive.run(TEST_UNIT_READY).srb == OK
    assert drive.run(bytes((0x1B, 0, 0, 0, 1, 0))).srb == OK  # spin up: nothing to do


def test_a_locked_drive_keeps_its_medium(drive: StorGuest) -> None:
    assert drive.run(bytes((0x1E, 0, 0, 0, 1, 0))).srb == OK
    assert drive.run(EJECT).sense == (5, 0x53, 2)
    assert drive.run(TEST_UNIT_READY).srb == OK
    assert drive.run(bytes((0x1E, 0, 0, 0, 0, 0))).srb == OK
    assert drive.run(EJECT).srb == OK


def test_events_of_other_classes_and_without_polling(drive: StorGuest) -> None:
    other = bytes((0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8, 0))
    assert drive.run(other, 8).data == bytes((0, 2, 0x80, 0x10))
    assert drive.run(bytes((0x4A, 0)) + EVENT[2:], 8).sense == (5, 0x24, 0)


def test_the_host_changes_the_medium(drive: StorGuest, tmp_path) -> None:
    other = tmp_path / "other.iso"
    other.write_bytes(b"other".ljust(SECTOR, b"\0"))
    drive.run(bytes((0x1E, 0, 0, 0, 1, 0)))  # the guest's lock does not hold against the host
    disk = Disk(other, readonly=True, sector_size=SECTOR)
    serial = drive.run(bytes.fromhex("12 01 80 00 60 00"), 96).data
    device(drive).change_medium(0, disk)
    assert drive.run(EVENT, 8).data[4:6] == bytes((2, 2))
    assert drive.run(TEST_UNIT_READY).sense == CHANGED
    assert drive.run(READ_CAPACITY, 8).data == struct.pack(">II", 0, SECTOR)
    assert drive.run(cdb_10(scsi.READ_10, 0, 1), SECTOR).data[:5] == b"other"
    assert drive.run(bytes.fromhex("12 01 80 00 60 00"), 96).data == serial
    device(drive).change_medium(0, None)
    assert drive.run(TEST_UNIT_READY).sense == NO_MEDIUM
    assert drive.run(LOAD).srb == OK
    assert drive.run(TEST_UNIT_READY).sense == NO_MEDIUM
    disk.close()


def test_an_empty_drive(make_guest) -> None:
    stor = stor_sim.start(make_guest(Scsi([None])))
    assert stor.run(bytes.fromhex("12 00 00 00 60 00"), 96).data[0] == 5
    assert stor.run(bytes.fromhex("12 01 83 00 60 00"), 96).srb == OK
    for opcode, (name, _) in COMMANDS.items():
        result = stor.run(bytes((opcode, 1)).ljust(12, b"\0"), 96)
        assert result.sense in (None, NO_MEDIUM, (5, 0x24, 0)), name


def test_saved_and_put_back(drive: StorGuest) -> None:
    drive.run(EJECT)
    state = device(drive).save()
    drive.run(LOAD)
    channel = drive.guest.server.channels[drive.channel.relid]
    device(drive).load(state, {0: channel})
    assert drive.run(TEST_UNIT_READY).sense == NO_MEDIUM
