"""run, push and pull in Debian guests: a busybox initramfs, and from an initrd into a disk."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

from pyhv import GuestTimeout

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
DATA = bytes(range(256)) * 4  # in the nested host each byte that is typed costs 2 ms


@pytest.mark.parametrize("hyperv", drivers())
@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_in_an_initramfs(boot, tmp_path, suite: str, hyperv: str) -> None:
    vm = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="512M", hyperv=hyperv, agent=True,
    ).vm  # fmt: skip
    done = vm.run("uname -s; echo no >&2; exit 3", BOOT_S)
    assert done[:3] == (3, b"Linux\n", b"no\n")
    assert 0 < done.duration < BOOT_S
    assert vm.run("cat", COMMAND_S, stdin=DATA).stdout == DATA

    vm.push(DATA, "/tmp/it's here", COMMAND_S)
    assert vm.run("md5sum <\"/tmp/it's here\"", COMMAND_S).text.split()[0] == (
        hashlib.md5(DATA).hexdigest()
    )
    assert vm.pull("/tmp/it's here", timeout=COMMAND_S) == DATA
    big = vm.run("head -c 100000 /dev/zero", COMMAND_S, limit=50_000)
    assert big.stdout == bytes(50_000)
    assert big.truncated

    with pytest.raises(GuestTimeout) as caught:
        vm.run("echo before; sleep 1000", 5)
    assert caught.value.stdout == b"before\n"
    assert vm.run("ps | grep -c '[s]leep 1000'", COMMAND_S).text.strip() == "0"

    vm.reset()  # another board, another shell
    script = tmp_path / "hello"
    script.write_text("#!/bin/sh\necho hello $1\n")
    script.chmod(0o755)
    vm.push(script, "/tmp/hello", BOOT_S)
    assert vm.run("/tmp/hello you", COMMAND_S, check=True).text == "hello you\n"
    vm.run("poweroff -f &", COMMAND_S)
    assert vm.wait(timeout=COMMAND_S).kind == "poweroff"
    assert vm.board is None


def test_from_the_initrd_into_the_disk(boot, tmp_path) -> None:
    """Debian's own kernel, initrd and disk, as they are: the shell goes along into the root."""
    disk = tmp_path / "trixie.img"
    image("disk", "trixie", "-o", str(disk))
    kernel, initrd = image("kernel", "trixie")
    vm = boot(
        disk=str(disk), kernel=kernel, initrd=initrd, memory="768M", smp=2, agent=True,
        append="root=LABEL=pyhv ro console=ttyS0 quiet",
    ).vm  # fmt: skip
    deadline = time.monotonic() + BOOT_S
    while "Debian" not in vm.run("cat /etc/os-release", BOOT_S).text:
        assert time.monotonic() < deadline, vm.console.text()[-2000:]
        time.sleep(1)
    assert "trixie" in vm.pull("/etc/os-release", timeout=COMMAND_S).decode()
    data = os.urandom(3000)
    vm.push(data, "/run/data", COMMAND_S)
    assert vm.pull("/run/data", timeout=COMMAND_S) == data
    assert vm.run("tty; cat /proc/1/comm", COMMAND_S).text == "not a tty\nsystemd\n"
