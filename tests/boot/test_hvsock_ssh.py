"""ssh into a guest that has no network, over hv_sock: ProxyCommand, a Unix socket, a port."""

from __future__ import annotations

import hashlib
import os
import sys
import time

import perl_initrd
import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image
from ssh_client import DROPBEAR, DROPBEAR_LIBRARIES, DROPBEAR_SETUP, ssh

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
DATA = os.urandom(300_000)


@pytest.mark.parametrize("hyperv", drivers())
@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_ssh_without_a_network(boot, tmp_path, suite: str, hyperv: str) -> None:
    """A command, its input and output, its status; each session a stream of its own."""
    loading = perl_initrd.build(suite, tmp_path / "initrd", DROPBEAR, DROPBEAR_LIBRARIES)
    vm = boot(
        kernel=image("kernel", suite)[0], initrd=str(tmp_path / "initrd"),
        append="console=ttyS0 quiet", memory="512M", smp=2, hyperv=hyperv, agent=True,
    ).vm  # fmt: skip
    vm.run(";".join([*loading, DROPBEAR_SETUP]), BOOT_S, check=True)
    vm.run(perl_initrd.server(22, perl_initrd.DROPBEAR), COMMAND_S, check=True)
    path = tmp_path / "guest.ssh"
    vm.vsock.publish(22, path)
    proxy = f"ProxyCommand={sys.executable} -m pyhv connect {path}"
    assert ssh("ls /sys/class/net; uname -s", proxy) == b"lo\nLinux\n"
    assert ssh("md5sum", proxy, data=DATA).split()[0].decode() == hashlib.md5(DATA).hexdigest()
    assert ssh("cat", proxy, data=DATA) == DATA
    end = time.monotonic() + COMMAND_S
    while vm.board.vmbus.sockets.connections:  # the last one's end is on its way
        assert time.monotonic() < end
        time.sleep(0.1)
    assert vm.board.vmbus.violation_count == 0
