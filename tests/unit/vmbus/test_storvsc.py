"""The storage controller as a guest's driver meets it: initialization, LUNs, hostile requests."""

from __future__ import annotations

import struct

import pytest
import stor_sim
from bus_helpers import SECTORS, sector
from guest_sim import MEMORY, PAGE, gpa_ranges, packet
from stor_sim import StorGuest, srb, vstor

from pyhv.disk import Disk
from pyhv.vmbus.storvsc import Scsi

INQUIRY = bytes.fromhex("12 00 00 00 24 00")
REPORT_LUNS = bytes.fromhex("a0 00 00 00 00 00 00 00 10 00 00 00")
TEST_UNIT_READY = bytes(6)
READ_ONE = bytes.fromhex("28 00 00000005 00 0001 00")
OK, ERROR_WITH_SENSE, INVALID_REQUEST, OVERRUN, INVALID_LUN = 0x01, 0x84, 0x06, 0x12, 0x20


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


# initialization


@pytest.mark.parametrize(("vp_count", "expected"), [(1, (0, 0)), (2, (1, 1)), (8, (7, 1))])
def test_properties(make_guest, disk, vp_count: int, expected: tuple[int, int]) -> None:
    guest = make_guest(Scsi([disk]), vp_count=vp_count)
    driver = StorGuest(guest, guest.open(guest.connect()[0].relid))
    assert driver.initialize() == (*expected, 512 << 10)


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(0x0602, True), (0x0600, True), (0x0501, True), (0x0402, False), (0x0200, False), (0, False)],
)
def test_protocol_versions(make_guest, disk, version: int, accepted: bool) -> None:
    guest = make_guest(Scsi([disk]))
    driver = StorGuest(guest, guest.open(guest.connect()[0].relid))
    driver.control(7)
    assert (driver.control(9, struct.pack("<HH", version, 0))[0] == 0) is accepted


@pytest.mark.parametrize("operation", [4, 5, 6])
def test_resets_succeed(stor: StorGuest, operation: int) -> None:
    assert stor.control(operation)[0] == 0
    assert stor.run(READ_ONE, 512).data == sector(5)


@pytest.mark.parametrize("operation", [0, 1, 2, 11, 12, 14, 0xFFFFFFFF])
def test_other_operations_are_refused(stor: StorGuest, operation: int) -> None:
    stor.channel.send(packet(6, vstor(operation), 9))
    (answer,) = stor.channel.receive()
    assert struct.unpack_from("<III", answer.data)[2] != 0


def test_no_request_before_the_end_of_initialization(make_guest, disk) -> None:
    guest = make_guest(Scsi([disk]))
    driver = StorGuest(guest, guest.open(guest.connect()[0].relid))
    for cdb in (READ_ONE, INQUIRY, REPORT_LUNS, TEST_UNIT_READY):
        assert driver.run(cdb, 512).srb == INVALID_REQUEST
    driver.initialize()
    assert driver.run(READ_ONE, 512).srb == OK
    driver.control(7)
    assert driver.run(READ_ONE, 512).srb == INVALID_REQUEST


def test_subchannels_carry_requests(make_guest, disk) -> None:
    guest = make_guest(Scsi([disk]), vp_count=4)
    driver = stor_sim.start(guest)
    assert driver.control(13, struct.pack("<H", 3))[0] == 0
    guest.received()
    subs = [offer for offer in guest.offers.values() if offer.sub_index]
    assert sorted(offer.sub_index for offer in subs) == [1, 2, 3]
    for number, offer in enumerate(subs):
        driver.channel = guest.open(offer.relid, vp=number)
        assert driver.run(read_10(number, 1), 512).data == sector(number)
        assert driver.control(8)[0] != 0  # initialization is the primary's


@pytest.mark.parametrize("count", [2, 255, 0xFFFF])
def test_too_many_subchannels(stor: StorGuest, count: int) -> None:
    assert stor.control(13, struct.pack("<H", count))[0] != 0


