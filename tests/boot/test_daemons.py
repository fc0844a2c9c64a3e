"""Debian's Hyper-V daemons in a small guest: key-value pairs, with each kernel."""

from __future__ import annotations

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

from pyhv.errors import ConfigError, HostError

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
#: each kernel once; where KVM has Hyper-V one of them has KVM's
GUESTS = [("trixie", drivers()[0]), ("bookworm", "user")]


def shell(boot, suite: str, **options: object) -> object:
    """Boot the small initramfs with the daemons to its shell."""
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("services", suite)[0],
        append="console=ttyS0 quiet", **{"memory": "512M", **options},
    )  # fmt: skip
    guest.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
    guest.console.expect("# ", timeout=COMMAND_S)
    guest.console.send("stty -echo; PS1=; dmesg -n 1; echo =$((6*7))=\n")
    guest.console.expect("=42=", timeout=COMMAND_S)
    return guest


@pytest.mark.parametrize(("suite", "hyperv"), GUESTS)
def test_daemons(boot, suite: str, hyperv: str) -> None:
    guest = shell(boot, suite, hyperv=hyperv)
    key_value_pairs(guest)
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
    guest.run("kill -9 $(busybox pidof hv_kvp_daemon); sleep 1")
    kvp.timeout = 5
    with pytest.raises((ConfigError, HostError), match="kvp") as refused:
        kvp["role"]
    print("killed daemon:", refused.value)
