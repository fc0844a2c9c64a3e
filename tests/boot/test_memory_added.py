"""hv_balloon adds memory to a running guest: it is used, given up, and a reset takes it away."""

from __future__ import annotations

import hashlib
import re

import pytest
from conftest import COMMAND_S, drivers
from test_daemons import shell

from pyhv.errors import ConfigError
from pyhv.memory import HIGH

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
MIB = 1 << 20
RAM, FILE = 256, 320  # MiB; the file is larger than what the guest boots with
PAIRS = [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()]
ONLINE = "echo online > /sys/devices/system/memory/auto_online_blocks"


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_memory_is_added(boot, suite: str, hyperv: str) -> None:
    guest = shell(boot, suite, hyperv=hyperv, memory=f"{RAM}M,slots=2,maxmem=1G")
    vm = guest.vm

    def total() -> int:
        return int(re.search(r"MemTotal: +(\d+) kB", guest.run("cat /proc/meminfo"))[1]) >> 10

    guest.run(f"{ONLINE}; insmod /later/hv_balloon.ko")
    with pytest.raises(ConfigError, match="1024 MiB of RAM at most"):
        vm.balloon("2G")
    has = total()
    assert vm.balloon("512M", timeout=COMMAND_S) == vm.guest_memory == 512 * MIB
    print(f"MemTotal {has} -> {total()} MiB")
    assert total() - has == 512 - RAM
    # down, and up beyond what was added; 700 - 256 is no multiple of 128
    assert vm.balloon("400M", timeout=COMMAND_S) == 400 * MIB
    assert total() - has == 400 - RAM
    assert vm.balloon("700M", timeout=COMMAND_S) == 700 * MIB
    assert total() - has == 700 - RAM
    assert vm.memory.added == 512 * MIB
    with pytest.raises(ConfigError, match="snapshot: memory was added while the machine ran"):
        vm.snapshot()
    # what does not fit into the memory of the boot is kept, and lies in what was added
    block = b"pyhv\n" * (2 * MIB // 5)
    guest.run(f"mount -t tmpfs -o size={FILE + 8}M none /mnt; yes pyhv | head -c {len(block)} > /y")
    guest.run(f"for n in $(busybox seq {FILE // 2}); do cat /y; done > /mnt/big")
    wanted = hashlib.md5(block * (FILE // 2)).hexdigest()
    assert wanted in guest.run("md5sum /mnt/big")
    pages = [vm.memory.read(HIGH + at, 4096) for at in range(0, 512 * MIB, MIB)]
    filled = sum(b"pyhv\n" * 16 in page for page in pages)
    print(f"{filled} of {len(pages)} MiB that were added hold a part of the file")
    assert filled > 100
    # a reset: the machine is as it was built, and may be given more once more
    vm.reset()
    guest.prompt()
    assert vm.memory.added == 0
    assert total() == has
    guest.run(f"{ONLINE}; insmod /later/hv_balloon.ko")
    assert vm.balloon("384M", timeout=COMMAND_S) == 384 * MIB
    assert total() - has == 384 - RAM
    print(guest.run("dmesg | grep -iE 'hot|balloon|memory block'"))
    assert vm.board.vmbus.violation_count == 0