def test_reopened_it_begins_anew(stor: StorGuest) -> None:
    guest = stor.guest
    stor.control(13, struct.pack("<H", 1))
    guest.post(stor.channel.close_message())
    stor.channel = guest.open(stor.channel.relid)
    assert stor.run(READ_ONE, 512).srb == INVALID_REQUEST
    stor.initialize()
    assert stor.run(READ_ONE, 512).data == sector(5)
    assert stor.control(13, struct.pack("<H", 1))[0] == 0


# which LUNs are there: a wrong answer makes Linux see 120 disks, or none


def scan(driver: StorGuest) -> list[tuple[int, int, int]]:
    """Return (path, target, lun) of what INQUIRY says is a disk, as Linux's scan asks.

    Linux takes every INQUIRY as a success, so the data decides, not the SRB status.
    """
    found = []
    for path in range(8):
        for target in range(2):
            for lun in (0, 1, 2, 63, 254):
                driver.guest.memory.zero(driver.buffer[0] * PAGE, 36)
                result = driver.run(INQUIRY, 36, path=path, target=target, lun=lun)
                data = driver.guest.memory.read(driver.buffer[0] * PAGE, 36)
                assert result.srb == OK
                if data[0] >> 5 != 3:
                    found.append((path, target, lun))
    return found


@pytest.mark.parametrize("count", [0, 1, 2])
def test_exactly_the_disks_that_are_there(make_guest, image, count: int) -> None:
    disks = [Disk(image, readonly=True) for _ in range(count)]
    driver = stor_sim.start(make_guest(Scsi(disks)))
    assert scan(driver) == [(0, 0, lun) for lun in range(count)]
    for disk in disks:
        disk.close()


def test_absent_inquiry_is_qualifier_3_type_1f(stor: StorGuest) -> None:
    assert stor.run(INQUIRY, 36, lun=1).data[0] == 0x7F


@pytest.mark.parametrize("where", [{"target": 1}, {"path": 1}, {"path": 7, "target": 1, "lun": 9}])
def test_report_luns_elsewhere_is_an_empty_success(stor: StorGuest, where: dict) -> None:
    result = stor.run(REPORT_LUNS, 16, **where)
    assert (result.srb, result.data) == (OK, bytes(8))


@pytest.mark.parametrize("allocation", [0, 1, 4, 8, 16, 24, 4096])
def test_report_luns(make_guest, image, allocation: int) -> None:
    disks = [Disk(image, readonly=True) for _ in range(2)]
    driver = stor_sim.start(make_guest(Scsi(disks)))
    cdb = bytes((0xA0, 0, 0, 0, 0, 0)) + allocation.to_bytes(4, "big") + bytes(2)
    expected = struct.pack(">II2H4x2H4x", 16, 0, 0, 0, 1, 0)[:allocation]
    assert driver.run(cdb, 4096).data == expected
    for disk in disks:
        disk.close()


@pytest.mark.parametrize("cdb", [TEST_UNIT_READY, READ_ONE, bytes((0x1A, 0, 0x3F, 0, 255, 0))])
@pytest.mark.parametrize("where", [{"target": 1}, {"path": 1}, {"lun": 1}, {"lun": 255}])
def test_other_commands_elsewhere(stor: StorGuest, cdb: bytes, where: dict) -> None:
    assert stor.run(cdb, 512, **where).srb == INVALID_LUN


def test_plug_and_unplug(stor: StorGuest, tmp_path) -> None:
    """The guest is told by a packet without a transaction, and a new scan finds the change."""
    other = tmp_path / "other.img"
    other.write_bytes(b"other".ljust(4096, b"\0"))
    disk = Disk(other)
    scsi = stor.guest.server.channels[stor.channel.relid].device
    assert scsi.add(disk) == 1
    (told,) = stor.channel.receive()
    assert (told.kind, told.transaction, told.data[:4]) == (6, 0, b"\x0b\0\0\0")
    assert stor.run(read_10(0, 1), 512, lun=1).data[:5] == b"other"
    assert scsi.remove(1) is disk
    assert len(stor.channel.receive()) == 1
    assert scan(stor) == [(0, 0, 0)]
    disk.close()


