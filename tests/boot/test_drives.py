"""Debian's sd_mod, sr_mod and ext4 on our drives: what the guest sees, and what the files hold."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pycdlib
import pytest
from conftest import COMMAND_S, drivers, image

from pyhv.config import Drive, cdrom

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
MIB = 1 << 20
PLAIN, BIG, READONLY, FULL, CUT, DVD = range(6)  # LUNs
SIZES = {PLAIN: 64 * MIB, BIG: 64 * MIB, READONLY: 4 * MIB, FULL: 32 * MIB, CUT: 8 * MIB}
PARTITION = MIB  # where sfdisk puts the first
CONTENT = os.urandom(MIB)

#: sd names come in the order of the probes, which is anyone's: a LUN is found by its address.
#: Debian's tools are called by path: busybox's shell takes its own blkdiscard before any in PATH.
HELPERS = r"""
s=/usr/sbin
name() { for d in /sys/block/*; do
case $(busybox readlink $d/device) in *:$1) echo ${d##*/};; esac; done; }
dev() { echo /dev/$(name $1); }
within() { for i in $(busybox seq 200); do eval "$1" && return; sleep 0.1; done; echo LATE; }
sum() { busybox sha1sum $1 | cut -c1-40; }
mkdir -p /m
"""


class Images:
    """The files of the drives, in *folder*; FULL on a file system with too little room."""

    def __init__(self, folder: pathlib.Path, small: pathlib.Path) -> None:
        names = ["plain", "big", "readonly", "full", "cut"]
        self.paths = [(small if name == "full" else folder) / f"{name}.img" for name in names]
        self.ballast = small / "ballast"
        self.ballast.write_bytes(bytes(4 * MIB))
        for lun, size in SIZES.items():
            with self.paths[lun].open("wb") as file:
                file.truncate(size)
        self.paths[READONLY].write_bytes(CONTENT * 4)
        self.paths[CUT].write_bytes(CONTENT * 8)
        self.first = iso(folder / "first.iso", "first", CONTENT)
        self.second = iso(folder / "second.iso", "second", b"2" * 5000)

    def drives(self) -> list[Drive]:
        more = {BIG: {"sector_size": 4096, "cache": "writethrough"}, READONLY: {"readonly": True}}
        drives = [Drive(str(path), **more.get(lun, {})) for lun, path in enumerate(self.paths)]
        return [*drives, cdrom(self.first)]

    def blocks(self, lun: int) -> int:
        """What the host keeps of an image, in bytes."""
        return os.stat(self.paths[lun]).st_blocks * 512

    def read(self, lun: int, offset: int, length: int) -> bytes:
        with self.paths[lun].open("rb") as file:
            file.seek(offset)
            return file.read(length)


def iso(path: pathlib.Path, name: str, data: bytes) -> str:
    """Make a disc with one file."""
    disc = pycdlib.PyCdlib()
    disc.new(vol_ident="PYHV", rock_ridge="1.09")
    disc.add_fp(io.BytesIO(data), len(data), f"/{name.upper()}.;1", rr_name=name)
    disc.write(str(path))
    disc.close()
    return str(path)


def check(path: pathlib.Path, offset: int = 0) -> None:
    """The ext4 in an image is whole, says the host's e2fsck."""
    done = subprocess.run(
        ["/usr/sbin/e2fsck", "-f", "-n", f"{path}?offset={offset}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def images(tmp_path: pathlib.Path) -> Iterator[Images]:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", small], check=True)
    yield Images(tmp_path, small)
    subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize("hyperv", drivers())
@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_drives(boot, monkeypatch, images: Images, suite: str, hyperv: str) -> None:
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("storage", suite)[0],
        drives=images.drives(), append="console=ttyS0 quiet", memory="512M", smp=2, hyperv=hyperv,
    )  # fmt: skip
    guest.prompt()
    guest.run("PS2=; echo 0 >/proc/sys/kernel/printk")
    guest.run(HELPERS.strip())
    what_they_are(guest)
    discard_and_zeroes(guest, images)
    trim_and_flush(guest, images, monkeypatch)
    sectors_of_4096_bytes(guest)
    readonly(guest)
    no_room_on_the_host(guest, images)
    broken_image(guest, images, monkeypatch)
    discs(guest, images)
    later = images.paths[PLAIN].with_name("later.img")
    plugged_in_and_out(guest, later)
    assert guest.vm.board.vmbus.violation_count == 0
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
    for path, offset in ((images.paths[PLAIN], 0), (images.paths[BIG], PARTITION),
                         (images.paths[FULL], 0), (later, 0)):  # fmt: skip
        check(path, offset)


