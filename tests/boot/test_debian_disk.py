"""A stock Debian disk: our BIOS, GRUB, Debian's kernel, root on VMBus storage, systemd."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PARTITION = 1048576


def copy_of(suite: str, folder: pathlib.Path) -> pathlib.Path:
    path = folder / f"{suite}.img"
    image("disk", suite, "-o", str(path))
    return path


def file_in(disk: pathlib.Path, path: str) -> str:
    """Return a file of the image's root file system, read without mounting it."""
    done = subprocess.run(
        ["debugfs", "-R", f"cat {path}", f"{disk}?offset={PARTITION}"],
        capture_output=True,
        text=True,
    )
    return done.stdout


def slow(suite: str, hyperv: str) -> object:
    """A whole Debian with every tick and doorbell in Python takes minutes on an emulated CPU."""
    marks = [pytest.mark.slow] if hyperv == "user" else []
    return pytest.param(suite, hyperv, marks=marks)


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [slow(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_boots_enlightened_writes_and_powers_off(boot, tmp_path, suite: str, hyperv: str) -> None:
    """Everything the README promises of a Debian disk, seen from inside the guest."""
    disk = copy_of(suite, tmp_path)
    guest = boot(disk=str(disk), memory="768M", smp=2, hyperv=hyperv)
    assert guest.vm.driver_name == f"in_{hyperv}"
    guest.login()
    assert "Hypervisor detected: Microsoft Hyper-V" in guest.run(
        "dmesg | grep 'Hypervisor detected'"
    )
    clock = guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert clock.strip() == "hyperv_clocksource_tsc_page"
    interrupts = guest.run("grep HVS: /proc/interrupts")
    counts = [int(word) for word in interrupts.split()[1:3]]
    assert len(counts) == 2
    assert all(count > 10 for count in counts), interrupts
    bus = guest.run("ls -d /sys/bus/vmbus/drivers/*/*/ | grep -v module")
    assert "hv_storvsc/" in bus
    assert "hv_vmbus" in guest.run("lsmod")
    disks = guest.run("lsblk -dno NAME,TYPE").split("\n")
    assert [line.split() for line in disks if line.strip()] == [["sda", "disk"]]
    assert "/dev/sda1" in guest.run("findmnt -no SOURCE /")
    guest.run(f"echo written by {suite} {hyperv} > /srv/proof; sync")
    guest.console.send("poweroff\n")
    stop = guest.vm.wait(timeout=BOOT_S)
    assert (stop.kind, stop.status) == ("poweroff", 0), stop
    assert file_in(disk, "/srv/proof") == f"written by {suite} {hyperv}\n"


def test_reboot_reboots(boot, tmp_path) -> None:
    """`reboot` comes back to a second login prompt."""
    guest = boot(disk=str(copy_of("trixie", tmp_path)), memory="768M", smp=2)
    guest.login()
    first = guest.run("cat /proc/sys/kernel/random/boot_id")
    guest.console.send("reboot\n")
    guest.login()
    second = guest.run("cat /proc/sys/kernel/random/boot_id")
    assert re.fullmatch(r"[0-9a-f-]{36}", second.strip())
    assert first != second
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