def test_another_size(stor: StorGuest, image, disk) -> None:
    with image.open("ab") as file:
        file.write(bytes(4096))
    assert stor.run(read_10(SECTORS, 1), 512).sense == (5, 0x21, 0)
    assert disk.update_size()
    stor.guest.server.channels[stor.channel.relid].device.capacity_changed(0)
    assert len(stor.channel.receive()) == 1
    assert stor.run(INQUIRY, 36).srb == OK  # INQUIRY does not take the attention away
    assert stor.run(TEST_UNIT_READY).sense == (6, 0x2A, 0x09)
    assert stor.run(TEST_UNIT_READY).srb == OK
    assert stor.run(read_10(SECTORS, 8), 4096).data == bytes(4096)


def test_65_disks_are_too_many(disk) -> None:
    with pytest.raises(ValueError, match="64"):
        Scsi([disk] * 65)
    full = Scsi([disk] * 64)
    with pytest.raises(ValueError, match="taken"):
        full.add(disk)


# hostile requests (H-VB 4)


@pytest.mark.parametrize("cdb_length", [0, 1, 5, 17, 255])
def test_cdb_lengths_of_nonsense(stor: StorGuest, cdb_length: int) -> None:
    assert stor.run(READ_ONE, 512, cdb_length=cdb_length).srb == INVALID_REQUEST


@pytest.mark.parametrize("opcode", [0x01, 0x04, 0x15, 0x3B, 0x55, 0x7F, 0xA3, 0xC0, 0xFF])
def test_unknown_commands(stor: StorGuest, opcode: int) -> None:
    result = stor.run(bytes((opcode,)).ljust(10, b"\0"), 512)
    assert (result.srb, result.scsi, result.sense) == (ERROR_WITH_SENSE, 2, (5, 0x20, 0))


