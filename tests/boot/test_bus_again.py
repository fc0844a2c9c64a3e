"""A Debian guest leaves the bus and comes back: kexec, modules out and in, unbind and bind.

The disk and the network work again each time, and the VM is the same one: nothing was reset.
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil

import perl_initrd
import pytest
from conftest import COMMAND_S, drivers, image
from test_network import SCRIPT

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PAIRS = [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()]
CONTENT = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(65536))  # 2 MiB
SECOND = "console=ttyS0 quiet pyhv.second"
#: kexec_file_load, then reboot(LINUX_REBOOT_CMD_KEXEC); Debian's kexec-tools would do no more
KEXEC = (
    '/usr/bin/perl -e \'open(K,"</second/vmlinuz")||die;open(I,"</second/initrd")||die;'
    f'$c="{SECOND}\\0";syscall(320,fileno(K),fileno(I),length($c),$c,0)==0||die "load: $!";'
    'syscall(169,0xfee1dead,672274793,0x45584543,0);die "kexec: $!"\''
)
DRIVERS = (("hv_storvsc", "/sys/block/sd*"), ("hv_netvsc", "/sys/class/net/eth0"))
DISK = "for n in $(busybox seq 50); do d=$(ls /sys/block | grep ^sd) && break; sleep 0.2; done"


def has_disk(guest, disk: pathlib.Path, mark: str) -> None:
    """The guest reads what the file has, and the file gets what the guest writes."""
    wanted = hashlib.md5(disk.read_bytes()).hexdigest()
    assert wanted in guest.run(f"{DISK}; md5sum /dev/$d")
    guest.run(f"echo {mark} | dd of=/dev/$d conv=fsync 2>/dev/null")
    assert disk.read_bytes().startswith(f"{mark}\n".encode())


def has_network(guest) -> None:
    guest.run(SCRIPT.strip())
    assert "LEASE 10.0.2.15" in guest.run("udhcpc -i eth0 -s /lease -q -n 2>/dev/null")


def start(boot, suite: str, hyperv: str, initrd: str, disk: pathlib.Path) -> object:
    if shutil.which("passt") is None:
        pytest.fail("the program passt is missing: apt-get install passt (tests/run does)")
    disk.write_bytes(CONTENT)
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=initrd, append="console=ttyS0 quiet",
        memory="512M", smp=2, hyperv=hyperv, drives=[str(disk)], nics=["user"],
    )  # fmt: skip
    guest.prompt()
    has_disk(guest, disk, "first")
    has_network(guest)
    return guest


def end(guest, board: object) -> None:
    assert guest.vm.board is board, "nothing was reset"
    assert board.vmbus.violation_count == 0, list(board.vmbus.violations)
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_kexec(boot, tmp_path: pathlib.Path, suite: str, hyperv: str) -> None:
    """Another kernel on the same bus: the one before it said UNLOAD, this one makes contact."""
    disk, initrd = tmp_path / "disk.img", tmp_path / "initrd"
    perl_initrd.build(suite, initrd, more={
        "second/vmlinuz": pathlib.Path(image("kernel", suite)[0]),
        "second/initrd": pathlib.Path(image("initramfs", suite)[0]),
    })  # fmt: skip
    guest = start(boot, suite, hyperv, str(initrd), disk)
    board = guest.vm.board
    guest.run("ip link set eth0 down")
    guest.console.send(f"{KEXEC}\n")
    guest.prompt()
    assert "pyhv.second" in guest.run("cat /proc/cmdline")
    print(guest.run("dmesg | grep -iE 'vmbus|hv_|scsi|clocksource'"))
    has_disk(guest, disk, "kexec")
    has_network(guest)
    end(guest, board)


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_drivers_leave(boot, tmp_path: pathlib.Path, suite: str, hyperv: str) -> None:
    """Their modules out of the kernel and in again; then taken from the devices and given back."""
    disk = tmp_path / "disk.img"
    guest = start(boot, suite, hyperv, image("initramfs", suite)[0], disk)
    board = guest.vm.board
    for module, there in DRIVERS:
        assert "gone" in guest.run(f"busybox rmmod {module}; ls -d {there} 2>&- || echo gone")
        guest.run(f"insmod /modules/{module}.ko; sleep 1")
    has_disk(guest, disk, "module")
    has_network(guest)
    for driver, there in DRIVERS:
        guest.run(f"cd /sys/bus/vmbus/drivers/{driver}; n=$(ls | grep -- -.*-)")
        assert "gone" in guest.run(f"echo $n > unbind; ls -d {there} 2>&- || echo gone")
        guest.run("echo $n > bind; cd /; sleep 1")
    has_disk(guest, disk, "bind")
    has_network(guest)
    end(guest, board)