def what_they_are(guest) -> None:
    assert "LATE" not in guest.run(
        f"within '[ \"$(ls -d /sys/block/s[dr]* | wc -l)\" = {DVD + 1} ]'"
    )
    for lun, size in SIZES.items():
        sector = 4096 if lun == BIG else 512
        found = guest.run(
            f"cd /sys/block/$(name {lun}); cat size queue/logical_block_size ro queue/write_cache "
            "queue/discard_granularity; cd /"
        ).split("\n")
        cache = "write through" if lun in (BIG, READONLY) else "write back"
        assert found[:4] == [str(size // 512), str(sector), str(int(lun == READONLY)), cache], lun
        assert (int(found[4]) > 0) == (lun != READONLY), lun
    assert guest.run(f"name {DVD}") == "sr0\n"


def discard_and_zeroes(guest, images: Images) -> None:
    """A range is discarded, the next one zeroed: both read as zeros, and their neighbour does not.

    sd_mod sends UNMAP or WRITE SAME with UNMAP for the first, WRITE SAME without for the second.
    """
    said = guest.run(
        f"d=$(dev {PLAIN}); dd if=/dev/urandom of=$d bs=1M count=12 conv=fsync 2>/dev/null; "
        "$s/blkdiscard -o 0 -l 4194304 $d; echo $?"
    )
    assert said == "0\n"
    assert images.blocks(PLAIN) == 8 * MIB
    assert images.read(PLAIN, 0, 4 * MIB) == bytes(4 * MIB)
    assert b"\0" * 4096 not in images.read(PLAIN, 4 * MIB, 8 * MIB)
    assert guest.run("$s/blkdiscard -z -o 4194304 -l 4194304 $d; echo $?") == "0\n"
    assert images.read(PLAIN, 4 * MIB, 4 * MIB) == bytes(4 * MIB)
    read = "dd if=$d bs=1M iflag=direct 2>/dev/null"
    assert guest.run(f"{read} count=8 | tr -d '\\0' | wc -c") == "0\n"
    last = guest.run(f"{read} skip=8 count=4 | sum -").strip()
    assert last == hashlib.sha1(images.read(PLAIN, 8 * MIB, 4 * MIB)).hexdigest()


def trim_and_flush(guest, images: Images, monkeypatch) -> None:
    """fstrim gives a deleted file's blocks back to the host; sync is an fdatasync of the host."""
    flushes: list[int] = []
    fdatasync = os.fdatasync
    said = guest.run(f"$s/mkfs.ext4 -q -F $(dev {PLAIN}); mount -t ext4 $(dev {PLAIN}) /m; echo $?")
    assert said == "0\n"
    with monkeypatch.context() as patch:
        patch.setattr("pyhv.disk.os.fdatasync", lambda fd: (flushes.append(fd), fdatasync(fd)))
        guest.run("dd if=/dev/urandom of=/m/file bs=1M count=16 2>/dev/null; sync")
    assert flushes
    before = images.blocks(PLAIN)
    assert "trimmed" in guest.run("echo kept > /m/kept; rm /m/file; sync; $s/fstrim -v /m")
    assert before - images.blocks(PLAIN) > 12 * MIB
    assert guest.run("cat /m/kept; umount /m") == "kept\n"


def sectors_of_4096_bytes(guest) -> None:
    """Debian partitions, formats and uses such a disk."""
    said = guest.run(
        f"d=$(name {BIG}); echo ,,L | $s/sfdisk -q --label gpt /dev/$d; echo $?; "
        "within '[ -b /dev/${d}1 ]'; cat /sys/block/$d/${d}1/start"
    )
    assert said == f"0\n{PARTITION // 512}\n"
    said = guest.run(
        "$s/mkfs.ext4 -q /dev/${d}1; mount -t ext4 /dev/${d}1 /m; dd if=/dev/urandom of=/m/file "
        "bs=1M count=8 2>/dev/null; sum /m/file; umount /m; mount -t ext4 /dev/${d}1 /m; "
        "sum /m/file; umount /m; $s/e2fsck -f -n /dev/${d}1 >/dev/null 2>&1; echo $?"
    ).split()
    assert len(said[0]) == 40
    assert said[1:] == [said[0], "0"]


def readonly(guest) -> None:
    """Linux refuses by itself, and goes on to when told that it may write (--setrw).

    So no write of it comes to the disk, whose own refusal is in tests/unit/vmbus.
    """
    write = "dd if=/dev/zero of=$d bs=4k count=1 oflag=direct 2>&1; echo $?"
    assert "can't open" in guest.run(f"d=$(dev {READONLY}); {write}")
    assert guest.run(f"busybox blockdev --setrw $d; {write}").endswith("1\n")
    assert guest.run("busybox sha1sum <$d | cut -c1-40").strip() == (
        hashlib.sha1(CONTENT * 4).hexdigest()
    )


def no_room_on_the_host(guest, images: Images) -> None:
    """ENOSPC of the host is ENOSPC in the guest; with room again the file system is repaired."""
    said = guest.run(
        f"d=$(dev {FULL}); $s/mkfs.ext4 -q -F $d; mount -t ext4 $d /m; echo before > /m/before; "
        "sync; dd if=/dev/urandom of=/m/file bs=1M count=16 conv=fsync 2>&1; echo $?"
    )
    assert said.endswith("1\n")
    assert "No space left" in said or "Input/output error" in said
    assert int(guest.run("dmesg | grep -c 'critical space allocation error'"))
    images.ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", images.ballast.parent], check=True)
    repair = "$s/e2fsck -f -y $d >/dev/null 2>&1; echo $?; $s/e2fsck -f -n $d; echo $?"
    said = guest.run(f"umount /m; {repair}")
    assert said[0] in "01"
    assert said.endswith("\n0\n")
    assert guest.run("mount -t ext4 $d /m; cat /m/before; umount /m") == "before\n"


def broken_image(guest, images: Images, monkeypatch) -> None:
    """A file cut short is an unreadable sector; a flush that failed fails from then on.

    ENODATA is Linux's word for a medium error whose sense is an unrecovered read (11/00).
    """
    os.truncate(images.paths[CUT], 4 * MIB)
    read = "dd if=$d of=/dev/null bs=64k count=1 iflag=direct skip={} 2>&1; echo $?"
    said = guest.run(f"d=$(dev {CUT}); {read.format(96)}")
    assert "No data available" in said
    assert "nrecovered read error" in guest.run("dmesg | tail -n 5")
    assert guest.run(read.format(32)).endswith("0\n")
    os.truncate(images.paths[CUT], 8 * MIB)
    assert guest.run(read.format(96)).endswith("0\n")

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write = "dd if=/dev/zero of=$d bs=64k count=1 conv=fsync 2>&1; echo $?"
    assert guest.run(write).endswith("0\n")
    with monkeypatch.context() as patch:
        patch.setattr("pyhv.disk.os.fdatasync", fails)
        assert "Input/output error" in guest.run(write)
    assert "Input/output error" in guest.run(write)


def discs(guest, images: Images) -> None:
    """A DVD is mounted and read, then another one in its place."""
    use = f"mount -t iso9660 -o ro $(dev {DVD}) /m; ls /m; sum /m/*; umount /m"
    for name, data in (("first", CONTENT), ("second", b"2" * 5000)):
        assert guest.run(use).split() == [name, hashlib.sha1(data).hexdigest()]
        guest.vm.change_medium(DVD, images.second)


def plugged_in_and_out(guest, path: pathlib.Path) -> None:
    """A disk comes and goes, the second time while it is mounted."""
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    lun = guest.vm.add_disk(str(path))
    assert lun == DVD + 1
    assert guest.run(f"within '[ -n \"$(name {lun})\" ]'") == ""
    assert guest.run(f"cat /sys/block/$(name {lun})/size") == f"{16 * MIB // 512}\n"
    said = guest.run(
        f"d=$(dev {lun}); within '[ -b $d ]'; $s/mkfs.ext4 -q -F $d; mount -t ext4 $d /m; "
        "echo hello > /m/hello; umount /m; echo $?"
    )
    assert said == "0\n"
    guest.vm.remove_disk(lun)
    assert guest.run(f"within '[ -z \"$(name {lun})\" ]'") == ""
    assert guest.vm.add_disk(str(path)) == lun
    said = guest.run(
        f"within '[ -n \"$(name {lun})\" ]'; d=$(dev {lun}); within '[ -b $d ]'; "
        "mount -t ext4 -o ro $d /m; cat /m/hello"
    )
    assert said == "hello\n"
    guest.vm.remove_disk(lun)
    assert guest.run(f"within '[ -z \"$(name {lun})\" ]'") == ""
    assert guest.run("umount /m; echo $?") == "0\n"
    assert guest.run(f"echo $(name {PLAIN})").startswith("sd")
