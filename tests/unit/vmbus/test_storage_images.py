"""A qcow2, VHD or VHDX drive as a storage driver sees it, with the errors of its host."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading

import pytest
import stor_sim
from stor_sim import StorGuest, cdb_10, cdb_16

from pyhv import qemunbd
from pyhv.imagedisk import ImageDisk
from pyhv.vmbus import scsi
from pyhv.vmbus.storvsc import Scsi

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("qemu-img") is None,
    reason="qemu-nbd, qemu-img: not installed (apt install qemu-utils)",
)
OK, ERROR_WITH_SENSE = 0x01, 0x84
READ_ERROR, WRITE_ERROR, NO_ROOM = (3, 0x11, 0), (3, 0x0C, 0), (7, 0x27, 7)
READ = cdb_10(scsi.READ_10, 8, 8)
WRITE = cdb_10(scsi.WRITE_10, 8, 8)
WRITE_FUA = cdb_10(scsi.WRITE_10, 8, 8, flags=8)
SYNC = cdb_10(scsi.SYNCHRONIZE_CACHE_10, 0, 0)
ZERO = cdb_16(scsi.WRITE_SAME_16, 8, 8)
UNMAP = bytes.fromhex("42 00 00 00 00 00 00 00 18 00")
UNMAPPED = bytes.fromhex("0016 0010 00000000") + bytes.fromhex("00000000000000080000000800000000")
READ_CAPACITY_16 = bytes((0x9E, 0x10)) + bytes(8) + (32).to_bytes(4, "big") + bytes(2)
DATA = b"image!!!" * 512


@pytest.fixture
def opened(make_guest, tmp_path):
    disks: list[ImageDisk] = []

    def start(format: str = "qcow2", **options) -> tuple[ImageDisk, StorGuest]:
        path = tmp_path / f"d.{format}"
        subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "8M"], check=True)
        disks.append(ImageDisk(path, format, **options))
        return disks[-1], stor_sim.start(make_guest(Scsi([disks[-1]])))

    yield start
    for disk in disks:
        disk.close()


@pytest.mark.parametrize("cache", ["writeback", "none", "writethrough", "unsafe"])
@pytest.mark.parametrize("format", ["qcow2", "vpc", "vhdx"])
def test_requests(opened, format: str, cache: str) -> None:
    disk, stor = opened(format, cache=cache)
    for cdb in (WRITE, WRITE_FUA):
        assert stor.run(cdb, data=DATA).srb == OK
    assert stor.run(SYNC).srb == OK
    assert stor.run(READ, 4096).data == DATA
    thin = stor.run(READ_CAPACITY_16, 32).data[14] & 0xC0
    assert thin == (0xC0 if format == "qcow2" else 0)
    assert stor.run(UNMAP, data=UNMAPPED).srb == OK
    assert stor.run(READ, 4096).data == (bytes(4096) if thin else DATA)
    assert stor.run(WRITE, data=DATA).srb == OK
    assert stor.run(ZERO, data=bytes(512)).srb == OK
    assert stor.run(READ, 4096).data == bytes(4096)


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("format", ["qcow2", "vpc", "vhdx"])
def test_many_pages_at_once(opened, format: str, snapshot: bool) -> None:
    """They come as addresses, for which a socket has no use."""
    _, stor = opened(format, snapshot=snapshot)
    data = random.Random(format).randbytes(24 * 4096)
    pages = [stor.buffer[n] for n in (*range(100, 110), *range(40, 20, -2), 7, 8, 9, 5)]
    for number, page in enumerate(pages):
        stor.guest.memory.write(page * 4096, data[number * 4096 : (number + 1) * 4096])
    ranges = [(len(data), 0, pages)]
    write = cdb_10(scsi.WRITE_10, 128, len(data) // 512)
    assert stor.run(write, len(data), direction=stor_sim.WRITE, ranges=ranges).srb == OK
    for page in pages:
        stor.guest.memory.zero(page * 4096, 4096)
    read = cdb_10(scsi.READ_10, 128, len(data) // 512)
    assert stor.run(read, len(data), ranges=ranges).moved == len(data)
    assert b"".join(stor.guest.memory.read(page * 4096, 4096) for page in pages) == data


def test_a_lost_server_is_a_medium_error(opened) -> None:
    """Of all that touches the image, for good; the rest of the drive answers."""
    disk, stor = opened()
    assert stor.run(WRITE, data=DATA).srb == OK
    os.kill(disk._server._process.pid, signal.SIGKILL)
    disk._server._thread.join(10)
    for cdb, options, sense in (
        (READ, {"length": 4096}, READ_ERROR), (WRITE, {"data": DATA}, WRITE_ERROR),
        (WRITE_FUA, {"data": DATA}, WRITE_ERROR), (SYNC, {}, WRITE_ERROR),
        (UNMAP, {"data": UNMAPPED}, WRITE_ERROR), (ZERO, {"data": bytes(512)}, WRITE_ERROR),
        (SYNC, {}, WRITE_ERROR), (READ, {"length": 4096}, READ_ERROR),
    ):  # fmt: skip
        result = stor.run(cdb, **options)
        assert (result.srb, result.scsi, result.sense) == (ERROR_WITH_SENSE, 2, sense)
    assert stor.run(READ_CAPACITY_16, 32).srb == OK


@pytest.mark.parametrize(
    ("cdb", "options", "sense"),
    [(READ, {"length": 4096}, READ_ERROR), (WRITE, {"data": DATA}, WRITE_ERROR),
     (SYNC, {}, WRITE_ERROR)],
    ids=["read", "write", "flush"],
)  # fmt: skip
def test_killed_in_the_middle(opened, cdb, options, sense) -> None:
    disk, stor = opened()
    pid = disk._server._process.pid
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    timer.start()
    result = stor.run(cdb, **options)
    timer.join()
    assert (result.srb, result.scsi, result.sense) == (ERROR_WITH_SENSE, 2, sense)


def test_no_space_on_the_host(opened, tmp_path, monkeypatch) -> None:
    program = tmp_path / "bin" / "qemu-nbd"
    program.parent.mkdir()
    real = shutil.which("qemu-nbd")
    program.write_text(f'#!/bin/sh\ntrap "" XFSZ; ulimit -f 1024; exec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(qemunbd, "SEARCH", f"{program.parent}:{os.environ['PATH']}")
    _, stor = opened()
    results = [
        stor.run(cdb_10(scsi.WRITE_10, lba, 128), data=b"w" * 65536)
        for lba in range(0, 8 * 2048, 128)
    ]
    assert results[0].srb == OK
    assert (results[-1].srb, results[-1].scsi, results[-1].sense) == (ERROR_WITH_SENSE, 2, NO_ROOM)
    assert stor.run(cdb_10(scsi.READ_10, 0, 128), 65536).data == b"w" * 65536