@pytest.mark.parametrize(
    "ranges",
    [
        [(512, 0, [])],
        [(512, 0, [MEMORY // PAGE])],
        [(512, 0, [0xC0000])],
        [(512, 0, [(1 << 64) - 1])],
        [(512, 4096, [16])],
        [(0, 0, [16])],
        [(0xFFFFFFFF, 0xFFF, [16])],
        [(511, 0, [16])],
        [(100, 0, [16]), (100, 0, [17])],
        [(8192, 0, [16])],
        [(100, 4095, [16])],
        [(256, 0, [16]), (256, 0, [MEMORY // PAGE])],
    ],
    ids=str,
)
def test_page_lists_of_nonsense(stor: StorGuest, ranges) -> None:
    """Shorter than the transfer, not adding up, not RAM: this request fails, the channel lives."""
    assert stor.run(READ_ONE, 512, ranges=ranges).srb == INVALID_REQUEST
    assert stor.guest.server.violations[-1].rule == "packet-ranges"
    assert stor.run(READ_ONE, 512).data == sector(5)


@pytest.mark.parametrize("count", [0, 2, 1000, 0xFFFFFFFF])
def test_range_counts_of_nonsense(stor: StorGuest, count: int) -> None:
    extra = struct.pack("<IIIIQ", 0, count, 256, 0, stor.buffer[0])
    stor.channel.send(packet(9, srb(READ_ONE, 512, 1), 5, extra=extra))
    (answer,) = stor.channel.receive()
    assert stor.result(answer).srb == INVALID_REQUEST


def test_no_page_list_at_all(stor: StorGuest) -> None:
    stor.channel.send(packet(6, srb(READ_ONE, 512, 1)))
    assert stor.result(stor.channel.receive()[0]).srb == INVALID_REQUEST
    stor.channel.send(packet(9, srb(READ_ONE, 512, 1)))
    assert stor.result(stor.channel.receive()[0]).srb == INVALID_REQUEST


@pytest.mark.parametrize("length", [0, 1, 511])
def test_a_transfer_length_below_the_command(stor: StorGuest, length: int) -> None:
    before = stor.guest.memory.read(stor.buffer[0] * PAGE, 512)
    result = stor.run(READ_ONE, length, ranges=[(512, 0, stor.buffer[:1])])
    assert (result.srb, result.moved) == (OVERRUN, 0)
    assert stor.guest.memory.read(stor.buffer[0] * PAGE, 512) == before


@pytest.mark.parametrize("length", [513, 4096, 0xFFFFFFFF])
def test_a_transfer_length_above_the_command(stor: StorGuest, length: int) -> None:
    """Only what the command says is moved."""
    stor.guest.memory.write(stor.buffer[0] * PAGE, b"\xaa" * 4096)
    result = stor.run(READ_ONE, length, ranges=[(4096, 0, stor.buffer[:1])])
    assert (result.srb, result.moved) == (OK, 512)
    page = stor.guest.memory.read(stor.buffer[0] * PAGE, 4096)
    assert page == sector(5) + b"\xaa" * 3584


@pytest.mark.parametrize("kind", [0, 5, 7, 8, 10, 11, 0xFFFF])
def test_packet_types_that_storage_does_not_take(stor: StorGuest, kind: int) -> None:
    stor.channel.send(packet(kind, vstor(3)))
    assert stor.guest.server.violations[-1].rule == "packet-type"
    assert stor.channel.receive() == []


@pytest.mark.parametrize("size", [0, 8, 56])
def test_short_packets(stor: StorGuest, size: int) -> None:
    stor.channel.send(packet(6, bytes(size)))
    assert stor.guest.server.violations[-1].rule == "packet-short"


def test_no_completion_that_nobody_wants(stor: StorGuest) -> None:
    stor.channel.send(packet(6, srb(TEST_UNIT_READY, 0, 2), 5, flags=0))
    stor.channel.send(packet(6, vstor(6), 5, flags=0))
    assert stor.channel.receive() == []


@pytest.mark.parametrize("scattered", [False, True], ids=["contiguous rings", "scattered rings"])
def test_ten_thousand_requests(make_guest, disk, scattered: bool) -> None:
    """More than the guest's ring holds, many wakes; every transaction completes once."""
    driver = stor_sim.start(make_guest(Scsi([disk])), pages=(32, 32), scattered=scattered)
    ranges = [(512, 0, driver.buffer[:1])]
    done: list[int] = []
    count = 10_000 if not scattered else 1_500
    for number in range(count):
        if driver.channel.room() < 300:
            driver.channel.signal()
            done += [one.transaction for one in driver.channel.receive()]
        driver.channel.put(driver.submit(read_10(number % SECTORS, 1), 512, ranges=ranges))
    driver.channel.signal()
    done += [one.transaction for one in driver.channel.receive()]
    assert done == list(range(1, count + 1))
    assert not driver.guest.server.violations


def test_unload_with_requests_in_the_ring(stor: StorGuest) -> None:
    guest = stor.guest
    for _ in range(10):
        stor.channel.put(stor.submit(READ_ONE, 512))
    before = guest.memory.read(stor.buffer[0] * PAGE, 512)
    assert guest.ask(struct.pack("<II", 16, 0)) == [struct.pack("<II", 17, 0)]
    stor.channel.signal()
    assert guest.memory.read(stor.buffer[0] * PAGE, 512) == before


def test_gpa_ranges_that_are_many_and_scattered(stor: StorGuest) -> None:
    """Bytes arrive in list order, over ranges with offsets, single pages and runs."""
    base = stor.buffer[0]
    ranges = [
        (100, 50, [base + 9]),
        (4096 - 100, 96, [base + 3]),
        (8192, 2048, [base + 20, base + 21, base + 5]),
        (4096, 0, [base + 11]),
    ]
    total = sum(length for length, _, _ in ranges)
    result = stor.run(read_10(0, total // 512), total, ranges=ranges)
    assert (result.srb, result.moved) == (OK, total)
    found = b""
    for length, offset, pages in ranges:
        data = b"".join(stor.guest.memory.read(page * PAGE, PAGE) for page in pages)
        found += data[offset : offset + length]
    assert found == b"".join(map(sector, range(total // 512)))


def test_more_pieces_than_iov_max(stor: StorGuest) -> None:
    """1,025 pieces of 512 bytes: two system calls."""
    pieces = [(512, 0, [stor.buffer[i % 256]]) for i in range(1025)]
    assert len(gpa_ranges(pieces)) < 100_000
    result = stor.run(read_10(0, 1025), 1025 * 512, ranges=pieces)
    assert (result.srb, result.moved) == (OK, 1025 * 512)
    assert stor.guest.memory.read(stor.buffer[0] * PAGE, 512) == sector(1024)
