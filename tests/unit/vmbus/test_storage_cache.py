"""What ``cache=`` means to a guest and to the file; the host's errors as the guest sees them."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import subprocess
import sys

import pytest
import stor_sim
from bus_helpers import sector
from stor_sim import StorGuest, cdb_10, cdb_16

from pyhv.config import CACHE
from pyhv.disk import Disk
from pyhv.vmbus import scsi
from pyhv.vmbus.storvsc import Scsi

OK, ERROR_WITH_SENSE = 0x01, 0x84
NO_ROOM = (7, 0x27, 7)
WRITE = cdb_10(scsi.WRITE_10, 7, 1)
WRITE_FUA = cdb_10(scsi.WRITE_10, 7, 1, flags=8)
SYNC = cdb_10(scsi.SYNCHRONIZE_CACHE_10, 0, 0)
UNMAP = bytes.fromhex("42 00 00 00 00 00 00 00 18 00")
UNMAPPED = bytes.fromhex("0016 0010 00000000") + bytes.fromhex("00000000000000080000000800000000")
WRITE_SAME = cdb_16(scsi.WRITE_SAME_16, 16, 8)
CACHING = bytes.fromhex("1a 08 08 00 ff 00")

#: how many times the file is synchronized by WRITE, WRITE with FUA, SYNC, UNMAP, WRITE SAME
SYNCS = {
    "writeback": (0, 1, 1, 0, 0),
    "none": (0, 1, 1, 0, 0),
    "writethrough": (1, 1, 1, 1, 1),
    "unsafe": (0, 0, 0, 0, 0),
}


@pytest.fixture
def opened(make_guest, image):
    disks: list[Disk] = []

    def start(**options) -> StorGuest:
        disks.append(Disk(image, **options))
        return stor_sim.start(make_guest(Scsi([disks[-1]])))

    yield start
    for disk in disks:
        disk.close()


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the host about the medium and the page cache."""
    found: list[str] = []
    monkeypatch.setattr("pyhv.disk.os.fdatasync", lambda fd: found.append("sync"))
    monkeypatch.setattr(
        "pyhv.disk.os.posix_fadvise",
        lambda fd, offset, length, advice: found.append(f"advice {offset} {length} {advice}"),
    )
    return found


def test_every_mode_is_tested() -> None:
    assert list(SYNCS) == list(CACHE)


@pytest.mark.parametrize("cache", CACHE)
def test_what_reaches_the_medium_and_when(opened, calls, cache: str) -> None:
    stor = opened(cache=cache)
    requests = ((WRITE, b"w" * 512), (WRITE_FUA, b"f" * 512), (SYNC, b""),
                (UNMAP, UNMAPPED), (WRITE_SAME, bytes(512)))  # fmt: skip
    for (cdb, data), expected in zip(requests, SYNCS[cache], strict=True):
        calls.clear()
        result = stor.run(cdb, data=data)
        assert (result.srb, result.moved) == (OK, len(data))
        assert calls.count("sync") == expected
        dropped = f"advice 0 0 {os.POSIX_FADV_DONTNEED}"
        assert calls == (["sync", dropped] * expected if cache == "none" else ["sync"] * expected)
    assert stor.run(cdb_10(scsi.READ_10, 7, 1), 512).data == b"f" * 512


@pytest.mark.parametrize("cache", CACHE)
def test_the_guest_is_told_whether_to_flush(opened, cache: str) -> None:
    page = opened(cache=cache).run(CACHING, 255).data[4:]
    assert (page[0], page[2] & 4) == (8, 0 if cache == "writethrough" else 4)


@pytest.mark.parametrize("cache", CACHE)
def test_what_vanishes_is_never_synchronized(opened, calls, cache: str) -> None:
    stor = opened(cache=cache, snapshot=True)
    for cdb in (WRITE, WRITE_FUA):
        assert stor.run(cdb, data=b"w" * 512).srb == OK
    assert stor.run(SYNC).srb == OK
    assert calls == []


def test_a_write_that_fails_is_not_followed_by_a_flush(opened, calls, monkeypatch) -> None:
    stor = opened(cache="writethrough")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyhv.disk.os.pwritev", full)
        assert stor.run(WRITE, data=b"w" * 512).sense == NO_ROOM
    assert calls == []
    assert stor.run(WRITE, data=b"w" * 512).srb == OK  # somebody made room


def test_a_limit_of_the_file_size(opened) -> None:
    """EFBIG of a real kernel; what was there stays."""
    stor = opened()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        result = stor.run(cdb_10(scsi.WRITE_10, 100, 1), data=b"w" * 512)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.srb, result.scsi, result.sense) == (ERROR_WITH_SENSE, 2, NO_ROOM)
    assert stor.run(cdb_10(scsi.READ_10, 100, 1), 512).data == sector(100)


FULL = """
import os, sys
sys.path[:0] = sys.argv[2:]
import stor_sim
from guest_sim import Guest
from pyhv.disk import Disk
from pyhv.vmbus.storvsc import Scsi

path = os.path.join(sys.argv[1], "disk.img")
with open(path, "wb") as file:
    file.truncate(1 << 20)
disk = Disk(path)
stor = stor_sim.start(Guest(Scsi([disk])))
for lba in (0, 128, 256, 384):
    result = stor.run(stor_sim.cdb_10(0x2A, lba, 128), data=b"w" * 65536)
    print(result.srb, result.scsi, result.sense)
same = stor.run(stor_sim.cdb_16(0x93, 512, 64), data=b"p" * 512)
print(same.srb, same.scsi, same.sense)
print(stor.run(stor_sim.cdb_10(0x35, 0, 0)).srb)
"""


def test_a_full_file_system(tmp_path) -> None:
    """A tmpfs of 128 KiB in a mount namespace: ENOSPC of a real kernel."""
    root = pathlib.Path(__file__).parents[3]
    where = tmp_path / "full"
    where.mkdir()
    mount = f'mount -t tmpfs -o size=128k none {where} && exec "$0" -c "$1" {where} "$2" "$3"'
    namespace = ["unshare", "-m", *(["-U", "-r"] if os.getuid() else [])]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this host gives no mount namespace")
    found = subprocess.run(
        [*namespace, "sh", "-c", mount, sys.executable, FULL, root, root / "tests/unit/vmbus"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    full = f"{ERROR_WITH_SENSE} 2 {NO_ROOM}"
    assert found == ["1 0 None", "1 0 None", full, full, full, "1"]
