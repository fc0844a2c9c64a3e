"""Linux on qcow2, VHD and VHDX: what it wrote is in the image; what it gets of a lost one."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

from pyhv.config import Drive

pytestmark = [
    pytest.mark.boot,
    pytest.mark.kvm,
    pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd (qemu-utils) not here"),
]
PARTITION = 1048576
MIB = 1 << 20
#: file name -> format, MiB, by which the guest knows it, and options of qemu-img create
DISKS = {
    "a.qcow2": ("qcow2", 16, ""),
    "b.vhd": ("vpc", 20, "force_size=on"),
    "c.vhd": ("vpc", 24, "subformat=fixed,force_size=on"),
    "d.vhdx": ("vhdx", 32, ""),
    "lost.qcow2": ("qcow2", 40, ""),
}


def img(*words: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(path: pathlib.Path, format: str) -> pathlib.Path:
    """Return what is in the image, as a raw file, after qemu-img's check where there is one."""
    if format != "vpc":
        img("check", "-f", format, path)
    plain = path.with_suffix(".raw")
    img("convert", "-f", format, "-O", "raw", path, plain)
    return plain


def found(mib: int) -> str:
    """Shell words that set $d to the disk of that many MiB, or to nothing.

    Linux names disks in any order, and finds one that was plugged in a while later.
    """
    return (
        "d=; for s in /sys/block/sd*; do "
        f"[ $(cat $s/size) = {mib * 2048} ] && d=/dev/${{s##*/}}; done; "
    )


@pytest.mark.parametrize("hyperv", drivers())
def test_every_format_holds_what_linux_wrote(boot, tmp_path, hyperv: str) -> None:
    """And a disk whose qemu-nbd is killed gives I/O errors, while the others go on."""
    drives = []
    for name, (format, mib, options) in DISKS.items():
        more = ["-o", options] if options else []
        img("create", "-q", "-f", format, *more, tmp_path / name, f"{mib}M")
        drives.append(Drive(str(tmp_path / name), format=format))
    added = drives.pop(0)
    guest = boot(
        kernel=image("kernel", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append="console=ttyS0 quiet", memory="512M", smp=2, hyperv=hyperv, drives=drives,
    )  # fmt: skip
    assert guest.vm.driver_name == f"in_{hyperv}"
    notices: list[str] = []
    guest.vm.notice = notices.append
    guest.prompt()
    guest.vm.add_disk(added)
    lost = drives[-1].path
    for name, (_, mib, _) in DISKS.items():
        text = guest.run(
            f"for i in $(seq 50); do {found(mib)} [ -b \"$d\" ] && break; sleep 0.2; done; "
            # sync alone brings a disk's pages to it, and asks it for no flush
            f"yes {name} | head -c 3000000 | dd of=$d bs=64k conv=fsync 2>/dev/null; "
            "echo 3 > /proc/sys/vm/drop_caches; md5sum < $d | cut -c 1-32; "
            "cat /sys/block/${d##*/}/queue/discard_max_bytes"
        )
        line = f"{name}\n".encode()
        data = (line * (3000000 // len(line) + 1))[:3000000].ljust(mib * MIB, b"\0")
        digest, discard = text.split()[-2:]
        assert digest == hashlib.md5(data).hexdigest(), text
        assert (int(discard) > 0) == name.endswith("qcow2"), text
    disk = next(disk for disk in guest.vm.disks if disk.path == lost)
    os.kill(disk._server._process.pid, signal.SIGKILL)
    text = guest.run(
        f"{found(40)} dd if=$d of=/dev/null bs=4096 count=1 skip=9000 2>&1; echo $?; "
        f"{found(40)} dd if=/dev/zero of=$d bs=4096 count=1 conv=fsync 2>&1; echo $?; "
        "dmesg | grep -A 2 'Medium Error'"
    )
    print(text, notices)
    assert re.findall(r"^\d+$", text, re.M) == ["1", "1"], text
    assert text.count("Input/output error") == 2
    assert "Medium Error" in text
    assert len(notices) == 1
    assert "qemu-nbd is lost" in notices[0]
    text = guest.run(f"{found(16)} dd if=$d bs=1M 2>/dev/null | head -c 8")
    assert text.endswith("a.qcow2\n")
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
    guest.vm.close()
    for name, (format, _, _) in DISKS.items():
        assert raw(tmp_path / name, format).read_bytes().startswith(f"{name}\n".encode() * 9)


def slow(hyperv: str) -> object:
    """A whole Debian with every tick and doorbell in Python takes minutes on an emulated CPU."""
    return pytest.param(hyperv, marks=[pytest.mark.slow] if hyperv == "user" else [])


@pytest.mark.parametrize("hyperv", [slow(hyperv) for hyperv in drivers()])
def test_debian_boots_from_a_qcow2_overlay(boot, tmp_path, hyperv: str) -> None:
    """GRUB through INT 13h, then Linux through storvsc; the disk under it stays as it is."""
    base = pathlib.Path(image("disk", "trixie")[0])
    before = base.stat().st_mtime_ns
    over = tmp_path / "over.qcow2"
    img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", over)
    guest = boot(disk=Drive(str(over), format="qcow2"), memory="768M", smp=2, hyperv=hyperv)
    assert guest.vm.driver_name == f"in_{hyperv}"
    guest.login()
    assert "/dev/sda1" in guest.run("findmnt -no SOURCE /")
    digest = guest.run(
        "head -c 20000000 /dev/urandom > /srv/proof; sync; md5sum < /srv/proof | cut -c 1-32"
    ).split()[-1]
    trimmed = guest.run("rm /var/cache/apt/*.bin; fstrim -v / 2>&1")
    assert "bytes) trimmed" in trimmed, trimmed
    guest.console.send("poweroff\n")
    stop = guest.vm.wait(timeout=BOOT_S)
    assert (stop.kind, stop.status) == ("poweroff", 0), stop
    guest.vm.close()
    plain = raw(over, "qcow2")
    assert subprocess.run(
        ["e2fsck", "-fn", f"{plain}?offset={PARTITION}"], capture_output=True
    ).returncode == 0  # fmt: skip
    proof = subprocess.run(
        ["debugfs", "-R", "cat /srv/proof", f"{plain}?offset={PARTITION}"], capture_output=True
    ).stdout
    assert hashlib.md5(proof).hexdigest() == digest
    assert base.stat().st_mtime_ns == before
    print(f"overlay of {over.stat().st_blocks >> 11} MiB; {trimmed}")
