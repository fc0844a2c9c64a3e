"""hv_balloon: what the guest gives up leaves this process, and comes back when it is asked."""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from conftest import COMMAND_S
from test_daemons import PAIRS, shell

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
MIB = 1 << 20
RAM, LEFT, FILLED = 768, 512, 560  # MiB; Linux keeps about 200 of so much RAM


def resident() -> int:
    """Return how much of this process lies in the host's RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_memory_goes_and_comes(boot, suite: str, hyperv: str) -> None:
    guest = shell(boot, suite, hyperv=hyperv, memory=f"{RAM}M")
    vm = guest.vm

    def total() -> int:
        return int(re.search(r"MemTotal: +(\d+) kB", guest.run("cat /proc/meminfo"))[1]) >> 10

    guest.run("insmod /later/hv_balloon.ko pressure_report_delay=0")
    guest.run(f"mount -t tmpfs -o size={FILLED}M none /mnt")
    guest.run("dd if=/dev/zero of=/mnt/fill bs=1M; rm /mnt/fill; umount /mnt")
    has, before = total(), resident()
    assert vm.balloon(f"{LEFT}M", timeout=COMMAND_S) == vm.guest_memory == LEFT * MIB
    after = resident()
    print(f"MemTotal {has} -> {total()} MiB, this process {before >> 20} -> {after >> 20} MiB")
    # of what was free, at most 768 - 560 MiB were never touched
    assert before - after > (RAM - LEFT - (RAM - FILLED)) * MIB
    assert has - total() == RAM - LEFT
    assert vm.balloon("16M", timeout=COMMAND_S) > 64 * MIB, "Linux keeps a reserve"
    assert vm.balloon(RAM * MIB, timeout=COMMAND_S) == RAM * MIB
    assert total() == has
    # what came back is memory again, and keeps what is written
    guest.run(f"mount -t tmpfs -o size={FILLED}M none /mnt")
    text = b"y\n" * MIB
    guest.run("dd if=/dev/zero of=/mnt/fill bs=1M count=300")
    guest.run(f"yes | head -c {len(text)} > /mnt/yes")
    assert hashlib.md5(text).hexdigest() in guest.run("md5sum /mnt/yes")
    deadline = time.monotonic() + COMMAND_S
    while vm.memory_report is None and time.monotonic() < deadline:
        time.sleep(0.2)
    report = vm.memory_report
    print(report)
    assert 0 < report.available < RAM * MIB
    assert 0 < report.committed < RAM * MIB
    assert vm.board.vmbus.violation_count == 0


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_free_memory_goes_by_itself(boot, suite: str, hyperv: str) -> None:
    guest = shell(boot, suite, hyperv=hyperv, memory=f"{RAM}M", free_page_reporting=True)
    guest.run("insmod /later/hv_balloon.ko")
    guest.run(f"mount -t tmpfs -o size={FILLED}M none /mnt; dd if=/dev/zero of=/mnt/fill bs=1M")
    full = resident()
    guest.run("rm /mnt/fill; umount /mnt")
    deadline = time.monotonic() + COMMAND_S
    while resident() > full - FILLED // 2 * MIB and time.monotonic() < deadline:
        time.sleep(1)
    print(f"this process {full >> 20} -> {resident() >> 20} MiB", guest.run("dmesg | grep -i cold"))
    assert resident() < full - FILLED // 2 * MIB
    text = b"y\n" * MIB
    guest.run(f"mount -t tmpfs none /mnt; yes | head -c {len(text)} > /mnt/yes")
    assert hashlib.md5(text).hexdigest() in guest.run("md5sum /mnt/yes")
