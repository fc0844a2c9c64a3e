"""Debian's Hyper-V daemons in a small guest: pairs, frozen file systems, files from the host."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess

import pytest
from conftest import COMMAND_S, drivers, image

from pyhv.config import Drive
from pyhv.errors import ConfigError, HostError

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PAIRS = [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()]
FILE_BYTES = 40_000


def shell(boot, suite: str, **options: object) -> object:
    """Boot the small initramfs with the daemons to its shell."""
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("services", suite)[0],
        append="console=ttyS0 quiet", **{"memory": "512M", **options},
    )  # fmt: skip
    guest.prompt()
    return guest


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_daemons(boot, tmp_path: pathlib.Path, suite: str, hyperv: str) -> None:
    disk = tmp_path / "ext4.img"
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
    guest = shell(
        boot, suite, hyperv=hyperv, drives=[Drive(str(disk))],
        nics=[f"socket,path={tmp_path}/nic,server=on"],
    )  # fmt: skip
    key_value_pairs(guest)
    freeze_and_thaw(guest, disk)
    files(guest, suite, tmp_path)
    assert guest.vm.board.vmbus.violation_count == 0


def key_value_pairs(guest) -> None:
    kvp = guest.vm.kvp
    kvp.timeout = COMMAND_S
    with pytest.raises(ConfigError, match="no driver for it now"):
        kvp["OSName"]
    guest.run("hostname guest; echo 127.0.0.1 guest > /etc/hosts")
    guest.run("echo NAME=Small > /etc/os-release")
    guest.run("/usr/sbin/hv_kvp_daemon; sleep 3")
    print(dict(kvp.pool("auto")))
    assert kvp["OSName"] == "Small"
    assert kvp["OSVersion"] in guest.run("uname -r")
    assert kvp["ProcessorArchitecture"] == "x86_64"
    assert kvp["FullyQualifiedDomainName"] == "guest"
    kvp["role"] = "database"
    kvp["größe"] = "7 \U0001f600"
    assert dict(kvp.pool("external")) == {"role": "database", "größe": "7 \U0001f600"}
    assert "role" in guest.run("tr '\\0' '\\n' < /var/lib/hyperv/.kvp_pool_0 | grep .")
    kvp["role"] = "web"
    assert kvp["role"] == "web"
    del kvp["größe"]
    assert "größe" not in kvp
    # a program in the guest: records of 512 and 2048 bytes
    guest.run("(printf answer; head -c 506 /dev/zero; printf 42; head -c 2046 /dev/zero) > /p")
    guest.run("cat /p > /var/lib/hyperv/.kvp_pool_1")
    assert kvp["answer"] == kvp.pool("guest")["answer"] == "42"
    an_address(guest)
    guest.run("kill -9 $(busybox pidof hv_kvp_daemon); sleep 1")
    kvp.timeout = 5
    with pytest.raises((ConfigError, HostError), match="kvp") as refused:
        kvp["role"]
    print("killed daemon:", refused.value)


def an_address(guest) -> None:
    """Debian's daemon calls a program that Debian does not ship; a user's own does it."""
    kvp = guest.vm.kvp
    with pytest.raises(HostError, match="refused, status 0x80004005; .* no hv_set_ifconfig"):
        kvp.set_address("10.0.2.77/24", "10.0.2.2", "10.0.2.3,10.0.2.4")
    guest.run("d=/usr/libexec/hypervkvpd; mkdir -p $d; echo '#!/bin/sh' > $d/hv_set_ifconfig")
    guest.run(
        "echo 'export PATH=/bin; . $1; ifconfig $DEVICE $IPADDR0 netmask $NETMASK0; cat $1 > /ifcfg"
        "' >> $d/hv_set_ifconfig; busybox chmod +x $d/hv_set_ifconfig"
    )
    kvp.set_address("10.0.2.77/24", "10.0.2.2", "10.0.2.3,10.0.2.4")
    print(guest.run("cat /ifcfg"))
    said = guest.run("ifconfig eth0; cat /ifcfg")
    assert "inet addr:10.0.2.77  Bcast:10.0.2.255  Mask:255.255.255.0" in said
    assert "GATEWAY=10.0.2.2" in said
    assert "10.0.2.4" in said


def freeze_and_thaw(guest, disk: pathlib.Path) -> None:
    vm = guest.vm
    guest.run("mount -t ext4 /dev/sda /mnt; echo before > /mnt/before")
    with pytest.raises(ConfigError, match="no hv_vss_daemon runs in the guest"):
        vm.freeze(timeout=COMMAND_S)
    guest.run("/usr/sbin/hv_vss_daemon; sleep 2")
    with vm.frozen(timeout=COMMAND_S):
        frozen = disk.read_bytes()
        # not a job of this shell: bookworm's ash takes the end of one for the end of its input
        guest.run("((echo late > /mnt/late; echo written > /state) &)")
        assert "written" not in guest.run("sleep 2; cat /state")
        assert disk.read_bytes() == frozen
    guest.run("sleep 2; sync")
    assert "written" in guest.run("cat /state")
    copy = disk.with_name("copy.img")
    copy.write_bytes(frozen)
    # a frozen ext4 has an empty journal: nothing to recover, whole, and what was written is there
    check = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True)
    assert check.returncode == 0, check
    listing = subprocess.run(["debugfs", "-R", "ls -l", copy], capture_output=True, text=True)
    assert "before" in listing.stdout
    assert "late" not in listing.stdout
    head = subprocess.run(["dumpe2fs", "-h", copy], capture_output=True, text=True)
    assert "needs_recovery" not in head.stdout


def files(guest, suite: str, folder: pathlib.Path) -> None:
    vm = guest.vm
    content = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(FILE_BYTES // 32))
    path = folder / "blob"
    path.write_bytes(content)
    with pytest.raises((ConfigError, HostError), match="copy_in /a/b/: .*hv_fcopy") as refused:
        vm.copy_in(path, "/a/b/", timeout=10)
    print("no daemon:", refused.value)
    name = "hv_fcopy_uio_daemon" if suite == "trixie" else "hv_fcopy_daemon"
    if suite == "trixie":
        guest.run("insmod /later/uio.ko; insmod /later/uio_hv_generic.ko; sleep 5; ls -l /dev/uio*")
    print(guest.run(f"/usr/sbin/{name}; sleep 3; ps | grep fcopy"))
    vm.copy_in(path, "/a/b/", timeout=COMMAND_S)
    assert hashlib.md5(content).hexdigest() in guest.run("md5sum /a/b/blob")
    with pytest.raises(HostError, match="it exists in the guest; overwrite=True"):
        vm.copy_in(path, "/a/b/blob", timeout=COMMAND_S)
    path.write_bytes(b"short")
    vm.copy_in(path, "/a/b/blob", overwrite=True, timeout=COMMAND_S)
    assert "short=" in guest.run("cat /a/b/blob; echo =")
    path.write_bytes(b"")
    vm.copy_in(path, "/empty", timeout=COMMAND_S)
    assert "0 /empty" in guest.run("wc -c /empty")
