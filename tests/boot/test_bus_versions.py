"""A Debian guest under every cap of the bus (--vmbus-version): what it agrees to; it works."""

from __future__ import annotations

import hashlib
import pathlib

import pytest
from conftest import COMMAND_S, drivers, image

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
CONTENT = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(32768))  # 1 MiB
#: Linux of today speaks no older one than Windows 8's
OLDEST, NEWEST = "2.4", "5.3"
CAPS = ("3.0", "4.0", "4.1", "5.0", "5.1", "5.2")
CASES = [("trixie", drivers()[0], cap) for cap in CAPS]
CASES += [(suite, hyperv, cap) for suite in ("trixie", "bookworm") for hyperv in drivers()
          for cap in (OLDEST, NEWEST)]  # fmt: skip


def start(boot, suite: str, hyperv: str, cap: str, disk: pathlib.Path) -> object:
    disk.write_bytes(CONTENT)
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="256M", smp=2, hyperv=hyperv, vmbus_version=cap,
        drives=[str(disk)], nics=[f"socket,path={disk}.sock,server=on"],
    )  # fmt: skip
    guest.prompt()
    return guest


@pytest.mark.parametrize(("suite", "hyperv", "cap"), CASES)
def test_cap(boot, tmp_path: pathlib.Path, suite: str, hyperv: str, cap: str) -> None:
    disk = tmp_path / "disk"
    guest = start(boot, suite, hyperv, cap, disk)
    said = guest.run("dmesg | grep -i 'vmbus version'")
    print(said)
    assert f"Vmbus version:{cap}" in said
    assert hashlib.md5(CONTENT).hexdigest() in guest.run("md5sum /dev/sda")
    guest.run("echo written | dd of=/dev/sda conv=fsync 2>/dev/null")
    assert disk.read_bytes().startswith(b"written\n")
    assert "eth0" in guest.run("ls /sys/class/net")
    guest.vm.set_time(timeout=COMMAND_S)
    assert guest.vm.board.vmbus.violation_count == 0
    guest.vm.shutdown(timeout=COMMAND_S)
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"


def test_a_bus_too_old_for_linux(boot, tmp_path: pathlib.Path) -> None:
    """It asks down to 2.4, gives up, and comes up without its devices."""
    guest = start(boot, "trixie", drivers()[0], "1.1", tmp_path / "disk")
    assert "hv_vmbus: Unable to connect to host" in guest.run("dmesg | grep hv_vmbus")
    assert guest.run("ls /sys/bus/vmbus/devices 2>&- | wc -l").strip() == "0"
    assert guest.run("ls /sys/block | grep -c ^sd").strip() == "0"
    assert guest.vm.board.vmbus.version is None
    assert guest.vm.board.vmbus.violation_count == 0
